# SPDX-License-Identifier: Apache-2.0
"""TIFFs that OpenSlide does not read, or not all of it: by tifffile, tile by tile or strip by strip."""
from __future__ import annotations

import io
import logging
import math
import operator
from collections import OrderedDict
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openslide
import tifffile
from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from tifffile import PHOTOMETRIC

from pipelines.errors import SlideError
from pipelines.readers import limits
from pipelines.readers.colours import check_channels, check_colours, is_plain, is_transparent
from pipelines.readers.jpeg import JPEG_CODES, JpegTiles, check_jpeg, whole
from pipelines.readers.limits import Dimensions
from pipelines.readers.resolution import mean_mpp, ome_mpp, tags_mpp

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NOT_THE_SLIDE = ("label", "macro", "overview", "thumbnail", "barcode")  # in names of images
ASSOCIATED = 1  # TIFF's ExtraSamples: transparency, and colours that are multiplied by it
WHITE_IS_ZERO = PHOTOMETRIC.MINISWHITE
BITS = (1, 8, 16)  # of a number; others would come out too dark
SAME_SHAPE = 0.02  # largest relative difference of two aspect ratios
MASK = 4  # TIFF's bit of NewSubfileType, and its photometric interpretation
APERIO_YCBCR = 33003  # JPEG 2000
PICTURE_CODES = (6, 7, 33003, 33004, 33005, 33007, 34712, 34892, 34933)  # compressions: JPEG, JPEG 2000, PNG
CODESTREAMS: dict[bytes, Any] = {b"\xff\xd8": JpegImageFile, b"\xff\x4f": Jpeg2KImageFile, b"\x89PNG": PngImageFile}
COD, COD_TRANSFORM = b"\xff\x52", 8  # marker of a JPEG 2000 codestream; offset of "components were transformed"

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what it then raises


def is_for_tifffile(path: Path) -> bool:
    """Whether the stored samples are grey or RGB; PIL converts others (palette, CMYK).

    Raises:
        SlideError: The file is damaged, or is one huge strip.
    """
    with tifffile.TiffFile(path) as file:
        # OpenSlide recognises every undamaged tiled TIFF that is not an OME-TIFF and has its bytes in the usual order.
        cut = (len(file.pages) > 0 and file.pages[0].is_tiled and not file.is_ome and file.byteorder == "<"
               and openslide.OpenSlide.detect_format(path) is None)
        if len(file.pages) == 0 or cut:
            raise SlideError(f"{path}: is truncated or damaged; copy it again")
        page = file.pages[0]
        limits.check_segments(path, [segment_bytes(page)])
        check_colours(page)
        return is_plain(page)


def check_jpeg_page(path: Path) -> None:
    """Refuse a TIFF that PIL reads if its first page is JPEG and damaged.

    Raises:
        ValueError: It is; see `check_jpeg`.
    """
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if page.compression in JPEG_CODES:
            for data, _ in file.filehandle.read_segments(page.dataoffsets, page.databytecounts):
                _check_codestream(data or b"", page)
                check_jpeg(whole(data or b"", page.jpegtables))


class TiffReader:
    """A TIFF that OpenSlide does not open, or not with all its levels: its largest image that is not a label."""

    def __init__(self, path: Path) -> None:
        self._file = tifffile.TiffFile(path)
        try:
            series = _slide_series(path, self._file)
            self._levels = _levels(self._file, series)
            _check(path, series, self._levels)
            if "C" in series.axes:
                check_channels(path, _channel_colours(self._file.ome_metadata, series.name))
        except SlideError:
            self._file.close()
            raise
        self.level_dimensions = tuple((level.sizes["width"], level.sizes["height"]) for level in self._levels)
        width, height = self.level_dimensions[0]
        self.level_downsamples = tuple((width / w + height / h) / 2 for w, h in self.level_dimensions)
        self.tile_sizes = tuple(_segment_grid(level.keyframe)[:2] for level in self._levels)
        self.mpp_xy = ome_mpp(self._file.ome_metadata, series.name, (width, height)) or tags_mpp(series.keyframe)
        self.mpp = mean_mpp(self.mpp_xy)
        self.icc_profile: bytes | None = series.keyframe.iccprofile
        self.orientation = orientation_of(series.keyframe)
        self._premultiplied = ASSOCIATED in series.keyframe.extrasamples
        self._transparent = is_transparent(series.keyframe)
        self._kept: OrderedDict[tuple[str, int, int], np.ndarray] = OrderedDict()
        self._kept_bytes = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `pipelines.readers.Reader`."""
        planes = [self._window(page, first, x, y, width, height) for page, first in _planes(self._levels[level])]
        pixels = np.concatenate(planes, axis=-1)
        if not self._transparent and pixels.shape[-1] in (2, 4):
            return pixels[..., :-1]
        if not self._premultiplied:
            return pixels
        light = np.iinfo(pixels.dtype).max - pixels[..., -1:]  # of the white behind them
        return pixels[..., :-1] + np.minimum(light, np.iinfo(pixels.dtype).max - pixels[..., :-1])

    read_own = read

    def jpeg_tiles(self, size: Dimensions, tile_size: Dimensions) -> JpegTiles | None:
        """Return the JPEG tiles of the level of this size; None if there is none, or it has other tiles."""
        if size not in self.level_dimensions:
            return None
        level = self._levels[self.level_dimensions.index(size)]
        page, keyframe = level.pages[0], level.keyframe
        fits = keyframe.is_tiled and (keyframe.tilewidth, keyframe.tilelength) == tile_size
        if not fits or keyframe.compression not in JPEG_CODES or len(_planes(level)) > 1:
            return None
        return JpegTiles(tile_size, _segment_grid(keyframe)[2], len(page.dataoffsets),
                         lambda index: whole(_data(page, index), page.jpegtables))

    def close(self) -> None:
        """See `pipelines.readers.Reader`."""
        for level in self._levels:
            for page in level.pages:
                page.parent.filehandle.close()
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
        """Return tile or strip `index` as [h, w, S], from memory if it was read recently."""
        key = (page.parent.filehandle.path, page.offset, index)
        if key not in self._kept:
            self._kept[key] = self._decode(page, index)
            self._kept_bytes += self._kept[key].nbytes
            while len(self._kept) > 1 and self._kept_bytes > limits.KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(key)
        return self._kept[key]

    def _decode(self, page: tifffile.TiffPage, index: int) -> np.ndarray:
        keyframe, data = page.keyframe, _data(page, index)
        _check_codestream(data, keyframe)
        if keyframe.compression in JPEG_CODES:
            check_jpeg(whole(data, page.jpegtables))
        segment, _, shape = keyframe.decode(data or None, index, jpegtables=page.jpegtables)
        if segment is None:  # a sparse file has no data for empty tiles: glass
            segment = np.full(shape, np.iinfo(keyframe.dtype).max, keyframe.dtype)
        elif keyframe.compression == APERIO_YCBCR and segment.shape[-1] == 3 and not _is_transformed(data):
            return np.asarray(Image.fromarray(segment[0], "YCbCr").convert("RGB"))
        return ~segment[0] if keyframe.photometric == WHITE_IS_ZERO else segment[0]


def segment_bytes(page: tifffile.TiffPage) -> int:
    """Return the size of a decoded tile or strip; 0 if the page does not tell."""
    return math.prod(map(int, page.chunks)) * page.dtype.itemsize if page.dtype else 0


def orientation_of(page: tifffile.TiffPage) -> int:
    """Return how a page is stored; 1 is upright."""
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag else 1


def is_mask(page: tifffile.TiffPage | tifffile.TiffFrame) -> bool:
    """Whether a page says where another one is transparent."""
    keyframe = page.keyframe
    return bool(keyframe.subfiletype & MASK) or keyframe.photometric == MASK


def _slide_series(path: Path, file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Return the image that is the slide: the largest that is not named as a label or overview.

    Raises:
        SlideError: An OME-TIFF names files outside its folder, an image has no pixels, or the largest is marked as a
            reduced one of a smaller.
    """
    if file.is_ome:
        for element in ElementTree.fromstring(file.ome_metadata).iterfind(".//{*}UUID[@FileName]"):
            name = element.get("FileName", "")
            if name in ("", "..") or PureWindowsPath(name).name != name:  # it takes both kinds of slashes
                raise SlideError(f"{path}: names a file outside its folder; put all its files into one folder and "
                                 f"correct the names in its OME-XML. Received: FileName={name!r}")
    if any(0 in series.shape for series in file.series):  # a damaged page, perhaps the slide's own
        raise SlideError(f"{path}: an image in it has a side of 0 pixels; the file is damaged, copy it again")
    named = [series for series in file.series if not any(word in series.name.lower() for word in NOT_THE_SLIDE)]
    slide = max(named or file.series, key=lambda series: series.sizes.get("width", 0) * series.sizes.get("height", 0))
    unreduced = [series.keyframe for series in file.series if not series.keyframe.is_reduced]
    aspects = [page.imagewidth / page.imagelength for page in (slide.keyframe, *unreduced)]
    if slide.keyframe.is_reduced and any(abs(other / aspects[0] - 1) < SAME_SHAPE for other in aspects[1:]):
        raise SlideError(f"{path}: its largest image is marked as a reduced one of a smaller image, so one of the two "
                         "is wrong; copy it again, or write it again with the largest image first")
    return slide


def _levels(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[tifffile.TiffPageSeries]:
    """Return the levels of an image, the largest first. tifffile takes one for another image if it is much smaller.

    What is stored in other colours than the image, or turned, is no level of it.
    """
    alike = [] if file.is_ome else [other for other in file.series if other is not series and other.keyframe.is_reduced
                                    and (other.axes, other.dtype) == (series.axes, series.dtype)]
    levels = [level for image in (series, *alike) for level in image.levels]
    return sorted((level for level in levels if level is series or _is_like(level.keyframe, series.keyframe)),
                  key=lambda level: -level.sizes["width"] * level.sizes["height"])


def _is_like(page: tifffile.TiffPage, slide: tifffile.TiffPage) -> bool:
    """Whether a page holds the same numbers for each pixel as the slide's own."""
    return not is_mask(page) and is_plain(page) and (
        (page.samplesperpixel, page.extrasamples, orientation_of(page))
        == (slide.samplesperpixel, slide.extrasamples, orientation_of(slide)))


def _check(path: Path, series: tifffile.TiffPageSeries, levels: list[tifffile.TiffPageSeries]) -> None:
    """Refuse what is not a picture of 8 or 16 bit, and a file that ends before its last tile.

    Raises:
        SlideError: It is one of these.
    """
    axes = series.axes
    channels = series.shape[axes.index("C")] if "C" in axes else 1
    if axes not in ("YX", "YXS", "SYX", "CYX") or channels not in (1, 3):
        raise SlideError(f"{path}: must hold one plane of grey or RGB; convert it first. "
                         f"Received: {axes}={series.shape}")
    if series.dtype not in (np.uint8, np.uint16, np.bool_):
        raise SlideError(f"{path}: must hold 8 or 16 bit pixels; convert it to 8 bit. Received: {series.dtype}")
    if not is_plain(series.keyframe):
        raise SlideError(f"{path}: its largest image is {series.keyframe.photometric.name}; save it again as RGB")
    for level in levels:
        if level.keyframe.bitspersample not in BITS:
            raise SlideError(f"{path}: must hold numbers of 8 or 16 bit; convert it to 8 bit. "
                             f"Received: {level.keyframe.bitspersample} bits")
        check_colours(level.keyframe)
    pages = [page for level in levels for page in level.pages]
    if None in pages:
        raise SlideError(f"{path}: a file that its OME-XML names is missing; put all its files into one folder")
    limits.check_segments(path, (segment_bytes(page.keyframe) for page in pages))
    if not all(map(_is_complete, pages)):
        raise SlideError(f"{path}: is truncated; copy it again")


def _channel_colours(xml: str | None, name: str) -> list[str | None]:
    """Return the colours of the channels of an OME-XML's image, RRGGBB."""
    images = [image for image in (ElementTree.fromstring(xml).iterfind(".//{*}Image") if xml else ())
              if image.get("Name", name) == name]
    channels = [channel.get("Color") for channel in (images[0].iterfind(".//{*}Channel") if images else ())]
    return [colour and f"{int(colour) >> 8 & 0xFFFFFF:06X}" for colour in channels]  # RGBA of 32 bit, signed


def _is_complete(page: tifffile.TiffPage) -> bool:
    """Whether all tiles or strips are listed and lie within the file."""
    ends = map(operator.add, page.dataoffsets, page.databytecounts)
    return len(page.dataoffsets) >= math.prod(page.keyframe.chunked) and max(ends) <= page.parent.filehandle.size


def _planes(level: tifffile.TiffPageSeries) -> list[tuple[tifffile.TiffPage, int]]:
    """Return (page, its first segment) for each plane of a level: one, unless channels are stored separately."""
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


def _data(page: tifffile.TiffPage, index: int) -> bytes:
    """Return a tile or strip as it is stored."""
    file = page.parent.filehandle  # channels may lie in several files
    if file.closed:
        file.open()
    file.seek(page.dataoffsets[index])
    return bytes(file.read(page.databytecounts[index]))


def _check_codestream(data: bytes, keyframe: tifffile.TiffPage) -> None:
    """Refuse a picture that is much larger than its tile or strip: decoders believe the size that it states.

    Raises:
        SlideError: It is.
    """
    kind = next((kind for magic, kind in CODESTREAMS.items() if data.startswith(magic)), None)
    if kind and keyframe.compression in PICTURE_CODES:  # else it begins so by chance
        with kind(io.BytesIO(data)) as image:  # unlike Image.open it accepts pictures of any size
            size = image.size
        limits.check_pixels(Path(keyframe.parent.filename), size, 4 * math.prod(_segment_grid(keyframe)[:2]),
                            "that is no tile of it; it is damaged, copy it again")


def _is_transformed(codestream: bytes) -> bool:
    """Whether a JPEG 2000 decoder itself turns the components into RGB."""
    found = codestream.find(COD)
    return found >= 0 and codestream[found + COD_TRANSFORM:found + COD_TRANSFORM + 1] == b"\1"
