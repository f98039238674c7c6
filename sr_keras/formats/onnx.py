# SPDX-License-Identifier: Apache-2.0
"""ONNX (.onnx): write a generator, float32.

    input lr uint8 [B, h, w, 3] -> output sr uint8 [B, scale*h, scale*w, 3], with B, h and w open

Conversion to float, clipping and rounding are in the graph. Facts about the model are stored in the file's metadata, as
text. Files are checked against TensorRT's list of operations, and opened by `sr_keras.model.runtimes`.

Source of that list: docs/operators.md of github.com/onnx/onnx-tensorrt, for TensorRT 10.15.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.console import import_optional
from pipelines.errors import UserError
from sr_keras.formats.format import FLOAT32, Format, Source, Written, write_file
from sr_keras.model.runtimes import open_onnx, to_onnx
from sr_keras.model.tiles import Pixels

if TYPE_CHECKING:
    import keras

    from sr_keras.model.loading import LoadedGenerator

# Names of the open sides: they show a reader of the file which of them belong together.
AXES = {"lr": ("batch", "height", "width"), "sr": ("batch", "sr_height", "sr_width")}
TENSORRT_OPSETS = (9, 24)
LISTED = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BlackmanWindow
    Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv
    DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If ImageScaler
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop
    LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression
    NonZero Not OneHot Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RMSNormalization RNN RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign
    RotaryEmbedding Round STFT ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh
    Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh TensorScatter ThresholdedRelu
    Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor"""
SUPPORTED = frozenset(LISTED.split())
# Attributes that must have one of these values if an operation has them.
RESTRICTED: dict[str, dict[str, tuple[Any, ...]]] = {"Resize": {
    "mode": (b"nearest", b"linear"), "antialias": (0,), "keep_aspect_ratio_policy": (b"stretch",),
    "coordinate_transformation_mode": (b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn", b"asymmetric",
                                       b"align_corners")}}


def convert_onnx(generator: keras.Model | LoadedGenerator, facts: dict[str, Any] | None = None) -> bytes:
    """Return a generator as the bytes of an .onnx, with `facts` stored as text, not yet compared with Keras.

    Raises:
        UserError: tf2onnx is not installed.
    """
    import tensorflow as tf

    from sr_keras.model.loading import eight_bit, input_signature

    run = eight_bit(generator)
    model = to_onnx(tf.function(lambda lr: {"sr": run(lr)}, input_signature=input_signature(), autograph=False))
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, AXES[value.name], strict=False):
            dimension.dim_param = name
    for name, fact in (facts or {}).items():
        model.metadata_props.add(key=name, value=str(fact))
    return model.SerializeToString()


def unsupported(model: Any) -> list[str]:
    """Return what TensorRT would refuse in an onnx.ModelProto, each in a few words.

    Operations must be on the published list with permitted attributes, quantisers must be symmetric, and uint8 may only
    be the type of inputs and outputs, next to a Cast.
    """
    from onnx import helper, numpy_helper

    found = [f"opset {entry.version}" for entry in model.opset_import
             if not entry.domain and not TENSORRT_OPSETS[0] <= entry.version <= TENSORRT_OPSETS[1]]
    nodes = list(_nodes(model.graph))
    constants = {constant.name: constant for constant in model.graph.initializer}
    for node in nodes:
        if node.op_type not in SUPPORTED or node.domain not in ("", "ai.onnx"):
            found.append(node.op_type)
        allowed = RESTRICTED.get(node.op_type, {})
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            if value not in allowed.get(attribute.name, (value,)):
                found.append(f"{node.op_type} with {attribute.name}={value!r}")
        zero = node.input[2] if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 else ""
        if zero and (zero not in constants or numpy_helper.to_array(constants[zero]).any()):
            found.append(f"{node.op_type} with a zero point")
    return sorted({*found, *_inner_uint8(model, nodes, constants)})


def check_supported(model: bytes) -> None:
    """Check that TensorRT supports the bytes of an .onnx.

    Raises:
        UserError: TensorRT would refuse it.
    """
    onnx = import_optional("onnx", "onnx")
    found = unsupported(onnx.load_from_string(model))
    if found:
        raise UserError("an .onnx must have operations that TensorRT supports, nothing was kept; please report this. "
                        f"Received: {', '.join(found)}")


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _inner_uint8(model: Any, nodes: list[Any], constants: dict[str, Any]) -> Iterator[str]:
    """Yield where a model computes with uint8, which TensorRT has for inputs and outputs only."""
    from onnx import TensorProto

    inputs = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    outputs = {value.name for value in model.graph.output}
    for node in nodes:
        makes = node.op_type == "Cast" and node.attribute[0].i == TensorProto.UINT8
        if (node.op_type != "Cast" and inputs & set(node.input)) or (makes and not outputs & set(node.output)):
            yield f"{node.op_type} of uint8"
    yield from ("constants of uint8" for constant in constants.values() if constant.data_type == TensorProto.UINT8)


def _convert(source: Source, precision: str, folder: Path) -> Iterator[Written]:
    check_supported(source.onnx)
    path = FORMAT.path(folder, precision)
    write_file(path, source.onnx)
    yield Written(FORMAT.file, "ONNX", "onnxruntime", lambda: _open(path, 1))


def _open(path: Path, threads: int) -> Pixels:
    return open_onnx(path.read_bytes(), threads)


FORMAT = Format("onnx", {"float32": FLOAT32}, file="onnx/model.onnx", packages=("onnxruntime", "tf2onnx", "onnx"),
                extra="onnx", runtime=("onnxruntime",), convert=_convert, open=_open)
