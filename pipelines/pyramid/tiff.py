# SPDX-License-Identifier: Apache-2.0
"""The levels of a pyramid, tiles as pixels and as bytes, and the finished BigTIFF or OME-TIFF.

A pixel of level k covers 2^k x 2^k pixels of level 0: pixel i is the mean of pixels 2i and 2i + 1 of the level above
(half-pixel centres). Sides are rounded up, so that an odd last row or column is kept and a tile covers exactly 2x2
tiles. OpenSlide's downsample, the quotient of the sides, differs from 2^k by less than a pixel over the whole side.

Tiles are uint8 [side, side, 3]. Border tiles are filled up with their last pixels, which costs few bytes and avoids
JPEG ringing; readers cut it off.

The file is always a BigTIFF, since its size is not known before the end. The resolution tags of level k are mpp * 2^k.
There is no date, label or software name.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from pipelines.errors import require

FORMATS = ("tiff", "ome", "dicom", "zarr")
THUMBNAIL = 512  # the longest side of the last level, at most
LARGEST_TILE = 4096
# For tissue, level 6 saves 1.5% of the bytes of level 1 and takes 1.5 times as long.
DEFLATE_LEVEL = 1
SUBSAMPLING, POSITIONING, SHORT, CENTRED = 530, 531, 3, 1  # two tags, a type and a value
REDUCED = 1  # NewSubfileType: a smaller version of another image in the file
MICRONS_PER_CM = 1e4
OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


@dataclass(frozen=True)
class PyramidOptions:
    """How a slide is written: side of the tiles, JPEG quality (4:4:4) or None for lossless, and the format.

    Lossless is deflate with horizontal differences: every TIFF reader has it, and it is smaller than LZW. `tiff` keeps
    its levels as pages, for OpenSlide (QuPath) and libvips; `ome` as SubIFDs, for Bio-Formats. `dicom` and `zarr` are
    folders: see the modules of these names. Lossless DICOM is JPEG 2000, and Zarr is always lossless.
    """

    tile: int = 512
    quality: int | None = 90
    format: str = "tiff"

    def __post_init__(self) -> None:
        require(self.tile % 16 == 0 and 16 <= self.tile <= LARGEST_TILE, "tile",
                f"be a multiple of 16 up to {LARGEST_TILE}", "TIFF requires it, 512 suits all readers", self.tile)
        require(self.quality is None or 1 <= self.quality <= 100, "quality", "lie in 1 to 100",
                "90 is usual", self.quality)
        require(self.format in FORMATS, "format", f"be one of {FORMATS}", "'tiff' suits OpenSlide", self.format)


@dataclass(frozen=True)
class Level:
    """The size of one level in its own pixels, and the grid of its tiles."""

    width: int
    height: int
    tile: int

    @property
    def rows(self) -> int:
        """Number of rows of tiles."""
        return -(-self.height // self.tile)

    @property
    def columns(self) -> int:
        """Number of columns of tiles."""
        return -(-self.width // self.tile)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns

    @property
    def places(self) -> Iterator[tuple[int, int]]:
        """Row and column of each tile, row by row."""
        return product(range(self.rows), range(self.columns))

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return x, y, width and height of a tile, without its padding."""
        x, y = column * self.tile, row * self.tile
        return x, y, min(self.tile, self.width - x), min(self.tile, self.height - y)


def levels_of(width: int, height: int, tile: int) -> tuple[Level, ...]:
    """Return the levels of a slide, each half of the one before, down to a thumbnail."""
    levels = [Level(width, height, tile)]
    while max(levels[-1].width, levels[-1].height) > THUMBNAIL:
        levels.append(Level(-(-levels[-1].width // 2), -(-levels[-1].height // 2), tile))
    return tuple(levels)


def filled_up(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return a copy of [h, w, 3] as [side, side, 3] with the last row and column repeated."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)), mode="edge")


def encode(pixels: np.ndarray, options: PyramidOptions) -> bytes:
    """Return uint8 [side, side, 3] as the bytes of a TIFF tile. It releases the interpreter lock."""
    if options.quality is None and options.format == "dicom":
        return bytes(imagecodecs.jpeg2k_encode(pixels, reversible=True, level=0, codecformat="j2k", mct=True))
    if options.quality is None:
        differences = imagecodecs.delta_encode(pixels, axis=-2).tobytes()
        return bytes(imagecodecs.deflate_encode(differences, level=DEFLATE_LEVEL))
    # Optimised Huffman tables halve a tile of glass and save 3% of tissue, still at about 90 Mpixel/s.
    return bytes(imagecodecs.jpeg8_encode(pixels, level=options.quality, colorspace="rgb", outcolorspace="ycbcr",
                                          subsampling=(1, 1), optimize=True))


def decode(data: bytes, options: PyramidOptions) -> np.ndarray:
    """Return the tile of `encode` as uint8 [side, side, 3]."""
    if options.quality is None and options.format == "dicom":
        return imagecodecs.jpeg2k_decode(data)
    if options.quality is None:
        shape = (options.tile, options.tile, 3)
        differences = np.frombuffer(imagecodecs.deflate_decode(data, out=options.tile**2 * 3), np.uint8)
        return imagecodecs.delta_decode(differences.reshape(shape), axis=-2)
    return imagecodecs.jpeg8_decode(data)


def reduced(tiles: Sequence[Sequence[bytes]], shown: Level, row: int, column: int,
            options: PyramidOptions) -> bytes:
    """Return the encoded tile for up to 2x2 encoded tiles (rows of columns) of the level `shown`."""
    def part(i: int, j: int) -> np.ndarray:
        _, _, width, height = shown.box(row + i, column + j)
        return decode(tiles[i][j], options)[:height, :width]

    block = np.concatenate([np.concatenate([part(i, j) for j in range(len(line))], axis=1)
                            for i, line in enumerate(tiles)])
    half = np.asarray(Image.fromarray(block).reduce(2))  # rounded 2x2 means; at an odd border, the mean of fewer pixels
    return encode(filled_up(half, options.tile), options)


def write_tiff(path: Path, levels: Sequence[Level], tiles: Callable[[int], Iterable[bytes]], options: PyramidOptions,
               mpp: float | None, description: str, icc_profile: bytes | None = None) -> None:
    """Write a pyramid: its levels, the largest first, and their encoded tiles, row by row.

    `mpp` is that of level 0, None if unknown. `description` is the text of ImageDescription, in an OME-TIFF of the
    image. Every level has the colour profile.
    """
    ome = options.format == "ome"
    comment = _ome_xml(levels[0], mpp, description) if ome else printable(description)
    encoding: dict[str, Any] = {"compression": "jpeg", "subsampling": (1, 1)}
    if options.quality is None:
        encoding = {"compression": "adobe_deflate", "predictor": True}
    with tifffile.TiffWriter(path, bigtiff=True, byteorder="<", ome=False) as tiff:
        for i, level in enumerate(levels):
            place: dict[str, Any] = {"subfiletype": REDUCED}
            if i == 0:
                place = {"subfiletype": 0, "description": comment.encode(), "subifds": len(levels) - 1 if ome else 0}
            if mpp is not None:
                place |= {"resolution": (MICRONS_PER_CM / (mpp * 2**i),) * 2, "resolutionunit": "CENTIMETER"}
            tiff.write(iter(tiles(i)), shape=(level.height, level.width, 3), dtype=np.uint8, photometric="rgb",
                       tile=(level.tile, level.tile), metadata=None, software=False, iccprofile=icc_profile,
                       **encoding, **place)
    if ome and options.quality is not None:
        _leave_subsampling_to_the_tiles(path)


def _ome_xml(level: Level, mpp: float | None, description: str) -> str:
    """Return the OME-XML of one RGB image, in UTF-8.

    It has no character references: Bio-Formats 7.3 does not understand the unit `&#181;m`.
    """
    size = {} if mpp is None else {"PhysicalSizeX": repr(mpp), "PhysicalSizeXUnit": "µm",
                                   "PhysicalSizeY": repr(mpp), "PhysicalSizeYUnit": "µm"}
    root = ElementTree.Element("OME", {
        "xmlns": OME, "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
        "xsi:schemaLocation": f"{OME} {OME}/ome.xsd"})
    image = ElementTree.SubElement(root, "Image", {"ID": "Image:0"})
    ElementTree.SubElement(image, "Description").text = printable(description)
    pixels = ElementTree.SubElement(image, "Pixels", {
        "ID": "Pixels:0", "DimensionOrder": "XYCZT", "Type": "uint8", "SizeX": str(level.width),
        "SizeY": str(level.height), "SizeC": "3", "SizeZ": "1", "SizeT": "1", "BigEndian": "false",
        "Interleaved": "true", **size})
    ElementTree.SubElement(pixels, "Channel", {"ID": "Channel:0:0", "SamplesPerPixel": "3"})
    ElementTree.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": "1"})
    return '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, encoding="unicode")


def printable(text: str) -> str:
    """Return a text without characters that TIFF or XML cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def _leave_subsampling_to_the_tiles(path: Path) -> None:
    """Replace the tag YCbCrSubSampling, which every JPEG tile repeats, by YCbCrPositioning (centred).

    With 4:4:4 in this tag, Bio-Formats 7.3 (QuPath, Fiji, OMERO) converts RGB tiles from YCbCr again, and all is pink
    (its issues 3711 and 4166). Without it, GDAL and OpenCV warn and ITK refuses the file, so plain TIFFs keep it.
    """
    with tifffile.TiffFile(path, mode="r+") as tiff:
        pages = [page for first in tiff.pages for page in (first, *(first.pages or ()))]
        for place in [page.tags[SUBSAMPLING].offset for page in pages]:
            tiff.filehandle.seek(place)
            tiff.filehandle.write(struct.pack("<HHQQ", POSITIONING, SHORT, 1, CENTRED))
