# SPDX-License-Identifier: Apache-2.0
"""The networks: generator, autoencoder and discriminator.

Each is a Keras functional model on float RGB images [B, H, W, 3] in [0, 1] of any height and width. Outputs are float32
under every precision policy and are not clipped; conversion to 8 bit clips them.

    generator        lr [B, h, w, 3] -> sr [B, scale*h, scale*w, 3]
    autoencoder      hr -> hr, through "encoder" [B, H/4, W/4, code_channels] and "decoder"
    discriminator    image -> P(image is HR) [B, 1]; `logits_of` gives it before the sigmoid

Arguments out of range raise a ValueError. Batch normalisation is synchronised: under a distribution strategy every
replica normalises by the whole batch.

Source: paper, section 2.1 and figure 1; generator: Ledig et al. 2017 (SRGAN).
"""
from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers

from pipelines.config import SCALES
from pipelines.errors import require
from sr_keras.config import GeneratorOptions
from sr_keras.layers import Bilinear, FewChannelConv2D, SmoothSubPixel, SubPixel

# Keras' default of 0.99 needs about 500 steps to forget the initial statistics, as many as the whole demo has.
BATCH_NORM_MOMENTUM = 0.9
# Gain of the last convolution under the global skip. Adam moves each weight by the learning rate, and an SR pixel sums
# 81 * filters of them. With a gain of 1 the second step at 1e-3 is 5 dB worse than interpolation and most features die
# (H&E, 150 steps: no better than interpolation; with a gain of 0.01 to 0.1, 1.7 to 2 dB better).
SKIP_GAIN = 0.03


def generator(scale: int = 4, blocks: int = 16, filters: int = 64, global_skip: bool = True, tail_filters: int = 0
              ) -> keras.Model:
    """Build the network that super-resolves.

    9x9 convolution; residual blocks under one long skip; one sub-pixel step per factor of 2; 9x9 convolution.
    With `global_skip` the output is added to the bilinear LR and the last convolution starts at zero, so an untrained
    network is bilinear interpolation; without it, this is the paper's network. At HR size each filter costs 16 times
    what it costs at LR size, so the sub-pixel steps may have fewer: `tail_filters`.

    The arguments are the fields of `GeneratorOptions`.

    Source: Ledig et al. 2017, figure 4, with the paper's ReLU in place of PReLU.
    """
    GeneratorOptions(scale, blocks, filters, global_skip, tail_filters)  # checks the arguments
    lr = keras.Input((None, None, 3), name="lr")
    x = start = layers.Conv2D(filters, 9, padding="same", activation="relu", name="first")(lr)
    for block in range(blocks):
        x = _residual_block(x, filters, f"block{block + 1}")
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="trunk")(x)
    x = layers.Add(name="long_skip")([start, _batch_norm(x, "trunk_norm")])
    for step in range(int(math.log2(scale))):
        x = _sub_pixel_step(x, tail_filters or filters, f"up{step + 1}")
        x = layers.ReLU(name=f"up{step + 1}_relu")(x)
    x = FewChannelConv2D(3, 9, "zeros" if global_skip else "glorot_uniform", name="last")(x)
    if not global_skip:
        return keras.Model(lr, layers.Activation("linear", dtype="float32", name="sr")(x), name="generator")
    detail = layers.Rescaling(SKIP_GAIN, dtype="float32", name="detail")(x)
    interpolated = Bilinear(scale, dtype="float32", name="interpolated")(lr)
    return keras.Model(lr, layers.Add(dtype="float32", name="sr")([interpolated, detail]), name="generator")


def autoencoder(blocks: int = 2, filters: int = 32, code_channels: int = 16) -> keras.Model:
    """Build the autoencoder whose encoder spans the manifold of HR images.

    Two strided convolutions, residual blocks, and a linear code of a quarter of the side; the decoder mirrors
    them. With 16 code channels the code has a third as many numbers as the image.

    Args:
        blocks: Residual blocks in the encoder, and as many in the decoder.
        filters: Channels at half size; there are twice as many at a quarter of the size.
        code_channels: Channels of the code; 48 would let it copy the image.

    Returns:
        Model of hr [B, H, W, 3] -> hr, H and W multiples of 4, with the models "encoder" and "decoder" as layers.

    Source: paper, figure 1(c), without batch normalisation, so that the frozen encoder depends on its image alone.
    """
    require(0 < code_channels < 48, "code_channels", "lie in [1, 47]",
            "the code must be smaller than the image", code_channels)
    hr = keras.Input((None, None, 3), name="hr")
    encoder, decoder = _encoder(blocks, filters, code_channels), _decoder(blocks, filters, code_channels)
    return keras.Model(hr, decoder(encoder(hr)), name="autoencoder")


def discriminator(filters: int = 32, halvings: int = 5) -> keras.Model:
    """Build the network that tells HR from SR, for images of 2^halvings pixels a side or more.

    Every convolution halves the side and is followed by batch normalisation; the channels double three times. A global
    average makes it independent of the size of the image.

    Args:
        filters: Channels of the first convolution.
        halvings: Convolutions; before the average a value sees about 2^(halvings + 1) pixels a side.

    Source: paper, figure 1(d); leaky ReLU as in Ledig et al. 2017.
    """
    image = x = keras.Input((None, None, 3), name="image")
    for step in range(halvings):
        width = filters * 2 ** min(step, 3)
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False, name=f"conv{step + 1}")(x)
        x = layers.LeakyReLU(0.2, name=f"conv{step + 1}_relu")(_batch_norm(x, f"conv{step + 1}_norm"))
    x = layers.GlobalAveragePooling2D(dtype="float32", name="average")(x)
    logits = layers.Dense(1, dtype="float32", name="logits")(x)
    probability = layers.Activation("sigmoid", dtype="float32", name="probability")(logits)
    return keras.Model(image, probability, name="discriminator")


def logits_of(discriminator: keras.Model) -> keras.Model:
    """Return the part of a discriminator before its sigmoid: image [B, H, W, 3] -> logit [B, 1], on shared weights."""
    return keras.Model(discriminator.inputs, discriminator.get_layer("logits").output)


def receptive_field(model: keras.Model) -> int:
    """Return how many LR pixels around its own an SR pixel of `generator` depends on.

    A tile that is read with this halo on each side gets the same values as in the whole image. Every path through the
    layers is followed: a kernel of k reaches (k - 1) / 2 pixels at the size at which it runs. A model with layers of
    another kind raises a ValueError.
    """
    reach = {model.inputs[0].name: (0.0, 1)}  # tensor -> (LR pixels seen on each side, its size / LR size)
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        seen, size = (max(values) for values in zip(*(reach[tensor.name] for tensor in inputs), strict=True))
        reach[layer.output.name] = _reach_after(layer, seen, size)
    seen, size = reach[model.outputs[0].name]
    require(size <= max(SCALES), "generator", f"enlarge at most {max(SCALES)} times", "give one of this package", size)
    return math.ceil(seen)


def _reach_after(layer: layers.Layer, seen: float, size: int) -> tuple[float, int]:
    if isinstance(layer, layers.Conv2D):
        return seen + (layer.kernel_size[0] - 1) / 2 / size, size
    if isinstance(layer, FewChannelConv2D):
        return seen + (layer.kernel_size - 1) / 2 / size, size
    if isinstance(layer, SubPixel):
        return seen, size * layer.scale
    if isinstance(layer, Bilinear):
        return seen + 1 / size, size * layer.scale
    pointwise = (layers.BatchNormalization, layers.ReLU, layers.Activation, layers.Add, layers.Rescaling)
    require(isinstance(layer, pointwise), "generator", "have only layers made by networks.generator",
            "give a generator of this package", layer.name)
    return seen, size


def _batch_norm(x: Any, name: str) -> Any:
    return layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, synchronized=True, name=name)(x)


def _residual_block(x: Any, filters: int, name: str) -> Any:
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    y = layers.ReLU(name=f"{name}_relu")(_batch_norm(y, f"{name}_norm1"))
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(y)
    return layers.Add(name=f"{name}_skip")([x, _batch_norm(y, f"{name}_norm2")])


def _plain_residual_block(x: Any, filters: int, name: str) -> Any:
    y = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"{name}_conv1")(x)
    y = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv2")(y)
    return layers.Add(name=f"{name}_skip")([x, y])


def _sub_pixel_step(x: Any, filters: int, name: str) -> Any:
    x = layers.Conv2D(4 * filters, 3, padding="same", kernel_initializer=SmoothSubPixel(2), name=f"{name}_conv")(x)
    return SubPixel(2, name=name)(x)


def _encoder(blocks: int, filters: int, code_channels: int) -> keras.Model:
    hr = keras.Input((None, None, 3), name="hr")
    x = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu", name="down1")(hr)
    x = layers.Conv2D(2 * filters, 3, strides=2, padding="same", activation="relu", name="down2")(x)
    for block in range(blocks):
        x = _plain_residual_block(x, 2 * filters, f"block{block + 1}")
    code = layers.Conv2D(code_channels, 3, padding="same", name="to_code")(x)
    return keras.Model(hr, layers.Activation("linear", dtype="float32", name="code")(code), name="encoder")


def _decoder(blocks: int, filters: int, code_channels: int) -> keras.Model:
    code = keras.Input((None, None, code_channels), name="code")
    x = layers.Conv2D(2 * filters, 3, padding="same", activation="relu", name="from_code")(code)
    for block in range(blocks):
        x = _plain_residual_block(x, 2 * filters, f"block{block + 1}")
    x = layers.ReLU(name="up1_relu")(_sub_pixel_step(x, filters, "up1"))
    x = _sub_pixel_step(x, 3, "up2")
    return keras.Model(code, layers.Activation("linear", dtype="float32", name="hr")(x), name="decoder")
