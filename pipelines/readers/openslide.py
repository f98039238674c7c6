# SPDX-License-Identifier: Apache-2.0
"""Slides of all vendors that OpenSlide knows."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import tifffile

from pipelines.errors import SlideError, slide_errors
from pipelines.pixels import as_rgb
from pipelines.readers import limits
from pipelines.readers.colours import check_colours, is_plain, is_transparent
from pipelines.readers.folders import is_dicom
from pipelines.readers.frames import frames_of
from pipelines.readers.jpeg import JpegTiles
from pipelines.readers.limits import Dimensions
from pipelines.readers.openslide_process import open_by_library, tile_sizes
from pipelines.readers.plain import WHITE_IS_ZERO, TiffReader, is_mask, orientation_of, segment_bytes
from pipelines.readers.resolution import mean_mpp

COMPARED, SAME_COLOUR = 256, 2.0  # pixels in the middle of a level; grey levels between means
CRASHES = 8  # then a slide is read no more; each costs half a second


def open_by_openslide(path: Path) -> OpenSlideReader | None:
    """Return a reader, or None if OpenSlide does not read all of the file.

    Of a plain TIFF it reads neither OME-XML nor levels in SubIFDs, takes masks for levels, and turns each tile by
    itself if the image is stored turned. Grey of 16 bit comes out skewed, or inverted wrongly; the transparency of
    grey is lost, and any fourth number is taken for transparency. It decodes no bits, refuses some tiles without
    compression, and shows JFIF that is called RGB as it is stored. It takes the mpp of the first page and the pixels of
    the largest level, and of several images that are no levels the first.
    """
    vendor = "dicom" if is_dicom(path) else openslide.OpenSlide.detect_format(path)
    if vendor in ("generic-tiff", "aperio"):
        with tifffile.TiffFile(path) as file:
            limits.check_segments(path, [segment_bytes(file.pages[0])])
            check_colours(file.pages[0])
            if vendor == "generic-tiff" and (file.is_ome or any(map(is_mask, file.pages)) or _is_unfit(file)):
                return None
    try:
        return OpenSlideReader(path) if vendor else None
    except openslide.OpenSlideUnsupportedFormatError:  # DICOM that is no slide
        return None
    except openslide.OpenSlideError as error:
        if "Unsupported TIFF compression" not in str(error):
            raise
        return None


class OpenSlideReader:
    """A slide of a vendor that OpenSlide knows, cropped to the scanned area (its bounds), as viewers do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slide = open_by_library(path)
        self._crashes = 0
        self.level_dimensions: tuple[Dimensions, ...] = self._slide.level_dimensions
        self.level_downsamples: tuple[float, ...] = self._slide.level_downsamples
        self.tile_sizes: tuple[Dimensions, ...] = tile_sizes(self._slide)
        mpp_x, mpp_y = (float(self._slide.properties.get(f"openslide.mpp-{axis}", "nan")) for axis in "xy")
        self.mpp_xy = (mpp_x, mpp_y) if mpp_x > 0 and mpp_y > 0 else None
        self.mpp = mean_mpp(self.mpp_xy)
        self.icc_profile: bytes | None = self._slide._profile  # no public attribute gives it as it is stored
        canvas, bounds = self.level_dimensions[0], self._slide.properties
        self._corner = x, y = tuple(int(bounds.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
        l0_w, l0_h = (min(int(bounds.get(f"openslide.bounds-{side}", whole)) or whole, whole - corner)  # 0: all empty
                      for side, whole, corner in zip(("width", "height"), canvas, (x, y), strict=True))
        if (l0_w, l0_h) != canvas:
            self.level_dimensions = tuple((max(1, int(l0_w / factor)), max(1, int(l0_h / factor)))
                                          for factor in self.level_downsamples)
        self._twin: TiffReader | None = None
        self._twin_levels: dict[int, int | None] = {}  # the twin's level for each of this slide's
        self._tiles: dict[int, JpegTiles | None] = {}  # of each level that was read

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `pipelines.readers.Reader`."""
        # OpenSlide takes whole level-0 pixels. If the downsample is not an integer, this is up to half a level-0 pixel
        # off the level's grid, and it interpolates.
        downsample = self.level_downsamples[level]
        l0_corner = (self._corner[0] + round(x * downsample), self._corner[1] + round(y * downsample))
        try:
            pixels = np.asarray(self._slide.read_region(l0_corner, level, (width, height)))
        except (openslide.OpenSlideError, SlideError) as error:
            # After one error a handle repeats that error for every tile, so open a new one. A process apart does that.
            crashed = isinstance(error, SlideError)
            self._crashes += crashed
            if isinstance(self._slide, openslide.OpenSlide) or (crashed and self._crashes < CRASHES):
                self._slide.close()
                self._slide = open_by_library(self._path)
            raise
        self._check_tiles(level, x, y, width, height)
        return pixels

    def read_own(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `pipelines.readers.Reader`."""
        if self.level_downsamples[level].is_integer():
            return self.read(level, x, y, width, height)
        if level not in self._twin_levels:
            self._twin_levels[level] = self._level_of_twin(level)
        twin_level = self._twin_levels[level]
        if self._twin is None or twin_level is None:
            return self.read(level, x, y, width, height)
        return self._twin.read(twin_level, x, y, width, height)

    def close(self) -> None:
        """See `pipelines.readers.Reader`."""
        self._slide.close()
        if self._twin:
            self._twin.close()

    def _check_tiles(self, level: int, *window: int) -> None:
        """Refuse damaged JPEG data that OpenSlide shows: it obeys libjpeg's warnings, but only up to the last pixel.

        Most damage of data without restart markers is noticed by what is left over after it.

        Raises:
            ValueError: There are such data.
        """
        if level not in self._tiles:
            self._tiles[level] = self._tiles_of(level)
        tiles = self._tiles[level]
        if tiles:
            tiles.check(*window)

    def _tiles_of(self, level: int) -> JpegTiles | None:
        """Return the tiles of a level as they are stored, if they are JPEG and can be named."""
        vendor = self._slide.properties[openslide.PROPERTY_NAME_VENDOR]
        size, tile_size = self.level_dimensions[level], self.tile_sizes[level]
        try:
            with slide_errors(self._path):
                if vendor == "dicom":
                    return frames_of(self._path, size, tile_size)
                if vendor != "hamamatsu":  # whose levels are one JPEG each
                    self._twin = self._twin or TiffReader(self._path)
                    return self._twin.jpeg_tiles(size, tile_size)
        except SlideError:  # it is no TIFF
            pass
        return None

    def _level_of_twin(self, level: int) -> int | None:
        """Return tifffile's number of the same level if its colours are the same, else None."""
        try:
            with slide_errors(self._path):
                twin = self._twin = self._twin or TiffReader(self._path)
                width, height = self.level_dimensions[level]
                number = twin.level_dimensions.index((width, height))
                window = (width // 2, height // 2, min(COMPARED, width // 2), min(COMPARED, height // 2))
                ours, theirs = (as_rgb(pixels, self._path.name).mean(axis=(0, 1)) for pixels in (
                    self.read(level, *window), twin.read(number, *window)))
        except SlideError:
            return None
        return number if np.abs(ours - theirs).max() < SAME_COLOUR else None


def _is_unfit(file: tifffile.TiffFile) -> bool:
    """Whether OpenSlide reads a tiled TIFF wrongly or not at all; see `open_by_openslide`."""
    first, *others = file.pages
    size = first.imagewidth * first.imagelength
    return (any(page.imagewidth * page.imagelength >= size for page in others)
            or _is_unfit_page(first)
            or any(_is_unfit_page(page) or not is_plain(page) or page.samplesperpixel != first.samplesperpixel
                   for page in others if page.is_reduced))


def _is_unfit_page(page: tifffile.TiffPage) -> bool:
    return (page.dtype not in (None, np.uint8) or page.compression == 1 or bool(page.subifds)
            or orientation_of(page) != 1 or page.samplesperpixel == 2 or page.bitspersample != 8
            or (page.samplesperpixel == 4 and not is_transparent(page)) or page.photometric == WHITE_IS_ZERO
            or (page.is_jfif and page.photometric == tifffile.PHOTOMETRIC.RGB))
