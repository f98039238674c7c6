"""What TensorRT would refuse in an ONNX file is found and named."""
from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from pipelines.errors import UserError
from sr_keras.formats import tensorrt_operations
from sr_keras.formats.onnx import convert_onnx
from sr_keras.formats.tensorrt import in_int8
from sr_keras.formats.tensorrt_operations import SUPPORTED, check_supported, unsupported

needs_onnx = pytest.mark.skipif(not all(map(find_spec, ("onnxruntime", "tf2onnx"))),
                                reason="ONNX Runtime or tf2onnx is not installed: pip install '.[onnx]'")


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
    monkeypatch.setattr(tensorrt_operations, "SUPPORTED", SUPPORTED - {"DepthToSpace", "Resize"})
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
