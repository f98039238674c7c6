# SPDX-License-Identifier: Apache-2.0
"""Run model files by LiteRT or ONNX Runtime, without TensorFlow.

    run = LiteRTRunner(Path("float16.tflite").read_bytes(), threads=2)
    sr = run(lr)                                   # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

A model file has the input `lr` and the output `sr`; a band of `sr_keras.model.streaming` has kept rows beside them.
`RUNTIMES` lists what can run a model in place of TensorFlow.
To add an engine, add an entry there. Importing this module imports neither TensorFlow nor a runtime.
"""
from __future__ import annotations

import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, RLock
from typing import Any, NamedTuple

import numpy as np

from pipelines.console import import_optional
from pipelines.errors import UserError
from pipelines.sample import sample_picture
from sr_keras.model.tiles import Pixels

Function = Any  # a tf.function of one tensor, with an input signature

# Allocated interpreters that a runner keeps, one per input shape. A slide needs two: full batches and the last one.
KEPT_SHAPES = 2
ONNX_OPSET = 17
ERRORS_ONLY = 3  # ONNX Runtime's log severity
CHATTER = ("INFO: Created TensorFlow Lite XNNPACK delegate", "fully_quantize: ")

# Two regions (y, x) of scikit-image's histology picture, with odd sides: a model of fixed size would fail on them.
CHECKED_REGIONS = ((40, 60), (250, 130))
CHECKED_HEIGHT, CHECKED_WIDTH = 53, 67
MAX_LEVELS = 1  # of 255: a different order of summation may round differently
INT8_PSNR_DB = 40.0  # least PSNR of an int8 model against the float one
VNNI = ("avx512_vnni", "avx_vnni")  # processor instructions that multiply 8-bit numbers; int8 gains nothing without


class ParityError(UserError):
    """A converted model does not compute what the original computes."""


class LiteRTRunner:
    """Runs the bytes of a .tflite on arrays of any shape. Safe to share between threads; calls are serialised.

    Args:
        model: The bytes of the file.
        threads: How many threads compute.
        kept: How many shapes keep their interpreter, with its memory.

    Raises:
        UserError: LiteRT is not installed.
    """

    def __init__(self, model: bytes, threads: int, kept: int = KEPT_SHAPES) -> None:
        import_optional("ai_edge_litert", "litert")
        self._model, self._threads, self._kept_shapes = model, threads, kept
        self._kept: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        self._lock = Lock()

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Return the output of a model with one input."""
        return self.run(lr)[0]

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Return the outputs of inputs; both have `lr` or `sr` first, and others by name."""
        with self._lock:
            shapes = tuple(array.shape for array in inputs)
            if shapes not in self._kept:
                while len(self._kept) >= self._kept_shapes:  # first: large tiles fill the memory
                    self._kept.popitem(last=False)
                self._kept[shapes] = self._allocate(shapes)
            self._kept.move_to_end(shapes)
            interpreter, given, found = self._kept[shapes]
            for index, array in zip(given, inputs, strict=True):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in found]

    def release(self) -> None:
        """Give back the memory."""
        with self._lock:
            self._kept.clear()

    def _allocate(self, shapes: tuple[tuple[int, ...], ...]) -> tuple[Any, list[int], list[int]]:
        """Return an interpreter, and the numbers of its inputs and outputs."""
        from ai_edge_litert.interpreter import Interpreter

        with without_chatter():
            # In an interpreter of its own, because it holds memory, which must not be resized.
            signature = Interpreter(model_content=self._model).get_signature_runner()
            given, found = ([details[name]["index"] for name in _first(first, details)] for first, details in (
                ("lr", signature.get_input_details()), ("sr", signature.get_output_details())))
            interpreter = Interpreter(model_content=self._model, num_threads=self._threads)
            for index, shape in zip(given, shapes, strict=True):
                interpreter.resize_tensor_input(index, shape)
            interpreter.allocate_tensors()
        return interpreter, given, found


def open_litert_bands(models: Sequence[bytes], threads: int) -> list[Callable[..., list[np.ndarray]]]:
    """Open the bands of a network; only the one that ran last has memory.

    Raises:
        UserError: LiteRT is not installed.
    """
    runners = [LiteRTRunner(model, threads, kept=1) for model in models]

    def run(runner: LiteRTRunner, *inputs: np.ndarray) -> list[np.ndarray]:
        for other in runners:
            if other is not runner:
                other.release()
        return runner.run(*inputs)

    return [partial(run, runner) for runner in runners]


def open_onnx_bands(models: Sequence[bytes], threads: int) -> list[Callable[..., list[np.ndarray]]]:
    """Open the bands of a network by ONNX Runtime.

    Raises:
        UserError: ONNX Runtime is not installed.
    """
    def run(session: Any, *inputs: np.ndarray) -> list[np.ndarray]:
        given, found = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))
        return session.run(_first("sr", found), dict(zip(_first("lr", given), inputs, strict=True)))

    return [partial(run, _session(model, threads)) for model in models]


def open_onnx(model: bytes, threads: int) -> Pixels:
    """Open the bytes of an .onnx on the CPU.

    Raises:
        UserError: ONNX Runtime is not installed.
    """
    session = _session(model, threads)
    return lambda lr: session.run(["sr"], {"lr": lr})[0]


def _first(first: str, names: Iterable[str]) -> list[str]:
    """Return names sorted, but for the first."""
    return [first, *sorted(name for name in names if name != first)]


def _session(model: bytes, threads: int) -> Any:
    """Open an .onnx.

    Raises:
        UserError: ONNX Runtime is not installed.
    """
    onnxruntime = import_optional("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = ERRORS_ONLY
    # Otherwise its threads spin between calls and take the cores from the next model.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def litert_converter(function: Function) -> Any:
    """Return TensorFlow's converter of a function to a float32 .tflite of built-in operations."""
    import tensorflow as tf

    # With a module, the converter goes by way of a SavedModel, and the file keeps the signature.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def to_onnx(function: Function) -> Any:
    """Return a function with named inputs and outputs as an onnx.ModelProto.

    Raises:
        UserError: tf2onnx is not installed.
    """
    tf2onnx = import_optional("tf2onnx", "onnx")
    return tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=ONNX_OPSET)[0]


class Runtime(NamedTuple):
    """Software that runs a converted model.

    Attributes:
        packages: What must be installed; the first runs the model, the others convert it.
        extra: The extra of sr_keras that installs them.
        convert: Converts a TensorFlow function to the bytes of a float32 model file.
        open: Opens such files, the bands of a network, with a number of threads.
    """

    packages: tuple[str, ...]
    extra: str
    convert: Callable[[Function], bytes]
    open: Callable[[Sequence[bytes], int], list[Callable[..., list[np.ndarray]]]]


RUNTIMES = {
    "litert": Runtime(("ai_edge_litert",), "litert", lambda function: litert_converter(function).convert(),
                      open_litert_bands),
    "onnx": Runtime(("onnxruntime", "tf2onnx", "onnx"), "onnx", lambda function: to_onnx(function).SerializeToString(),
                    open_onnx_bands),
}
ENGINES = ("tensorflow", *RUNTIMES)
AUTO = "auto"
LITERT_INT8 = "litert_int8"  # the engine's name in records and for workers; users ask for it by --precision
PRECISIONS = ("float32", AUTO)  # the values of --precision
ENGINE_CHOICES = (AUTO, *ENGINES)  # the values of --engine


def check_parity(expected: Pixels, converted: Pixels) -> None:
    """Compare a converted model with the original on two pieces of tissue.

    Raises:
        ParityError: A pixel differs by more than 1/255.
    """
    lr = _checked_tissue()
    difference = np.abs(converted(lr).astype(int) - np.asarray(expected(lr))).max()
    if difference > MAX_LEVELS:
        raise ParityError(f"a converted model must agree with Keras within {MAX_LEVELS}/255; nothing was kept, please "
                          f"report this. Received: {difference}/255")


def _checked_tissue() -> np.ndarray:
    image = sample_picture()
    return np.stack([image[y:y + CHECKED_HEIGHT, x:x + CHECKED_WIDTH] for y, x in CHECKED_REGIONS])


def _cpu_words() -> set[str]:
    with suppress(OSError):
        return set(Path("/proc/cpuinfo").read_text().split())
    return set()


def why_not_int8(folder: Path) -> str | None:
    """Return why LiteRT should not run a model in int8 on this machine; None if it should.

    Args:
        folder: Of a SavedModel; `sr-keras export` writes the files litert/*.tflite into it.
    """
    if not set(VNNI) & _cpu_words():
        return "this processor has no VNNI instructions, without which int8 is not faster"
    if find_spec("ai_edge_litert") is None:
        return "LiteRT is not installed"
    files = [folder / "litert" / f"{precision}.tflite" for precision in ("float32", "int8")]
    if not all(map(Path.is_file, files)):
        return "the model has no litert/float32.tflite and litert/int8.tflite; export it with --formats=litert"
    lr = _checked_tissue()
    exact, found = (LiteRTRunner(path.read_bytes(), threads=1, kept=1)(lr).astype(float) for path in files)
    psnr = -10 * np.log10(max(np.square((found - exact) / 255).mean(), 1e-10))
    return None if psnr >= INT8_PSNR_DB else f"int8 differs too much: PSNR {psnr:.1f} dB, {INT8_PSNR_DB:g} are needed"


_STDERR = RLock()  # of two threads, the one that ends last would put back the file of the other


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drop the lines of CHATTER that native code writes to stderr; LiteRT has no setting for that."""
    with _STDERR, tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            held.seek(0)
            lines = held.read().splitlines(keepends=True)
            with suppress(OSError):  # messages that can't be written are dropped
                os.write(2, b"".join(line for line in lines if not line.decode(errors="replace").startswith(CHATTER)))
            os.close(stderr)
