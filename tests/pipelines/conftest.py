# SPDX-License-Identifier: Apache-2.0
"""What tests of slides that are written share: a picture, its levels, and how it is put."""
from __future__ import annotations

from itertools import islice

import numpy as np
from skimage.data import immunohistochemistry


def picture(width=1303, height=701):
    """Tissue without end, with glass in its lower right quarter."""
    image = np.tile(immunohistochemistry(), (-(-height // 512), -(-width // 512), 1))[:height, :width].copy()
    image[height // 2:, width // 2:] = 255
    return image


def fill(pyramid, image, most=None):
    """Put what is missing, at most so many tiles."""
    for row, column in islice(pyramid.missing(), most):
        x, y, width, height = pyramid.levels[0].box(row, column)
        pyramid.put(row, column, image[y:y + height, x:x + width])


def halves(image):
    """The levels that `image` should have."""
    levels = [image]
    while max(levels[-1].shape) > 512:
        height, width = levels[-1].shape[:2]
        even = np.pad(levels[-1], ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint16)
        levels.append(((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4)
                      .astype(np.uint8))
    return levels
