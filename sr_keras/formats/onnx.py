"""ONNX (.onnx): write a generator, float32.

    input lr uint8 [B, h, w, 3] -> output sr uint8 [B, scale*h, scale*w, 3], with B, h and w open

Conversion to float, clipping and rounding are in the graph. Facts about the model are stored in the file's metadata, as
text. Files are checked against TensorRT's list of operations, and opened by `sr_keras.model.runtimes`.
"""
from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import require
from sr_keras.formats.format import FLOAT32, Format, Source, Written, write_file
from sr_keras.model.runtimes import ONNX_OPSET, Pixels, open_onnx, to_onnx

if TYPE_CHECKING:
    import keras

    from sr_keras.model.loading import LoadedGenerator

OPSETS = (11, 18)  # Resize has half-pixel centres since 11; tf2onnx 1.17 ends at 18
# Names of the open sides: they show a reader of the file which of them belong together.
AXES = {"lr": ("batch", "height", "width"), "sr": ("batch", "sr_height", "sr_width")}


def convert_onnx(generator: keras.Model | LoadedGenerator, opset: int = ONNX_OPSET,
                 facts: dict[str, Any] | None = None) -> bytes:
    """Return a generator as the bytes of an .onnx, not yet compared with Keras.

    Args:
        generator: Made by `networks.generator`, or loaded.
        opset: Version of ONNX's operations.
        facts: What to store in the file, as text.

    Raises:
        ValueError: The opset is out of range.
        UserError: tf2onnx is not installed.
    """
    import tensorflow as tf

    from sr_keras.model.loading import eight_bit_of, input_signature

    require(OPSETS[0] <= opset <= OPSETS[1], "opset", f"lie in {list(OPSETS)}", f"{ONNX_OPSET} is the default", opset)
    function = tf.function(eight_bit_of(generator), input_signature=input_signature(), autograph=False)
    model = to_onnx(function, opset)
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, AXES[value.name], strict=False):
            dimension.dim_param = name
    for name, fact in (facts or {}).items():
        model.metadata_props.add(key=name, value=str(fact))
    return model.SerializeToString()


def _convert(source: Source, precision: str, folder: Path) -> Iterator[Written]:
    from sr_keras.formats.tensorrt_operations import check_supported

    check_supported(source.onnx)
    path = write_file(folder, FORMAT.file, source.onnx)
    yield Written(FORMAT.file, "ONNX", "onnxruntime", partial(_open, path, 1))


def _open(path: Path, threads: int) -> Pixels:
    return open_onnx(path.read_bytes(), threads)


FORMAT = Format("onnx", {"float32": FLOAT32}, file="onnx/model.onnx", packages=("onnxruntime", "tf2onnx", "onnx"),
                extra="onnx", runtime=("onnxruntime",), convert=_convert, open=_open)
