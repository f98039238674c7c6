"""The fast window is the window, and its given gradient is its gradient."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from sr_keras.model import halo as windows

IMAGES = np.random.default_rng(0).random((2, 20, 17, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 5, 11])
def test_local_mean_equals_scipy_gaussian(size):
    reach = size // 2
    expected = gaussian_filter(IMAGES.astype(np.float64), [0, 1.5, 1.5, 0], radius=[0, reach, reach, 0])
    expected = expected[:, reach:20 - reach, reach:17 - reach]
    np.testing.assert_allclose(windows.local_mean(tf.constant(IMAGES), size), expected, atol=1e-6)


def test_local_mean_of_even_window_lies_between_pixels():
    expected = (IMAGES[:, :-1, :-1] + IMAGES[:, 1:, :-1] + IMAGES[:, :-1, 1:] + IMAGES[:, 1:, 1:]) / 4
    np.testing.assert_allclose(windows.local_mean(tf.constant(IMAGES), 2), expected, atol=1e-6)


@pytest.mark.parametrize("size", [2, 5])
def test_local_mean_gradient_equals_finite_differences_to_second_order(size):
    images = tf.constant(IMAGES[:1, :7, :8])

    def cubes(x):
        return tf.reduce_sum(windows.local_mean(x, size) ** 3)

    with tf.GradientTape() as outer:
        outer.watch(images)
        with tf.GradientTape() as tape:
            tape.watch(images)
            value = cubes(images)
        gradient = tape.gradient(value, images)
    second = outer.gradient(gradient, images)
    theory, numeric = tf.test.compute_gradient(cubes, [images], delta=1e-2)
    np.testing.assert_allclose(gradient.numpy().ravel(), theory[0].ravel(), rtol=1e-6)
    np.testing.assert_allclose(theory[0], numeric[0], atol=1e-2)
    assert np.isfinite(second).all()
    assert np.abs(second).max() > 0
