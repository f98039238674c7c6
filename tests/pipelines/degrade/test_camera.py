# SPDX-License-Identifier: Apache-2.0
"""Noise by its statistics, sharpening by scipy, colour by hand.
JPEG beside Pillow's: same quality, same chroma, same place in the grid of blocks.
"""
from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipelines.degrade.camera import colour, compress, noise, sharpen

SEED = tf.constant([1, 2], tf.int64)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_noise_has_the_variance_of_photons_and_of_reading(value):
    lr = tf.fill([128, 128, 3], value)
    added = (noise(lr, tf.constant(0.03), tf.constant(0.01), SEED) - lr).numpy()
    assert added.std() == pytest.approx(np.sqrt(0.03**2 * value + 0.01**2), rel=0.02)
    assert abs(added.mean()) < 4 * added.std() / np.sqrt(added.size)


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


def test_colour_multiplies_each_channel_and_bends_all(histology):
    lr = (histology[:8, :8] / 255).astype(np.float32)
    found = colour(tf.constant(lr), tf.constant([1.02, 1.0, 0.98]), tf.constant(1.1)).numpy()
    np.testing.assert_allclose(found, np.array([1.02, 1.0, 0.98]) * lr**1.1, rtol=1e-5)
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
