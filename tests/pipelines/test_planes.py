# SPDX-License-Identifier: Apache-2.0
"""Windows of two scans on one grid: centres of pixels stay where they are."""
from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipelines.planes import Plane, aligned, apply, compose, inverse
from pipelines.slide import open_slide


@pytest.fixture
def sample(sample_slide):
    with open_slide(sample_slide) as slide:
        yield slide


def test_plane_of_step_one_gives_the_slides_own_pixels(sample, histology):
    np.testing.assert_allclose(Plane(sample, 1).read(30, 40, 50, 60), histology[40:100, 30:80] / 255, atol=1e-6)


@pytest.mark.parametrize("step", [2, 4, 8, 16])
def test_coarser_plane_averages_what_it_covers(sample, histology, step):
    plane = Plane(sample, step)
    assert plane.step == step
    blocks = histology[:step * 8, :step * 8].reshape(8, step, 8, step, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(plane.read(0, 0, 8, 8), blocks, atol=2 / 255)  # levels are rounded to 8 bit
    np.testing.assert_allclose(apply(plane.to_level0, np.array([1.0, 0.0])), [step * 1.5 - 0.5, (step - 1) / 2])


def test_inverse_undoes_and_compose_goes_inner_first():
    matrix = np.array([[3.9, -0.3, 7], [0.2, 4.1, -5]])
    points = np.array([[1.0, 2.0], [-3.0, 8.5]])
    np.testing.assert_allclose(apply(inverse(matrix), apply(matrix, points)), points)
    double = np.array([[2.0, 0, 0], [0, 2, 0]])
    np.testing.assert_allclose(apply(compose(double, matrix), points), 2 * apply(matrix, points))


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("scale", [2, 4])
def test_grid_that_lies_on_hr_pixels_gives_them_back(sample, histology, order, scale):
    """LR pixel i lies on HR coordinate scale*i + (scale-1)/2: then nothing is interpolated."""
    matrix = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])
    found = aligned(Plane(sample, 1), matrix, 10, 20, 16, scale, order)
    window = histology[20 * scale:36 * scale, 10 * scale:26 * scale] / 255
    np.testing.assert_allclose(found, window, atol=1e-5)


def test_any_matrix_gives_what_scipy_interpolates_there(sample, histology):
    matrix = np.array([[3.97, -0.05, 30.3], [0.04, 3.95, 21.7]])
    found = aligned(Plane(sample, 1), matrix, 12, 9, 20, 4, 1)
    lr = (np.arange(80) - 1.5) / 4
    u, v = np.meshgrid(12 + lr, 9 + lr)
    x, y = (row[0] * u + row[1] * v + row[2] for row in matrix)
    for i in range(3):
        expected = ndimage.map_coordinates(histology[..., i] / 255, [y, x], order=1)
        np.testing.assert_allclose(found[..., i], expected, atol=1e-4)


def test_grey_is_the_mean_of_the_channels(sample):
    matrix = np.array([[3.97, -0.05, 30.3], [0.04, 3.95, 21.7]])
    plane = Plane(sample, 1)
    np.testing.assert_allclose(aligned(plane, matrix, 5, 5, 8, 2, 1, grey=True),
                               aligned(plane, matrix, 5, 5, 8, 2, 1).mean(axis=2), atol=1e-5)


def test_window_that_leaves_the_slide_is_none(sample):
    matrix = np.array([[4.0, 0, 1.5], [0, 4, 1.5]])
    assert aligned(Plane(sample, 1), matrix, 120, 0, 16, 4, 1) is None
    assert aligned(Plane(sample, 1), matrix, 100, 100, 16, 4, 1) is not None
