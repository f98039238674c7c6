# SPDX-License-Identifier: Apache-2.0
"""VGG19 features for the SRGAN baseline, on ImageNet's weights or others.

Source: Ledig et al. 2017, section 2.2.1 (VGG54: "after activation").
"""
from __future__ import annotations

import socket
from pathlib import Path

import keras
from keras import layers

DOWNLOAD_TIMEOUT_S = 10


def vgg19_features(weights: str = "imagenet") -> keras.Model:
    """Build the VGG19 features that the SRGAN baseline compares, from RGB images in [0, 1].

    Args:
        weights: "imagenet" (from Keras' cache, else downloaded), "random", or the path of a weights file
            (`vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5` of Keras).

    Returns:
        Model of an image [B, H, W, 3] -> block5_conv4 after its ReLU, before pooling [B, H/16, W/16, 512].

    Raises:
        FileNotFoundError: There is no such file, or the ImageNet weights could not be downloaded.
    """
    path = {"random": None, "imagenet": "imagenet"}.get(weights, weights)
    if path not in (None, "imagenet") and not Path(path).is_file():
        raise FileNotFoundError(f"`vgg_weights` must name a file; give 'imagenet', 'random' or a path. "
                                f"Received: vgg_weights={weights!r}")
    vgg = _vgg19(path)
    image = keras.Input((None, None, 3), name="image")
    # VGG19 was trained on BGR in 0..255 minus the mean colour of ImageNet.
    centred = layers.Rescaling(255.0, [-123.68, -116.779, -103.939], dtype="float32", name="imagenet_range")(image)
    bgr = centred[..., ::-1]
    features = keras.Model(vgg.input, vgg.get_layer("block5_conv4").output, name="vgg19")(bgr)
    features = layers.Activation("linear", dtype="float32", name="features")(features)
    return keras.Model(image, features, name="vgg19_features")


def _vgg19(weights: str | None) -> keras.Model:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # Keras downloads without a timeout
    try:
        return keras.applications.VGG19(include_top=False, weights=weights)
    except Exception as error:
        if weights != "imagenet":
            raise
        raise FileNotFoundError(
            "`vgg_weights` could not be downloaded; get vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 of Keras "
            "and give its path. Received: vgg_weights='imagenet'") from error
    finally:
        socket.setdefaulttimeout(timeout)
