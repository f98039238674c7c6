# SPDX-License-Identifier: Apache-2.0
"""The LR plane that is super-resolved: one resolution of a slide or picture, read window by window.

    with open_slide("case.svs") as slide:
        lr = LRPlane(slide, mpp=1.0, region=(20000, 8000, 4096, 4096))
        lr.shape, lr[0:256, 512:768]                  # (1024, 1024, 3), uint8 [256, 256, 3]

The plane is a slide level or an mpp, of the whole slide or of a region. An mpp is averaged from a level that is 2 to 4
times finer where there is one; see `pipelines.slide`. `lr_` coordinates are pixels of the plane, `level_` those of the
level that is read, `l0_` those of level 0.

A window that cannot be read is read again in smaller blocks, aligned to the level, so that little more is lost than is
broken. Blocks that stay unreadable become white, and `UnreadablePlaces` records them.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.errors import require
from pipelines.files import read_text
from pipelines.pixels import WHITE
from pipelines.readers import PictureReader, open_reader
from pipelines.slide import Slide, SlideError
from pipelines.sources import Region
from pipelines.tissue import slide_mask

SOURCE_SIDE = 4096  # level pixels read at once, a side: limits the memory of averaging a fine level
BLOCKS = (256, 64, 16)  # sides of blocks tried after a failure; tiles of slides are usually 240 to 512 pixels wide
CELL = BLOCKS[-1]
START_AGAIN = "start again with --overwrite"
# The longer side of the tissue mask: about a pixel for 4x4 of the plane, within these limits.
MASK_SIDES, PLANE_PIXELS = (512, 2048), 4
ROUNDING = 1e-6  # a pixel that lacks no more than this counts as a whole one

Cell = tuple[int, int]  # column and row of a block of CELL pixels, counted from the corner of the level


class Placement(NamedTuple):
    """Where a plane lies: its upper left corner in level 0 and in the level, and its size in LR pixels.

    The level's corner is (0, 0) where plane and level have different pixels.
    """

    l0_x: float
    l0_y: float
    width: int
    height: int
    level_x: int = 0
    level_y: int = 0


class LRPlane:
    """A plane of an open slide, with `.shape` and `[y0:y1, x0:x1]` in LR pixels."""

    def __init__(self, slide: Slide, mpp: float | None = None, level: int = 0, region: Region | None = None) -> None:
        """Choose what to read.

        Args:
            slide: An open slide.
            mpp: Microns per pixel of the plane.
            level: The level to read if `mpp` is None.
            region: (x, y, width, height) in level 0; None for the whole slide.

        Raises:
            SlideError: The slide has no mpp, is coarser than `mpp`, or has no such level.
            ValueError: The region is not inside the slide, or is less than a pixel.
        """
        resolution = slide.resolution(mpp, level, average=True)
        self.slide = slide
        self.level, self.mpp, self.downsample = resolution.level, resolution.mpp, resolution.downsample
        self.averaged = resolution.averaged  # level pixels averaged into one LR pixel, a side
        self._asked_mpp = mpp if resolution.resampled else None
        self.l0_box = _checked_region(region, slide)
        self.placement = (_resampled(self.l0_box, self.downsample) if resolution.whole is None
                          else _on_level_pixels(self.l0_box, slide, self.level, resolution.whole))
        width, height = self.placement[2:4]
        require(min(width, height) > 0, "mpp", "be finer than a pixel for all that is read of "
                f"{slide.path.name}, {self.l0_box[2]}x{self.l0_box[3]} of {slide.mpp or 0:.4g}", "give less", mpp)
        self.shape = (height, width, 3)
        self.unreadable = UnreadablePlaces()
        self.failure: SlideError | None = None  # why the last unreadable place could not be read

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """Return uint8 [y1 - y0, x1 - x0, 3] of a window inside the plane.

        Raises:
            SlideError: A picture that is decoded at once cannot be decoded.
        """
        rows, columns = window
        pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
        largest = max(1, int(SOURCE_SIDE / max(1.0, self.downsample / self.slide.level_downsamples[self.level])))
        self._fill_blocks(pixels, rows, columns, largest, BLOCKS)
        return pixels

    def l0_point(self, lr_x: float, lr_y: float) -> tuple[float, float]:
        """Return the level-0 position of a point of the plane."""
        return self.placement.l0_x + lr_x * self.downsample, self.placement.l0_y + lr_y * self.downsample

    def l0_rectangle(self, lr_x: float, lr_y: float, lr_width: float, lr_height: float) -> Region:
        """Return the level-0 (x, y, width, height) of a rectangle of the plane."""
        x, y = self.l0_point(lr_x, lr_y)
        return round(x), round(y), round(lr_width * self.downsample), round(lr_height * self.downsample)

    @property
    def all_unreadable(self) -> bool:
        """Whether no part of the plane could be read."""
        place = self.placement
        cells = [-(-(first + side) // CELL) - first // CELL
                 for first, side in ((place.level_x, place.width), (place.level_y, place.height))]
        return len(self.unreadable.cells) == cells[0] * cells[1]

    def unreadable_l0_rectangles(self) -> list[Region]:
        """Return the unreadable places as level-0 (x, y, width, height), the largest first."""
        (height, width), (level_x, level_y) = self.shape[:2], self.placement[4:]
        found = []
        for x, y, w, h in self.unreadable.rectangles():
            left, top = max(0, x - level_x), max(0, y - level_y)
            right, bottom = min(width, x + w - level_x), min(height, y + h - level_y)
            found.append(self.l0_rectangle(left, top, right - left, bottom - top))
        return found

    def _fill_blocks(self, pixels: np.ndarray, rows: slice, columns: slice, side: int, smaller: tuple[int, ...]
                     ) -> None:
        """Read a window in blocks of `side`, aligned to the level."""
        for y, x in product(_cut(rows, self.placement.level_y, side), _cut(columns, self.placement.level_x, side)):
            self._fill(pixels[y.start - rows.start:y.stop - rows.start,
                              x.start - columns.start:x.stop - columns.start], y, x, smaller)

    def _fill(self, pixels: np.ndarray, rows: slice, columns: slice, smaller: tuple[int, ...]) -> None:
        """Read one block; if that fails, read it in blocks of the next smaller size."""
        try:
            pixels[:] = self.slide.read_at(*self.l0_point(columns.start, rows.start), columns.stop - columns.start,
                                           rows.stop - rows.start, self._asked_mpp, self.level, average=True)
        except SlideError as error:
            if smaller == BLOCKS and _is_decoded_at_once(self.slide.path):
                raise
            if smaller:
                self._fill_blocks(pixels, rows, columns, smaller[0], smaller[1:])
            else:
                pixels[:] = WHITE
                self.failure = error
                self.unreadable.add(((self.placement.level_x + columns.start) // CELL,
                                     (self.placement.level_y + rows.start) // CELL))


class TissueMap:
    """Where a plane shows tissue, according to the slide's thumbnail."""

    def __init__(self, lr: LRPlane) -> None:
        """Compute the tissue mask.

        Raises:
            SlideError: No part of the slide can be read.
        """
        self._lr = lr
        finest = max(lr.slide.dimensions) / lr.downsample / PLANE_PIXELS
        self._mask = slide_mask(lr.slide, int(min(max(finest, MASK_SIDES[0]), MASK_SIDES[1])))
        width, height = lr.slide.dimensions
        self._step_x, self._step_y = width / self._mask.shape[1], height / self._mask.shape[0]

    def any_in(self, rows: slice, columns: slice) -> bool:
        """Whether a window of the plane, with a margin of one mask pixel, contains tissue."""
        x, y, width, height = self._lr.l0_rectangle(columns.start, rows.start, columns.stop - columns.start,
                                                    rows.stop - rows.start)
        left, right = int(x / self._step_x) - 1, math.ceil((x + width) / self._step_x) + 1
        top, bottom = int(y / self._step_y) - 1, math.ceil((y + height) / self._step_y) + 1
        return bool(self._mask[max(top, 0):bottom, max(left, 0):right].any())


class UnreadablePlaces:
    """Cells that could not be read, recorded in a file until the slide is finished, for a resumed run."""

    def __init__(self, path: Path | None = None, resume: bool = False) -> None:
        """Start empty, or with `resume` from what a stopped run recorded in `path`."""
        self._path = path
        self.cells: set[Cell] = set()
        if path is not None and path.exists():
            if resume:
                self.cells = _read_cells(path)
            else:
                path.unlink()

    def add(self, cell: Cell) -> None:
        """Record a cell."""
        if cell not in self.cells:
            self.cells.add(cell)
            if self._path is not None:
                with self._path.open("a", encoding="ascii") as file:
                    file.write(f"{cell[0]} {cell[1]}\n")

    def delete_file(self) -> None:
        """Delete the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def rectangles(self) -> list[tuple[int, int, int, int]]:
        """Return the bounds of connected cells as (x, y, width, height), the largest first."""
        left, found = set(self.cells), []
        while left:
            group = _take_connected(left)
            xs, ys = [x for x, _ in group], [y for _, y in group]
            found.append((min(xs) * CELL, min(ys) * CELL, (max(xs) - min(xs) + 1) * CELL,
                          (max(ys) - min(ys) + 1) * CELL))
        return sorted(found, key=lambda box: (-box[2] * box[3], box))


def _checked_region(region: Region | None, slide: Slide) -> Region:
    width, height = slide.dimensions
    if region is None:
        return 0, 0, width, height
    x, y, w, h = region
    require(x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height, "region",
            f"lie inside the {width}x{height} pixels of {slide.path.name}", "give x,y,width,height in level-0 pixels",
            ",".join(map(str, region)))
    return region


def _resampled(l0_box: Region, downsample: float) -> Placement:
    """Place a plane whose pixels are interpolated from the level: it starts exactly at the region's corner.

    Only whole pixels count: a pixel across the border would be mixed with white in some windows and not in others.
    """
    x, y, width, height = l0_box
    return Placement(float(x), float(y), int(width / downsample + ROUNDING), int(height / downsample + ROUNDING))


def _on_level_pixels(l0_box: Region, slide: Slide, level: int, averaged: int) -> Placement:
    """Place a plane whose pixels are means of `averaged` x `averaged` level pixels: it starts at one of these."""
    downsample, sides = slide.level_downsamples[level], slide.level_dimensions[level]
    corners = [min(round(at / downsample), side - 1) for at, side in zip(l0_box[:2], sides, strict=True)]
    width, height = (min(max(1, round(length / downsample)), side - corner) // averaged
                     for length, side, corner in zip(l0_box[2:], sides, corners, strict=True))
    x, y = corners
    return Placement(x * downsample, y * downsample, width, height, *((x, y) if averaged == 1 else (0, 0)))


def _is_decoded_at_once(path: Path) -> bool:
    """Whether a file is decoded as a whole, as PNG and JPEG are: reading it in smaller blocks would not help."""
    reader = open_reader(path)
    reader.close()
    return isinstance(reader, PictureReader)


def _cut(window: slice, offset: int, side: int) -> Iterator[slice]:
    """Cut a range wherever its position plus `offset` is a multiple of `side`."""
    first = (window.start + offset) // side * side - offset
    for start in range(first, window.stop, side):
        yield slice(max(start, window.start), min(start + side, window.stop))


def _take_connected(cells: set[Cell]) -> list[Cell]:
    """Remove one cell from `cells` with all that are connected to it, and return them."""
    group = [cells.pop()]
    for x, y in group:  # the list grows meanwhile
        for near in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
            if near in cells:
                cells.remove(near)
                group.append(near)
    return group


def _read_cells(path: Path) -> set[Cell]:
    """Return the cells of the complete lines; a killed run may have left half a line at the end."""
    text = read_text(path, START_AGAIN)
    lines = text[:text.rfind("\n") + 1].splitlines()
    try:
        return {(int(x), int(y)) for x, y in map(str.split, lines)}
    except ValueError as error:
        raise ValueError(f"`{path}` must be a list of places as it was written; {START_AGAIN}. Received: {error}"
                         ) from error
