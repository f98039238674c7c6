"""What a camera and its software do to the light that has arrived: noise, sharpening, colour.

Images are LR [h, w, 3], float32 in [0, 1].
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipelines.degrade.textbook import extend_symmetric

MASK_SIGMA, MASK_REACH = 1.0, 4  # of the unsharp mask, in LR pixels


def noise(lr: tf.Tensor, shot: tf.Tensor, read: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Add Poisson noise of `shot` on white and Gaussian noise of `read`, both standard deviations, [3] or scalars.

    The Poisson part is drawn as a Gaussian of its variance, shot^2 * value: at 0.03, the most that a preset asks for,
    white is 1,100 photons, whose distribution has a skewness of 0.03.
    """
    deviation = tf.sqrt(tf.square(shot) * tf.maximum(lr, 0.0) + tf.square(read))
    return lr + deviation * tf.random.stateless_normal(tf.shape(lr), seed)


def sharpen(lr: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Apply an unsharp mask: lr + amount * (lr - lr blurred by a Gaussian of one pixel), edges mirrored."""
    weights = np.exp(-np.arange(-MASK_REACH, MASK_REACH + 1) ** 2 / (2 * MASK_SIGMA**2))
    weights = (weights / weights.sum()).astype(np.float32)
    blurred = lr
    for axis in (0, 1):
        extended = extend_symmetric(blurred, axis, MASK_REACH, MASK_REACH)
        side = lr.shape[axis]
        rows = [extended[k:k + side] if axis == 0 else extended[:, k:k + side] for k in range(len(weights))]
        blurred = tf.add_n([weight * row for weight, row in zip(weights, rows, strict=True)])
    return lr + amount * (lr - blurred)


def colour(lr: tf.Tensor, gain: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
    """Return gain * lr^gamma; gain is [3], gamma a scalar. What lies below 0 becomes 0."""
    return gain * tf.pow(tf.maximum(lr, 0.0), gamma)
