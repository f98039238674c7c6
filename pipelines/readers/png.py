# SPDX-License-Identifier: Apache-2.0
"""Whether a PNG holds all its rows: decoders fill up what is missing with black.

It decompresses the data a second time, for about a third of the time that decoding takes: no decoder tells.
"""
from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

START, HEADER = len(b"\x89PNG\r\n\x1a\n"), ">II2B2xB"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each kind of colour
WHOLE = ((0, 0, 1, 1),)
INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
BLOCK = 2**20  # bytes that are decompressed at once


def check_png(data: bytes) -> None:
    """Refuse a PNG whose data end before its last row.

    Raises:
        ValueError: They do.
        zlib.error: They are damaged.
    """
    decoder, found, expected = zlib.decompressobj(), 0, 0
    for kind, content in _chunks(data):
        if kind == b"IHDR":
            expected = _size(*struct.unpack(HEADER, content[:struct.calcsize(HEADER)]))
        elif kind == b"IDAT":
            while content and not decoder.eof:
                found += len(decoder.decompress(content, BLOCK))
                content = decoder.unconsumed_tail
    found += len(decoder.flush())
    if found < expected:
        raise ValueError(f"its data end early, after {found:,} of {expected:,} bytes")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each; the checksums are left to the decoder."""
    place = START
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, data[place + 8:place + 8 + length]
        place += length + 12


def _size(width: int, height: int, depth: int, colours: int, interlaced: int) -> int:
    """Return the bytes of all rows, each of which has one more for its filter."""
    size = 0
    for left, top, step_x, step_y in INTERLACED if interlaced else WHOLE:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * depth * SAMPLES.get(colours, 1) // 8))
    return size
