# SPDX-License-Identifier: Apache-2.0
"""The LR error finds known errors and nothing else, and its usual range is that of the medians of slides."""
from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.transform import downscale_local_mean

from pipelines.config import DegradeOptions
from pipelines.degrade import degrade
from pipelines.pixels import to_float, to_uint8
from sr_keras.metrics import lr_consistency
from sr_keras.model.facts import ModelFacts
from sr_keras.slides import trust_map
from sr_keras.slides.trust_files import worst_regions
from sr_keras.slides.trust_map import (
    PATCHES,
    TrustMap,
    candidates,
    degrade_again,
    fit_degradation,
    measure,
    reach,
    square_side,
    usual_departure,
)

OPTIONS = DegradeOptions()
FLOOR = 1 / np.sqrt(12)  # what rounding to whole grey levels leaves


def by_hand(lr: np.ndarray, sr: np.ndarray, square: int) -> np.ndarray:
    """The map of scale 4, sigma 1.6, of the whole at once, by loops."""
    g = np.exp(-np.arange(-6.5, 7)**2 / (2 * 1.6**2))
    again = sr.astype(np.float64)
    for axis, side in enumerate(lr.shape[:2]):
        padded = np.pad(again, [(5, 8) if i == axis else (0, 0) for i in range(3)], mode="symmetric")
        again = sum(w * padded.take(4 * np.arange(side) + k, axis) for k, w in enumerate(g / g.sum()))
    error = (again - lr)**2
    return np.array([[np.sqrt(error[y:y + square, x:x + square].mean()) for x in range(0, lr.shape[1], square)]
                     for y in range(0, lr.shape[0], square)])


def test_map_of_consistent_sr_is_what_rounding_leaves(histology, lr_of):
    found = measure(lr_of(histology), histology, OPTIONS)
    assert found.lr_error.shape == (32, 32)
    assert found.lr_error.mean() == pytest.approx(FLOOR, rel=0.05)
    assert found.lr_error.max() < 2 * FLOOR
    assert worst_regions(found) == []


def test_map_of_one_square_is_lr_consistency(histology):
    lr, sr = histology[100:104, 50:54], histology[200:216, 300:316]
    expected = 255 * float(lr_consistency(to_float(lr)[np.newaxis], to_float(sr)[np.newaxis])[0])
    assert measure(lr, sr, OPTIONS).lr_error == pytest.approx(np.array([[expected]]), rel=1e-5)


@pytest.mark.parametrize(("scale", "sigma"), [(2, 0.8), (4, 1.6), (4, 0.0), (8, 3.2)])
def test_mean_square_of_map_is_that_of_lr_consistency(histology, monkeypatch, scale, sigma):
    monkeypatch.setattr(trust_map, "BLOCK", 128)
    lr, sr = histology[:256 // scale, :256 // scale], histology[256:, :256]
    expected = 255 * float(lr_consistency(to_float(lr)[np.newaxis], to_float(sr)[np.newaxis], scale, sigma)[0])
    found = measure(lr, sr, DegradeOptions(scale, blur_sigma=sigma)).lr_error
    assert np.sqrt(np.mean(found.astype(float)**2)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("block", [16, 48, 1024])
def test_map_has_no_seams_and_is_right_at_odd_borders(histology, monkeypatch, block):
    lr, sr = histology[:53, :41], histology[100:312, 200:364]
    monkeypatch.setattr(trust_map, "BLOCK", block)
    found = measure(lr, sr, OPTIONS)
    assert found.lr_error == pytest.approx(by_hand(lr, sr, 4), rel=1e-4)
    assert (found.thumbnail.shape, found.width, found.height) == ((14, 11, 3), 164, 212)


def test_thumbnail_is_the_mean_of_the_input(histology):
    thumbnail = measure(histology[:8, :12], histology[:32, :48], OPTIONS).thumbnail
    means = histology[:8, :12].reshape(2, 4, 3, 4, 3).mean((1, 3))
    assert np.abs(thumbnail - means).max() <= 0.5


def test_threshold_is_far_out_and_not_below_what_is_seen(a_map):
    quartiles = np.tile([0.0, 4.0, 6.0, 8.0, 12.0], (5, 1))
    assert a_map(quartiles).quartiles == (4, 6, 8)
    assert a_map(quartiles).threshold == 20
    assert a_map(np.zeros((5, 5))).threshold == 2


def test_threshold_is_that_of_tissue_where_most_is_glass():
    lr_error, thumbnail = np.full((64, 64), 0.1, np.float32), np.full((64, 64, 3), 240, np.uint8)
    lr_error[20:40, 20:40] = np.linspace(4, 5, 20)
    thumbnail[20:40, 20:40] = (190, 80, 160)
    found = TrustMap(lr_error, thumbnail, 16, 1024, 1024, 0.25)
    assert found.quartiles[1] == pytest.approx(4.5, abs=0.2)  # the mask is a little wider than the tissue
    assert worst_regions(found) == []


@pytest.mark.parametrize(("sides", "scale", "expected"), [
    ((100, 100), 4, 4), ((100, 100), 3, 6), ((4, 8192), 4, 4), ((4, 8193), 4, 8), ((25000, 9000), 4, 16),
    ((1, 1), 2, 8), ((100, 100), 32, 1)])
def test_squares_are_the_finest_that_keep_the_map_small(sides, scale, expected):
    assert square_side(*sides, scale) == expected


def test_sides_that_do_not_fit_are_refused(histology):
    with pytest.raises(ValueError, match=r"`output` must have 4 times the sides of the input, 64x32"):
        measure(histology[:32, :64], histology[:128, :252], OPTIONS)


# The degradation that fits

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
    for options in (candidates(4)[0], DegradeOptions(blur_sigma=2.4)):
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
    np.testing.assert_allclose(degrade_again(sr, candidates(4)[0]), downscale_local_mean(sr, (4, 4, 1)), atol=1e-6)
    sr = sr[:128, :128]
    blurred = ndimage.gaussian_filter(np.repeat(np.repeat(sr, 3, 0), 3, 1), (9.6, 9.6, 0), mode="reflect")
    middle = 12 * np.arange(32) + 5.5  # of 4 pixels of 3
    there = ndimage.map_coordinates(blurred[..., 1], np.meshgrid(middle, middle, indexing="ij"), order=1)
    assert np.abs(degrade_again(sr, DegradeOptions(blur_sigma=3.2))[..., 1] - there).max() < 0.01


@pytest.mark.parametrize("sides", [(32, 20), (3, 2)])
def test_blur_is_the_textbooks(histology, sides):
    for options in [*candidates(4)[1::4], DegradeOptions(2, blur_sigma=0.8)]:
        height, width = (options.scale * side for side in sides)
        sr = to_float(histology[:height, :width])
        expected = degrade(sr[np.newaxis], options.scale, options.blur_sigma).numpy()[0]
        np.testing.assert_allclose(degrade_again(sr, options), expected, atol=1e-5)


def test_windows_smaller_than_the_blur_are_compared_whole():
    sr = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    assert fit_degradation([(to_uint8(degrade_again(to_float(sr), candidates(4)[0])), sr)], 4) == candidates(4)[0]


def test_reach_is_how_far_a_pixel_of_sr_is_felt():
    for options in candidates(4):
        sr = np.zeros((128, 128, 3), np.float32)
        sr[64:68, 64:68] = 1
        felt = np.flatnonzero(degrade_again(sr, options)[:, 16, 0])
        assert felt.max() - 16 <= reach(options)


# The usual range

class Repeating:
    """A generator that repeats pixels, and is off by some grey levels where the first pixel is odd."""

    scale, facts = 4, ModelFacts()

    def __init__(self, error: int) -> None:
        self.error, self.calls = error, 0

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        self.calls += 1
        sr = np.repeat(np.repeat(lr, 4, 1), 4, 2)
        return sr + np.uint8(self.error * (lr[0, 0, 0, 0] % 2))


def batch(lr: np.ndarray, *slide_ids: str) -> dict:
    return {"slide_id": np.array([slide_id.encode() for slide_id in slide_ids]), "lr": to_float(lr)}


def test_range_is_that_of_the_medians_of_slides(histology):
    even, odd = (histology[:32, :32] // 2 for _ in range(2))
    even[0, 0, 0], odd[0, 0, 0] = 10, 11
    batches = [batch(np.stack([even, odd]), "a", "b"), batch(np.stack([odd, odd]), "b", "b")]
    low, high = usual_departure(Repeating(12), batches)
    assert (low, high) == (pytest.approx(0, abs=1e-3), pytest.approx(12, abs=0.5))
    assert usual_departure(Repeating(12), []) is None


def test_no_more_patches_of_a_slide_are_computed_than_are_needed(histology):
    generator = Repeating(0)
    usual_departure(generator, [batch(np.stack([histology[:32, :32]] * 10), *"a" * 10)] * 2)
    assert generator.calls == PATCHES
