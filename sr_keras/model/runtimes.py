# SPDX-License-Identifier: Apache-2.0
"""Run model files by LiteRT or ONNX Runtime, without TensorFlow.

    run = LiteRTRunner(Path("float16.tflite").read_bytes(), threads=2)
    sr = run(lr)                                   # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

A model file has one input and one output, `lr` and `sr`. `RUNTIMES` lists what can run a model in place of TensorFlow.
To add an engine, add an entry there. Importing this module imports neither TensorFlow nor a runtime.
"""
from __future__ import annotations

import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
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
        self._kept: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = Lock()

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Run the model on one array."""
        with self._lock:
            if lr.shape not in self._kept:
                while len(self._kept) >= self._kept_shapes:  # first: large tiles fill the memory
                    self._kept.popitem(last=False)
                self._kept[lr.shape] = self._allocate(lr.shape)
            self._kept.move_to_end(lr.shape)
            interpreter = self._kept[lr.shape]
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], lr)
            interpreter.invoke()
            return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    def _allocate(self, shape: tuple[int, ...]) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        with without_chatter():
            interpreter = Interpreter(model_content=self._model, num_threads=self._threads)
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
            interpreter.allocate_tensors()
        return interpreter


def open_onnx(model: bytes, threads: int) -> Pixels:
    """Open the bytes of an .onnx on the CPU.

    Raises:
        UserError: ONNX Runtime is not installed.
    """
    onnxruntime = import_optional("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = ERRORS_ONLY
    # Otherwise its threads spin between calls and take the cores from the next model.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda lr: session.run(["sr"], {"lr": lr})[0]


def litert_converter(function: Function) -> Any:
    """Return TensorFlow's converter of a function to a float32 .tflite of built-in operations."""
    import tensorflow as tf

    # With a module, the converter goes by way of a SavedModel, and the file keeps the signature.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def to_onnx(function: Function) -> Any:
    """Return a function as an onnx.ModelProto.

    Raises:
        UserError: tf2onnx is not installed.
    """
    import tensorflow as tf

    tf2onnx = import_optional("tf2onnx", "onnx")
    [spec] = function.input_signature
    signature = [tf.TensorSpec(spec.shape, spec.dtype, name="lr")]
    named = tf.function(lambda lr: {"sr": function(lr)}, input_signature=signature, autograph=False)
    return tf2onnx.convert.from_function(named, input_signature=signature, opset=ONNX_OPSET)[0]


class Runtime(NamedTuple):
    """Software that runs a converted model.

    Attributes:
        packages: What must be installed; the first runs the model, the others convert it.
        extra: The extra of sr_keras that installs them.
        convert: Converts a TensorFlow function to the bytes of a float32 model file.
        open: Opens these bytes with a number of threads.
    """

    packages: tuple[str, ...]
    extra: str
    convert: Callable[[Function], bytes]
    open: Callable[[bytes, int], Pixels]


RUNTIMES = {
    "litert": Runtime(("ai_edge_litert",), "litert", lambda function: litert_converter(function).convert(),
                      LiteRTRunner),
    "onnx": Runtime(("onnxruntime", "tf2onnx", "onnx"), "onnx", lambda function: to_onnx(function).SerializeToString(),
                    open_onnx),
}
ENGINES = ("tensorflow", *RUNTIMES)
AUTO, FASTEST = "auto", "fastest"
ENGINE_CHOICES = (AUTO, *ENGINES, FASTEST)  # the values of --engine


def check_parity(expected: Pixels, converted: Pixels) -> None:
    """Compare a converted model with the original on two pieces of tissue.

    Raises:
        ParityError: A pixel differs by more than 1/255.
    """
    image = sample_picture()
    lr = np.stack([image[y:y + CHECKED_HEIGHT, x:x + CHECKED_WIDTH] for y, x in CHECKED_REGIONS])
    difference = np.abs(converted(lr).astype(int) - np.asarray(expected(lr))).max()
    if difference > MAX_LEVELS:
        raise ParityError(f"a converted model must agree with Keras within {MAX_LEVELS}/255; nothing was kept, please "
                          f"report this. Received: {difference}/255")


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drop the lines of CHATTER that native code writes to stderr; LiteRT has no setting for that."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
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
