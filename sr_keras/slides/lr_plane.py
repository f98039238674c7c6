"""What is super-resolved: a plane of a slide, or an image, that is read piece by piece and never whole.

    with open_slide("case.svs") as slide:
        lr = LRView(slide, mpp=1.0, region=(20000, 8000, 4096, 4096))
        lr.shape, lr[0:256, 512:768]                  # (1024, 1024, 3), uint8 [256, 256, 3]

The plane is a level, or an mpp, all of it or a rectangle. An mpp is read as means of a level that is 2 to 4 times finer
where there is one, since a slide's coarse levels were compressed again; see `pipelines.slide`. `lr_` coordinates count
its pixels from its own corner, `l0_` those of the slide's level 0.

A piece that can't be read is read again in smaller blocks, on the grid of the level, so that hardly more is lost than
is broken. What stays unreadable is white, and `BadPlaces` remembers where.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from pipelines.errors import require
from pipelines.pixels import WHITE
from pipelines.readers import PictureReader, open_reader
from pipelines.slide import Slide, SlideError
from pipelines.sources import Region
from pipelines.tissue import slide_mask

# Source pixels read at once: resampling a coarse plane out of a fine level must not take more memory than the network.
SOURCE_SIDE = 4096
# Blocks tried where a piece fails. Tiles of slides are 240 to 512 pixels wide, as a rule.
BLOCKS = (256, 64, 16)
CELL = BLOCKS[-1]
# A mask has so many pixels on its longer side, and as few as one for 4x4 of the plane: tiles are 128 wide.
MASK_SIDES, PLANE_PIXELS = (512, 2048), 4
WHOLE = 1e-6  # so little may a pixel lack and be whole

Cell = tuple[int, int]  # column and row in blocks of CELL pixels, counted from the corner of the level


class LRView:
    """A plane of an open slide, with `.shape` and `[y0:y1, x0:x1]` in LR pixels."""

    def __init__(self, slide: Slide, mpp: float | None = None, level: int = 0, region: Region | None = None,
                 bad: BadPlaces | None = None) -> None:
        """Choose what to read.

        Args:
            slide: An open one.
            mpp: Microns per pixel to read at.
            level: The level to read where no mpp is asked.
            region: (x, y, width, height) in level 0; the whole slide if left out.
            bad: Where unreadable places are noted.

        Raises:
            SlideError: The slide has no mpp, is not as fine as asked, or has no such level.
            ValueError: The region is not inside the slide, or less than a pixel.
        """
        resolution = slide.resolution(mpp, level, average=True)
        self.slide = slide
        self.level, self.mpp, self.downsample = resolution.level, resolution.mpp, resolution.downsample
        self.averaged = resolution.averaged  # pixels of the level, a side, to one of the plane
        self._asked_mpp = mpp if resolution.resampled else None
        self.l0_box = _checked(region, slide)
        self._level_x = self._level_y = 0  # of the plane's corner, by which blocks are laid
        if resolution.whole is None:
            self._l0_x, self._l0_y = (float(corner) for corner in self.l0_box[:2])
            # Whole pixels only: one that reaches beyond the border would be mixed with white, in some windows.
            width, height = (int(side / self.downsample + WHOLE) for side in self.l0_box[2:])
        else:  # on the pixels of the level, between two of which a corner may lie
            finer = slide.level_downsamples[self.level]
            (x, width), (y, height) = (
                _snapped(corner, side, finer, level_side) for corner, side, level_side in
                zip(self.l0_box[:2], self.l0_box[2:], slide.level_dimensions[self.level], strict=True))
            self._l0_x, self._l0_y = x * finer, y * finer
            width, height = width // resolution.whole, height // resolution.whole
            if resolution.whole == 1:
                self._level_x, self._level_y = x, y
        require(min(width, height) > 0, "mpp", "be finer than a pixel for all that is read of "
                f"{slide.path.name}, {self.l0_box[2]}x{self.l0_box[3]} of {slide.mpp or 0:.4g}", "give less", mpp)
        self.shape = (height, width, 3)
        self.bad = bad or BadPlaces()
        self.failure: SlideError | None = None  # why the last place could not be read

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """Return uint8 [y1 - y0, x1 - x0, 3]; the window lies inside the plane.

        Raises:
            SlideError: It is a picture that can't be decoded; there is no part of it that could.
        """
        rows, columns = window
        pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
        largest = max(1, int(SOURCE_SIDE / max(1.0, self.downsample / self.slide.level_downsamples[self.level])))
        for y, x in self._blocks(rows, columns, largest):
            self._read_into(pixels[y.start - rows.start:y.stop - rows.start,
                                   x.start - columns.start:x.stop - columns.start], y, x, BLOCKS)
        return pixels

    def l0_rectangle(self, lr_x: float, lr_y: float, lr_width: float, lr_height: float) -> Region:
        """Return where a rectangle of the plane lies in the slide: x, y, width, height in level-0 pixels."""
        return (round(self._l0_x + lr_x * self.downsample), round(self._l0_y + lr_y * self.downsample),
                round(lr_width * self.downsample), round(lr_height * self.downsample))

    def l0_point(self, lr_x: float, lr_y: float) -> tuple[float, float]:
        """Return where a point of the plane lies in the slide: x and y in level-0 pixels."""
        return self._l0_x + lr_x * self.downsample, self._l0_y + lr_y * self.downsample

    @property
    def all_bad(self) -> bool:
        """Whether nothing of the plane could be read."""
        cells = [-(-(first + side) // CELL) - first // CELL for first, side in
                 ((self._level_x, self.shape[1]), (self._level_y, self.shape[0]))]
        return len(self.bad.cells) == cells[0] * cells[1]

    def bad_l0_rectangles(self) -> list[Region]:
        """Return where in the slide something could not be read, as x, y, width, height, the largest first."""
        height, width = self.shape[:2]
        found = []
        for x, y, w, h in self.bad.rectangles():
            left, top = max(0, x - self._level_x), max(0, y - self._level_y)
            right, bottom = min(width, x + w - self._level_x), min(height, y + h - self._level_y)
            found.append(self.l0_rectangle(left, top, right - left, bottom - top))
        return found

    def _read_into(self, pixels: np.ndarray, rows: slice, columns: slice, sides: tuple[int, ...]) -> None:
        """Fill `pixels`; where that fails, block by block of the next smaller size."""
        try:
            pixels[:] = self._read(rows, columns)
            return
        except SlideError as error:
            if sides == BLOCKS and _is_whole_or_nothing(self.slide.path):
                raise
            if not sides:
                pixels[:] = WHITE
                self.failure = error
                self.bad.add(((self._level_x + columns.start) // CELL, (self._level_y + rows.start) // CELL))
                return
        for y, x in self._blocks(rows, columns, sides[0]):
            part = pixels[y.start - rows.start:y.stop - rows.start, x.start - columns.start:x.stop - columns.start]
            self._read_into(part, y, x, sides[1:])

    def _blocks(self, rows: slice, columns: slice, side: int) -> Iterator[tuple[slice, slice]]:
        """Cut a window at multiples of `side`."""
        return product(_cuts(rows, self._level_y, side), _cuts(columns, self._level_x, side))

    def _read(self, rows: slice, columns: slice) -> np.ndarray:
        l0_x = self._l0_x + columns.start * self.downsample
        l0_y = self._l0_y + rows.start * self.downsample
        return self.slide.read_at(l0_x, l0_y, columns.stop - columns.start, rows.stop - rows.start,
                                  self._asked_mpp, self.level, average=True)


class TissueMap:
    """Where in a plane there is tissue, as the thumbnail shows it."""

    def __init__(self, lr: LRView) -> None:
        """Look at the slide.

        Raises:
            SlideError: No part of it can be read.
        """
        self._lr = lr
        finest = max(lr.slide.dimensions) / lr.downsample / PLANE_PIXELS
        self._mask = slide_mask(lr.slide, int(min(max(finest, MASK_SIDES[0]), MASK_SIDES[1])))
        width, height = lr.slide.dimensions
        self._step_x, self._step_y = width / self._mask.shape[1], height / self._mask.shape[0]

    def any_in(self, rows: slice, columns: slice) -> bool:
        """Whether there is tissue in a window of the plane, or within a pixel of the mask around it."""
        x, y, width, height = self._lr.l0_rectangle(columns.start, rows.start, columns.stop - columns.start,
                                                    rows.stop - rows.start)
        left, right = int(x / self._step_x) - 1, math.ceil((x + width) / self._step_x) + 1
        top, bottom = int(y / self._step_y) - 1, math.ceil((y + height) / self._step_y) + 1
        return bool(self._mask[max(top, 0):bottom, max(left, 0):right].any())


class BadPlaces:
    """Cells of a plane that could not be read, kept in a file while the slide is not done: a resume tells them too."""

    def __init__(self, path: Path | None = None, resume: bool = False) -> None:
        """Begin with none, or with those that a stopped run left in `path`."""
        self._path = path
        self.cells: set[Cell] = set()
        if path is not None and path.exists():
            if resume:
                self.cells = {(int(x), int(y)) for x, y in _whole_lines(path)}
            else:
                path.unlink()

    def add(self, cell: Cell) -> None:
        """Remember a cell."""
        if cell not in self.cells:
            self.cells.add(cell)
            if self._path is not None:
                with self._path.open("a", encoding="ascii") as file:
                    file.write(f"{cell[0]} {cell[1]}\n")

    def forget(self) -> None:
        """Delete the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def rectangles(self) -> list[tuple[int, int, int, int]]:
        """Return the bounds of cells that hang together, as x, y, width and height, the largest first."""
        left, found = set(self.cells), []
        while left:
            group = _group(left)
            xs, ys = [x for x, _ in group], [y for _, y in group]
            found.append((min(xs) * CELL, min(ys) * CELL, (max(xs) - min(xs) + 1) * CELL,
                          (max(ys) - min(ys) + 1) * CELL))
        return sorted(found, key=lambda box: (-box[2] * box[3], box))


def _checked(region: Region | None, slide: Slide) -> Region:
    width, height = slide.dimensions
    if region is None:
        return 0, 0, width, height
    x, y, w, h = region
    require(x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height, "region",
            f"lie inside the {width}x{height} pixels of {slide.path.name}", "give x,y,width,height in level-0 pixels",
            ",".join(map(str, region)))
    return region


def _is_whole_or_nothing(path: Path) -> bool:
    """Whether a file is decoded at once: a PNG or JPEG, of which a thousand blocks would fail a thousand times."""
    reader = open_reader(path)
    reader.close()
    return isinstance(reader, PictureReader)


def _snapped(l0_corner: int, l0_side: int, downsample: float, level_side: int) -> tuple[int, int]:
    """Return the first pixel of a level and how many there are for a stretch of level 0."""
    first = min(round(l0_corner / downsample), level_side - 1)
    return first, min(max(1, round(l0_side / downsample)), level_side - first)


def _cuts(window: slice, offset: int, side: int) -> Iterator[slice]:
    """Cut a stretch where its position, counted from `offset` before it, is a multiple of `side`."""
    first = (window.start + offset) // side * side - offset
    for start in range(first, window.stop, side):
        yield slice(max(start, window.start), min(start + side, window.stop))


def _group(cells: set[Cell]) -> list[Cell]:
    """Take out of `cells` one and all that touch it, directly or by others."""
    group = [cells.pop()]
    for x, y in group:  # it grows meanwhile
        for near in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
            if near in cells:
                cells.remove(near)
                group.append(near)
    return group


def _whole_lines(path: Path) -> list[list[str]]:
    """Return the numbers of each line; a kill may have left half a line at the end."""
    text = path.read_text(encoding="ascii")
    return [line.split() for line in text[:text.rfind("\n") + 1].splitlines()]
