# SPDX-License-Identifier: Apache-2.0
"""The signatures of a SavedModel: what TensorFlow Serving can be asked for, as TensorFlow functions.

    serving_default   lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3]
    float             lr float32 [B, h, w, 3] in [0, 1] -> sr float32 in [0, 1], not rounded
    encoded           image_bytes string [B], PNG or JPEG -> sr_bytes string [B], PNG of 8-bit RGB
    about             side int32 [B], of a picture -> sr_side, that of its answer; halo, max_pixels; int32 [B]

Names that end in `_bytes` travel as base64 in REST. `encoded` accepts pictures of different sizes, one after the other:
alpha is composited over white, 16 bits become 8, grey becomes RGB, as in `pipelines.pixels.as_rgb`. `about` has an
input because a server that batches refuses requests without one.

All pictures of a request together may have `max_pixels` pixels. The graph checks this before it computes and, for
`encoded`, before it decodes: a file of 100 bytes can hold a picture that fills memory. A refusal is an
InvalidArgumentError that says what is allowed.

A head of `sr_keras.uncertainty` is a SavedModel of its own, so that the four above stay as they are:

    uncertainty       lr uint8 [B, h, w, 3] -> sr uint8, scale and shape float32, each [B, scale*h, scale*w, 3]

Memory on a CPU: the paper's network of 64 filters takes about 14 KiB a pixel, so 14 GiB for the default of 2**20
pixels. Lower `max_pixels` (--max_pixels of sr-keras export) for a server with less memory.
"""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pipelines.pixels import WHITE, to_float, to_uint8
from sr_keras.model import uncertainty_head
from sr_keras.model.facts import SIGNATURE
from sr_keras.model.loading import UNLIMITED, LoadedGenerator, eight_bit, input_signature
from sr_keras.model.runtimes import ParityError, check_parity

FLOAT, ENCODED, ABOUT = "float", "encoded", "about"
MAX_FLOAT_DIFFERENCE = 1e-4
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PNG_SIDES = len(PNG_START)  # offset of width and height, 4 bytes each, most significant first
PNG_DEPTH = PNG_SIDES + 8
PNG_HEADER = 33
JPEG_START = b"\xff\xd8\xff"
LONGEST_SIDE = 2**31  # no product of two overflows int64
FAST = 1  # zlib's level; tissue does not become smaller by more effort


class Signature(NamedTuple):
    """A function of one tensor that returns tensors by name, and the specification of its input."""

    run: Callable[[tf.Tensor], dict[str, tf.Tensor]]
    inputs: list[tf.TensorSpec]


def write_graph(generator: keras.Model, folder: Path, *, scale: int, halo: int, max_pixels: int) -> None:
    """Write a float32 generator as a SavedModel into a folder; the arguments are those of `signatures_of`.

    Raises:
        OSError: It can't be written.
    """
    _save(folder, generator.weights, UNLIMITED, eight_bit(generator),
          signatures_of(generator, scale=scale, halo=halo, max_pixels=max_pixels))


def write_uncertainty(generator: LoadedGenerator, head: keras.Model, facts: uncertainty_head.HeadFacts, folder: Path, *,
                      max_pixels: int) -> None:
    """Write a head with its generator as a SavedModel into a folder, with its facts.

    Besides the signature it has a function without a limit of pixels, which computes the expected error alone:
    lr uint8 [B, h, w, 3] -> mean of |HR - SR|, grey levels of 255, float32 [B, scale*h, scale*w].

    Args:
        generator: The generator, which is stored with it.
        head: Made by `sr_keras.model.uncertainty_head.head` for this generator.
        facts: Of this head; its scales are multiplied by their factor.
        folder: An existing folder.
        max_pixels: How many LR pixels a call of the signature may have.

    Raises:
        OSError: It can't be written.
        ValueError: The generator was not made by `networks.generator`.
        ParityError: The SR of what was written differs from the generator's by more than 1/255.
    """
    whole = uncertainty_head.with_trunk(generator)
    trunk = keras.Model(whole.inputs, whole.outputs[0])
    calibration = tf.constant([math.log(facts.factor)] * 3 + [0.0] * 3)

    def logs_of(middle: tf.Tensor) -> tf.Tensor:
        return head(middle, training=False) + calibration

    def run(lr: tf.Tensor) -> dict[str, tf.Tensor]:
        middle, sr = whole(to_float(_within_limit(lr, max_pixels)), training=False)
        scale, shape = tf.split(tf.exp(logs_of(middle)), 2, axis=-1)
        return {"sr": to_uint8(sr), "scale": scale, "shape": shape}

    def expected(lr: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(uncertainty_head.mean_error(logs_of(trunk(to_float(lr), training=False))), -1)

    _save(folder, [*whole.weights, *head.weights], uncertainty_head.EXPECTED, expected,
          {uncertainty_head.SIGNATURE: Signature(run, input_signature())})
    written = tf.saved_model.load(str(folder))  # owns the weights, so it must outlive its signature
    check_parity(generator, lambda lr: written.signatures[uncertainty_head.SIGNATURE](lr=tf.constant(lr))["sr"].numpy())
    (folder / uncertainty_head.FACTS_FILE).write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")


def _save(folder: Path, weights: Sequence[keras.Variable], name: str, run: Callable[[tf.Tensor], Any],
          signatures: dict[str, Signature]) -> None:
    """Write a SavedModel of signatures on these weights, and of a function of lr called `name`."""
    def graph(run: Callable[[tf.Tensor], Any], inputs: list[tf.TensorSpec]) -> Any:
        return tf.function(run, input_signature=inputs, autograph=False)

    module = tf.Module()
    module.weights = [weight.value for weight in weights]  # saves the variables that the graphs use
    setattr(module, name, graph(run, input_signature()))
    try:
        tf.saved_model.save(module, str(folder), signatures={
            name: graph(*signature).get_concrete_function() for name, signature in signatures.items()})
    except tf.errors.OpError as error:  # this is how a full disk is reported
        raise OSError(f"{folder.parent}: the model can't be written: {error.message}") from error


def signatures_of(model: keras.Model, *, scale: int, halo: int, max_pixels: int) -> dict[str, Signature]:
    """Return the signatures of a generator lr -> sr, float32, not clipped, by name; a call has `max_pixels` at most."""
    run = eight_bit(model)

    def as_float(lr: tf.Tensor) -> dict[str, tf.Tensor]:
        lr = _within_range(_within_limit(lr, max_pixels))
        return {"sr": tf.clip_by_value(model(lr, training=False), 0.0, 1.0)}

    def encoded(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        safe = _safe_to_decode(image_bytes, max_pixels)
        return {"sr_bytes": tf.map_fn(
            lambda data: tf.io.encode_png(run(decoded(data)[tf.newaxis])[0], compression=FAST), safe,
            fn_output_signature=tf.TensorSpec([], tf.string), parallel_iterations=1)}  # one picture's memory at a time

    def about(side: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sr_side": scale * side, "halo": tf.fill(tf.shape(side), halo),
                "max_pixels": tf.fill(tf.shape(side), max_pixels)}

    return {
        SIGNATURE: Signature(lambda lr: {"sr": run(_within_limit(lr, max_pixels))}, input_signature()),
        FLOAT: Signature(as_float, [tf.TensorSpec([None, None, None, 3], tf.float32, name="lr")]),
        ENCODED: Signature(encoded, [tf.TensorSpec([None], tf.string, name="image_bytes")]),
        ABOUT: Signature(about, [tf.TensorSpec([None], tf.int32, name="side")]),
    }


def check_signatures(generator: keras.Model, folder: Path) -> None:
    """Compare the signatures of a SavedModel with the float32 generator that it was written from.

    Raises:
        ParityError: `float` differs by more than 1e-4, or a pixel of another by more than 1/255.
    """
    signatures = (loaded := tf.saved_model.load(str(folder))).signatures  # `loaded` keeps them alive

    def by_float(lr: np.ndarray) -> np.ndarray:
        sr = signatures[FLOAT](lr=tf.constant(to_float(lr)))["sr"].numpy()
        expected = np.clip(np.asarray(generator(to_float(lr), training=False)), 0, 1)
        difference = np.abs(sr - expected).max()
        if not difference <= MAX_FLOAT_DIFFERENCE:
            raise ParityError(f"`{FLOAT}` must agree with Keras within {MAX_FLOAT_DIFFERENCE}; nothing was kept, "
                              f"please report this. Received: {difference}")
        return to_uint8(sr)

    def by_encoded(lr: np.ndarray) -> np.ndarray:
        image_bytes = tf.stack([tf.io.encode_png(image) for image in lr])
        sr_bytes = signatures[ENCODED](image_bytes=image_bytes)["sr_bytes"]
        return np.stack([tf.io.decode_png(sr, channels=3).numpy() for sr in sr_bytes])

    for written in (lambda lr: signatures[SIGNATURE](lr=tf.constant(lr))["sr"].numpy(), by_float, by_encoded):
        check_parity(eight_bit(generator), written)
    del loaded


def decoded(data: tf.Tensor) -> tf.Tensor:
    """Return the pixels of one PNG or JPEG as uint8 [h, w, 3]; its size must be known to be harmless."""
    pixels = tf.cond(_is_png(data), lambda: _decoded_png(data),
                     lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"))
    return tf.ensure_shape(pixels, [None, None, 3])


def sides_of(data: tf.Tensor) -> tf.Tensor:
    """Return height and width of one PNG or JPEG, as its header says, as int64 [2]; [0, 0] of anything else."""

    def of_png() -> tf.Tensor:
        digits = tf.cast(tf.io.decode_raw(tf.strings.substr(data, PNG_SIDES, 8), tf.uint8), tf.int64)
        width_height = tf.reduce_sum(tf.reshape(digits, [2, 4]) * [2**24, 2**16, 2**8, 1], axis=1)
        return tf.minimum(width_height[::-1], LONGEST_SIDE)

    def of_jpeg() -> tf.Tensor:
        return tf.cast(tf.image.extract_jpeg_shape(data)[:2], tf.int64)

    return tf.case([(_is_png(data), of_png), (_starts_with(data, JPEG_START), of_jpeg)],
                   default=lambda: tf.zeros([2], tf.int64))


def _decoded_png(data: tf.Tensor) -> tf.Tensor:
    def with_alpha() -> tf.Tensor:
        # As 16 bit, which every PNG can be: what has more than 8 is then rounded, not cut off.
        rgba = (tf.cast(tf.io.decode_png(data, channels=4, dtype=tf.uint16), tf.int32) + 128) // 257
        colour, alpha = rgba[..., :3], rgba[..., 3:]
        return tf.cast((colour * alpha + WHITE * (255 - alpha) + 127) // 255, tf.uint8)

    # Of 1, 2 and 4 bits TensorFlow 2.21 reads a wrong alpha where there is none: palettes of so few colours go without.
    depth = tf.io.decode_raw(tf.strings.substr(data, PNG_DEPTH, 1), tf.uint8)[0]
    return tf.cond(depth < 8, lambda: tf.io.decode_png(data, channels=3), with_alpha)


def _safe_to_decode(image_bytes: tf.Tensor, max_pixels: int) -> tf.Tensor:
    sides = tf.map_fn(sides_of, image_bytes, fn_output_signature=tf.TensorSpec([2], tf.int64))
    pixels = tf.minimum(sides[:, 0] * sides[:, 1], max_pixels + 1)  # a sum of them does not overflow
    image_bytes = _require(
        tf.reduce_all(pixels > 0), "`image_bytes` must be PNG or JPEG files; convert them. Received: bytes=",
        tf.strings.length(image_bytes), image_bytes)
    return _require(
        tf.reduce_sum(pixels) <= max_pixels, f"`image_bytes` must have {max_pixels} pixels or fewer together; send "
        "smaller tiles, or fewer of them. Received: heights and widths=", sides, image_bytes)


def _within_limit(lr: tf.Tensor, max_pixels: int) -> tf.Tensor:
    pixels = tf.size(lr, tf.int64) // 3
    return _require((pixels > 0) & (pixels <= max_pixels), f"`lr` must have 1 to {max_pixels} pixels; send smaller "
                    "tiles, or fewer of them. Received: shape=", tf.shape(lr), lr)


def _within_range(lr: tf.Tensor) -> tf.Tensor:
    # Not by its negation: what is not a number is not in the range either.
    return _require(tf.reduce_all((lr >= 0) & (lr <= 1)), "`lr` must lie in [0, 1]; divide 8-bit values by 255. "
                    "Received: least and largest=", tf.stack([tf.reduce_min(lr), tf.reduce_max(lr)]), lr)


def _require(holds: tf.Tensor, message: str, received: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Return `value`, which nothing can use before `holds` was found to be true."""
    with tf.control_dependencies([tf.debugging.Assert(holds, [message, received], summarize=8)]):
        return tf.identity(value)


def _is_png(data: tf.Tensor) -> tf.Tensor:
    return _starts_with(data, PNG_START) & (tf.strings.length(data) >= PNG_HEADER)


def _starts_with(data: tf.Tensor, start: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(data, 0, len(start)), start)
