# SPDX-License-Identifier: Apache-2.0
"""One patch of two scans: the shift that is left, and what tells whether both are sharp and show the same."""
from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipelines.planes import Plane
from pipelines.register.locate import fit_patch
from pipelines.slide import open_slide

from .conftest import second_scan, similarity, write_scan

MATRIX = similarity(4.0, 0.0, 101.5, 101.5)
SIZE = 64


@pytest.fixture(scope="module")
def hr(hr_path):
    with open_slide(hr_path) as slide:
        yield Plane(slide, 1)


@pytest.fixture
def fit(tmp_path, hr):
    """A function that fits the corner of a second scan."""
    def fitted(pixels, matrix=MATRIX, size=SIZE):
        with open_slide(write_scan(tmp_path / "lr.tif", pixels, quality=90)) as slide:
            return fit_patch(Plane(slide, 1), hr, matrix, 0, 0, size, 4)
    return fitted


@pytest.fixture(scope="module")
def lr(tissue):
    return second_scan(tissue, MATRIX, SIZE, SIZE)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.3, -2.2), (-17.0, 22.5)])
def test_shift_is_found_to_a_fraction_of_an_hr_pixel(fit, lr, shift):
    found = fit(lr, MATRIX - np.array([[0, 0, shift[0]], [0, 0, shift[1]]]))
    np.testing.assert_allclose(found.shift, shift, atol=0.3)
    assert found.correlation > 0.8
    assert found.residual < 1


def test_blur_of_lr_lowers_sharpness_and_keeps_the_place(fit, lr):
    sharp, blurred = fit(lr), fit(ndimage.gaussian_filter(lr, (1.5, 1.5, 0)))
    assert blurred.sharpness < sharp.sharpness / 2
    np.testing.assert_allclose(blurred.shift, sharp.shift, atol=1)


def test_blur_of_hr_shows_in_its_detail(tmp_path, tissue, lr, fit, hr):
    sharp = fit(lr)
    path = write_scan(tmp_path / "blurred.tif", ndimage.gaussian_filter(tissue, (2, 2, 0)), quality=92)
    with open_slide(path) as blurred, open_slide(tmp_path / "lr.tif") as low:
        found = fit_patch(Plane(low, 1), Plane(blurred, 1), MATRIX, 0, 0, SIZE, 4)
    assert found.detail < sharp.detail / 2


def test_part_that_shows_something_else_is_the_weakest(fit, lr):
    torn = lr.copy()
    torn[:16, :16] = lr[32:48, 32:48]
    assert fit(torn).weakest < 0.4 < fit(lr).weakest


def test_halves_that_moved_apart_leave_a_residual(fit, lr):
    apart = lr.copy()
    apart[:, 32:] = np.roll(lr[:, 32:], 1, axis=0)
    assert fit(apart).residual > 1 > fit(lr).residual


def test_glass_is_blank_and_a_patch_beyond_hr_is_outside(fit, lr):
    assert fit(np.full((SIZE, SIZE, 3), 244, np.uint8)) == "blank"
    assert fit(lr, similarity(4.0, 0.0, 1400.0, 0.0)) == "outside"
