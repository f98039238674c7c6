# SPDX-License-Identifier: Apache-2.0
"""What a browser looks at: a box of a scene on so many pixels of its screen, and the pictures to draw there.

    look = Look(scene, "slide 0", tiles, ["LR", "srgan_sqe_x4"])
    look.move((1000, 500, 1100, 575), screen_width=440, tell=tell)      # asks for the tiles
    look.pictures()                                                    # of the tiles that are there

Up to one LR pixel on a pixel of the screen, tiles of all layers are computed. Farther out the network has nothing to
add, and all layers show the slide itself.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from sr_keras.view.scene import TILE, Cell, Scene
from sr_keras.view.tile_queue import Tell, Tiles

ALIGNED = 8  # LR pixels; whole squares of every trust map
AROUND = 0.1  # of the box, drawn on each side of it, so that a small pan finds something there
LARGE = 3  # times the error that is usual get the full colour
LEAST_OPAQUE, MOST_OPAQUE = 0.15, 0.6
VERMILION = (213, 94, 0)

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in LR pixels
WholeBox = tuple[int, int, int, int]


class Picture(NamedTuple):
    """RGBA, uint8 [h, w, 4], transparent where it is not known yet, and the LR pixels that it covers."""

    pixels: np.ndarray
    box: WholeBox


class Look:
    """The part of a scene that is looked at; `name` stands for the slide in the keys of the tiles."""

    def __init__(self, scene: Scene, name: Hashable, tiles: Tiles, layers: Sequence[str], trust: bool = True) -> None:
        self.scene, self.layers, self.trust = scene, list(layers), trust
        self._name, self._tiles = name, tiles
        self._box: WholeBox = (0, 0, 0, 0)
        self._lr_per_pixel = 1.0
        self._overview: Picture | None = None  # the last one, shown until the next is read

    @property
    def is_overview(self) -> bool:
        """Whether a pixel of the screen covers more than an LR pixel."""
        return self._lr_per_pixel > 1

    @property
    def waiting(self) -> int:
        """How many tiles it waits for."""
        return self._tiles.waiting(self)

    def move(self, box: Box, screen_width: float, tell: Tell) -> None:
        """Look at a box on `screen_width` pixels; tiles that were asked for before and not begun are dropped."""
        self._lr_per_pixel = (box[2] - box[0]) / max(1.0, screen_width)
        self._box = self._whole(box)
        self._tiles.look(self, self._jobs(), tell)

    def pictures(self) -> dict[str, Picture]:
        """Return a picture for each layer, of what is known already; none where the box is outside of the plane."""
        if not self._cells():
            return {}
        if self.is_overview:
            pixels = self._tiles.get(self._overview_key())
            if pixels is not None:
                self._overview = Picture(_opaque(pixels), self._box)
            return dict.fromkeys(self.layers, self._overview) if self._overview else {}
        self._overview = None
        return {name: Picture(self._assemble(name), self._box) for name in self.layers}

    def trust_picture(self, name: str) -> Picture | None:
        """Return the trust map over a layer, transparent where the error cannot be seen; None if there is none."""
        margin = self.scene.layers[name].margin
        if self.is_overview or not (margin and self._cells()):
            return None
        side, (x0, y0, x1, y1) = self.scene.square(name), self._box
        error = np.zeros((-(-(y1 - y0) // side), -(-(x1 - x0) // side)), np.float32)
        for cell in self._cells():
            tile = self._tiles.get(self._key(name, cell, "trust"))
            if tile is not None:
                _paste(error, tile, (cell[0] * TILE - x0) // side, (cell[1] * TILE - y0) // side)
        height, width = (side * length for length in error.shape)
        return Picture(coloured(error, self.scene.usual_error(name)), (x0, y0, x0 + width, y0 + height))

    def _jobs(self) -> dict[Hashable, Callable[[], np.ndarray]]:
        """Return what to compute: tile after tile from the middle of the box outwards, in every layer; trust last."""
        cells = self._cells()
        if self.is_overview:
            return {self._overview_key(): partial(self.scene.overview, self._box, self._coarser())} if cells else {}
        jobs: dict[Hashable, Callable[[], np.ndarray]] = {
            self._key(name, cell): partial(self.scene.read, name, cell) for cell in cells for name in self.layers}
        if self.trust:
            jobs |= {self._key(name, cell, "trust"): partial(self._trust, name, cell)
                     for name in self.layers if self.scene.layers[name].margin for cell in cells}
        return jobs

    def _trust(self, name: str, cell: Cell) -> np.ndarray:
        known = [one for one in self._cells() if self._tiles.get(self._key(name, one)) is not None]
        return self.scene.trust(name, cell, known)

    def _assemble(self, name: str) -> np.ndarray:
        scale, (x0, y0, x1, y1) = self.scene.layers[name].scale, self._box
        step = 2 ** max(0, math.floor(math.log2(self._lr_per_pixel * scale)))  # pixels averaged into one, a side
        picture = np.zeros((-(-scale * (y1 - y0) // step), -(-scale * (x1 - x0) // step), 4), np.uint8)
        for cell in self._cells():
            tile = self._tiles.get(self._key(name, cell))
            if tile is not None:
                pixels = np.asarray(Image.fromarray(tile).reduce(step)) if step > 1 else tile
                _paste(picture, _opaque(pixels), scale * (cell[0] * TILE - x0) // step,
                       scale * (cell[1] * TILE - y0) // step)
        return picture

    def _cells(self) -> list[Cell]:
        x0, y0, x1, y1 = self._box
        middle = (x0 + x1) / 2 / TILE - 0.5, (y0 + y1) / 2 / TILE - 0.5
        cells = [(column, row) for row in range(y0 // TILE, -(-y1 // TILE))
                 for column in range(x0 // TILE, -(-x1 // TILE))] if x0 < x1 and y0 < y1 else []
        return sorted(cells, key=lambda cell: math.dist(cell, middle))

    def _whole(self, box: Box) -> WholeBox:
        """Return the aligned box around a box and what is around it, inside the plane; empty if it is outside."""
        height, width = self.scene.lr.shape[:2]
        unit = ALIGNED if not self.is_overview else self._coarser()
        ends = []
        for low, high, side in ((box[0], box[2], width), (box[1], box[3], height)):
            around = AROUND * (high - low)
            first = math.floor((low - around) / unit) * unit
            ends.append((min(max(0, first), side), max(0, min(side, math.ceil((high + around) / unit) * unit))))
        (x0, x1), (y0, y1) = ends
        return x0, y0, x1, y1

    def _coarser(self) -> int:
        return 2 ** math.floor(math.log2(self._lr_per_pixel))

    def _overview_key(self) -> Hashable:
        return (self._name, "overview", self._box, self._coarser())

    def _key(self, name: str, cell: Cell, kind: str = "pixels") -> Hashable:
        return (self._name, kind, name, cell)


def coloured(error: np.ndarray, usual: float) -> np.ndarray:
    """Return LR errors as RGBA, uint8 [h, w, 4]: nothing up to the usual one, then more and more opaque."""
    share = np.clip((error / usual - 1) / (LARGE - 1), 0, 1)
    picture = np.empty((*error.shape, 4), np.uint8)
    picture[..., :3] = VERMILION
    picture[..., 3] = np.where(error > usual, 255 * (LEAST_OPAQUE + (MOST_OPAQUE - LEAST_OPAQUE) * share), 0)
    return picture


def _opaque(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 255, np.uint8)], -1)


def _paste(picture: np.ndarray, tile: np.ndarray, left: int, top: int) -> None:
    """Put a tile into a picture at a place that may be partly outside."""
    height, width = picture.shape[:2]
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(height, top + tile.shape[0]), min(width, left + tile.shape[1])
    if y0 < y1 and x0 < x1:
        picture[y0:y1, x0:x1] = tile[y0 - top:y1 - top, x0 - left:x1 - left]
