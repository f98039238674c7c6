# SPDX-License-Identifier: Apache-2.0
"""An .onnx computes what Keras computes on any shape, is valid ONNX, and has only what TensorRT supports."""
from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from pipelines.errors import UserError
from sr_keras.formats import onnx as onnx_format
from sr_keras.formats.onnx import SUPPORTED, check_supported, convert_onnx, unsupported
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.formats.tensorrt import in_int8
from sr_keras.model.loading import load_generator
from sr_keras.model.runtimes import open_onnx
from sr_keras.networks import SKIP_GAIN, generator

from ..conftest import by_keras, pixels

needs_onnx = pytest.mark.skipif(not all(map(find_spec, ("onnxruntime", "tf2onnx"))),
                                reason="ONNX Runtime or tf2onnx is not installed: pip install '.[onnx]'")


@pytest.fixture(scope="module")
def written(network) -> bytes:
    return convert_onnx(network)


@needs_onnx
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (1, 9, 13), (3, 13, 9), (2, 31, 5)])
def test_any_shape_gives_what_keras_gives(shape, network, written):
    lr = pixels(*shape)
    expected = by_keras(network, lr)
    sr = open_onnx(written, threads=1)(lr)
    assert (sr.dtype, sr.shape) == (np.uint8, expected.shape)
    assert np.abs(sr.astype(int) - expected).max() <= 1


@needs_onnx
@pytest.mark.parametrize("scale", [2, 8])
def test_every_scale_is_written(scale, randomised):
    network = randomised(generator(scale, blocks=1, filters=4))
    model = convert_onnx(network)
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


@needs_onnx
def test_missing_converter_is_one_line_with_the_extra(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UserError, match=r"`tf2onnx` must be installed; run pip install '\.\[onnx\]'\.") as caught:
        convert_onnx(network)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def model(modest) -> bytes:
    return convert_onnx(modest, facts={"name": "breast"})


@pytest.fixture(scope="module")
def quantised(model, samples) -> bytes:
    return in_int8(model, samples.lr)


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
def test_quantisers_with_a_zero_point_are_found(quantised):
    from onnx import numpy_helper

    def shift(content) -> None:
        name = _of(content, "QuantizeLinear").input[2]
        (zero,) = (constant for constant in content.graph.initializer if constant.name == name)
        zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero) + np.int8(3), name))

    assert "QuantizeLinear with a zero point" in unsupported(_altered(quantised, shift))


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
    monkeypatch.setattr(onnx_format, "SUPPORTED", SUPPORTED - {"DepthToSpace", "Resize"})
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
