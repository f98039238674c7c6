# SPDX-License-Identifier: Apache-2.0
"""One HR patch to LR by a `DegradeOptions`, in the order of a scanner.

    light through a lens -> a coarser plane -> noise -> sharpening -> colour -> 8 bit -> JPEG, up to twice

All draws depend on a seed: in training on (seed, epoch, position), in evaluation on (seed, example id). It runs in
`Dataset.map`, without Python.
"""
from __future__ import annotations

import tensorflow as tf

from pipelines.config import DegradeOptions, Range
from pipelines.degrade.camera import BLOCK, colour, compress, noise, sharpen
from pipelines.degrade.kernels import degraded
from pipelines.degrade.textbook import degrade
from pipelines.pixels import quantise, to_float, to_uint8

_PLANE, _CAMERA, _NOISE, _JPEG, _SECOND_JPEG = range(1, 6)  # one number for each use of the seed


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
    and a model must learn how much detail clean LR allows.
    """
    u = tf.random.stateless_uniform([12], _fold(seed, _CAMERA))
    faults = tf.where(u[11] < 0.5, u[:7], 0.0)  # half of the patches have the low end of all three
    if options.shot_noise[1] > 0 or options.read_noise[1] > 0:
        shot, read = _rarely_strong(options.shot_noise, faults[:3]), _rarely_strong(options.read_noise, faults[3:6])
        lr = noise(lr, shot, read, _fold(seed, _NOISE))
    if options.sharpen[1] > 0:
        lr = sharpen(lr, _rarely_strong(options.sharpen, faults[6]))
    if options.gain != (1.0, 1.0) or options.gamma != (1.0, 1.0):
        lr = colour(lr, _between(options.gain, u[7:10]), _between(options.gamma, u[10]))
    return lr


def _compressed(lr: tf.Tensor, options: DegradeOptions, seed: tf.Tensor) -> tf.Tensor:
    never, once, twice = options.jpeg_passes
    if never == 1:
        return lr
    passes = tf.random.stateless_uniform([], _fold(seed, _JPEG))
    pixels = to_uint8(lr)

    def times(count: int) -> tf.Tensor:
        result = pixels
        for purpose in (_JPEG, _SECOND_JPEG)[:count]:
            result = _one_pass(result, options, _fold(_fold(seed, purpose), 1))
        return to_float(result)

    if once == 1:
        return times(1)
    kept = [(never, lambda: lr), (once, lambda: times(1)), (twice, lambda: times(2))]
    chosen = tf.cast(passes >= never, tf.int32) + tf.cast(passes >= never + once, tf.int32)
    return tf.switch_case(chosen, [branch for _, branch in kept])


def _one_pass(pixels: tf.Tensor, options: DegradeOptions, seed: tf.Tensor) -> tf.Tensor:
    u = tf.random.stateless_uniform([4], seed)
    low, high = (int(bound) for bound in options.jpeg_quality)
    quality = tf.minimum(low + tf.cast(u[0] * (high - low + 1), tf.int32), high)
    kinds = options.jpeg_subsamplings
    halved = kinds[0] == "420" if len(set(kinds)) == 1 else \
        tf.constant([kind == "420" for kind in kinds])[tf.cast(u[1] * len(kinds), tf.int32)]
    row, column = tf.unstack(tf.cast(u[2:] * BLOCK, tf.int32))
    return compress(pixels, quality, halved, (low, high), row, column)


def _between(bounds: Range, u: tf.Tensor) -> tf.Tensor:
    return bounds[0] + u * (bounds[1] - bounds[0])


def _rarely_strong(bounds: Range, u: tf.Tensor) -> tf.Tensor:
    """Return a value of the range, half of them in its first quarter: most effects are weak."""
    return _between(bounds, tf.square(u))


def _fold(seed: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(number, tf.int64))
