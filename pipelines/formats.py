"""What the three readers know of a file: its levels, its mpp, and its pixels as they were stored.

A reader is chosen by content, never by name: OpenSlide for whatever it recognises, tifffile for the TIFFs it does not
(OME-TIFF above all, striped ones, newer compressions), PIL for everything else (PNG, JPEG, BMP, palette and CMYK TIFF).
All obey `Reader`. `pipelines.slide` makes RGB of what they return and is what the rest of the project uses.

Memory: OpenSlide and tifffile read the tiles or strips that a window touches; tifffile keeps the last `KEPT_BYTES` of
them. A plain image is decoded once, whole.
"""
from __future__ import annotations

import logging
import operator
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import numpy as np
import openslide
import tifffile
from PIL import Image, UnidentifiedImageError

from pipelines.errors import UserError
from pipelines.pixels import as_rgb

KEPT_BYTES = 256 * 2**20
COMPARED, SAME_COLOUR = 256, 2.0  # pixels in the middle of a level; grey levels between means
LARGEST_SEGMENT_BYTES = 2**30
# Outside of this a resolution is that of a printer or a screen (72 dpi is 353 microns per pixel), not of a microscope.
PLAUSIBLE_MPP = (0.01, 20.0)
PLAIN_IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MICRONS = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}

Dimensions = tuple[int, int]

# tifffile logs what it then raises; a user should read it once.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class SlideError(UserError):
    """A slide or image cannot be read, or cannot be read as asked; the message names the file."""


class Reader(Protocol):
    """One open file. `level_dimensions` are (width, height), `mpp` is that of level 0."""

    level_dimensions: tuple[Dimensions, ...]
    level_downsamples: tuple[float, ...]
    mpp: float | None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return [height, width] or [height, width, C] as stored; the window lies inside the level."""

    def read_own(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return the same, also where `read` interpolates between pixels of the level."""

    def close(self) -> None:
        """Close the file."""


def open_reader(path: Path) -> Reader:
    """Return the reader that can open `path`.

    Raises:
        FileNotFoundError: There is no such file.
        SlideError: None of the three can open it.
    """
    if not path.is_file():
        raise FileNotFoundError("`path` must name a slide or image file; check the spelling. "
                                f"Received: path={str(path)!r}")
    with told_by_file(path):
        with path.open("rb") as file:
            magic = file.read(4)
        if magic.startswith(PLAIN_IMAGE_MAGIC):
            return PlainReader(path)
        vendor = openslide.OpenSlide.detect_format(path)
        if vendor is not None and not (vendor == "generic-tiff" and _is_beyond_openslide(path)):
            try:
                return OpenSlideReader(path)
            except openslide.OpenSlideError as error:
                if "Unsupported TIFF compression" not in str(error):
                    raise
        if magic in TIFF_MAGIC and _is_for_tifffile(path):
            return TiffReader(path)
        return PlainReader(path)


@contextmanager
def told_by_file(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a broken file into a SlideError that names the file."""
    try:
        yield
    except (SlideError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise SlideError(f"{path}: is no slide or image that OpenSlide, tifffile or PIL can read") from error
    except Exception as error:  # decoders of other people's bytes raise every kind there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(f"{path}: cannot be read as a slide or image ({reason})") from error


class OpenSlideReader:
    """A slide of any vendor OpenSlide knows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slide = openslide.OpenSlide(path)
        self.level_dimensions: tuple[Dimensions, ...] = self._slide.level_dimensions
        self.level_downsamples: tuple[float, ...] = self._slide.level_downsamples
        keys = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        self.mpp = mean_mpp(*[float(self._slide.properties.get(key, "nan")) for key in keys])
        self._twin: TiffReader | None = None
        self._twin_levels: dict[int, int | None] = {}  # of the twin, for each of ours
        self.bounds_corner = (int(self._slide.properties.get(openslide.PROPERTY_NAME_BOUNDS_X, 0)),
                              int(self._slide.properties.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0)))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        # OpenSlide takes whole level-0 pixels. Where the downsample is no integer that is up to half a
        # level-0 pixel beside the level's own grid, and it interpolates.
        downsample = self.level_downsamples[level]
        l0_corner = (round(x * downsample), round(y * downsample))
        try:
            return np.asarray(self._slide.read_region(l0_corner, level, (width, height)))
        except openslide.OpenSlideError:
            # After one error a handle answers everything with that error: the good tiles need a new one.
            self._slide.close()
            self._slide = openslide.OpenSlide(self._path)
            raise

    def read_own(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        if self.level_downsamples[level].is_integer():
            return self.read(level, x, y, width, height)
        if level not in self._twin_levels:
            self._twin_levels[level] = self._level_of_twin(level)
        twin_level = self._twin_levels[level]
        if self._twin is None or twin_level is None:
            return self.read(level, x, y, width, height)
        return self._twin.read(twin_level, x, y, width, height)

    def close(self) -> None:
        self._slide.close()
        if self._twin:
            self._twin.close()

    def _level_of_twin(self, level: int) -> int | None:
        """Return where tifffile has the same level in the same colours; None where it has not, and `read` must do."""
        try:
            with told_by_file(self._path):
                twin = self._twin = self._twin or TiffReader(self._path)
                width, height = self.level_dimensions[level]
                number = twin.level_dimensions.index((width, height))
                window = (width // 2, height // 2, min(COMPARED, width // 2), min(COMPARED, height // 2))
                ours, theirs = (as_rgb(pixels, self._path.name).mean(axis=(0, 1)) for pixels in (
                    self.read(level, *window), twin.read(number, *window)))
        except SlideError:
            return None
        return number if np.abs(ours - theirs).max() < SAME_COLOUR else None


class TiffReader:
    """A TIFF that OpenSlide does not open, or not with all its levels. They are those of its first series."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = tifffile.TiffFile(path)
        series = self._file.series[0]
        axes = series.axes
        channels = series.shape[axes.index("C")] if "C" in axes else 1
        if axes not in ("YX", "YXS", "SYX", "CYX") or channels not in (1, 3):
            self._file.close()
            raise SlideError(f"{path}: must hold one plane of grey or RGB; convert it first. "
                             f"Received: {axes}={series.shape}")
        if series.dtype not in (np.uint8, np.uint16, np.bool_):
            self._file.close()
            raise SlideError(f"{path}: must hold 8 or 16 bit pixels; convert it to 8 bit. Received: {series.dtype}")
        self._levels = series.levels
        self._refuse_truncated()
        self.level_dimensions = tuple((level.sizes["width"], level.sizes["height"]) for level in self._levels)
        self.level_downsamples = downsamples(self.level_dimensions)
        self.mpp = _ome_mpp(self._file.ome_metadata) or _resolution_mpp(series.keyframe)
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._kept_bytes = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        planes = [self._window(page, first, x, y, width, height) for page, first in _planes(self._levels[level])]
        return np.concatenate(planes, axis=-1)

    read_own = read

    def close(self) -> None:
        self._file.close()

    def _window(self, page: tifffile.TiffPage, first: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return [height, width, S] of one plane, decoding the tiles or strips that the window touches."""
        segment_w, segment_h, columns = _segment_grid(page.keyframe)
        rows_touched = range(y // segment_h, (y + height - 1) // segment_h + 1)
        columns_touched = range(x // segment_w, (x + width - 1) // segment_w + 1)

        def part(row: int, column: int) -> np.ndarray:
            segment = self._segment(page, first + row * columns + column)
            top, left = row * segment_h, column * segment_w
            return segment[max(y - top, 0):y + height - top, max(x - left, 0):x + width - left]

        return np.concatenate([np.concatenate([part(r, c) for c in columns_touched], 1) for r in rows_touched], 0)

    def _segment(self, page: tifffile.TiffPage, index: int) -> np.ndarray:
        """Return tile or strip `index` as [h, w, S], from memory where it was read lately."""
        key = (page.offset, index)
        if key not in self._kept:
            self._kept[key] = self._decode(page, index)
            self._kept_bytes += self._kept[key].nbytes
            while len(self._kept) > 1 and self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(key)
        return self._kept[key]

    def _decode(self, page: tifffile.TiffPage, index: int) -> np.ndarray:
        keyframe, file = page.keyframe, self._file.filehandle
        file.seek(page.dataoffsets[index])
        data = file.read(page.databytecounts[index])
        segment, _, shape = keyframe.decode(data or None, index, jpegtables=page.jpegtables)
        if segment is None:  # a sparse file leaves out what is empty: glass
            segment = np.full(shape, np.iinfo(keyframe.dtype).max, keyframe.dtype)
        return segment[0]

    def _refuse_truncated(self) -> None:
        pages = [page for level in self._levels for page in level.pages]
        ends = [max(map(operator.add, page.dataoffsets, page.databytecounts)) for page in pages]
        if max(ends) > self._file.filehandle.size:
            raise SlideError(f"{self._path}: is truncated; copy it again")


class PlainReader:
    """An image with one level and no mpp (what its dpi say is about paper), decoded on the first read."""

    level_downsamples: tuple[float, ...] = (1.0,)
    mpp: float | None = None

    def __init__(self, path: Path) -> None:
        try:
            with warnings.catch_warnings():  # PIL warns of pictures that it takes; what is too large is refused
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                self._image = Image.open(path)
        except Image.DecompressionBombError as error:
            raise SlideError(f"{path}: has more than the {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels of a picture that "
                             "is read whole; make a tiled TIFF of it, for instance by vips tiffsave IN OUT.tif --tile "
                             "--pyramid") from error
        self._pixels: np.ndarray | None = None
        self.level_dimensions: tuple[Dimensions, ...] = (self._image.size,)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        if self._pixels is None:
            self._pixels = np.asarray(self._image.convert(_plain_mode(self._image)))
        return self._pixels[y:y + height, x:x + width]

    read_own = read

    def close(self) -> None:
        self._image.close()


def downsamples(dimensions: tuple[Dimensions, ...]) -> tuple[float, ...]:
    """Return level-0 pixels per level pixel, the mean of both axes."""
    width, height = dimensions[0]
    return tuple((width / w + height / h) / 2 for w, h in dimensions)


def mean_mpp(mpp_x: float, mpp_y: float) -> float | None:
    """Return the mean microns per pixel, or None where that is no resolution of a microscope."""
    mpp = (mpp_x + mpp_y) / 2
    return mpp if PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1] else None


def _is_beyond_openslide(path: Path) -> bool:
    """Whether OpenSlide opens a TIFF and can't do it justice.

    Of an OME-TIFF it sees neither levels nor mpp; of other numbers than pixels it reads nothing.
    """
    with tifffile.TiffFile(path) as file:
        dtype = file.pages[0].dtype
        return file.is_ome or (dtype is not None and (dtype.kind == "f" or dtype.itemsize > 2))


def _is_for_tifffile(path: Path) -> bool:
    """Whether the stored samples are grey or RGB as they are; PIL converts the others (palette, CMYK, inverted)."""
    with tifffile.TiffFile(path) as file:
        # OpenSlide recognises every whole TIFF that is tiled and no OME-TIFF.
        known_tiled = openslide.OpenSlide.detect_format(path) is not None
        if len(file.pages) == 0 or (file.pages[0].is_tiled and not file.is_ome and not known_tiled):
            raise SlideError(f"{path}: is truncated or damaged; copy it again")
        page = file.pages[0]
        size = int(np.prod(page.chunks)) * page.dtype.itemsize
        if size > LARGEST_SEGMENT_BYTES:
            raise SlideError(f"{path}: is one strip of {size / 2**30:.1f} GiB; convert it to a tiled TIFF")
        is_jpeg = page.compression in (6, 7)
        return page.photometric.name in ("RGB", "MINISBLACK") or (page.photometric.name == "YCBCR" and is_jpeg)


def _planes(level: tifffile.TiffPageSeries) -> list[tuple[tifffile.TiffPage, int]]:
    """Return (page, its first segment) for each plane of a level: one, unless channels are stored apart."""
    if level.axes in ("YX", "YXS"):
        return [(level.pages[0], 0)]
    count = level.shape[0]
    if len(level.pages) == count:
        return [(page, 0) for page in level.pages]
    segments = len(level.pages[0].dataoffsets) // count
    return [(level.pages[0], plane * segments) for plane in range(count)]


def _segment_grid(keyframe: tifffile.TiffPage) -> tuple[int, int, int]:
    """Return the width and height of a tile or strip, and how many lie side by side."""
    width = keyframe.tilewidth if keyframe.is_tiled else keyframe.imagewidth
    height = keyframe.tilelength if keyframe.is_tiled else min(keyframe.rowsperstrip, keyframe.imagelength)
    return width, height, -(-keyframe.imagewidth // width)


def _ome_mpp(xml: str | None) -> float | None:
    """Return the mean PhysicalSize of an OME-XML's first image in microns."""
    pixels = ElementTree.fromstring(xml).find(".//{*}Pixels") if xml else None
    if pixels is None:
        return None
    sizes = [float(pixels.get(f"PhysicalSize{axis}", "nan")) for axis in "XY"]
    units = [MICRONS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), np.nan) for axis in "XY"]
    return mean_mpp(sizes[0] * units[0], sizes[1] * units[1])


def _resolution_mpp(page: tifffile.TiffPage) -> float | None:
    """Return what the TIFF resolution tags say, where they have a unit."""
    if page.resolutionunit <= 1:
        return None
    per_micron = page.get_resolution(tifffile.RESUNIT.MICROMETER)
    return mean_mpp(*[1 / value if value else np.nan for value in per_micron])


def _plain_mode(image: Image.Image) -> str:
    """Return the mode to convert to before the pixels are taken: one that `pipelines.pixels.as_rgb` understands."""
    if image.mode in ("P", "PA") or "transparency" in image.info:
        return "RGBA"
    return image.mode if image.mode in ("1", "L", "LA", "RGB", "RGBA") or image.mode.startswith("I;16") else "RGB"
