# SPDX-License-Identifier: Apache-2.0
"""Layers and an initialiser that Keras lacks, registered so that .keras files load without custom objects.

Layers take and return channels-last images [B, H, W, C] of any height and width, and export to every format.
"""
from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from pipelines.errors import require


class _Enlarging(layers.Layer):
    """Base of layers whose one argument is the scale."""

    def __init__(self, scale: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("sr_keras")
class SubPixel(_Enlarging):
    """Turn channels into pixels: [B, H, W, scale^2 * C] -> [B, scale*H, scale*W, C]."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.depth_to_space(inputs, self.scale)


@keras.saving.register_keras_serializable("sr_keras")
class Bilinear(_Enlarging):
    """Enlarge `scale` times with half-pixel centres: [B, H, W, C] -> [B, scale*H, scale*W, C].

    The same as `keras.layers.UpSampling2D`, which can't be exported with open height and width (Keras 3.15).
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(inputs, self.scale * tf.shape(inputs)[1:3], method="bilinear")


@keras.saving.register_keras_serializable("sr_keras")
class SmoothSubPixel(keras.initializers.Initializer):
    """Initialise a convolution before `SubPixel` so that the scale^2 pixels of one input pixel are equal.

    The pair is then a nearest-neighbour resize without checkerboard. Source: Aitken et al. 2017 (ICNR).
    """

    def __init__(self, scale: int = 2, seed: int | None = None) -> None:
        self.scale = scale
        self.seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        pixels = self.scale**2
        start = keras.initializers.GlorotUniform(self.seed)
        return tf.tile(start((*shape[:-1], shape[-1] // pixels), dtype), [1, 1, 1, pixels])

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale, "seed": self.seed}


@keras.saving.register_keras_serializable("sr_keras")
class FewChannelConv2D(layers.Layer):
    """A fast square "same" convolution to few channels, with the weights and values of Keras' Conv2D.

    Few output channels leave most of a CPU's vector unit idle. Milliseconds of one core for 9x9, 64 -> 3 channels at
    256x256, TensorFlow 2.21, graph executor:

                                             forward   gradient of the input   of the kernel
        tf.nn.conv2d                             138                     977            1274
        k rows as one 1 x k convolution           38                     129             155
        and mirrored gradients (this layer)       38                      36              88

    Attributes:
        trains: Whether it is differentiated although it is called without `training`; set by models that freeze their
            batch normalisation.
    """

    def __init__(self, filters: int, kernel_size: int, kernel_initializer: str = "glorot_uniform",
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(kernel_size % 2 == 1, "kernel_size", "be odd", "an even kernel has no centre", kernel_size)
        self.filters, self.kernel_size, self.kernel_initializer = filters, kernel_size, kernel_initializer
        self.trains = False

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (self.kernel_size, self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        # A custom gradient leaves a trace in the graph, which exported models do not need.
        convolve = _convolve_with_mirrored_gradients if training or self.trains else _convolve_by_rows
        return convolve(inputs, tf.convert_to_tensor(self.kernel)) + self.bias

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size,
                "kernel_initializer": self.kernel_initializer}


def _convolve_by_rows(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolve with all rows of the kernel at once, as k groups of channels; shift each by its row and add them."""
    size, _, channels, filters = kernel.shape
    by_row = tf.reshape(tf.transpose(kernel, [1, 2, 0, 3]), [1, size, channels, size * filters])
    rows = tf.nn.conv2d(inputs, by_row, strides=1, padding="SAME")
    rows = tf.pad(rows, [[0, 0], [size // 2, size // 2], [0, 0], [0, 0]])
    # Ends are negative: with a height that is read from the tensor LiteRT can't plan its memory.
    return functools.reduce(tf.add, [rows[:, i:(i - size + 1) or None, :, i * filters:(i + 1) * filters]
                                     for i in range(size)])


@tf.custom_gradient
def _convolve_with_mirrored_gradients(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
    """Convolve by rows, with gradients from the mirrored convolution, few channels to many, which is fast.

    The gradient of the input is the upstream gradient convolved with the mirrored kernel. The gradient of the mirrored
    kernel, with input and upstream gradient exchanged, is the mirrored gradient of the kernel.
    """
    def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mirrored = _mirror(kernel)
        of_mirrored = tf.raw_ops.Conv2DBackpropFilter(
            input=upstream, filter_sizes=mirrored.shape, out_backprop=inputs, strides=[1, 1, 1, 1], padding="SAME")
        return tf.nn.conv2d(upstream, mirrored, strides=1, padding="SAME"), _mirror(of_mirrored)

    return _convolve_by_rows(inputs, kernel), gradients


def _mirror(kernel: tf.Tensor) -> tf.Tensor:
    """Turn a kernel by half a turn and swap its channels: [k, k, C, F] -> [k, k, F, C]."""
    return tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])
