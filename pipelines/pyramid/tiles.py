"""The levels of a pyramid, and tiles as pixels and as bytes.

Level k has 2^k level-0 pixels to a pixel, half-pixel centred: its pixel i is the mean of pixels 2i and 2i + 1 of the
level above. Sides are rounded up, so that the last row and column of an odd side are kept (as their own mean) where
rounding down would cut them off, and so that a tile lies under exactly its own 2x2 tiles. What OpenSlide computes
as the downsample, the quotient of the sides, differs from 2^k by less than one pixel over the whole side.

Tiles are uint8 [side, side, 3]. Those at the right and lower border are filled up by repeating the last pixel, which
costs few bytes and gives a JPEG no edge to ring at; readers cut it off.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np
from PIL import Image

from pipelines.errors import require

FORMATS = ("tiff", "ome")
THUMBNAIL = 512  # the longest side of the last level, at most
LARGEST_TILE = 4096
# Of tissue, level 6 takes 1.5% fewer bytes than level 1 and half as long again.
DEFLATE_LEVEL = 1


@dataclass(frozen=True)
class PyramidOptions:
    """How a slide is written: the side of its tiles, JPEG of a quality (4:4:4) or None for lossless, and the format.

    Lossless is deflate with horizontal differences: every TIFF reader has it, and it is smaller than LZW. `tiff` keeps
    its levels as pages, for OpenSlide (which QuPath has) and libvips, `ome` as SubIFDs, for Bio-Formats.
    """

    tile: int = 512
    quality: int | None = 90
    format: str = "tiff"

    def __post_init__(self) -> None:
        require(self.tile % 16 == 0 and 16 <= self.tile <= LARGEST_TILE, "tile",
                f"be a multiple of 16 up to {LARGEST_TILE}", "TIFF wants that, 512 suits all readers", self.tile)
        require(self.quality is None or 1 <= self.quality <= 100, "quality", "lie in 1 to 100",
                "90 is good", self.quality)
        require(self.format in FORMATS, "format", f"be one of {FORMATS}", "choose one of these", self.format)


@dataclass(frozen=True)
class Level:
    """The size of one level in its own pixels, and the grid of its tiles."""

    width: int
    height: int
    tile: int

    @property
    def rows(self) -> int:
        """How many tiles lie one below the other."""
        return -(-self.height // self.tile)

    @property
    def columns(self) -> int:
        """How many tiles lie side by side."""
        return -(-self.width // self.tile)

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return self.rows * self.columns

    def has(self, row: int, column: int) -> bool:
        """Whether there is such a tile."""
        return 0 <= row < self.rows and 0 <= column < self.columns

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return x, y, width and height of what a tile shows, without what fills it up."""
        x, y = column * self.tile, row * self.tile
        return x, y, min(self.tile, self.width - x), min(self.tile, self.height - y)


def levels_of(width: int, height: int, tile: int) -> tuple[Level, ...]:
    """Return the levels of a slide of that size, each half of the one before, down to a thumbnail."""
    levels = [Level(width, height, tile)]
    while max(levels[-1].width, levels[-1].height) > THUMBNAIL:
        levels.append(Level(-(-levels[-1].width // 2), -(-levels[-1].height // 2), tile))
    return tuple(levels)


def filled_up(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return a copy of [h, w, 3] as [side, side, 3], the last row and column repeated."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)), mode="edge")


def half(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 [h, w, 3] at half its size: 2x2 means, rounded; at an odd border the mean of what is there."""
    return np.asarray(Image.fromarray(pixels).reduce(2))


def encode(pixels: np.ndarray, options: PyramidOptions) -> bytes:
    """Return uint8 [side, side, 3] as the bytes of a TIFF tile. The interpreter is free meanwhile."""
    if options.quality is None:
        differences = imagecodecs.delta_encode(pixels, axis=-2).tobytes()
        return bytes(imagecodecs.deflate_encode(differences, level=DEFLATE_LEVEL))
    # Huffman tables of its own make a tile of glass half as large and tissue 3%, still at some 90 Mpixel/s.
    return bytes(imagecodecs.jpeg8_encode(pixels, level=options.quality, colorspace="rgb", outcolorspace="ycbcr",
                                          subsampling=(1, 1), optimize=True))


def decode(data: bytes, options: PyramidOptions) -> np.ndarray:
    """Return what `encode` made as uint8 [side, side, 3]."""
    if options.quality is None:
        shape = (options.tile, options.tile, 3)
        differences = np.frombuffer(imagecodecs.deflate_decode(data, out=options.tile**2 * 3), np.uint8)
        return imagecodecs.delta_decode(differences.reshape(shape), axis=-2)
    return imagecodecs.jpeg8_decode(data)


def reduced(tiles: Sequence[Sequence[bytes]], shown: Level, row: int, column: int,
            options: PyramidOptions) -> bytes:
    """Return the tile that lies under up to 2x2 tiles of the level above.

    Args:
        tiles: Their bytes, as rows of columns.
        shown: The level above.
        row: Where the first of them lies there.
        column: The same.
        options: How they are encoded, and how this one shall be.
    """
    def part(i: int, j: int) -> np.ndarray:
        _, _, width, height = shown.box(row + i, column + j)
        return decode(tiles[i][j], options)[:height, :width]

    block = np.concatenate([np.concatenate([part(i, j) for j in range(len(line))], axis=1)
                            for i, line in enumerate(tiles)])
    return encode(filled_up(half(block), options.tile), options)
