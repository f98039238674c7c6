"""Write a generator for LiteRT (.tflite), and run it: pixels in, pixels out, as every form of a generator does.

    signature serving_default:   lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3]

Weights and arithmetic are float32; conversion to float, clipping and rounding are in the graph, so that 8-bit results
are those of Keras within 1/255. Only LiteRT's built-in operations are used. Batch, height and width are open: resize
the input before allocating. Needs the extra `litert` to run, and TensorFlow alone to convert.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipelines.files import atomic_path
from sr_keras.export.parity import check_parity, eight_bit_of, import_optional
from sr_keras.models import LoadedGenerator, input_signature

EXTRA = "litert"
# Interpreters kept, one a shape. A slide has one shape of tile, and another where its last batch is smaller; more would
# be memory lost, since each holds its weights and all its intermediate images.
KEPT_SHAPES = 2


def write_litert(generator: keras.Model | LoadedGenerator, path: str | Path) -> Path:
    """Write a float32 .tflite and check it.

    Args:
        generator: made by `networks.generator`, or loaded from any form.
        path: the file; what is there is replaced.

    Returns:
        The file.

    Raises:
        UserError: LiteRT is not installed.
        OSError: It can't be written.
        ParityError: What was written does not compute what `generator` computes. Nothing is left behind.
    """
    import_optional("ai_edge_litert", EXTRA)
    run, target = eight_bit_of(generator), Path(path)
    model = _converter(run).convert()
    with atomic_path(target) as temporary:
        temporary.write_bytes(model)
        check_parity(run, open_litert(temporary.read_bytes(), threads=1))
    return target


def open_litert(model: bytes, threads: int) -> LiteRTRunner:
    """Return the generator in a .tflite, given as its bytes, as a function of pixels.

    Raises:
        UserError: LiteRT is not installed.
    """
    import_optional("ai_edge_litert", EXTRA)
    return LiteRTRunner(model, threads)


class LiteRTRunner:
    """Runs a .tflite on pixels of any shape. An interpreter is allocated for one shape; those last used are kept.

    Interpreters are not thread-safe: calls from several threads wait for each other.
    """

    def __init__(self, model: bytes, threads: int) -> None:
        self._model, self._threads = model, threads
        self._kept: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = Lock()

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        with self._lock:
            interpreter = self._allocated(lr.shape)
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], lr)
            interpreter.invoke()
            return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    def _allocated(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._kept:
            while len(self._kept) >= KEPT_SHAPES:  # before the next is allocated: large tiles fill the memory
                self._kept.popitem(last=False)
            self._kept[shape] = self._allocate(shape)
        self._kept.move_to_end(shape)
        return self._kept[shape]

    def _allocate(self, shape: tuple[int, ...]) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=self._model, num_threads=self._threads)
        # Keras' open sides are 1 in the file; every shape has to be told.
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
        interpreter.allocate_tensors()
        return interpreter


def _converter(run: Callable[[tf.Tensor], tf.Tensor]) -> tf.lite.TFLiteConverter:
    """Return the converter of a generator, for built-in operations alone; its defaults give float32.

    Other precisions are attributes to set on it: `optimizations`, `target_spec`, `representative_dataset`.
    """
    # Constants in place of variables, so that nothing but the function must be kept, whatever `run` closes over.
    graph = tf.function(run, input_signature=input_signature(), autograph=False).get_concrete_function()
    constant = convert_variables_to_constants_v2(graph)
    named = tf.function(lambda lr: {"sr": constant(lr)[0]}, input_signature=input_signature(), autograph=False)
    # With a module to save, the converter goes by way of a SavedModel, and the file keeps the signature.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([named.get_concrete_function()], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter
