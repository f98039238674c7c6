# SPDX-License-Identifier: Apache-2.0
"""Windows of two scans on one grid.

A plane is a slide at one pixel spacing: a level's own pixels, or means of `factor` x `factor` of them. Pixel i of a
plane covers level 0 from step*i to step*(i+1) (half-pixel centres). A `Matrix` [2, 3] maps pixel coordinates (x, y),
whole numbers at pixel centres, from one plane to another.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from skimage.transform import AffineTransform, warp

from pipelines.pixels import to_float
from pipelines.slide import Slide

Matrix = np.ndarray  # float64 [2, 3]
REACH = 2  # pixels beyond a window's border that interpolation and rounding need


class Plane:
    """A slide at the pixel spacing nearest to `step` level-0 pixels that its levels give by whole factors."""

    def __init__(self, slide: Slide, step: float) -> None:
        fine = [i for i, downsample in enumerate(slide.level_downsamples) if downsample <= step * 1.01]
        self._level = max(fine, key=lambda i: slide.level_downsamples[i], default=0)
        self._downsample = slide.level_downsamples[self._level]
        self._factor = max(1, round(step / self._downsample))
        self._slide = slide
        self.step = self._downsample * self._factor
        level_w, level_h = slide.level_dimensions[self._level]
        self.width, self.height = level_w // self._factor, level_h // self._factor

    @property
    def to_level0(self) -> Matrix:
        """The matrix from this plane's pixels to those of level 0."""
        offset = (self.step - 1) / 2
        return np.array([[self.step, 0, offset], [0, self.step, offset]])

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a window, white outside the slide: float32 [height, width, 3] in [0, 1].

        Raises:
            SlideError: The pixels cannot be decoded.
        """
        factor, downsample = self._factor, self._downsample
        # `read_region` rounds to the level's pixels, which these corners are.
        corner = (round(x * factor * downsample), round(y * factor * downsample))
        pixels = to_float(self._slide.read_region(*corner, self._level, width * factor, height * factor))
        if factor == 1:
            return pixels
        return pixels.reshape(height, factor, width, factor, 3).mean(axis=(1, 3), dtype=np.float32)


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Return the matrix that applies `inner`, then `outer`."""
    return outer @ np.vstack([inner, [0, 0, 1]])


def inverse(matrix: Matrix) -> Matrix:
    """Return the inverse matrix."""
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]


def apply(matrix: Matrix, points: np.ndarray) -> np.ndarray:
    """Return the images of the points (x, y) [..., 2]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def moved(matrix: Matrix, shift: Sequence[float] | np.ndarray) -> Matrix:
    """Return the matrix followed by the shift (x, y)."""
    return np.column_stack([matrix[:, :2], matrix[:, 2] + shift])


def magnification(matrix: Matrix) -> float:
    """Return how many pixels of the target plane correspond to one pixel along a side."""
    return math.sqrt(abs(np.linalg.det(matrix[:, :2])))


def aligned(plane: Plane, matrix: Matrix, x: float, y: float, size: int, fine: int, order: int,
            grey: bool = False) -> np.ndarray | None:
    """Return a plane's pixels for a window (x, y, size) of another plane, `fine` times finer than that.

    `matrix` maps the other plane's pixels to this one's. `order` of the interpolation: 1 linear, 3 cubic. Returns
    float32 [size*fine, size*fine, 3] with half-pixel centres, without channels if `grey`; None if the window leaves the
    slide.

    Raises:
        SlideError: The pixels cannot be decoded.
    """
    centre = (1 / fine - 1) / 2
    grid = compose(matrix, np.array([[1 / fine, 0, x + centre], [0, 1 / fine, y + centre]]))
    side = size * fine
    corners = apply(grid, np.array([[0, 0], [side - 1, 0], [0, side - 1], [side - 1, side - 1]]))
    left, top = (math.floor(value) - REACH for value in corners.min(axis=0))
    right, bottom = (math.ceil(value) + REACH + 1 for value in corners.max(axis=0))
    if left < 0 or top < 0 or right > plane.width or bottom > plane.height:
        return None
    window = plane.read(left, top, right - left, bottom - top)
    if grey:
        window = window.mean(axis=2)
    grid[:, 2] -= (left, top)
    return warp(window, AffineTransform(np.vstack([grid, [0, 0, 1]])), output_shape=(side, side), order=order)
