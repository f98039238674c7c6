"""Generators for NVIDIA's GPUs: what TensorRT builds engines from, the engines, and the command that builds them.

    float32   from the ONNX file as it is, without TF32, which has the digits of float16
    float16   from an ONNX file in float16, its interpolation in float32
    int8      from an ONNX file with its convolutions between quantisers (Q/DQ), their ranges found with tissue

Precision is written into the ONNX file, and networks are strongly typed. TensorRT 11 knows no other way: the flags for
float16 and int8 and the calibrator of TensorRT 10 are gone there. So calibration needs no GPU, and the three ONNX files
are checked by ONNX Runtime wherever they are written. TF-TRT, TensorRT inside a TensorFlow graph, is no alternative: it
was removed from TensorFlow with 2.18.

An engine belongs to the GPU model and the TensorRT that it was built with. It takes lr uint8 [B, h, w, 3] within its
PROFILES: TensorRT chooses its algorithms for the best shape of each, and they are valid up to the largest.

All but `build_engine` and `TensorRTRunner` runs, and is tested, without a GPU; these two have not run on one yet. They
need the extra `tensorrt`.

Source of SUPPORTED and of the restrictions: docs/operators.md of github.com/onnx/onnx-tensorrt, for TensorRT 10.15.
Source of the switch to strong types: docs.nvidia.com/deeplearning/tensorrt, "Migrating from TensorRT 10.x to 11.x".
"""
from __future__ import annotations

import logging
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from pipelines.console import import_optional
from pipelines.errors import UserError, require

EXTRA = "tensorrt"
PRECISIONS = ("float32", "float16", "int8")
OPSETS = (9, 24)
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
# Attributes that must have one of these values, where an operation has them.
RESTRICTED: dict[str, dict[str, tuple[Any, ...]]] = {"Resize": {
    "mode": (b"nearest", b"linear"), "antialias": (0,), "keep_aspect_ratio_policy": (b"stretch",),
    "coordinate_transformation_mode": (b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn", b"asymmetric",
                                       b"align_corners")}}
TIMED_RUNS = 20


class Profile(NamedTuple):
    """Batch and side of the tiles, in LR pixels, that an engine takes: the least, the best, the most."""

    least: tuple[int, int]
    best: tuple[int, int]
    most: tuple[int, int]

    def shapes(self) -> list[tuple[int, int, int, int]]:
        """Return them as shapes of lr."""
        return [(batch, side, side, 3) for batch, side in self]

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Return whether lr may have this shape."""
        least, _, most = self.shapes()
        return all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))


# Small tiles by the batch, and the client's tile of 256 one by one. Memory is set aside for the largest.
PROFILES = (Profile((1, 16), (8, 128), (16, 192)), Profile((1, 16), (1, 256), (2, 512)))


def unsupported(model: Any) -> list[str]:
    """Return what TensorRT would refuse in an ONNX model, each in a few words; nothing where all is well.

    Every operation must be on the published list, its attributes within its restrictions; quantisers must be symmetric;
    and uint8 may only come in and go out, by way of a Cast.

    Args:
        model: an onnx.ModelProto.
    """
    from onnx import helper, numpy_helper

    found = [f"opset {entry.version}" for entry in model.opset_import
             if not entry.domain and not OPSETS[0] <= entry.version <= OPSETS[1]]
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
    """Check the bytes of an .onnx against TensorRT's list.

    Raises:
        UserError: TensorRT would refuse it.
    """
    onnx = import_optional("onnx", "onnx")
    found = unsupported(onnx.load_from_string(model))
    if found:
        raise UserError("an .onnx must have operations that TensorRT supports, nothing was kept; please report this. "
                        f"Received: {', '.join(found)}")


def in_float16(model: bytes) -> bytes:
    """Return the bytes of a float32 .onnx in float16; interpolation, which positions pixels, stays in float32."""
    onnx = import_optional("onnx", "onnx")
    convert = import_optional("onnxruntime.transformers.float16", "onnx").convert_float_to_float16
    return convert(onnx.load_from_string(model), keep_io_types=True, op_block_list=["Resize"]).SerializeToString()


def in_int8(model: bytes, samples: np.ndarray) -> bytes:
    """Return the bytes of a float32 .onnx with its convolutions in int8; all else computes in float32.

    Weights have a range for each channel, what flows in one for all; both are symmetric, as TensorRT wants them.

    Args:
        model: of a generator, see `sr_keras.formats.onnx`.
        samples: the representative set, lr uint8 [B, h, w, 3].
    """
    quantization = import_optional("onnxruntime.quantization", "onnx")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        left = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({"lr": sample[np.newaxis]} for sample in self.left), None)

    with tempfile.TemporaryDirectory() as folder, _without_advice():
        path, target = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        path.write_bytes(model)
        quantization.quantize_static(
            path, target, Reader(), quant_format=quantization.QuantFormat.QDQ, op_types_to_quantize=["Conv"],
            per_channel=True, activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                           "AddQDQPairToWeight": True})
        return target.read_bytes()


def trtexec_command(model: Path, engine: Path, precision: str) -> str:
    """Return the command line that builds what `build_engine` builds, for a shell.

    Args:
        model: the .onnx of this precision.
        engine: the file to write.
        precision: one of PRECISIONS.
    """
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={engine}", "--stronglyTyped"]
    words += ["--noTF32"] if precision == "float32" else []
    for number, profile in enumerate(PROFILES):
        words.append(f"--profile={number}")
        words += [f"--{name}Shapes=lr:{'x'.join(map(str, shape))}"
                  for name, shape in zip(("min", "opt", "max"), profile.shapes(), strict=True)]
    return shlex.join(words)


def missing() -> str | None:
    """Return what this machine lacks to build an engine, in a line; None where it has all."""
    try:
        import_optional("tensorrt", EXTRA)
        cudart = import_optional("cuda.bindings.runtime", EXTRA)
    except UserError as error:
        return str(error)
    status, count = cudart.cudaGetDeviceCount()
    if int(status) or not count:
        return f"an NVIDIA GPU and its driver must be there; build on a machine that has them. Received: {status!r}"
    return None


def build_engine(model: bytes, precision: str) -> bytes:
    """Build an engine on this machine's GPU. Not yet run on one.

    Args:
        model: the bytes of the .onnx of this precision.
        precision: one of PRECISIONS.

    Raises:
        UserError: TensorRT does not take the model, or finds no algorithm for it.
    """
    trt = import_optional("tensorrt", EXTRA)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise UserError(f"TensorRT must take the ONNX model; please report this. Received: {reasons}")
    config = builder.create_builder_config()
    if precision == "float32":
        config.clear_flag(trt.BuilderFlag.TF32)
    for profile in PROFILES:
        shapes = builder.create_optimization_profile()
        shapes.set_shape("lr", *profile.shapes())
        config.add_optimization_profile(shapes)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError("TensorRT must find algorithms for the model; free memory of the GPU, or read its log above. "
                        f"Received: no engine for {precision}")
    return bytes(engine)


class TensorRTRunner:
    """Runs an engine on pixels of any shape within PROFILES. One caller at a time. Not yet run on a GPU."""

    def __init__(self, engine: bytes) -> None:
        trt = import_optional("tensorrt", EXTRA)
        self._cuda = import_optional("cuda.bindings.runtime", EXTRA)
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        self._context = self._engine.create_execution_context()
        self._stream = int(self._call("cudaStreamCreate"))

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        lr = np.ascontiguousarray(lr)
        self._context.set_optimization_profile_async(profile_of(lr.shape), self._stream)
        self._context.set_input_shape("lr", lr.shape)
        sr = np.empty(tuple(self._context.get_tensor_shape("sr")), np.uint8)
        to_device, to_host = (getattr(self._cuda.cudaMemcpyKind, f"cudaMemcpy{way}")
                              for way in ("HostToDevice", "DeviceToHost"))
        with self._memory(lr.nbytes) as source, self._memory(sr.nbytes) as target:
            self._call("cudaMemcpy", source, lr.ctypes.data, lr.nbytes, to_device)
            self._context.set_tensor_address("lr", source)
            self._context.set_tensor_address("sr", target)
            if not self._context.execute_async_v3(self._stream):
                raise UserError(f"TensorRT must run the engine; read its log above. Received: lr of {lr.shape}")
            self._call("cudaStreamSynchronize", self._stream)
            self._call("cudaMemcpy", sr.ctypes.data, target, sr.nbytes, to_host)
        return sr

    def seconds(self, profile: Profile) -> float:
        """Return the median seconds for the best shape of a profile, copies to the GPU and back included."""
        lr = np.random.default_rng(0).integers(0, 256, profile.shapes()[1], dtype=np.uint8)
        self(lr)
        times = []
        for _ in range(TIMED_RUNS):
            began = time.perf_counter()
            self(lr)
            times.append(time.perf_counter() - began)
        return median(times)

    @contextmanager
    def _memory(self, size: int) -> Iterator[int]:
        address = self._call("cudaMalloc", size)
        try:
            yield address
        finally:
            self._call("cudaFree", address)

    def _call(self, name: str, *args: Any) -> Any:
        error, *values = getattr(self._cuda, name)(*args)
        if int(error):
            raise UserError(f"CUDA must do {name}; free memory of the GPU. Received: {error!r}")
        return values[0] if values else None


def profile_of(shape: tuple[int, ...]) -> int:
    """Return the number of the first profile that holds this shape of lr.

    Raises:
        ValueError: None does.
    """
    fitting = [number for number, profile in enumerate(PROFILES) if profile.holds(shape)]
    require(bool(fitting), "lr", f"have a shape within {[tuple(profile) for profile in PROFILES]} (batch, side)",
            "cut it into tiles", shape)
    return fitting[0]


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs inside of them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _inner_uint8(model: Any, nodes: list[Any], constants: dict[str, Any]) -> Iterator[str]:
    """Yield where a model computes with uint8, which TensorRT only takes in and gives out."""
    from onnx import TensorProto

    inputs = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    outputs = {value.name for value in model.graph.output}
    for node in nodes:
        makes = node.op_type == "Cast" and node.attribute[0].i == TensorProto.UINT8
        if (node.op_type != "Cast" and inputs & set(node.input)) or (makes and not outputs & set(node.output)):
            yield f"{node.op_type} of uint8"
    yield from ("constants of uint8" for constant in constants.values() if constant.data_type == TensorProto.UINT8)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep ONNX Runtime from advising, by the root logger, a preparation that the converter has made already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
