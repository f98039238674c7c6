# SPDX-License-Identifier: Apache-2.0
"""Whether JPEG data are damaged. libjpeg notices most damage; decoders keep its warning and return wrong pixels."""
from __future__ import annotations

import re
from collections.abc import Callable

import simplejpeg

from pipelines.readers.limits import Dimensions

JPEG_CODES = (6, 7, 33007, 34892)  # compressions of TIFF
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
# What libjpeg says of data whose pixels are right, or are for another decoder. Cameras leave bytes between the parts of
# a header; behind pixels there is the end (marker 0xd9) or a restart (0xd0 to 0xd7).
HARMLESS = re.compile(r"extraneous bytes before marker 0x(?!d\d)|JFIF revision|Adobe color|SOS parameters|ICC marker|"
                      "color conversion|precision")
# Only the mean of 8x8 pixels is computed, in grey: all data are read, in half the time of decoding them.
QUICK = {"colorspace": "GRAY", "min_factor": 8, "fastdct": True, "fastupsample": True}


def check_jpeg(data: bytes) -> None:
    """Refuse JPEG data in which libjpeg finds damage.

    JPEG has no checksum: some damage looks like other pixels. What has no header of a JPEG is left to the decoder.

    Raises:
        ValueError: They are damaged; says what libjpeg says.
    """
    if not data.startswith(JPEG_START):
        return
    try:
        simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError:
        return
    try:
        simplejpeg.decode_jpeg(data, strict=True, **QUICK)
    except ValueError as error:
        if not HARMLESS.search(str(error)):
            raise ValueError(f"damaged JPEG data: {error}") from error


def whole(data: bytes, tables: bytes | None) -> bytes:
    """Return the JPEG of a TIFF's tile, which has no tables of its own if the TIFF keeps them for all tiles."""
    return tables.removesuffix(JPEG_END) + data.removeprefix(JPEG_START) if tables else data


class JpegTiles:
    """The tiles of a level, row by row, each of which is checked once: `data` returns those of a number."""

    def __init__(self, tile_size: Dimensions, columns: int, count: int, data: Callable[[int], bytes]) -> None:
        self._tile_size, self._columns, self._data = tile_size, columns, data
        self._checked = bytearray(count)

    def check(self, x: int, y: int, width: int, height: int) -> None:
        """Refuse a window of the level that touches damaged data.

        Raises:
            ValueError: It does.
        """
        tile_w, tile_h = self._tile_size
        for row in range(y // tile_h, (y + height - 1) // tile_h + 1):
            for column in range(x // tile_w, (x + width - 1) // tile_w + 1):
                number = row * self._columns + column
                if not self._checked[number]:
                    check_jpeg(self._data(number))
                    self._checked[number] = 1
