# SPDX-License-Identifier: Apache-2.0
"""Outputs that take SR pixels box by box: a picture in memory (PNG, JPEG) or a pyramid on disk."""
from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from pipelines.files import atomic_path
from pipelines.pyramid import PyramidWriter
from pipelines.workers import available_memory
from sr_keras.model.tiles import Box

JPEG_QUALITY = 95
JPEG_LONGEST_SIDE = 65500
# Peak memory of a picture, reached while it is written: 3 bytes itself, 4 in PIL's copy, 2 as a file in memory.
BYTES_PER_LR_PIXEL, BYTES_PER_SR_PIXEL = 6, 9


class Output(Protocol):
    """Takes SR pixels."""

    def needs(self, box: Box) -> bool:
        """Whether any part of a box of SR pixels is still missing."""

    def write(self, box: Box, pixels: np.ndarray) -> None:
        """Take a box of SR pixels."""


class PictureOutput:
    """A picture in memory; `pixels` is uint8 [height, width, 3]."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.empty((height, width, 3), np.uint8)

    def needs(self, box: Box) -> bool:
        """Return True: a picture is always computed as a whole."""
        return True

    def write(self, box: Box, pixels: np.ndarray) -> None:
        """Take a box."""
        self.pixels[box.hr_y:box.hr_y + box.hr_height, box.hr_x:box.hr_x + box.hr_width] = pixels


class PyramidOutput:
    """An open `PyramidWriter`; boxes are cut into its tiles, and tiles that exist already are not written again."""

    def __init__(self, writer: PyramidWriter) -> None:
        self._writer = writer
        self._tile = writer.options.tile
        self._missing = set(writer.missing())

    def needs(self, box: Box) -> bool:
        """Whether a tile of the box is missing."""
        return any(tile in self._missing for tile in self._tiles(box))

    def write(self, box: Box, pixels: np.ndarray) -> None:
        """Take a box that starts on the grid of tiles and ends there or at the border."""
        for row, column in self._tiles(box):
            if (row, column) in self._missing:
                x, y, width, height = self._writer.levels[0].box(row, column)
                top, left = y - box.hr_y, x - box.hr_x
                self._writer.put(row, column, pixels[top:top + height, left:left + width])

    def _tiles(self, box: Box) -> list[tuple[int, int]]:
        rows = range(box.hr_y // self._tile, -(-(box.hr_y + box.hr_height) // self._tile))
        columns = range(box.hr_x // self._tile, -(-(box.hr_x + box.hr_width) // self._tile))
        return [(row, column) for row in rows for column in columns]


def write_image(pixels: np.ndarray, path: Path, quality: int | None = None, icc_profile: bytes | None = None) -> None:
    """Write uint8 [H, W, 3] as PNG, or as JPEG without chroma subsampling, by the suffix."""
    # Encode in memory: when the disk is full, PIL leaves half a JPEG on it without an error.
    file = io.BytesIO()
    if path.suffix.lower() == ".png":
        Image.fromarray(pixels).save(file, "PNG", icc_profile=icc_profile)
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=quality or JPEG_QUALITY, subsampling=0,
                                     icc_profile=icc_profile)
    with atomic_path(path) as temporary:
        temporary.write_bytes(file.getbuffer())


def check_size(lr_shape: tuple[int, ...], scale: int, source: Path, output: Path, *, read_again: bool = False) -> None:
    """Refuse a picture that is too large, before it is computed.

    Args:
        lr_shape: Height and width of the LR plane.
        scale: SR side over LR side.
        source: The input, for the message.
        output: The picture to write.
        read_again: Whether the finished picture is read again, for the trust map.

    Raises:
        ValueError: It is too large for its format, for the memory or for its reader.
    """
    height, width = lr_shape[:2]
    sr_size = f"{source}: {scale * width}x{scale * height} pixels"
    largest = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)  # PIL refuses larger ones as decompression bombs
    if read_again and width * height * scale**2 > largest:
        raise ValueError(f"{sr_size} are more than PIL reads again from a {output.suffix}, and --trust_map measures "
                         "the finished file; write a .tif")
    if output.suffix.lower() in (".jpg", ".jpeg") and scale * max(width, height) > JPEG_LONGEST_SIDE:
        raise ValueError(f"{sr_size} are more than JPEG holds; write a .tif")
    needed, free = width * height * (BYTES_PER_LR_PIXEL + BYTES_PER_SR_PIXEL * scale**2), available_memory()
    if needed > free:
        raise ValueError(f"{source}: {width}x{height} pixels take {needed / 2**30:.1f} GiB of memory as a "
                         f"{output.suffix}, and {free / 2**30:.1f} GiB are free; write a .tif, which needs little "
                         "memory, or choose a --region")
