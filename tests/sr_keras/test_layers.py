# SPDX-License-Identifier: Apache-2.0
"""layers: each against an independent reference; the conformance of saving is tested with the networks."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from sr_keras import layers


def test_bilinear_puts_lr_pixels_at_half_pixel_centres():
    ramp = np.tile(np.arange(8, dtype="float32")[None, None, :, None], (1, 2, 1, 1))
    enlarged = layers.Bilinear(4)(ramp)[0, 0, :, 0]
    hr_coordinates = 4 * np.arange(8) + 1.5  # where the convention says that LR pixel i lies
    np.testing.assert_allclose(np.interp(hr_coordinates, np.arange(32), enlarged)[1:-1], np.arange(1, 7), atol=1e-6)


@pytest.mark.parametrize("size", [(11, 14), (3, 5)])  # the second smaller than the kernel
@pytest.mark.parametrize("kernel", [9, 5, 1])
def test_few_channel_convolution_equals_keras_convolution(size, kernel):
    keras.utils.set_random_seed(2)
    image = np.random.default_rng(2).normal(size=(2, *size, 5)).astype("float32")
    fast = layers.FewChannelConv2D(3, kernel)
    plain = keras.layers.Conv2D(3, kernel, padding="same")
    fast.build(image.shape)
    plain.build(image.shape)
    plain.set_weights(fast.get_weights())
    np.testing.assert_allclose(fast(image), plain(image), atol=1e-5)  # sums of 405 products in float32


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_few_channel_convolution_has_the_gradients_of_keras_convolution(training, jit_compile):
    image = tf.constant(np.random.default_rng(2).normal(size=(2, 12, 7, 8)), tf.float32)
    fast, plain = layers.FewChannelConv2D(3, 9), keras.layers.Conv2D(3, 9, padding="same")
    fast.build(image.shape)
    plain.build(image.shape)
    plain.set_weights(fast.get_weights())

    @tf.function(jit_compile=jit_compile)
    def gradients(layer, **arguments):
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = tf.reduce_sum(tf.sin(layer(image, **arguments)))
        return tape.gradient(loss, [image, *layer.trainable_variables])

    for ours, golden in zip(gradients(fast, training=training), gradients(plain), strict=True):
        np.testing.assert_allclose(ours, golden, atol=1e-4)


def test_few_channel_convolution_refuses_an_even_kernel():
    with pytest.raises(ValueError, match=r"`kernel_size` must be odd; .* Received: kernel_size=4"):
        layers.FewChannelConv2D(3, 4)


def test_sub_pixel_step_starts_as_nearest_neighbour():
    image = keras.Input((None, None, 6))
    conv = keras.layers.Conv2D(20, 3, padding="same", kernel_initializer=layers.SmoothSubPixel(2))(image)
    model = keras.Model(image, [conv, layers.SubPixel(2)(conv)])
    values, enlarged = model(np.random.default_rng(3).random((1, 7, 9, 6)))
    one_of_four = values[..., :5]
    np.testing.assert_allclose(enlarged, np.repeat(np.repeat(one_of_four, 2, axis=1), 2, axis=2), atol=1e-6)


def test_smooth_start_is_seeded_and_restored_from_its_config():
    start = layers.SmoothSubPixel(2, seed=3)
    again = keras.initializers.deserialize(keras.initializers.serialize(start))
    np.testing.assert_array_equal(start((3, 3, 4, 8)), again((3, 3, 4, 8)))
