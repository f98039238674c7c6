"""The layers and the initialiser that Keras lacks, registered so that .keras files load without a custom scope. Floor 0.

All take and give channels-last images [B, H, W, C] of open height and width, and export to every format.
"""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers


@keras.saving.register_keras_serializable("sr_keras")
class SubPixel(layers.Layer):
    """Turn channels into pixels: [B, H, W, scale^2 * C] -> [B, scale*H, scale*W, C]."""

    def __init__(self, scale: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.depth_to_space(inputs, self.scale)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("sr_keras")
class SmoothSubPixel(keras.initializers.Initializer):
    """Start a convolution in front of `SubPixel` so that the scale^2 pixels of one input pixel begin equal.

    The pair then begins as a nearest-neighbour resize and shows no checkerboard.
    Source: Aitken et al. 2017 (ICNR).
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
class Bilinear(layers.Layer):
    """Enlarge `scale` times with half-pixel centres: [B, H, W, C] -> [B, scale*H, scale*W, C].

    `keras.layers.UpSampling2D` is the same but can't be exported with open height and width (Keras 3.15).
    """

    def __init__(self, scale: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(inputs, self.scale * tf.shape(inputs)[1:3], method="bilinear")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable("sr_keras")
class FewChannelConv2D(layers.Layer):
    """A square "same" convolution to few channels, in the form that is fast: weights and values of Keras' Conv2D.

    The k rows of the kernel become k groups of output channels of one 1 x k convolution, which are then shifted by
    their row and summed. A convolution to 3 channels leaves most of a CPU's vector unit idle, one to 27 does not:
    9x9, 64 -> 3 channels at 256x256 takes a third of the time, forward and backward.
    """

    def __init__(self, filters: int, kernel_size: int, kernel_initializer: str = "glorot_uniform", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.kernel_initializer = filters, kernel_size, kernel_initializer

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (self.kernel_size, self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        size, filters, height = self.kernel_size, self.filters, tf.shape(inputs)[1]
        by_row = tf.reshape(tf.transpose(self.kernel, [1, 2, 0, 3]), [1, size, inputs.shape[-1], size * filters])
        rows = tf.nn.conv2d(inputs, by_row, strides=1, padding="SAME")
        above = (size - 1) // 2
        rows = tf.pad(rows, [[0, 0], [above, size - 1 - above], [0, 0], [0, 0]])
        return tf.add_n([rows[:, i:i + height, :, i * filters:(i + 1) * filters] for i in range(size)]) + self.bias

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size,
                "kernel_initializer": self.kernel_initializer}
