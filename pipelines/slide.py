# SPDX-License-Identifier: Apache-2.0
"""One interface to whole-slide images and pictures: levels, mpp, and regions as uint8 RGB.

    with open_slide("case.svs") as slide:
        patch = slide.read_at(4096, 8192, 256, 256, mpp=0.5)

Coordinates: `l0_` are pixels of level 0, `level_` pixels of a level. Pixel i of a plane that is d times coarser covers
level 0 from d*i to d*(i+1), so its centre is at d*i + (d-1)/2 (half-pixel centres). A region is given by its top left
corner in level 0 and its size in returned pixels. Pixels outside the slide, or transparent ones, are white.

Resolution is in microns per pixel (mpp), the mean of x and y. `read_at` takes the coarsest level that is at least as
fine as requested, and resamples it if needed (Lanczos, without aliasing). A level within `MPP_TOLERANCE` is taken as it
is, since real pixels are better than resampled ones.

With `average`, pixels are means of a level that is 2 to 4 times finer than requested, if the slide has one: coarse
levels were compressed again. A factor within `MPP_TOLERANCE` of a whole number is rounded to it.
"""
from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.errors import SlideError, slide_errors
from pipelines.pixels import WHITE, as_rgb
from pipelines.readers import Dimensions, Reader, limits, open_reader
from pipelines.readers.profiles import check_profile

__all__ = ["MPP_TOLERANCE", "Resolution", "Slide", "SlideError", "open_slide", "slide_id_of"]

# Scanners of one nominal magnification differ by this much: "40x" is 0.2275 to 0.2638.
MPP_TOLERANCE = 0.06
FINER = (2, 4)  # times finer than the result: less keeps the level's compression, more costs time
SQUARE_TOLERANCE = 0.1  # between microns per pixel in x and in y
SHAPE_TOLERANCE = 0.05  # some scanners pad the last tile of a level
LANCZOS_SUPPORT = 3  # of the widest filter below
BLOCK = 256
FOLDER_SUFFIXES = (".zarr", ".dicom")  # cut off; others are part of a UID or a date
LIKE_TISSUE = (200, 80, 160)


@dataclass(frozen=True)
class Resolution:
    """How a requested resolution is read: a level, and level-0 pixels per returned pixel. `mpp` is the true one.

    `averaged` is how many pixels of the level, per side, are averaged; None if none are.
    """

    level: int
    downsample: float
    mpp: float | None
    resampled: bool
    averaged: float | None = None

    @property
    def whole(self) -> int | None:
        """How many pixels of the level, per side, make one; None if pixels are resampled."""
        return self.averaged if isinstance(self.averaged, int) else None if self.resampled else 1


def open_slide(path: str | os.PathLike[str], assume_mpp: float | None = None) -> Slide:
    """Open a slide or picture; use it as a context manager.

    Args:
        path: A file that OpenSlide, tifffile or PIL reads; an OME-Zarr; or the folder of a DICOM series.
        assume_mpp: The mpp of level 0; it overrules the file's.

    Raises:
        FileNotFoundError: The file does not exist.
        SlideError: It is not a slide or picture, or is damaged.
    """
    path = Path(path)
    reader = open_reader(path)
    try:
        limits.check_pixels(path, reader.level_dimensions[0], limits.LARGEST_PIXELS, "no scanner makes so many, so it "
                            "is damaged or made up")
        return Slide(path, reader, assume_mpp)
    except SlideError:
        reader.close()
        raise


def slide_id_of(path: Path) -> str:
    """Return the name of a slide: that of its file without suffix, or of its folder."""
    name = path.name if path.is_dir() and path.suffix not in FOLDER_SUFFIXES else path.stem
    return name.removesuffix(".ome")


class Slide:
    """An open slide or picture. Created by `open_slide`."""

    def __init__(self, path: Path, reader: Reader, assume_mpp: float | None = None) -> None:
        self.path = path
        self.slide_id = slide_id_of(path)
        self.mpp = assume_mpp or reader.mpp
        self._stated_mpp = None if assume_mpp else reader.mpp_xy
        self.dimensions: Dimensions = reader.level_dimensions[0]
        self._levels = _true_levels(reader.level_dimensions)  # of the reader
        self.level_dimensions = tuple(reader.level_dimensions[level] for level in self._levels)
        self.level_downsamples = tuple(
            _true_downsample(reader.level_downsamples[level], self.dimensions, reader.level_dimensions[level])
            for level in self._levels)
        self._reader = reader

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    @property
    def icc_profile(self) -> bytes | None:
        """The colour profile of the RGB pixels; None if there is none. Pixels are never converted by it.

        Raises:
            SlideError: It is damaged, too large, or not for RGB.
        """
        if self._reader.icc_profile is not None:
            check_profile(self.path, self._reader.icc_profile)
        return self._reader.icc_profile

    def level_mpp(self, level: int) -> float | None:
        """Return the microns per pixel of a level, None if unknown."""
        return None if self.mpp is None else self.mpp * self.level_downsamples[level]

    def resolution(self, mpp: float | None = None, level: int = 0, average: bool = False) -> Resolution:
        """Return what `read_at` reads for `mpp`, or for `level` if that is None.

        Raises:
            SlideError: The slide has no mpp or no square pixels, is not as fine as requested, or has no such level.
        """
        mpp_x, mpp_y = self._stated_mpp or (1.0, 1.0)
        if max(mpp_x, mpp_y) > min(mpp_x, mpp_y) * (1 + SQUARE_TOLERANCE):
            raise SlideError(f"{self.path}: says that its pixels are not square, {mpp_x:.4g} x {mpp_y:.4g} microns; "
                             "resample it to square ones, or set --assume_mpp if the metadata is wrong")
        if mpp is None:
            if not 0 <= level < len(self.level_dimensions):
                raise SlideError(f"{self.path}: has levels 0 to {len(self.level_dimensions) - 1}; choose one of them. "
                                 f"Received: level={level}")
            return Resolution(level, self.level_downsamples[level], self.level_mpp(level), resampled=False)
        if self.mpp is None:
            lacks = f"says {mpp_x:.4g} microns per pixel, which is implausible" if self._stated_mpp else (
                "has no resolution metadata")
            raise SlideError(f"{self.path}: {lacks}; set --assume_mpp, "
                             f"or leave --mpp out. Received: mpp={mpp}")
        if mpp * (1 + MPP_TOLERANCE) < self.mpp:
            raise SlideError(f"{self.path}: has {self.mpp:.4g} microns per pixel at its finest; ask for that or more, "
                             f"since enlarged pixels are not ground truth. Received: mpp={mpp}")
        averaged = self._averaged(mpp, self.mpp) if average else None
        if averaged:
            return averaged
        limit = mpp * (1 + MPP_TOLERANCE)
        fine = [i for i, downsample in enumerate(self.level_downsamples) if self.mpp * downsample <= limit]
        level = max(fine, key=lambda i: self.level_downsamples[i])
        level_mpp = self.mpp * self.level_downsamples[level]
        if mpp <= level_mpp * (1 + MPP_TOLERANCE):
            return Resolution(level, self.level_downsamples[level], level_mpp, resampled=False)
        return Resolution(level, mpp / self.mpp, mpp, resampled=True)

    def _averaged(self, mpp: float, l0_mpp: float) -> Resolution | None:
        """Return the means of the finest suitable level; None if there is none."""
        for level, downsample in sorted(enumerate(self.level_downsamples), key=lambda pair: pair[1]):
            factor = mpp / (l0_mpp * downsample)
            whole = round(factor)
            if whole and abs(whole / factor - 1) <= MPP_TOLERANCE:
                factor = whole
            if FINER[0] <= factor <= FINER[1]:
                return Resolution(level, factor * downsample, factor * downsample * l0_mpp, True, factor)
        return None

    def read_region(self, l0_x: int, l0_y: int, level: int, width: int, height: int) -> np.ndarray:
        """Return uint8 [height, width, 3] of a level from the level pixel nearest to (l0_x, l0_y) on; see `read_at`."""
        return self.read_at(l0_x, l0_y, width, height, level=level)

    def read_at(self, l0_x: float, l0_y: float, width: int, height: int,
                mpp: float | None = None, level: int = 0, average: bool = False) -> np.ndarray:
        """Return `width` x `height` pixels at `mpp`, or at `level` if that is None, from (l0_x, l0_y) on.

        With `average` and a whole factor, the corner is the nearest pixel of the level. Returns uint8 [height, width,
        3], white outside the slide.

        Raises:
            SlideError: As `resolution`, or the pixels cannot be decoded.
        """
        wanted = self.resolution(mpp, level, average)
        whole = wanted.whole
        if whole:
            x, y = (round(position / self.level_downsamples[wanted.level]) for position in (l0_x, l0_y))
            pixels = self._window(wanted.level, x, y, whole * width, whole * height)
            return np.asarray(Image.fromarray(pixels).reduce(whole)) if whole > 1 else pixels
        # A mean over parts of pixels shifts by up to half a pixel; Hamming's window is a similar filter without shift.
        kind = Image.Resampling.HAMMING if wanted.averaged else Image.Resampling.LANCZOS
        return self.read_scaled(wanted.level, wanted.downsample, l0_x, l0_y, width, height, kind)

    def read_scaled(self, level: int, l0_per_pixel: float, l0_x: float, l0_y: float, width: int, height: int,
                    kind: Image.Resampling = Image.Resampling.LANCZOS) -> np.ndarray:
        """Return pixels of `l0_per_pixel` level-0 pixels each, resampled from a level; see `read_at`."""
        downsample = self.level_downsamples[level]
        factor = l0_per_pixel / downsample
        level_w, level_h = self.level_dimensions[level]
        left, top = l0_x / downsample, l0_y / downsample
        x, x_end = _span(left, width, factor, level_w)
        y, y_end = _span(top, height, factor, level_h)
        pixels = self._window(level, x, y, x_end - x, y_end - y)
        box = (left - x, top - y, left - x + width * factor, top - y + height * factor)
        return np.asarray(Image.fromarray(pixels).resize((width, height), kind, box=box))

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return stored pixels of a level, from its own pixel (x, y) on: uint8 [height, width, 3].

        `read_region` interpolates by up to half a pixel if the downsample is not a whole number.

        Raises:
            SlideError: The window leaves the level, or the pixels cannot be decoded.
        """
        level_w, level_h = self.level_dimensions[level]
        if not (0 <= x <= level_w - width and 0 <= y <= level_h - height):
            raise SlideError(f"{self.path}: level {level} has {level_w} x {level_h} pixels; choose a window inside. "
                             f"Received: {width} x {height} from {x},{y} on")
        return self._rgb(self._reader.read_own, level, x, y, width, height)

    def thumbnail(self, max_side: int) -> np.ndarray:
        """Return the whole slide without aliasing, its longer side at most `max_side` pixels: uint8 [th, tw, 3].

        Thumbnail pixel (u, v) covers level 0 from (u*w/tw, v*h/th) on. It is read block by block, so memory is bounded
        even for a large slide with one level, and tile after tile, so that large tiles are decoded about once. A block
        that cannot be read gets the colour of tissue, so that it is reported later.

        Raises:
            SlideError: No block can be read, or there are too many.
        """
        level = max((i for i, size in enumerate(self.level_dimensions) if max(size) >= max_side), default=0)
        limits.check_pixels(self.path, self.level_dimensions[level], limits.LARGEST_OVERVIEW_PIXELS,
                            "an overview of them takes hours; convert it to a TIFF with smaller levels (vips tiffsave "
                            "IN OUT.tif --tile --pyramid)")
        level_w, level_h = self.level_dimensions[level]
        factor = max(1, max(level_w, level_h) // max_side)
        side = max(1, BLOCK // factor) * factor
        tile_w, tile_h = (max(size, side) for size in self._reader.tile_sizes[self._levels[level]])
        corners = sorted(product(range(0, level_w, side), range(0, level_h, side)),
                         key=lambda corner: (corner[1] // tile_h, corner[0] // tile_w, corner[1], corner[0]))
        reduced = Image.new("RGB", (-(-level_w // factor), -(-level_h // factor)), LIKE_TISSUE)
        failures = []
        for x, y in corners:
            try:
                block = self._rgb(self._reader.read, level, x, y, min(side, level_w - x), min(side, level_h - y))
            except SlideError as error:
                failures.append(error)
            else:
                reduced.paste(Image.fromarray(block).reduce(factor), (x // factor, y // factor))
        if len(failures) == len(corners):
            raise failures[0]
        scale = min(1.0, max_side / max(self.dimensions))
        width, height = (max(1, round(length * scale)) for length in self.dimensions)
        box = (0, 0, level_w / factor, level_h / factor)
        return np.asarray(reduced.resize((width, height), Image.Resampling.HAMMING, box=box))

    def _window(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a window of a level, white outside it; the reader gets only the part inside."""
        level_w, level_h = self.level_dimensions[level]
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, level_w), min(y + height, level_h)
        window = np.full((height, width, 3), WHITE, np.uint8)
        if left < right and top < bottom:
            window[top - y:bottom - y, left - x:right - x] = self._rgb(
                self._reader.read, level, left, top, right - left, bottom - top)
        return window

    def _rgb(self, read: Callable[..., np.ndarray], level: int, *window: int) -> np.ndarray:
        """Return a window inside a level, by a method of the reader."""
        with slide_errors(self.path):
            return as_rgb(read(self._levels[level], *window), self.path.name)


def _true_levels(dimensions: tuple[Dimensions, ...]) -> list[int]:
    """Return the levels of the slide itself: a label has another shape, a mask the size of the level before."""
    width, height = dimensions[0]
    levels = [0]
    for level, (level_w, level_h) in enumerate(dimensions[1:], 1):
        # Sides are rounded, which is a large share of the shorter one of a narrow slide.
        same_shape = (abs(level_h - height * level_w / width) <= 2 + SHAPE_TOLERANCE * level_h
                      or abs(level_w - width * level_h / height) <= 2 + SHAPE_TOLERANCE * level_w)
        if same_shape and dimensions[level] != dimensions[levels[-1]]:
            levels.append(level)
    return levels


def _true_downsample(downsample: float, l0_size: Dimensions, level_size: Dimensions) -> float:
    """Return the whole number that a level was reduced by, if its size is that fraction rounded up or down.

    The quotient of the sizes, 3.9992 instead of 4, is half a pixel off at the end of a level of 3,000 pixels.
    """
    whole = round(downsample)
    off = [abs(level - l0 / whole) for l0, level in zip(l0_size, level_size, strict=True)]
    return float(whole) if max(off) <= 1 else downsample


def _span(start: float, size: int, factor: float, level_size: int) -> tuple[int, int]:
    """Return which pixels to read: those of the filter's support that lie inside the slide."""
    first, last = math.floor(start), math.ceil(start + size * factor)
    support = math.ceil(LANCZOS_SUPPORT * factor)
    return min(first, max(0, first - support)), max(last, min(level_size, last + support))
