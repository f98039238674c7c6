# SPDX-License-Identifier: Apache-2.0
"""The degradation that made LR is found again on SR, and is done again as others do it."""
from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.transform import downscale_local_mean

from pipelines.config import DegradeOptions
from pipelines.pixels import to_float, to_uint8
from sr_keras.slides import degradation_fit
from sr_keras.slides.degradation_fit import box_average, candidates, degrade_again, fit_degradation, reach


def assert_alike(one, two, sr):
    """Some candidates make the same LR: blurs of nearly nothing, and the mean of 2x2."""
    one, two = (degrade_again(to_float(sr), options) for options in (one, two))
    assert np.abs(one - two).max() < 1 / 255


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_each_candidate_is_found_again_among_the_others(histology, scale):
    sr = histology[:128, :128]
    for options in candidates(scale)[::5]:
        lr = to_uint8(degrade_again(to_float(sr), options))
        assert_alike(fit_degradation([(lr, sr)], scale), options, sr)


def test_candidate_is_found_through_jpeg_and_from_several_windows(histology):
    for options in (box_average(4), DegradeOptions(blur_sigma=2.4)):
        pairs = []
        for x in (0, 256):
            sr = histology[:256, x:x + 256]
            file = io.BytesIO()
            Image.fromarray(to_uint8(degrade_again(to_float(sr), options))).save(file, "JPEG", quality=80)
            pairs.append((np.asarray(Image.open(file)), sr))
        sr = to_float(histology)
        difference = degrade_again(sr, fit_degradation(pairs, 4)) - degrade_again(sr, options)
        assert np.sqrt(np.mean(difference**2)) < 3 / 255  # compression itself leaves 6 and 9


def test_mean_and_blur_are_those_of_other_libraries(histology):
    sr = to_float(histology)
    np.testing.assert_allclose(degrade_again(sr, box_average(4)), downscale_local_mean(sr, (4, 4, 1)), atol=1e-6)
    sr = sr[:128, :128]
    blurred = ndimage.gaussian_filter(np.repeat(np.repeat(sr, 3, 0), 3, 1), (9.6, 9.6, 0), mode="reflect")
    middle = 12 * np.arange(32) + 5.5  # of 4 pixels of 3
    there = ndimage.map_coordinates(blurred[..., 1], np.meshgrid(middle, middle, indexing="ij"), order=1)
    assert np.abs(degrade_again(sr, DegradeOptions(blur_sigma=3.2))[..., 1] - there).max() < 0.01


@pytest.mark.parametrize("sides", [(32, 20), (3, 2)])
def test_what_is_tried_is_what_is_done_again(histology, sides):
    for options in [box_average(4), *candidates(4)[1::4], DegradeOptions(2, blur_sigma=0.8)]:
        height, width = (options.scale * side for side in sides)
        sr = to_float(histology[:height, :width])
        down, right = (degradation_fit._matrix(options, side) for side in sides)
        tried = np.moveaxis(down @ np.moveaxis(sr, -1, 0) @ right.T, 0, -1)
        np.testing.assert_allclose(tried, degrade_again(sr, options), atol=1e-5)


def test_windows_smaller_than_the_blur_are_compared_whole():
    sr = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    assert fit_degradation([(to_uint8(degrade_again(to_float(sr), box_average(4))), sr)], 4) == box_average(4)


def test_reach_is_how_far_a_pixel_of_sr_is_felt():
    for options in candidates(4):
        sr = np.zeros((128, 128, 3), np.float32)
        sr[64:68, 64:68] = 1
        felt = np.flatnonzero(degrade_again(sr, options)[:, 16, 0])
        assert felt.max() - 16 <= reach(options)
