# SPDX-License-Identifier: Apache-2.0
"""Readers of image files: levels, mpp, and pixels as they are stored.

The reader is chosen by content, not by name: OpenSlide for what it recognises; tifffile for other TIFFs (OME-TIFF,
striped TIFFs, newer compressions); PIL for the rest (PNG, JPEG, BMP, palette and CMYK TIFF). All follow `Reader`.
`pipelines.slide` converts their pixels to RGB and is what the rest of the project uses.
"""
from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from pipelines.errors import slide_errors
from pipelines.readers.limits import Dimensions
from pipelines.readers.openslide import OpenSlideReader, open_by_openslide
from pipelines.readers.picture import PictureReader
from pipelines.readers.plain import TIFF_MAGIC, TiffReader, is_for_tifffile
from pipelines.readers.turned import TurnedReader

__all__ = ["Dimensions", "OpenSlideReader", "PictureReader", "Reader", "TiffReader", "open_reader"]

PICTURE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM")


class Reader(Protocol):
    """One open file. `level_dimensions` are (width, height); `mpp` is that of level 0, if it is plausible.

    `tile_sizes` are those of the tiles or strips that are decoded at once, a size for each level. `mpp_xy` is what the
    file says, x and y, plausible or not. `icc_profile` is the colour profile as it is stored, empty
    if it cannot be read.
    """

    level_dimensions: tuple[Dimensions, ...]
    level_downsamples: tuple[float, ...]
    tile_sizes: tuple[Dimensions, ...]
    mpp: float | None
    mpp_xy: tuple[float, float] | None
    icc_profile: bytes | None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return [height, width] or [height, width, C] as stored; the window lies inside the level."""

    def read_own(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return the level's own pixels, even if `read` interpolates between them."""

    def close(self) -> None:
        """Close the file."""


def open_reader(path: Path) -> Reader:
    """Return the reader that can open `path`.

    Raises:
        FileNotFoundError: The file does not exist.
        SlideError: No reader can open it.
    """
    if not path.is_file():
        raise FileNotFoundError("`path` must name a slide or image file; check the spelling. "
                                f"Received: path={str(path)!r}")
    with slide_errors(path):
        with path.open("rb") as file:
            magic = file.read(4)
        if magic.startswith(PICTURE_MAGIC):
            return PictureReader(path)
        reader = open_by_openslide(path)
        if reader is not None:
            return reader
        if magic in TIFF_MAGIC and is_for_tifffile(path):
            tiff = TiffReader(path)
            return TurnedReader(tiff, tiff.orientation) if tiff.orientation in range(2, 9) else tiff
        return PictureReader(path)
