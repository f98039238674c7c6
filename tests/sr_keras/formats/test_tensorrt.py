# SPDX-License-Identifier: Apache-2.0
"""What TensorRT builds engines from is on its list and computes what Keras computes; what is missing is said.

Engines are built on a GPU alone, and not here.
"""
from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.errors import UserError
from sr_keras.formats import tensorrt
from sr_keras.formats.onnx import check_supported, convert_onnx
from sr_keras.formats.tensorrt import FORMAT, PROFILES, in_float16, in_int8, profile_of, trtexec_command
from sr_keras.model.runtimes import ParityError, open_onnx
from sr_keras.networks import generator

needs_onnx = pytest.mark.skipif(not all(map(find_spec, ("onnxruntime", "tf2onnx"))),
                                reason="ONNX Runtime or tf2onnx is not installed: pip install '.[onnx]'")


@pytest.fixture(scope="module")
def model(modest) -> bytes:
    return convert_onnx(modest, facts={"name": "breast"})


@pytest.fixture(scope="module")
def sources(model, samples) -> dict[str, bytes]:
    return {"float32": model, "float16": in_float16(model), "int8": in_int8(model, samples.lr)}


def nodes(model: bytes) -> list:
    import onnx

    return list(onnx.load_from_string(model).graph.node)


@needs_onnx
@pytest.mark.parametrize("precision", list(FORMAT.tolerances))
def test_source_of_every_engine_is_supported_and_passes_its_gate(precision, sources, reference):
    check_supported(sources[precision])
    reference.check(precision, precision, FORMAT.tolerances[precision], open_onnx(sources[precision], threads=1))


@needs_onnx
@pytest.mark.parametrize("global_skip", [True, False])
@pytest.mark.parametrize("scale", [4, 8])
def test_every_network_is_supported(scale, global_skip):
    check_supported(convert_onnx(generator(scale, blocks=1, filters=4, global_skip=global_skip)))


@needs_onnx
def test_precisions_are_what_they_are_called(sources):
    from onnx import TensorProto, load_from_string

    types = {name: {constant.data_type for constant in load_from_string(model).graph.initializer if constant.dims}
             for name, model in sources.items()}
    assert TensorProto.FLOAT in types["float32"]
    assert TensorProto.FLOAT16 not in types["float32"]
    assert TensorProto.FLOAT16 in types["float16"]
    assert len(sources["float16"]) < 0.8 * len(sources["float32"])
    quantised = nodes(sources["int8"])
    made_by = {name: node.op_type for node in quantised for name in node.output}
    assert all(made_by[name] == "DequantizeLinear" for node in quantised if node.op_type == "Conv"
               for name in node.input[:2])


@needs_onnx
def test_all_sides_stay_open_in_every_precision(sources):
    for model in sources.values():
        assert open_onnx(model, threads=1)(np.zeros((3, 7, 11, 3), np.uint8)).shape == (3, 14, 22, 3)


@needs_onnx
def test_facts_outlive_the_change_of_precision(sources):
    from onnx import load_from_string

    for model in sources.values():
        assert ("name", "breast") in [(entry.key, entry.value) for entry in load_from_string(model).metadata_props]


@needs_onnx
def test_int8_calibrated_with_nothing_like_tissue_fails_its_gate(model, samples, reference):
    black = in_int8(model, np.zeros_like(samples.lr))
    with pytest.raises(ParityError):
        reference.check("int8", "int8", FORMAT.tolerances["int8"], open_onnx(black, threads=1))


def test_command_is_for_a_shell_and_has_every_profile(tmp_path):
    words = shlex.split(trtexec_command(tmp_path / "my models" / "x.onnx", tmp_path / "x.engine", "int8"))
    assert words[:4] == ["trtexec", f"--onnx={tmp_path}/my models/x.onnx", f"--saveEngine={tmp_path}/x.engine",
                         "--stronglyTyped"]
    assert [word for word in words if word.startswith("--profile")] == [f"--profile={i}" for i in range(len(PROFILES))]
    assert "--optShapes=lr:8x128x128x3" in words
    assert not {"--fp16", "--int8", "--best", "--noTF32"} & set(words)  # TensorRT 11 has none of the first three
    assert "--noTF32" in trtexec_command(tmp_path, tmp_path, "float32")


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_hold_what_lies_between_their_least_and_their_most(profile):
    least, best, most = profile.shapes()
    assert all(low <= good <= high for low, good, high in zip(least, best, most, strict=True))
    assert all(map(profile.holds, (least, best, most)))
    assert not profile.holds((1, 8, 128, 3))


def test_shapes_find_the_first_profile_that_holds_them(reference):
    assert [profile_of((1, side, side, 3)) for side in (24, 128, 256)] == [0, 0, 1]
    assert all(profile_of(lr.shape) == 0 for lr in reference._inputs)
    with pytest.raises(ValueError, match=r"`lr` must have a shape within .*Received: lr=\(1, 1024, 64, 3\)"):
        profile_of((1, 1024, 64, 3))


def test_machine_without_tensorrt_is_told_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "`tensorrt` must be installed; run pip install '.[tensorrt]'" in str(tensorrt.missing())
    with pytest.raises(UserError, match=r"pip install '\.\[tensorrt\]'"):
        tensorrt.build_engine(b"", "float32")


@pytest.mark.parametrize(("answer", "says"), [((35, None), "GPU"), ((0, 0), "GPU"), ((0, 1), None)])
def test_machine_without_a_gpu_is_told_so(answer, says, monkeypatch):
    runtime = SimpleNamespace(cudaGetDeviceCount=lambda: answer)
    monkeypatch.setattr(tensorrt, "import_optional", lambda package, extra: runtime)
    assert (says in tensorrt.missing()) if says else tensorrt.missing() is None
