# SPDX-License-Identifier: Apache-2.0
"""The JPEG frames of a DICOM whole slide image as they are stored, without any extra."""
from __future__ import annotations

from array import array
from pathlib import Path
from typing import BinaryIO

from tifffile import PHOTOMETRIC

from pipelines.readers.colours import colours_of
from pipelines.readers.folders import PREAMBLE, SYNTAX, UNDEFINED, read_element, series_of, skip_value
from pipelines.readers.jpeg import JpegTiles
from pipelines.readers.limits import Dimensions

JPEGS = (b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.51")  # transfer syntaxes: 8 and 12 bit
COLOURS = (0x28, 4)  # photometric interpretation
ROWS, COLUMNS, MATRIX_COLUMNS, MATRIX_ROWS = (0x28, 0x10), (0x28, 0x11), (0x48, 6), (0x48, 7)
ORGANISATION, FULL = (0x20, 0x9311), b"TILED_FULL"  # all frames are there, row by row
PIXELS, ITEM = (0x7FE0, 0x10), (0xFFFE, 0xE000)


def frames_of(path: Path, size: Dimensions, tile_size: Dimensions) -> JpegTiles | None:
    """Return the frames of the level of this size in the series of a file.

    None if they are not JPEG, not all there in order (TILED_SPARSE, several focal planes), or of another size.
    """
    series, columns = series_of(path), -(-size[0] // tile_size[0])
    for file in sorted(path.parent.iterdir()):
        if series_of(file) == series:
            with file.open("rb") as stream:
                places = _places(stream, size, tile_size, columns * -(-size[1] // tile_size[1]))
            if places:
                return _tiles(file, *places, tile_size, columns)
    return None


def _tiles(file: Path, places: array[int], stated: PHOTOMETRIC, tile_size: Dimensions, columns: int) -> JpegTiles:
    def data(number: int) -> bytes:
        with file.open("rb") as stream:
            stream.seek(places[2 * number])
            content = stream.read(places[2 * number + 1])
        _, colours = colours_of(content)
        if colours not in (None, stated):  # OpenSlide believes the DICOM
            raise ValueError(f"says that its pixels are {stated.name}, and its JPEG data say {colours.name}")
        return content

    return JpegTiles(tile_size, columns, len(places) // 2, data)


def _places(file: BinaryIO, size: Dimensions, tile_size: Dimensions,
            count: int) -> tuple[array[int], PHOTOMETRIC] | None:
    """Return where each of `count` frames starts and how long it is, one after the other, and what its numbers are.

    None as `frames_of`.
    """
    file.seek(PREAMBLE + 4)
    found = dict.fromkeys((SYNTAX, ORGANISATION, COLOURS, ROWS, COLUMNS, MATRIX_COLUMNS, MATRIX_ROWS), b"")
    while True:
        tag, length = read_element(file, implicit=False)
        if tag == PIXELS or (tag > ORGANISATION and found[ORGANISATION] != FULL) or (
                tag > SYNTAX and found[SYNTAX] not in JPEGS):
            break
        if tag in found and length != UNDEFINED:
            value = file.read(length)
            found[tag] = value.strip(b"\0 ") if tag in (SYNTAX, ORGANISATION, COLOURS) else value
        else:
            skip_value(file, length, implicit=False)
    names = (MATRIX_COLUMNS, MATRIX_ROWS, COLUMNS, ROWS)
    if tag != PIXELS or tuple(int.from_bytes(found[name], "little") for name in names) != (*size, *tile_size):
        return None
    places = array("Q")
    for _ in range(count + 1):  # the first is a table of their offsets
        tag, length = read_element(file, implicit=False)
        if tag != ITEM:
            return None
        places.extend((file.tell(), length))
        skip_value(file, length, implicit=False)
    if read_element(file, implicit=False)[0] == ITEM:  # a frame may have several parts
        return None
    return places[2:], PHOTOMETRIC.YCBCR if found[COLOURS].startswith(b"YBR") else PHOTOMETRIC.RGB
