# SPDX-License-Identifier: Apache-2.0
"""LiteRT (.tflite): write a generator at four precisions, and read what a file says about it.

    signature serving_default:   lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3]

    float32        weights and arithmetic
    float16        weights; arithmetic is float32 on a CPU, float16 where a GPU or NPU delegate prefers it
    int8_dynamic   weights; activations are quantised for each picture
    int8           weights and activations, with ranges from calibration pictures

Conversion to float, clipping and rounding are in the graph. In int8 all convolutions are integer; the interpolation,
its sum with the detail and everything after stay float, since 256 steps would coarsen the picture itself. Only LiteRT's
built-in operations are used. Batch, height and width are open: resize the input before allocating.

Facts about the model are stored in the file as JSON, in the metadata buffer `sr_keras.json`. Files are opened by
`sr_keras.model.runtimes`.
"""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import UserError, require
from pipelines.files import parse_json
from sr_keras.formats.format import FLOAT16, FLOAT32, INT8, Format, Source, Written, write_file
from sr_keras.model.runtimes import LiteRTRunner, litert_converter, without_chatter

if TYPE_CHECKING:
    import keras

    from sr_keras.model.loading import LoadedGenerator

CUSTOM = "CUSTOM"
FACTS_NAME = "sr_keras.json"
FILE_IDENTIFIER = b"TFL3"
# Layers of `networks.generator` that assemble the picture; int8 leaves them in float.
FLOAT_LAYERS = ("interpolated", "detail", "sr")


def convert_litert(generator: keras.Model | LoadedGenerator, precision: str = "float32", *,
                   samples: np.ndarray | None = None, facts: dict[str, Any] | None = None) -> bytes:
    """Return a generator as the bytes of a .tflite, not yet compared with Keras.

    Args:
        generator: Made by `networks.generator`, or loaded; int8 needs a Keras model.
        precision: One of FORMAT.tolerances.
        samples: For int8, the calibration pictures, lr uint8 [B, h, w, 3].
        facts: What to store in the file, for JSON.

    Raises:
        ValueError: Unknown precision, or int8 without samples or Keras model.
        UserError: The model needs an operation that LiteRT does not have.
    """
    import keras
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from sr_keras.model.loading import eight_bit, input_signature

    require(precision in FORMAT.tolerances, "precision", f"be one of {', '.join(FORMAT.tolerances)}",
            "check the spelling", precision)
    require(precision != "int8" or isinstance(generator, keras.Model), "generator", "be a Keras model for int8",
            "load the .keras file", generator)
    # Constants in place of variables: the function then needs nothing that `generator` owns.
    signature = input_signature()
    graph = tf.function(eight_bit(generator), input_signature=signature, autograph=False).get_concrete_function()
    constant = convert_variables_to_constants_v2(graph)
    converter = litert_converter(tf.function(lambda lr: {"sr": constant(lr)[0]}, input_signature=signature,
                                             autograph=False))
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    with without_chatter():
        if precision != "int8":
            model = converter.convert()
        elif samples is None:
            raise ValueError("`samples` must be given for int8; give pictures of tissue. Received: samples=None")
        else:
            # The converter's own steps, one by one: it neither finds the right ranges nor leaves layers in float.
            converter.representative_dataset = lambda: [[samples[:1]]]
            converter._experimental_calibrate_only = True
            model = mlir_quantize(_calibrated(converter.convert(), samples),
                                  denylisted_nodes=_float_nodes(constant.graph))
    foreign = [name for name in operations(bytes(model)) if name.startswith(CUSTOM)]
    if foreign:
        raise UserError("a .tflite must have built-in operations only; please report this. Received: "
                        f"{', '.join(sorted(foreign))}")
    return bytes(model) if facts is None else _with_facts(bytes(model), facts)


def read_facts(model: bytes) -> dict[str, Any]:
    """Return the facts stored in the bytes of a .tflite.

    Raises:
        ValueError: There are none.
    """
    content = _schema().ModelT.InitFromPackedBuf(model, 0)
    for entry in content.metadata or []:
        if entry.name.decode() == FACTS_NAME:
            return parse_json(bytes(content.buffers[entry.buffer].data), dict[str, Any], FACTS_NAME, "export it again")
    raise ValueError(f"`model` must hold {FACTS_NAME}; export it again. Received: {len(model)} bytes without it")


def operations(model: bytes) -> set[str]:
    """Return the names of the operations in a .tflite; "CUSTOM name" for those that are not built in."""
    schema = _schema()
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = schema.ModelT.InitFromPackedBuf(model, 0).operatorCodes
    return {f"{CUSTOM} {code.customCode.decode()}" if code.customCode else names[code.builtinCode] for code in codes}


def _float_nodes(graph: Any) -> list[str]:
    """Return the nodes that int8 leaves in float: those of FLOAT_LAYERS, and those outside the network."""
    layers = re.compile(rf"/({'|'.join(FLOAT_LAYERS)})(_\d+)?/")
    names = [node.name for node in graph.get_operations()]
    return [name for name in names if layers.search(name) or not name.startswith("generator")]


def _calibrated(model: bytes, samples: np.ndarray) -> bytes:
    """Return a model that was converted for calibration, with the ranges of activations found on `samples`.

    TensorFlow's calibrator (2.21) reads a tensor after the next operation may have overwritten it in place: the range
    of a sum that is then multiplied by 255 came out as 0..268. This interpreter uses no memory twice.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    content = _schema().ModelT.InitFromPackedBuf(model, 0)
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
    schema = _schema()
    content = schema.ModelT.InitFromPackedBuf(model, 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(json.dumps(facts).encode())
    entry.name, entry.buffer = FACTS_NAME, len(content.buffers)
    content.buffers.append(buffer)
    content.metadata = [*(content.metadata or []), entry]
    return _packed(content)


def _packed(content: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(content.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


def _schema() -> Any:
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def _convert(source: Source, precision: str, folder: Path) -> Iterator[Written]:
    model = convert_litert(source.network, precision, samples=source.samples, facts=source.facts) \
        if precision == "int8" else convert_litert(source.generator, precision, facts=source.facts)
    path = FORMAT.path(folder, precision)
    write_file(path, model)
    yield Written(str(path.relative_to(folder)), f"LiteRT {precision}", "ai-edge-litert", lambda: _open(path, 1))


def _open(path: Path, threads: int) -> LiteRTRunner:
    return LiteRTRunner(path.read_bytes(), threads, kept=1)


FORMAT = Format(
    "litert", {"float32": FLOAT32, "float16": FLOAT16, "int8_dynamic": INT8, "int8": INT8},
    file="litert/{precision}.tflite", packages=("ai_edge_litert",), extra="litert",
    runtime=("ai_edge_litert.interpreter",), convert=_convert, open=_open)
