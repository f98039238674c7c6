"""Write a generator for LiteRT (.tflite), and run it: pixels in, pixels out, as every form of a generator does.

    signature serving_default:   lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3]

    float32        weights and arithmetic
    float16        weights; arithmetic is float32 on a CPU, float16 where a delegate for a GPU or NPU likes it
    int8_dynamic   weights; what flows through is quantised anew for each picture
    int8           weights, and what flows through, by ranges found with a representative set

Conversion to float, clipping and rounding are in the graph, so that 8-bit results of float32 are those of Keras within
1/255. In "int8" every convolution is of integers, while the interpolation, the sum with it and all after it stay float:
they hold the picture itself, which 256 steps of a range wider than it would coarsen. Only LiteRT's built-in operations
are used, none of TensorFlow's (Flex), none custom. Batch, height and width are open: resize the input before
allocating.

What the model is (`facts`) lies in the file as JSON, as the metadata buffer `sr_keras.json`; `read_facts` reads it.
Needs the extra `litert` to run and for int8, TensorFlow alone for the rest.
"""
from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipelines.console import import_optional
from pipelines.errors import UserError, require
from sr_keras.formats.parity import eight_bit_of
from sr_keras.model.keras_file import input_signature
from sr_keras.model.loading import LoadedGenerator

EXTRA = "litert"
# Interpreters kept, one a shape. A slide has one shape of tile, and another where its last batch is smaller; more would
# be memory lost, since each holds its weights and all its intermediate images.
KEPT_SHAPES = 2
PRECISIONS = ("float32", "float16", "int8_dynamic", "int8")
CUSTOM = "CUSTOM"
FACTS_NAME = "sr_keras.json"
FILE_IDENTIFIER = b"TFL3"
# Of a network of `networks.generator`: what makes the picture of its parts. Outside of it lies what makes it 8 bit.
FLOAT_LAYERS = ("interpolated", "detail", "sr")
CHATTER = ("INFO: Created TensorFlow Lite XNNPACK delegate", "fully_quantize: ")


def convert_litert(generator: keras.Model | LoadedGenerator, precision: str = "float32", *,
                   samples: np.ndarray | None = None, facts: dict[str, Any] | None = None) -> bytes:
    """Return a generator as the bytes of a .tflite, unchecked.

    Args:
        generator: made by `networks.generator`, or loaded from any form.
        precision: one of PRECISIONS.
        samples: for "int8" the representative set, lr uint8 [B, h, w, 3].
        facts: what to keep inside, for JSON; none if left out.

    Raises:
        ValueError: No such precision, or int8 without samples.
        UserError: An operation is none of LiteRT's own.
    """
    require(precision in PRECISIONS, "precision", f"be one of {', '.join(PRECISIONS)}", "choose one of these",
            precision)
    require(precision != "int8" or isinstance(generator, keras.Model), "generator", "be a Keras model for int8",
            "load the .keras file", generator)
    converter, graph = _converter(eight_bit_of(generator))
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    with _without_chatter():
        if precision != "int8":
            model = converter.convert()
        elif samples is None:
            raise ValueError("`samples` must be given for int8; give pictures of tissue. Received: samples=None")
        else:
            # The converter's own steps, one by one: it neither finds the right ranges nor leaves nodes in float.
            converter.representative_dataset = lambda: [[samples[:1]]]
            converter._experimental_calibrate_only = True
            model = mlir_quantize(_calibrated(converter.convert(), samples), denylisted_nodes=_stay_float(graph))
    foreign = [name for name in operations(bytes(model)) if name.startswith(CUSTOM)]
    if foreign:
        raise UserError("a .tflite must have built-in operations only; please report this. Received: "
                        f"{', '.join(sorted(foreign))}")
    return bytes(model) if facts is None else _with_facts(bytes(model), facts)


def read_facts(model: bytes) -> dict[str, Any]:
    """Return the facts in the bytes of a .tflite.

    Raises:
        ValueError: It holds none.
    """
    content = schema.ModelT.InitFromPackedBuf(model, 0)
    for entry in content.metadata or []:
        if entry.name.decode() == FACTS_NAME:
            return json.loads(bytes(content.buffers[entry.buffer].data))
    raise ValueError(f"`model` must hold {FACTS_NAME}; export it again. Received: {len(model)} bytes without it")


def operations(model: bytes) -> set[str]:
    """Return the names of the operations in the bytes of a .tflite, as LiteRT's schema has them.

    An operation of TensorFlow's (Flex) and one of somebody else's come as "CUSTOM name".
    """
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = schema.ModelT.InitFromPackedBuf(model, 0).operatorCodes
    return {f"{CUSTOM} {code.customCode.decode()}" if code.customCode else names[code.builtinCode] for code in codes}


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

        # Keras' open sides are 1 in the file; every shape has to be told.
        with _without_chatter():
            interpreter = Interpreter(model_content=self._model, num_threads=self._threads)
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
            interpreter.allocate_tensors()
        return interpreter


def _converter(run: Callable[[tf.Tensor], tf.Tensor]) -> tuple[tf.lite.TFLiteConverter, tf.Graph]:
    """Return the converter of a generator, for built-in operations alone, and the graph; its defaults give float32."""
    # Constants in place of variables, so that nothing but the function must be kept, whatever `run` closes over.
    graph = tf.function(run, input_signature=input_signature(), autograph=False).get_concrete_function()
    constant = convert_variables_to_constants_v2(graph)
    named = tf.function(lambda lr: {"sr": constant(lr)[0]}, input_signature=input_signature(), autograph=False)
    # With a module to save, the converter goes by way of a SavedModel, and the file keeps the signature.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([named.get_concrete_function()], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter, constant.graph


def _stay_float(graph: tf.Graph) -> list[str]:
    """Return the nodes that int8 leaves alone: those of FLOAT_LAYERS, and those outside of the network."""
    layers = re.compile(rf"/({'|'.join(FLOAT_LAYERS)})(_\d+)?/")
    names = [node.name for node in graph.get_operations()]
    return [name for name in names if layers.search(name) or not name.startswith("generator")]


def _calibrated(model: bytes, samples: np.ndarray) -> bytes:
    """Return a model that was converted for calibration with the ranges that `samples` give.

    TensorFlow's calibrator (2.21) reads a tensor after the next operation may have overwritten it in place: the range
    of a sum that is then multiplied by 255 came out as 0..268. Here no memory is used twice.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    content = schema.ModelT.InitFromPackedBuf(model, 0)
    ranges = {index: tensor.quantization for index, tensor in enumerate(content.subgraphs[0].tensors)
              if tensor.quantization is not None and tensor.quantization.min is not None}
    interpreter = Interpreter(model_content=bytes(model), experimental_preserve_all_tensors=True,
                              experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    (lr,) = (detail["index"] for detail in interpreter.get_input_details())
    interpreter.resize_tensor_input(lr, samples[:1].shape)
    interpreter.allocate_tensors()
    seen: dict[int, list[np.ndarray]] = {index: [] for index in ranges}
    for sample in samples:
        interpreter.set_tensor(lr, sample[np.newaxis])
        interpreter.invoke()
        for index, extremes in seen.items():
            values = interpreter.get_tensor(index)
            extremes += [values.min(), values.max()]
    for index, extremes in seen.items():
        ranges[index].min, ranges[index].max = [float(min(extremes))], [float(max(extremes))]
    return _packed(content)


def _with_facts(model: bytes, facts: dict[str, Any]) -> bytes:
    content = schema.ModelT.InitFromPackedBuf(model, 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(json.dumps(facts).encode())
    entry.name, entry.buffer = FACTS_NAME, len(content.buffers)
    content.buffers.append(buffer)
    content.metadata = [*(content.metadata or []), entry]
    return _packed(content)


def _packed(content: schema.ModelT) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(content.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold stderr back, of native code too, and let it go afterwards without the lines of CHATTER."""
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
            os.write(2, b"".join(line for line in lines if not line.decode(errors="replace").startswith(CHATTER)))
            os.close(stderr)
