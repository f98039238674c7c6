"""How a file's pixels were compressed: the JPEG quality and subsampling of a picture, or of a slide's level.

Read from the quantisation tables, as they stand in a JPEG, or in a TIFF and its tiles; no pixel is decoded. Tables that
are not libjpeg's give the quality whose steps are as large.
"""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

# ITU T.81, table K.1, in the order in which a file holds it.
LUMINANCE = np.array([
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61,
    60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113,
    121, 112, 100, 120, 92, 101, 103, 99])
START, DQT, SOS, FRAMES = b"\xff\xd8", 0xDB, 0xDA, (0xC0, 0xC1, 0xC2)
JPEG = 7  # TIFF's number for it
HEAD = 2**17  # bytes of a JPEG that are looked at


class Jpeg(NamedTuple):
    """Quality of libjpeg, 1 to 100, and the chroma's subsampling, "4:2:0" say; None where the file does not say it."""

    quality: int
    subsampling: str | None


def compression_of(path: Path, level_size: tuple[int, int]) -> Jpeg | None:
    """Return how a picture, or the level of that width and height in a TIFF, was compressed; None if not by JPEG.

    Whatever is damaged or of a kind that is not known gives None: this is a look, not a check.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        if head.startswith(START):
            return read_jpeg(head)
        if head[:2] in (b"II", b"MM"):
            return _of_tiff(path, level_size)
    except Exception:  # decoders of other people's bytes raise every kind there is
        return None
    return None


def read_jpeg(*parts: bytes) -> Jpeg | None:
    """Return what the headers of a JPEG say; of a tile whose tables lie elsewhere, give both, tables first."""
    table, sampling = None, None
    for data in parts:
        for marker, content in _segments(data):
            if marker == DQT:
                table = _luminance(content) if table is None else table
            elif marker in FRAMES:
                sampling = [content[7 + 3 * i] for i in range(content[5])]
    return None if table is None else Jpeg(_quality(table), _subsampling(sampling))


def _of_tiff(path: Path, level_size: tuple[int, int]) -> Jpeg | None:
    with tifffile.TiffFile(path) as tiff:
        for page in (page for series in tiff.series for level in series.levels for page in level.pages[:1]):
            keyframe = page.keyframe
            if (keyframe.imagewidth, keyframe.imagelength) == level_size and keyframe.compression == JPEG:
                there = [i for i, count in enumerate(page.databytecounts) if count]
                chosen = there[len(there) // 2]
                tiff.filehandle.seek(page.dataoffsets[chosen])
                data = tiff.filehandle.read(min(page.databytecounts[chosen], HEAD))
                return read_jpeg(page.jpegtables or b"", page.jpegheader or b"", data)
    return None


def _segments(data: bytes) -> list[tuple[int, bytes]]:
    """Return the markers with their contents, up to the first scan."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != SOS:
        length = int.from_bytes(data[at + 2:at + 4], "big")
        found.append((data[at + 1], data[at + 4:at + 2 + length]))
        at += 2 + length
    return found


def _luminance(content: bytes) -> np.ndarray | None:
    """Return table 0 of a segment that holds one or several."""
    while content:
        wide, number = divmod(content[0], 16)
        size = 128 if wide else 64
        table = np.frombuffer(content[1:1 + size], ">u2" if wide else np.uint8).astype(float)
        if number == 0 and table.size == LUMINANCE.size:
            return table
        content = content[1 + size:]
    return None


def _quality(table: np.ndarray) -> int:
    percent = float(np.median(100 * table / LUMINANCE))
    quality = (200 - percent) / 2 if percent <= 100 else 5000 / percent
    return round(min(100.0, max(1.0, quality)))


def _subsampling(sampling: list[int] | None) -> str | None:
    if not sampling or len(sampling) != 3:
        return None
    across, down = divmod(sampling[0], 16)
    return {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}.get((across, down))
