"""Write a generator as ONNX, and run it in ONNX Runtime: pixels in, pixels out, as every form of a generator does.

    input lr uint8 [B, h, w, 3] -> output sr uint8 [B, scale*h, scale*w, 3], B, h and w open

Weights and arithmetic are float32; conversion to float, clipping and rounding are in the graph. What the model is
(`facts`) stands in the file's metadata, one text a name. Needs the extra `onnx`.
"""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from pipelines.console import import_optional
from pipelines.errors import require
from sr_keras.formats.parity import Pixels, eight_bit_of
from sr_keras.model.keras_file import input_signature
from sr_keras.model.loading import LoadedGenerator

EXTRA = "onnx"
OPSETS = (11, 18)  # Resize knows half-pixel centres since 11; tf2onnx 1.17 ends at 18.
DEFAULT_OPSET = 17
ERRORS_ONLY = 3
# Open sides by name, in the order of `lr` and of `sr`: a reader of the file sees which of them belong together.
AXES = {"lr": ("batch", "height", "width"), "sr": ("batch", "sr_height", "sr_width")}


def open_onnx(model: bytes, threads: int) -> Pixels:
    """Return the generator in an .onnx, given as its bytes, as a function of pixels that runs on the CPU.

    Raises:
        UserError: ONNX Runtime is not installed.
    """
    onnxruntime = import_optional("onnxruntime", EXTRA)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda lr: session.run(["sr"], {"lr": lr})[0]


def convert_onnx(generator: keras.Model | LoadedGenerator, opset: int = DEFAULT_OPSET,
                 facts: dict[str, Any] | None = None) -> bytes:
    """Return a generator as the bytes of an .onnx, unchecked.

    Args:
        generator: made by `networks.generator`, or loaded from any form.
        opset: version of ONNX's operations.
        facts: what to keep inside, as text.

    Raises:
        ValueError: The opset is out of range.
        UserError: tf2onnx is not installed.
    """
    require(OPSETS[0] <= opset <= OPSETS[1], "opset", f"lie in {list(OPSETS)}", f"{DEFAULT_OPSET} is the default",
            opset)
    tf2onnx = import_optional("tf2onnx", EXTRA)
    run = eight_bit_of(generator)
    function = tf.function(lambda lr: {"sr": run(lr)}, input_signature=input_signature(), autograph=False)
    model, _ = tf2onnx.convert.from_function(function, input_signature=input_signature(), opset=opset)
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, AXES[value.name], strict=False):
            dimension.dim_param = name
    for name, fact in (facts or {}).items():
        model.metadata_props.add(key=name, value=str(fact))
    return model.SerializeToString()
