# SPDX-License-Identifier: Apache-2.0
"""TensorRT: write the ONNX files that engines are built from, build engines, and run them on an NVIDIA GPU.

    float32   built from onnx/model.onnx, without TF32, whose precision is that of float16
    float16   built from an ONNX file in float16, with interpolation in float32
    int8      built from an ONNX file whose convolutions are quantised (Q/DQ), calibrated on tissue

The precision is written into the ONNX file and networks are strongly typed, since TensorRT 11 has no other way.
Calibration therefore needs no GPU, and ONNX Runtime compares the ONNX files with Keras on any machine. TF-TRT was
removed from TensorFlow with 2.18.

An engine works only on the GPU model and the TensorRT release it was built with. It takes lr uint8 [B, h, w, 3] within
its PROFILES. Only `build_engine` and `TensorRTRunner` need a GPU; they have not been run on one yet.

Source: docs.nvidia.com/deeplearning/tensorrt, "Migrating from TensorRT 10.x to 11.x".
"""
from __future__ import annotations

import logging
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.console import import_optional
from pipelines.errors import UserError, require
from sr_keras.formats.format import FLOAT16, FLOAT32, INT8, Format, Source, Written, write_file
from sr_keras.formats.onnx import check_supported
from sr_keras.model.runtimes import open_onnx

EXTRA = "tensorrt"


class Profile(NamedTuple):
    """Smallest, best and largest (batch, side in LR pixels) of the tiles that an engine takes."""

    least: tuple[int, int]
    best: tuple[int, int]
    most: tuple[int, int]

    def shapes(self) -> list[tuple[int, int, int, int]]:
        """Return them as input shapes."""
        return [(batch, side, side, 3) for batch, side in self]

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether the input may have this shape."""
        least, _, most = self.shapes()
        return all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))


# Small tiles in batches, and the client's tiles of 256 one by one. Memory is reserved for the largest.
PROFILES = (Profile((1, 16), (8, 128), (16, 192)), Profile((1, 16), (1, 256), (2, 512)))


def in_float16(model: bytes) -> bytes:
    """Return the bytes of a float32 .onnx in float16; interpolation stays in float32, since it positions pixels."""
    onnx = import_optional("onnx", "onnx")
    convert = import_optional("onnxruntime.transformers.float16", "onnx").convert_float_to_float16
    return convert(onnx.load_from_string(model), keep_io_types=True, op_block_list=["Resize"]).SerializeToString()


def in_int8(model: bytes, samples: np.ndarray) -> bytes:
    """Return the bytes of a float32 .onnx with int8 convolutions; everything else stays float32.

    Weights are quantised per channel and activations per tensor, both symmetrically, as TensorRT requires.

    Args:
        model: A generator, see `sr_keras.formats.onnx`.
        samples: The calibration pictures, lr uint8 [B, h, w, 3].
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
    """Return a shell command that builds the engine of a precision from its .onnx."""
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={engine}", "--stronglyTyped"]
    words += ["--noTF32"] if precision == "float32" else []
    for number, profile in enumerate(PROFILES):
        words.append(f"--profile={number}")
        words += [f"--{name}Shapes=lr:{'x'.join(map(str, shape))}"
                  for name, shape in zip(("min", "opt", "max"), profile.shapes(), strict=True)]
    return shlex.join(words)


def engine_commands(folder: Path, precisions: Sequence[str]) -> list[str]:
    """Return the shell commands that build the engines of an exported version."""
    return [trtexec_command(folder / _onnx_file(precision), FORMAT.path(folder, precision), precision)
            for precision in FORMAT.chosen(precisions)]


def missing() -> str | None:
    """Return what this machine lacks to build an engine, in a line; None if nothing."""
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
    """Build an engine on this machine's GPU from the bytes of the .onnx of a precision. Not yet run on a GPU.

    Raises:
        UserError: TensorRT refuses the model, or finds no algorithm for it.
    """
    trt = import_optional("tensorrt", EXTRA)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise UserError(f"TensorRT must accept the ONNX model; please report this. Received: {reasons}")
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
    """Runs an engine on pixels of any shape within PROFILES, for one caller at a time. Not yet run on a GPU."""

    def __init__(self, engine: bytes) -> None:
        trt = import_optional("tensorrt", EXTRA)
        self._cuda = import_optional("cuda.bindings.runtime", EXTRA)
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        self._context = self._engine.create_execution_context()
        self._stream = int(self._call("cudaStreamCreate"))

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Super-resolve uint8 [B, h, w, 3]."""
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
            raise UserError(f"{name} of CUDA failed; free memory of the GPU, and try again. Received: {error!r}")
        return values[0] if values else None


def profile_of(shape: tuple[int, ...]) -> int:
    """Return the index of the first profile that holds this input shape.

    Raises:
        ValueError: None does.
    """
    fitting = [number for number, profile in enumerate(PROFILES) if profile.holds(shape)]
    require(bool(fitting), "lr", f"have a shape within {[tuple(profile) for profile in PROFILES]} (batch, side)",
            "cut it into tiles", shape)
    return fitting[0]


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence ONNX Runtime's advice, on the root logger, to prepare the model; the converter has done that."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _onnx_file(precision: str) -> str:
    """Return the .onnx that the engine of a precision is built from, by its path in a version."""
    return "onnx/model.onnx" if precision == "float32" else f"tensorrt/{precision}.onnx"


def _convert(source: Source, precision: str, folder: Path) -> Iterator[Written]:
    model = source.onnx
    if precision != "float32":
        model = in_float16(model) if precision == "float16" else in_int8(model, source.samples)
        check_supported(model)
        path = folder / _onnx_file(precision)
        write_file(path, model)
        yield Written(_onnx_file(precision), f"ONNX {precision}, for TensorRT", "onnxruntime",
                      lambda: open_onnx(path.read_bytes(), threads=1))
    if missing() is None:
        engine = FORMAT.path(folder, precision)
        write_file(engine, build_engine(model, precision))
        yield Written(str(engine.relative_to(folder)), f"TensorRT {precision}", "tensorrt", lambda: _open(engine, 1))


def _open(path: Path, threads: int) -> TensorRTRunner:
    return TensorRTRunner(path.read_bytes())


FORMAT = Format(
    "tensorrt", {"float32": FLOAT32, "float16": FLOAT16, "int8": INT8}, file="tensorrt/{precision}.engine",
    packages=("onnxruntime", "tf2onnx", "onnx"), extra="onnx", runtime=("tensorrt", "cuda.bindings.runtime"),
    convert=_convert, open=_open, after=("onnx",), missing=lambda: missing(), device=lambda: "GPU")
