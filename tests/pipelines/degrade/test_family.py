# SPDX-License-Identifier: Apache-2.0
"""The whole chain: what follows from a seed, what comes out, and what each effect does in its place.
Each effect: noise beside NumPy's photons, sharpening beside scipy's, colour beside scikit-image's.
JPEG beside Pillow's: same quality, same chroma, same place in the grid of blocks, once and twice.
"""
from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from skimage.exposure import adjust_gamma

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from pipelines.degrade import degrade, degrade_example
from pipelines.degrade.family import colour, compress, noise, sharpen
from pipelines.pixels import quantise

SEED = tf.constant([1, 2], tf.int64)


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


def placed(level, row, column, quality=75):
    file = io.BytesIO()
    Image.fromarray(np.pad(level, ((row, 0), (column, 0), (0, 0)), mode="symmetric")).save(
        file, "JPEG", quality=quality, subsampling=2)
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


def test_twice_compressed_is_pillows_twice_each_time_at_a_place_of_its_own(hr):
    def lr(seed, *passes):
        options = degradation("textbook", jpeg_passes=passes, jpeg_quality=(60, 60))
        return np.rint(255 * lr_of(hr, options, (seed, 0))).astype(np.uint8)

    def place(of, compressed):
        """Return where in a block `of` began when it became `compressed`."""
        return next((row, column) for row in range(16) for column in range(16)
                    if (placed(of, row, column, quality=60) == compressed).all())

    places = set()
    for seed in range(3):
        once = lr(seed, 0.0, 1.0, 0.0)
        places |= {place(lr(seed, 1.0, 0.0, 0.0), once), place(once, lr(seed, 0.0, 0.0, 1.0))}
    assert len(places) == 6


def test_glass_stays_white_without_noise():
    white = np.ones((64, 64, 3), np.float32)
    options = degradation("scanner", shot_noise=(0.0, 0.0), read_noise=(0.0, 0.0), gain=(1.0, 1.0))
    for number in range(8):
        np.testing.assert_array_equal(lr_of(white, options, (number, 0)), 1.0)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_noise_has_the_variance_of_photons_and_of_reading(value):
    lr = tf.fill([128, 128, 3], value)
    added = (noise(lr, tf.constant(0.03), tf.constant(0.01), SEED) - lr).numpy()
    assert added.std() == pytest.approx(np.sqrt(0.03**2 * value + 0.01**2), rel=0.02)
    assert abs(added.mean()) < 4 * added.std() / np.sqrt(added.size)


@pytest.mark.parametrize("value", [0.1, 0.8])
def test_shot_noise_is_distributed_as_numpys_photons(value):
    """At the most that a preset has. A standard deviation that is off by a tenth would give 0.024."""
    found = noise(tf.fill([128, 128, 3], value), tf.constant(0.03), tf.constant(0.0), SEED).numpy().ravel()
    photons = np.random.default_rng(0).poisson(value / 0.03**2, found.size)
    # A photon is a step of 0.0009; spread evenly over it, the counts are as continuous as the noise.
    counted = 0.03**2 * (photons + np.random.default_rng(1).uniform(-0.5, 0.5, found.size))
    assert ks_2samp(found, counted).statistic < 0.02


def test_noise_is_independent_between_pixels_and_channels_and_takes_a_strength_for_each():
    added = noise(tf.fill([128, 128, 3], 1.0), tf.constant([0.01, 0.02, 0.03]), tf.zeros(3), SEED).numpy() - 1
    np.testing.assert_allclose(added.std((0, 1)), [0.01, 0.02, 0.03], rtol=0.03)
    neighbours = np.corrcoef(added[:, 1:, 0].ravel(), added[:, :-1, 0].ravel())[0, 1]
    channels = np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1]
    assert max(abs(neighbours), abs(channels)) < 0.03


@pytest.mark.parametrize("amount", [0.0, 0.5, 1.5])
def test_sharpening_is_an_unsharp_mask_by_scipys_gaussian(amount, histology):
    lr = (histology[:40, :56] / 255).astype(np.float32)
    blurred = gaussian_filter(lr, (1, 1, 0), mode="reflect", truncate=4)
    found = sharpen(tf.constant(lr), tf.constant(amount, tf.float32)).numpy()
    np.testing.assert_allclose(found, lr + amount * (lr - blurred), atol=1e-5)


def test_colour_is_scikit_images_gamma_with_a_gain_for_each_channel(histology):
    lr = (histology[:8, :8] / 255).astype(np.float32)
    gains = (1.02, 1.0, 0.98)
    found = colour(tf.constant(lr), tf.constant(gains), tf.constant(1.1)).numpy()
    expected = np.stack([adjust_gamma(lr[..., i], 1.1, gain) for i, gain in enumerate(gains)], -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isfinite(colour(tf.constant([[[-0.01, 0.0, 1.0]]]), tf.ones(3), tf.constant(0.9)).numpy()).all()


def pillow(pixels, quality, halved):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2 if halved else 0)
    return np.asarray(Image.open(file))


def compressed(pixels, quality, halved, row=0, column=0, qualities=(50, 98)):
    return compress(tf.constant(pixels), tf.constant(quality), halved, qualities, tf.constant(row),
                    tf.constant(column)).numpy()


@pytest.mark.parametrize("halved", [True, False])
@pytest.mark.parametrize("quality", [50, 74, 98])
def test_pixels_are_those_of_pillow(quality, halved, histology):
    pixels = np.ascontiguousarray(histology[:63, :50])
    np.testing.assert_array_equal(compressed(pixels, quality, halved), pillow(pixels, quality, halved))


@pytest.mark.parametrize("halved", [True, False])
def test_blocks_begin_where_they_are_told_to(halved, histology):
    pixels = np.ascontiguousarray(histology[:48, :48])
    mirrored = np.pad(pixels, ((5, 0), (11, 0), (0, 0)), mode="symmetric")
    found = compressed(pixels, 50, halved, row=5, column=11)
    np.testing.assert_array_equal(found, pillow(mirrored, 50, halved)[5:, 11:])
    assert (found != compressed(pixels, 50, halved)).mean() > 0.3


def test_chroma_that_is_known_only_in_the_graph_is_obeyed(histology):
    pixels = np.ascontiguousarray(histology[:32, :32])
    for halved in (True, False):
        np.testing.assert_array_equal(compressed(pixels, 70, tf.constant(halved)), pillow(pixels, 70, halved))


def test_full_chroma_takes_the_nearest_quality_below_that_has_an_op(histology):
    pixels = np.ascontiguousarray(histology[:32, :32])
    np.testing.assert_array_equal(compressed(pixels, 76, False), pillow(pixels, 74, False))
