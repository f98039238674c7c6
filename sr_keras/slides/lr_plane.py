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
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from scipy import ndimage

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
GRID = 16  # windows to choose samples from, along a side of the plane
ROUNDING = 1e-6  # a pixel that lacks no more than this counts as a whole one

Cell = tuple[int, int]  # column and row of a block of CELL pixels, counted from the corner of the level
HasTissue = Callable[[slice, slice], bool]  # rows and columns of a plane


class Plane(Protocol):
    """LR pixels, uint8 RGB, read by `plane[y0:y1, x0:x1]`."""

    shape: tuple[int, int, int]

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """Return uint8 [y1 - y0, x1 - x0, 3]."""


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
        """Choose what to read: `mpp` microns per pixel or else a level, of a region in level 0 or the whole slide.

        Raises:
            SlideError: The slide has no mpp, is coarser than `mpp`, or has no such level.
            ValueError: The region is not inside the slide, or is less than a pixel.
        """
        resolution = slide.resolution(mpp, level, average=True)
        self.slide = slide
        self.level, self.mpp, self.downsample = resolution.level, resolution.mpp, resolution.downsample
        self.averaged = resolution.averaged  # level pixels averaged into one LR pixel, a side
        self._asked_mpp = mpp if resolution.resampled else None
        width, height = slide.dimensions
        self.l0_box = x, y, w, h = region or (0, 0, width, height)
        require(x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height, "region",
                f"lie inside the {width}x{height} pixels of {slide.path.name}",
                "give x,y,width,height in level-0 pixels", ",".join(map(str, self.l0_box)))
        self.placement = (_resampled(self.l0_box, self.downsample) if resolution.whole is None
                          else _on_level_pixels(self.l0_box, slide, self.level, resolution.whole))
        width, height = self.placement[2:4]
        require(min(width, height) > 0, "mpp", f"leave at least a pixel of the {self.l0_box[2]}x{self.l0_box[3]} that "
                f"are read of {slide.path.name}, at {slide.mpp or 0:.4g} microns each", "make it smaller", mpp)
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


def find_tissue(lr: LRPlane) -> HasTissue:
    """Return a function that says whether a window of the plane, or a mask pixel beside it, shows tissue.

    The slide's thumbnail decides.

    Raises:
        SlideError: No part of the slide can be read.
    """
    finest = max(lr.slide.dimensions) / lr.downsample / PLANE_PIXELS
    mask = slide_mask(lr.slide, int(min(max(finest, MASK_SIDES[0]), MASK_SIDES[1])))
    width, height = lr.slide.dimensions
    step_x, step_y = width / mask.shape[1], height / mask.shape[0]

    def has_tissue(rows: slice, columns: slice) -> bool:
        x, y, w, h = lr.l0_rectangle(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        left, right = int(x / step_x) - 1, math.ceil((x + w) / step_x) + 1
        top, bottom = int(y / step_y) - 1, math.ceil((y + h) / step_y) + 1
        return bool(mask[max(top, 0):bottom, max(left, 0):right].any())

    return has_tissue


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
        if not self.cells:
            return []
        columns, rows = np.array(sorted(self.cells)).T
        left, top = columns.min(), rows.min()
        mask = np.zeros((rows.max() - top + 1, columns.max() - left + 1), bool)
        mask[rows - top, columns - left] = True
        found = [(CELL * int(left + x.start), CELL * int(top + y.start), CELL * (x.stop - x.start),
                  CELL * (y.stop - y.start)) for y, x in ndimage.find_objects(ndimage.label(mask)[0])]
        return sorted(found, key=lambda box: (-box[2] * box[3], box))


def sample_windows(shape: tuple[int, ...], count: int, side: int,
                   has_tissue: HasTissue | None = None) -> list[tuple[slice, slice]]:
    """Return rows and columns of `count` windows at most, spread over a plane from top to bottom.

    They are `side` pixels wide, less if the plane is smaller, and the same in every call. If `has_tissue` is true of
    none, they are taken from anywhere.
    """
    height, width = (min(side, length) for length in shape[:2])
    windows = [(slice(y, y + height), slice(x, x + width))
               for y, x in product(_starts(shape[0], height), _starts(shape[1], width))]
    chosen = [window for window in windows if has_tissue(*window)] if has_tissue else []
    chosen = chosen or windows
    # One is drawn from each of `count` stretches: every n-th of a grid might be a column of it.
    ends = np.linspace(0, len(chosen), min(count, len(chosen)) + 1).astype(int)
    return [chosen[i] for i in np.random.default_rng(0).integers(ends[:-1], ends[1:])]


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


def _starts(length: int, side: int) -> list[int]:
    """Return where windows begin: side by side, or GRID of them from end to end of a long plane."""
    room = length - side
    places = min(GRID, room // side + 1)
    return [round(room * i / max(1, places - 1)) for i in range(places)]


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


def _read_cells(path: Path) -> set[Cell]:
    """Return the cells of the complete lines; a killed run may have left half a line at the end."""
    text = read_text(path, START_AGAIN)
    lines = text[:text.rfind("\n") + 1].splitlines()
    try:
        return {(int(x), int(y)) for x, y in map(str.split, lines)}
    except ValueError as error:
        raise ValueError(f"`{path}` must be a list of places as it was written; {START_AGAIN}. Received: {error}"
                         ) from error
