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
from sr_keras.formats.onnx import convert_onnx, open_onnx
from sr_keras.formats.parity import ParityError
from sr_keras.formats.tensorrt import (
    PRECISIONS,
    PROFILES,
    SUPPORTED,
    check_supported,
    in_float16,
    in_int8,
    profile_of,
    trtexec_command,
    unsupported,
)
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
@pytest.mark.parametrize("precision", PRECISIONS)
def test_source_of_every_engine_is_supported_and_passes_its_gate(precision, sources, reference):
    check_supported(sources[precision])
    reference.gate(precision, precision, open_onnx(sources[precision], threads=1))


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
        reference.gate("int8", "int8", open_onnx(black, threads=1))


def _altered(model: bytes, alter) -> object:
    from onnx import load_from_string

    content = load_from_string(model)
    alter(content)
    return content


def _of(content, op_type: str):
    return next(node for node in content.graph.node if node.op_type == op_type)


def _set_attribute(op_type: str, name: str, value):
    from onnx import helper

    def alter(content) -> None:
        node = _of(content, op_type)
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return alter


def _set(op_type: str, name: str, value: str):
    return lambda content: setattr(_of(content, op_type), name, value)


@needs_onnx
@pytest.mark.parametrize(("alter", "says"), [
    (_set("Conv", "op_type", "QLinearConv"), "QLinearConv"),
    (_set("Relu", "domain", "com.microsoft"), "Relu"),
    (_set_attribute("Resize", "mode", "cubic"), "Resize with mode=b'cubic'"),
    (_set_attribute("Resize", "coordinate_transformation_mode", "tf_crop_and_resize"), "Resize with coordinate_"),
    (_set("Cast", "op_type", "Relu"), "Relu of uint8"),
    (lambda content: setattr(content.opset_import[0], "version", 25), "opset 25"),
] if find_spec("onnx") else [])
def test_what_tensorrt_would_refuse_is_found(alter, says, model):
    assert any(found.startswith(says) for found in unsupported(_altered(model, alter)))


@needs_onnx
def test_quantisers_with_a_zero_point_are_found(sources):
    from onnx import numpy_helper

    def shift(content) -> None:
        name = _of(content, "QuantizeLinear").input[2]
        (zero,) = (constant for constant in content.graph.initializer if constant.name == name)
        zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero) + np.int8(3), name))

    assert "QuantizeLinear with a zero point" in unsupported(_altered(sources["int8"], shift))


@needs_onnx
def test_operation_inside_a_branch_is_found():
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node("Unique", ["x"], ["y"])], "branch", [], [value])
    node = helper.make_node("If", ["b"], ["z"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("b", TensorProto.BOOL, [])], [value])
    assert unsupported(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])) == ["Unique"]


@needs_onnx
def test_unsupported_file_is_one_line(model, monkeypatch):
    monkeypatch.setattr(tensorrt, "SUPPORTED", SUPPORTED - {"DepthToSpace", "Resize"})
    with pytest.raises(UserError, match=r"must have operations that TensorRT supports.*Received: DepthToSpace, Resize"):
        check_supported(model)


def test_nothing_is_listed_that_tensorrt_10_15_marks_as_not_supported():
    refused = """
        AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress
        ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool
        MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv
        QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
        SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer StringSplit
        TfIdfVectorizer Unique"""
    assert not SUPPORTED.intersection(refused.split())
    assert {"Conv", "DepthToSpace", "Resize", "QuantizeLinear"} <= SUPPORTED


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
