# SPDX-License-Identifier: Apache-2.0
"""One HR patch to LR by a `DegradeOptions`, in the order of a scanner.

    light through a lens -> a coarser plane -> noise -> sharpening -> colour -> 8 bit -> JPEG, up to twice

All draws depend on a seed: in training on (seed, epoch, position), in evaluation on (seed, example id). It runs in
`Dataset.map`, without Python. LR is [h, w, 3], float32 in [0, 1], and uint8 for JPEG.

JPEG has any quality, 4:4:4 or 4:2:0. A patch of a slide starts anywhere in the grid of the file's 8x8 blocks (16x16 for
4:2:0), so the image is mirrored outwards by `row` and `column` pixels before compression, and cropped after it.
TensorFlow's op for a quality known only in the graph writes only 4:2:0; for 4:4:4 there is one op for every STEP-th
quality of the range, and the nearest one below is used.
"""
from __future__ import annotations

import math
from functools import partial

import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions
from pipelines.degrade.kernels import between, degrade, degraded, extend_symmetric
from pipelines.pixels import quantise, to_float, to_uint8

_PLANE, _CAMERA, _NOISE, _JPEG, _SECOND_JPEG = range(1, 6)  # one number for each use of the seed
MASK_SIGMA, MASK_REACH = 1.0, 4  # of the unsharp mask, in LR pixels
STEP = 4  # between qualities; a branch for each quality would take seconds to trace
BLOCK = 16  # of 4:2:0; a multiple of that of 4:4:4


def degrade_example(hr: tf.Tensor, options: DegradeOptions, seed: tf.Tensor) -> tf.Tensor:
    """Return the LR of one HR patch.

    Args:
        hr: Float32 [H, W, 3] in [0, 1], with known sides that are divisible by the scale.
        options: The ranges and kinds to draw from.
        seed: Int tensor [2]; the same seed gives the same LR.

    Returns:
        Float32 [H/scale, W/scale, 3] in [0, 1], in 8-bit steps.
    """
    if options.is_textbook:
        return quantise(degrade(hr[tf.newaxis], options.scale, float(options.range_of("blur_sigma")[0]))[0])
    seed = tf.cast(seed, tf.int64)
    lr = _seen(degraded(hr, options, _fold(seed, _PLANE)), options, seed)
    return _compressed(quantise(lr), options, seed)


def _seen(lr: tf.Tensor, options: DegradeOptions, seed: tf.Tensor) -> tf.Tensor:
    """Add what the camera adds; effects that are off cost nothing.

    If the ranges start at 0, half of the patches are clean: an LR pixel is the mean of many, which leaves little noise,
    and a model must learn how much detail clean LR allows. Half of the others are in the first quarter of the range.
    """
    u = tf.random.stateless_uniform([12], _fold(seed, _CAMERA))
    faults = tf.square(tf.where(u[11] < 0.5, u[:7], 0.0))
    if options.shot_noise[1] > 0 or options.read_noise[1] > 0:
        shot, read = between(options.shot_noise, faults[:3]), between(options.read_noise, faults[3:6])
        lr = noise(lr, shot, read, _fold(seed, _NOISE))
    if options.sharpen[1] > 0:
        lr = sharpen(lr, between(options.sharpen, faults[6]))
    if options.gain != (1.0, 1.0) or options.gamma != (1.0, 1.0):
        lr = colour(lr, between(options.gain, u[7:10]), between(options.gamma, u[10]))
    return lr


def _compressed(lr: tf.Tensor, options: DegradeOptions, seed: tf.Tensor) -> tf.Tensor:
    never, once, _ = options.jpeg_passes
    if never == 1:
        return lr

    def times(count: int) -> tf.Tensor:
        pixels = to_uint8(lr)
        for purpose in (_JPEG, _SECOND_JPEG)[:count]:
            pixels = _one_pass(pixels, options, _fold(_fold(seed, purpose), 1))
        return to_float(pixels)

    if once == 1:
        return times(1)
    drawn = tf.random.stateless_uniform([], _fold(seed, _JPEG))
    passes = tf.cast(drawn >= never, tf.int32) + tf.cast(drawn >= never + once, tf.int32)
    return tf.switch_case(passes, [lambda: lr, partial(times, 1), partial(times, 2)])


def _one_pass(pixels: tf.Tensor, options: DegradeOptions, seed: tf.Tensor) -> tf.Tensor:
    u = tf.random.stateless_uniform([4], seed)
    low, high = (int(bound) for bound in options.jpeg_quality)
    quality = tf.minimum(low + tf.cast(u[0] * (high - low + 1), tf.int32), high)
    kinds = options.jpeg_subsamplings
    halved = kinds[0] == "420" if len(set(kinds)) == 1 else \
        tf.constant([kind == "420" for kind in kinds])[tf.cast(u[1] * len(kinds), tf.int32)]
    row, column = tf.unstack(tf.cast(u[2:] * BLOCK, tf.int32))
    return compress(pixels, quality, halved, (low, high), row, column)


def compress(image: tf.Tensor, quality: tf.Tensor, chroma_halved: tf.Tensor | bool, qualities: tuple[int, int],
             row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
    """Compress and decompress uint8 [h, w, 3] that starts at (`row`, `column`), 0 to BLOCK - 1, of a block.

    `quality` is an int32 scalar in the range `qualities`; `chroma_halved`, a bool scalar or Python bool, is 4:2:0.
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


def noise(lr: tf.Tensor, shot: tf.Tensor, read: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Add Poisson noise of `shot` on white and Gaussian noise of `read`, both standard deviations, [3] or scalars.

    The Poisson part is drawn as a Gaussian of variance shot^2 * value: at 0.03, the most in a preset, white is 1,100
    photons, whose distribution has a skewness of 0.03.
    """
    deviation = tf.sqrt(tf.square(shot) * tf.maximum(lr, 0.0) + tf.square(read))
    return lr + deviation * normal(tf.shape(lr), seed)


def normal(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draw normal values by the Box-Muller method from 16 bits each, to 4.9 sigma: 3 times as fast as tf.random."""
    count = tf.reduce_prod(shape)
    bits = tf.random.stateless_uniform([2, (count + 3) // 4], seed, None, None, tf.int32)
    distance, angle = tf.unstack((tf.cast(tf.bitcast(bits, tf.uint16), tf.float32) + 0.5) * (1 / 65536))
    distance, angle = tf.sqrt(-2 * tf.math.log(distance)), 2 * math.pi * angle
    values = tf.stack([distance * tf.cos(angle), distance * tf.sin(angle)])
    return tf.reshape(tf.reshape(values, [-1])[:count], shape)


def sharpen(lr: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Apply an unsharp mask: lr + amount * (lr - lr blurred by a Gaussian of one pixel), edges mirrored."""
    height, width, channels = lr.shape
    rows = tf.reshape(_blur_matrix(height) @ tf.reshape(lr, [height, width * channels]), lr.shape)
    blurred = tf.matmul(_blur_matrix(width), rows)
    return lr + amount * (lr - blurred)


def _blur_matrix(side: int) -> tf.Tensor:
    """Return the unsharp mask's blur of `side` samples as a matrix: 4 operations instead of 60 shifted slices."""
    offsets = np.arange(-MASK_REACH, MASK_REACH + 1)
    weights = np.exp(-offsets**2 / (2 * MASK_SIGMA**2))
    taken = (np.arange(side)[:, np.newaxis] + offsets) % (2 * side)
    matrix = np.zeros((side, side), np.float32)
    mirrored = np.minimum(taken, 2 * side - 1 - taken)
    np.add.at(matrix, (np.arange(side)[:, np.newaxis], mirrored), weights / weights.sum())
    return tf.constant(matrix)


def colour(lr: tf.Tensor, gain: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
    """Return gain * lr^gamma; gain is [3], gamma a scalar. Values below 0 become 0."""
    return gain * tf.exp(gamma * tf.math.log(tf.maximum(lr, 0.0)))  # a fifth of tf.pow's time; log 0 is -inf, its exp 0


def _fold(seed: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(number, tf.int64))
