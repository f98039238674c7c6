# SPDX-License-Identifier: Apache-2.0
"""Readers of image files: levels, mpp, and pixels as they are stored.

The reader is chosen by content, not by name: OpenSlide for what it recognises (DICOM too, a file or the folder of a
series); tifffile for other TIFFs (OME-TIFF, striped TIFFs, newer compressions); zarr for folders of OME-Zarr; PIL for
the rest (PNG, JPEG, BMP, palette and CMYK TIFF). All follow `Reader`.
`pipelines.slide` converts their pixels to RGB and is what the rest of the project uses.
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from pipelines.errors import SlideError, slide_errors
from pipelines.readers.folders import dicom_file_of, is_dicom, is_ome_zarr, is_slide_folder
from pipelines.readers.limits import Dimensions
from pipelines.readers.openslide import OpenSlideReader, open_by_openslide
from pipelines.readers.picture import PictureReader
from pipelines.readers.plain import TIFF_MAGIC, TiffReader, is_for_tifffile
from pipelines.readers.turned import TurnedReader
from pipelines.readers.zarr import ZarrReader

__all__ = ["Dimensions", "OpenSlideReader", "PictureReader", "Reader", "TiffReader", "ZarrReader", "check_file",
           "open_reader"]

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
        SlideError: It is not a slide, no reader can open it, or it needs an extra that is not installed.
    """
    check_file(path)
    try:
        with slide_errors(path):
            return _open_folder(path) if os.path.isdir(path) else _open_file(path)
    except MemoryError as error:  # opening takes little, unless a damaged number is believed
        raise SlideError(f"{path}: cannot be opened in the memory that there is; it may be damaged, copy it again"
                         ) from error


def check_file(path: Path) -> None:
    """Refuse what is neither a file nor the folder of a slide, before it is opened: a pipe would wait for its writer.

    Raises:
        FileNotFoundError: There is nothing of that name.
        SlideError: It is something else.
    """
    with slide_errors(path):
        if os.path.isfile(path) or is_slide_folder(path):
            return
    if os.path.isdir(path):
        raise SlideError(f"{path}: is a folder and no slide; name an OME-Zarr, the folder of one DICOM series, or a "
                         "file")
    if os.path.lexists(path):
        what = "a pipe, socket or device" if os.path.exists(path) else "a link that leads nowhere"
        raise SlideError(f"{path}: is {what}; replace it by a file, or remove it")
    raise FileNotFoundError("`path` must name a slide or image file; check the spelling. "
                            f"Received: path={str(path)!r}")


def _open_file(path: Path) -> Reader:
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
    if is_dicom(path):
        raise SlideError(f"{path}: is no DICOM whole slide image, or a damaged one; copy it again, or give another "
                         "file")
    return PictureReader(path)


def _open_folder(path: Path) -> Reader:
    if is_ome_zarr(path):
        return ZarrReader(path)
    return OpenSlideReader(dicom_file_of(path))
