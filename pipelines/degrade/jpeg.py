"""JPEG as a scanner's file has it: any quality, 4:4:4 or 4:2:0, the blocks at any place. uint8 [h, w, 3] in and out.

A patch of a slide begins anywhere in the grid of the file's 8x8 blocks (16x16 where chroma is halved). So the image is
mirrored outwards by `row` and `column` pixels before it is compressed, and cut out again.

libjpeg does it, TensorFlow's own. Its op for a quality that is known only when the graph runs writes 4:2:0 alone; for
4:4:4 there is one op for every STEP-th quality of the range, and the nearest one below is taken.
"""
from __future__ import annotations

from functools import partial

import tensorflow as tf

from pipelines.degrade.textbook import extend_symmetric

STEP = 4  # a branch of its own for each quality would take seconds to trace
BLOCK = 16  # of 4:2:0; a multiple of that of 4:4:4


def compress(image: tf.Tensor, quality: tf.Tensor, chroma_halved: tf.Tensor | bool, qualities: tuple[int, int],
             row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
    """Compress and decompress.

    Args:
        image: uint8 [h, w, 3].
        quality: Int32 scalar, within `qualities`.
        chroma_halved: Bool scalar, or a Python bool where it is known: 4:2:0, else 4:4:4.
        qualities: The least and the most that `quality` can be.
        row, column: Int32 scalars in 0 to BLOCK - 1: where in a block the image begins.

    Returns:
        uint8 [h, w, 3].
    """
    extended = extend_symmetric(extend_symmetric(image, 0, row, 0), 1, column, 0)

    def halved() -> tf.Tensor:
        return tf.raw_ops.EncodeJpegVariableQuality(images=extended, quality=quality)

    def full() -> tf.Tensor:
        low, high = qualities
        known = [partial(tf.io.encode_jpeg, extended, quality=q, chroma_downsampling=False)
                 for q in range(low, high + 1, STEP)]
        return known[0]() if len(known) == 1 else tf.switch_case((quality - low) // STEP, known)

    if isinstance(chroma_halved, bool):
        encoded = halved() if chroma_halved else full()
    else:
        encoded = tf.cond(chroma_halved, halved, full)
    decoded = tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(decoded[row:, column:], image.shape)
