# SPDX-License-Identifier: Apache-2.0
"""The whole chain: what follows from a seed, what comes out, and what each effect does in its place."""
from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from pipelines.degrade import degrade, degrade_example
from pipelines.pixels import quantise


@pytest.fixture(scope="module")
def hr(histology):
    return (histology[100:196, 100:196] / 255).astype(np.float32)


def lr_of(hr, options, seed=(1, 2)):
    return degrade_example(tf.constant(hr), options, tf.constant(seed, tf.int64)).numpy()


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_lr_has_eight_bit_values_and_follows_from_the_seed(name, hr):
    options = degradation(name)
    lr = lr_of(hr, options)
    assert lr.shape == (24, 24, 3)
    assert lr.dtype == np.float32
    np.testing.assert_array_equal(lr, quantise(lr))
    np.testing.assert_array_equal(lr, lr_of(hr, options))
    others = [lr_of(hr, options, (1, number)) for number in range(3, 9)]
    assert options.is_textbook or any((lr != other).any() for other in others)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_dataset_map_gives_what_eager_gives(name, hr):
    """A rounding may fall to the other side where a graph sums in another order, and JPEG spreads it."""
    options = degradation(name)
    @tf.autograph.experimental.do_not_convert
    def example(number):
        return degrade_example(tf.constant(hr), options, tf.stack([number, number + 1]))

    mapped = tf.data.Dataset.range(4).map(example)
    for number, lr in enumerate(mapped.as_numpy_iterator()):
        expected = lr_of(hr, options, (number, number + 1))
        assert np.mean(np.abs(lr - expected) > 0.5 / 255) < 0.05
        np.testing.assert_allclose(lr, expected, atol=13 / 255)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_textbook_is_the_papers_by_either_way(scale, hr):
    options = degradation("textbook", scale=scale)
    expected = quantise(degrade(hr[np.newaxis], scale, 1.6).numpy()[0])
    np.testing.assert_array_equal(lr_of(hr, options), expected)
    by_kernel = lr_of(hr, replace(options, blur_sigma=(1.6, 1.6)))  # a range: no longer the shortcut
    np.testing.assert_allclose(by_kernel, expected, atol=1.01 / 255)


def test_pyramid_is_an_average_as_a_scanner_compresses_it(hr):
    """Against NumPy and Pillow; a block's place in the grid is drawn, so that the best of all places must fit."""
    options = degradation("pyramid", jpeg_passes=(0.0, 1.0, 0.0), jpeg_quality=(75, 75))
    lr = np.rint(255 * lr_of(hr, options)).astype(int)
    level = np.rint(hr * 255)
    for _ in range(2):
        level = np.floor(level.reshape(len(level) // 2, 2, len(level) // 2, 2, 3).mean((1, 3)) + 0.5)
    nearest = min(np.abs(lr - placed(level.astype(np.uint8), row, column)).mean()
                  for row in range(16) for column in range(16))
    assert nearest < 0.01


def placed(level, row, column):
    file = io.BytesIO()
    Image.fromarray(np.pad(level, ((row, 0), (column, 0), (0, 0)), mode="symmetric")).save(
        file, "JPEG", quality=75, subsampling=2)
    return np.asarray(Image.open(file)).astype(int)[row:, column:]


def test_half_of_the_patches_are_clean_and_half_of_the_others_hardly_noisy(hr):
    flat = np.full_like(hr, 0.5)
    options = DegradeOptions(blurs=("none",), resamplings=("box",), read_noise=(0.0, 0.08))
    strengths = np.stack([lr_of(flat, options, (number, 0)).std((0, 1)) for number in range(60)])
    clean = (strengths < 1e-4).all(axis=1)
    assert 0.3 < clean.mean() < 0.7
    assert 0.3 < np.mean(strengths[~clean] < 0.02) < 0.7
    assert np.max(strengths) > 0.06


def test_noise_of_one_strength_is_there_in_every_patch(hr):
    options = DegradeOptions(blurs=("none",), resamplings=("box",), read_noise=(0.03, 0.03))
    flat = np.full_like(hr, 0.5)
    for number in range(8):
        assert 0.025 < lr_of(flat, options, (number, 0)).std() < 0.035


def test_what_is_not_blurred_is_averaged_where_it_could_be(hr):
    """Every n-th pixel of a sharp image would alias."""
    box = lr_of(hr, DegradeOptions(blurs=("none",), resamplings=("box",)))
    options = DegradeOptions(blurs=("none",), resamplings=("nth", "box"))
    for number in range(6):
        np.testing.assert_array_equal(lr_of(hr, options, (number, 0)), box)


def test_twice_compressed_differs_from_once(hr):
    once, twice = (lr_of(hr, degradation("textbook", jpeg_passes=passes, jpeg_quality=(60, 60)))
                   for passes in ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    plain = lr_of(hr, degradation("textbook"))
    assert 0 < np.abs(once - plain).mean() < np.abs(twice - plain).mean()


def test_glass_stays_white_without_noise():
    white = np.ones((64, 64, 3), np.float32)
    options = degradation("scanner", shot_noise=(0.0, 0.0), read_noise=(0.0, 0.0), gain=(1.0, 1.0))
    for number in range(8):
        np.testing.assert_array_equal(lr_of(white, options, (number, 0)), 1.0)
