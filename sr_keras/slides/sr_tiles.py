# SPDX-License-Identifier: Apache-2.0
"""Tiles of SR, computed when they are asked for; those last used are kept, within a number of bytes.

    tiles = SRTiles(generator, lr, EnlargeOptions(), cache_bytes=2**28)
    tiles.get(3, 5)                                # uint8 [512, 512, 3]: row 3, column 5 of the output's grid

They are the tiles of the file that a run writes. Each is computed from the same window of LR, whatever else is asked
for, so a pixel always has the same value and there are no seams.

Threads may share it. One tile is computed at a time, since an engine uses all cores.
"""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from sr_keras.model.tiles import Box, Span
from sr_keras.slides.loop import near_tissue, super_resolve_plane
from sr_keras.slides.lr_plane import HasTissue, LRPlane, find_tissue
from sr_keras.slides.window_plan import EnlargeOptions, WindowPlan, plan_windows, pyramid_tile, window_limits

if TYPE_CHECKING:
    from sr_keras.model.loading import LoadedGenerator

WINDOWS = 64  # of the plan whose glass is remembered


class SRTiles:
    """The tiles of a plane; `side` is theirs in SR pixels, and `reading` is held while the plane is read."""

    def __init__(self, generator: LoadedGenerator, lr: LRPlane, options: EnlargeOptions, cache_bytes: int) -> None:
        self.side, self.reading = pyramid_tile(generator.scale), Lock()
        self._generator, self._lr = _in_one_band(generator, self.side), lr
        # The windows of a run that writes a file: they decide which tiles of glass the network gets.
        self._plan = plan_windows(lr.shape, generator.scale, generator.halo,
                                  window_limits(generator, generator.scale, options.memory), options.tile)
        self._everywhere = options.everywhere or len(self._plan) == 1
        self._has_tissue: HasTissue | None = None
        self._near_tissue = lru_cache(WINDOWS)(lambda y, x: near_tissue(y, x, self._plan, self._has_tissue))
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cache_bytes, self._bytes = cache_bytes, 0
        self._caching, self._computing = Lock(), Lock()

    def get(self, row: int, column: int) -> np.ndarray:
        """Return a tile uint8 [side, side, 3], less at the right and lower border.

        Raises:
            SlideError: It is of a picture that cannot be decoded.
        """
        tile = self._look_up(row, column)
        if tile is not None:
            return tile
        with self._computing:
            tile = self._look_up(row, column)  # another thread may have computed it meanwhile
            if tile is None:
                tile = self._compute(row, column)
                self._keep(row, column, tile)
            return tile

    def clear(self) -> None:
        """Forget all tiles."""
        with self._caching:
            self._kept.clear()
            self._bytes = 0

    def _look_up(self, row: int, column: int) -> np.ndarray | None:
        with self._caching:
            if (row, column) in self._kept:
                self._kept.move_to_end((row, column))
            return self._kept.get((row, column))

    def _keep(self, row: int, column: int, tile: np.ndarray) -> None:
        with self._caching:
            self._kept[row, column] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._cache_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def _compute(self, row: int, column: int) -> np.ndarray:
        """Super-resolve a tile by a plan of one window."""
        scale, halo, side = self._generator.scale, self._generator.halo, self.side // self._generator.scale
        y, x = (_window_of(number, side, length, halo)
                for number, length in zip((row, column), self._lr.shape[:2], strict=True))
        network = self._by_network(y, x)
        with self.reading:
            pixels = self._lr[y.window, x.window]
        tile = _Tile()
        plan = WindowPlan([_counted_from_window(y)], [_counted_from_window(x)], scale, halo)
        super_resolve_plane(self._generator, pixels, plan, tile, has_tissue=None if network else lambda *_: False)
        return tile.pixels

    def _by_network(self, y: Span, x: Span) -> bool:
        """Whether a run that writes a file would compute that tile by the network; on glass it interpolates."""
        if self._everywhere:
            return True
        if self._has_tissue is None:
            with self.reading:
                self._has_tissue = find_tissue(self._lr)
        parts = self._near_tissue(*(next(span for span in spans if _holds(span, one))
                                    for spans, one in ((self._plan.rows, y), (self._plan.columns, x))))
        return any(_holds(part.y, y) and _holds(part.x, x) for part in parts)


class _Tile:
    """An output of one tile."""

    pixels: np.ndarray

    def needs(self, box: Box) -> bool:
        return True

    def write(self, box: Box, pixels: np.ndarray) -> None:
        self.pixels = np.array(pixels)  # a core may be a view of its window
        self.pixels.flags.writeable = False


def _in_one_band(generator: LoadedGenerator, side: int) -> Any:
    """Return an engine that runs a tile's window as one band; LiteRT gets its memory anew for each kind of band."""
    stream = getattr(generator, "stream", None)
    if stream is None:
        return generator
    pixels = (side // generator.scale + 2 * generator.halo)**2
    return replace(generator, stream=replace(stream, band_pixels=pixels))  # type: ignore[call-arg]  # it is an Engine


def _window_of(number: int, side: int, length: int, halo: int) -> Span:
    """Return the window of a tile of an axis: moved inwards at the border, so that all have one shape."""
    tile, start, stop = side + 2 * halo, number * side, min(length, (number + 1) * side)
    first = max(0, min(start - halo, length - tile))
    return Span(first, min(length, first + tile), start, stop)


def _counted_from_window(span: Span) -> Span:
    return Span(*(place - span.window_start for place in span))


def _holds(span: Span, one: Span) -> bool:
    """Whether a core holds that of another span; both begin at multiples of a tile."""
    return span.core_start <= one.core_start < span.core_stop
