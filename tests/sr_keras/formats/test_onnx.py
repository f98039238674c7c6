"""An .onnx computes what Keras computes on any shape, and is valid ONNX."""
from __future__ import annotations

import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.pixels import to_float, to_uint8
from sr_keras.formats.onnx import convert_onnx
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.model.loading import load_generator
from sr_keras.model.runtimes import open_onnx
from sr_keras.networks import SKIP_GAIN, generator

needs_onnx = pytest.mark.skipif(not all(map(find_spec, ("onnxruntime", "tf2onnx"))),
                                reason="ONNX Runtime or tf2onnx is not installed: pip install '.[onnx]'")


@pytest.fixture(scope="module")
def network(randomised) -> keras.Model:
    return randomised(generator(scale=4, blocks=2, filters=8))


@pytest.fixture(scope="module")
def written(network) -> bytes:
    return convert_onnx(network)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)


def by_keras(network: keras.Model, lr: np.ndarray) -> np.ndarray:
    return to_uint8(np.asarray(network(to_float(lr), training=False)))


@needs_onnx
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (1, 9, 13), (3, 13, 9), (2, 31, 5)])
def test_any_shape_gives_what_keras_gives(shape, network, written):
    lr = pixels(*shape)
    expected = by_keras(network, lr)
    sr = open_onnx(written, threads=1)(lr)
    assert (sr.dtype, sr.shape) == (np.uint8, expected.shape)
    assert np.abs(sr.astype(int) - expected).max() <= 1


@needs_onnx
@pytest.mark.parametrize(("scale", "opset"), [(2, 11), (4, 13), (8, 18)])
def test_every_scale_is_written_in_every_age_of_opset(scale, opset, randomised):
    import onnx

    network = randomised(generator(scale, blocks=1, filters=4))
    model = convert_onnx(network, opset)
    assert [entry.version for entry in onnx.load_from_string(model).opset_import if not entry.domain] == [opset]
    expected = by_keras(network, pixels(1, 7, 11))
    assert expected.std() > 20
    assert np.abs(open_onnx(model, threads=1)(pixels(1, 7, 11)).astype(int) - expected).max() <= 1


@needs_onnx
@pytest.mark.parametrize(("bias", "pixel"), [(3.0, 255), (-3.0, 0)])
def test_values_outside_the_range_are_clipped_and_do_not_wrap(bias, pixel):
    network = generator(scale=2, blocks=1, filters=2)
    network.get_layer("last").bias.assign([bias / SKIP_GAIN] * 3)
    run = open_onnx(convert_onnx(network), threads=1)
    assert np.unique(run(pixels(1, 4, 4))).tolist() == [pixel]


@needs_onnx
def test_file_is_valid_and_all_is_open_but_the_channels(written):
    import onnx

    model = onnx.load_from_string(written)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx.ml"}
    assert not [node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")]
    sides = {value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
             for value in (*model.graph.input, *model.graph.output)}
    assert sides == {"lr": ["batch", "height", "width", 3], "sr": ["batch", "sr_height", "sr_width", 3]}
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {
        onnx.TensorProto.UINT8}


@needs_onnx
def test_runtime_reads_what_the_model_is(modest):
    import onnxruntime

    model = convert_onnx(modest, facts={"name": "breast", "scale": 2})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"name": "breast", "scale": "2"}


@needs_onnx
def test_saved_model_is_written_as_the_keras_model_is(network, written, tmp_path):
    loaded = load_generator(export_saved_model(network, tmp_path / "demo"))
    lr = pixels(2, 9, 13)
    difference = open_onnx(convert_onnx(loaded), 1)(lr).astype(int) - open_onnx(written, 1)(lr)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("opset", [10, 19])
def test_opset_out_of_range_is_refused(opset, network):
    with pytest.raises(ValueError, match=rf"`opset` must lie in \[11, 18\]; .*Received: opset={opset}"):
        convert_onnx(network, opset)


@needs_onnx
def test_missing_converter_is_one_line_with_the_extra(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UserError, match=r"`tf2onnx` must be installed; run pip install '\.\[onnx\]'\.") as caught:
        convert_onnx(network)
    assert "\n" not in str(caught.value)
