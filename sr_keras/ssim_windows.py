"""Local statistics under a sliding Gaussian window: what SSIM and QILV are made of.

Images are [B, H, W, C], float32. A window lies wholly inside the image ("valid"): a map is [B, H-size+1, W-size+1, C].

The form is the one that is slow under neither executor: the graph executor, the default on a CPU, and XLA, the default
on a GPU. SSIM of 5x5 windows with its gradient, TensorFlow 2.21, one thread of an AMD EPYC, ms of user CPU time for
[8, 96, 96, 3] | [1, 256, 256, 3], medians of interleaved rounds, since the machine was busy with other work:

                                            graph executor   XLA
    tf.image.ssim (depthwise convolution)   5.8 | 4.9        86 | 74
    product with a banded matrix            9.4 | 16         8.8 | 16
    shifted slices, [B, H, W, C]            67 | 61          8.1 | 5.4
      and rows flattened to [B, H, W*C]     47 | 43          5.5 | 4.6
      and the gradient below, as here       5.8 | 5.0        8.2 | 7.5
        but the four means one by one       4.4 | 4.5        15 | 13

Rows are flattened because a shift along W is then a shift by C in one long row, which vectorises. The gradient is
given because a symmetric window is its own transpose: back-propagation is the same few sums again, over a zero border,
instead of a padded tensor for every slice. Taking the four means of SSIM at once costs the graph executor a millisecond
of a step's hundreds, and saves half under XLA. Forward alone, MS-SSIM of [4, 256, 256, 3], it is 35 ms for 22 in the
graph executor and 7 for 70 under XLA, whose first call takes 1.0 s for 2.1.
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf

C1, C2 = 0.01**2, 0.03**2  # of SSIM on [0, 1]: Wang et al. 2004, section III-B


def weights(size: int, sigma: float = 1.5) -> np.ndarray:
    """Return the `size` weights of a Gaussian, summing to one; the window is their outer product."""
    distance = np.arange(size) - (size - 1) / 2
    values = np.exp(-distance**2 / (2 * sigma**2))
    return values / values.sum()


def local_mean(images: tf.Tensor, size: int, sigma: float = 1.5) -> tf.Tensor:
    """Return the mean under each window: [B, H, W, C] -> [B, H-size+1, W-size+1, C]. C must be known."""
    batch, height, width, channels = _sides(images)
    means = _mean_of_rows(tf.reshape(images, [batch, height, width * channels]), weights(size, sigma), channels)
    return tf.reshape(means, [batch, height - size + 1, width - size + 1, channels])


def ssim_map(hr: tf.Tensor, sr: tf.Tensor, size: int, sigma: float = 1.5) -> tf.Tensor:
    """Return the structural similarity of each window and channel, in [-1, 1]: the product of `ssim_factors`."""
    luminance, structure = ssim_factors(hr, sr, size, sigma)
    return luminance * structure


def ssim_factors(hr: tf.Tensor, sr: tf.Tensor, size: int, sigma: float = 1.5) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the two factors of structural similarity, luminance and contrast with structure.

        (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1)    (2 s_xy + C2) / (s_x^2 + s_y^2 + C2)

    Args:
        hr: float32 [B, H, W, C] in [0, 1], sides of `size` or more.
        sr: The same.
        size: Side of the window.
        sigma: Standard deviation of its Gaussian.

    Returns:
        Two float32 [B, H-size+1, W-size+1, C].

    Source: Wang et al. 2004, equation 13; computed as in `tf.image.ssim`, without the sample correction.
    """
    moments = tf.concat([hr, sr, hr * sr, tf.square(hr) + tf.square(sr)], axis=0)
    mean_hr, mean_sr, mean_product, mean_squares = tf.split(local_mean(moments, size, sigma), 4)
    product, squares = mean_hr * mean_sr, tf.square(mean_hr) + tf.square(mean_sr)
    covariance, variances = mean_product - product, mean_squares - squares
    return (2 * product + C1) / (squares + C1), (2 * covariance + C2) / (variances + C2)


def _mean_of_rows(rows: tf.Tensor, taps: np.ndarray, channels: int) -> tf.Tensor:
    """Apply the window to flattened rows: [B, H, W*C] -> [B, H-size+1, (W-size+1)*C]."""
    border = len(taps) - 1

    @tf.custom_gradient
    def apply(values: tf.Tensor):
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return apply(tf.pad(upstream, [[0, 0], [border, border], [border * channels, border * channels]]))

        down = _weighted([values[:, k:k - border or None] for k in range(border + 1)], taps)
        along = [down[:, :, k * channels:(k - border) * channels or None] for k in range(border + 1)]
        return _weighted(along, taps), gradient

    return apply(rows)


def _weighted(slices: list[tf.Tensor], taps: np.ndarray) -> tf.Tensor:
    """Return the weighted sum; equal weights left and right of the centre share one product."""
    last = len(taps) - 1
    total = sum(float(taps[k]) * (slices[k] + slices[last - k]) for k in range(len(taps) // 2))
    return total + float(taps[last // 2]) * slices[last // 2] if len(taps) % 2 else total


def _sides(images: tf.Tensor) -> list[tf.Tensor | int]:
    dynamic = tf.shape(images)
    return [dynamic[axis] if side is None else side for axis, side in enumerate(images.shape)]
