# SPDX-License-Identifier: Apache-2.0
"""A reader of a TIFF that is stored turned or mirrored (tag 274), as viewers show it."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipelines.readers import Reader

TRANSPOSED, FROM_RIGHT, FROM_BOTTOM = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)  # values of the tag


class TurnedReader:
    """Another reader's pixels: rows and columns exchanged, then mirrored."""

    def __init__(self, stored: Reader, orientation: int) -> None:
        self._stored, self._orientation = stored, orientation
        x, y = (1, 0) if orientation in TRANSPOSED else (0, 1)
        self.level_dimensions = tuple((size[x], size[y]) for size in stored.level_dimensions)
        self.level_downsamples = stored.level_downsamples
        self.tile_sizes = tuple((size[x], size[y]) for size in stored.tile_sizes)
        self.mpp = stored.mpp
        self.mpp_xy = stored.mpp_xy and (stored.mpp_xy[x], stored.mpp_xy[y])
        self.icc_profile = stored.icc_profile
        self.close = stored.close

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `pipelines.readers.Reader`."""
        return self._shown(self._stored.read(level, *self._window(level, x, y, width, height)))

    def read_own(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `pipelines.readers.Reader`."""
        return self._shown(self._stored.read_own(level, *self._window(level, x, y, width, height)))

    def _window(self, level: int, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
        """Return where a window is stored."""
        level_w, level_h = self.level_dimensions[level]
        x = level_w - x - width if self._orientation in FROM_RIGHT else x
        y = level_h - y - height if self._orientation in FROM_BOTTOM else y
        return (y, x, height, width) if self._orientation in TRANSPOSED else (x, y, width, height)

    def _shown(self, pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.swapaxes(0, 1) if self._orientation in TRANSPOSED else pixels
        pixels = pixels[:, ::-1] if self._orientation in FROM_RIGHT else pixels
        return pixels[::-1] if self._orientation in FROM_BOTTOM else pixels
