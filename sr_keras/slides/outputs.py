"""Where SR pixels go: a picture in memory that becomes PNG or JPEG, or a pyramid that is written as it comes."""
from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.files import atomic_path
from pipelines.pyramid import PyramidWriter
from pipelines.workers import available_memory
from sr_keras.model.tiles import Box

JPEG_QUALITY = 95
JPEG_LONGEST_SIDE = 65500
# What a picture takes at the worst moment, when it is written: 3 itself, 4 in PIL's copy, 2 as a file in memory.
BYTES_PER_LR_PIXEL, BYTES_PER_SR_PIXEL = 6, 9


class ImageSink:
    """A picture in memory; `pixels` is uint8 [height, width, 3]."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.empty((height, width, 3), np.uint8)

    def lacks(self, box: Box) -> bool:
        """Whether a box is not there yet; always, since every box comes once."""
        return True

    def put(self, box: Box, pixels: np.ndarray) -> None:
        """Take a box."""
        self.pixels[box.hr_y:box.hr_y + box.hr_height, box.hr_x:box.hr_x + box.hr_width] = pixels


class PyramidSink:
    """An open `PyramidWriter`, which gets each box as whole tiles."""

    def __init__(self, writer: PyramidWriter) -> None:
        self._writer = writer
        self._tile = writer.options.tile
        self._missing = set(writer.missing())

    def lacks(self, box: Box) -> bool:
        """Whether a tile of the box is not there yet."""
        return any(place in self._missing for place in self._places(box))

    def put(self, box: Box, pixels: np.ndarray) -> None:
        """Take a box; its corner lies on the grid of tiles, and it ends there or at the border."""
        for row, column in self._places(box):
            if (row, column) in self._missing:
                x, y, width, height = self._writer.levels[0].box(row, column)
                top, left = y - box.hr_y, x - box.hr_x
                self._writer.put(row, column, pixels[top:top + height, left:left + width])

    def _places(self, box: Box) -> list[tuple[int, int]]:
        rows = range(box.hr_y // self._tile, -(-(box.hr_y + box.hr_height) // self._tile))
        columns = range(box.hr_x // self._tile, -(-(box.hr_x + box.hr_width) // self._tile))
        return [(row, column) for row in rows for column in columns]


def write_image(pixels: np.ndarray, path: Path, quality: int | None = None) -> None:
    """Write uint8 [H, W, 3] as PNG, or as JPEG without chroma subsampling, by the suffix."""
    # In memory first: PIL writing to a file itself leaves half a JPEG on a full disk and says nothing.
    file = io.BytesIO()
    if path.suffix.lower() == ".png":
        Image.fromarray(pixels).save(file, "PNG")
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=quality or JPEG_QUALITY, subsampling=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(file.getbuffer())


def check_size(lr_shape: tuple[int, ...], scale: int, source: Path, target: Path, *,
               read_again: bool = False) -> None:
    """Refuse a picture that can't end well before hours are spent on it.

    Args:
        lr_shape: Sides of what is super-resolved.
        scale: SR side over LR side.
        source: What is read.
        target: What is written.
        read_again: Whether the picture is opened afterwards, to be measured.

    Raises:
        ValueError: It is too large for its format, for memory or for its reader.
    """
    height, width = lr_shape[:2]
    most = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)  # PIL takes more for an attack
    if read_again and width * height * scale**2 > most:
        raise ValueError(f"{source}: {scale * width}x{scale * height} pixels are more than PIL reads again from a "
                         f"{target.suffix}, and --trust_map measures the finished file; write .tif")
    if target.suffix.lower() in (".jpg", ".jpeg") and scale * max(width, height) > JPEG_LONGEST_SIDE:
        raise ValueError(f"{source}: {scale * width}x{scale * height} pixels are more than JPEG holds; write .tif")
    needed = width * height * (BYTES_PER_LR_PIXEL + BYTES_PER_SR_PIXEL * scale**2)
    free = available_memory()
    if needed > free:
        raise ValueError(f"{source}: {width}x{height} pixels take {needed / 2**30:.1f} GiB of memory to become a "
                         f"{target.suffix} and {free / 2**30:.1f} are free; write .tif, which takes no more than a "
                         "tile, or cut out a --region")
