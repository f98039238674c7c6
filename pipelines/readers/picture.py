# SPDX-License-Identifier: Apache-2.0
"""Pictures, decoded by PIL as a whole."""
from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from pipelines.errors import SlideError
from pipelines.readers import limits
from pipelines.readers.jpeg import check_jpeg
from pipelines.readers.limits import Dimensions
from pipelines.readers.plain import check_jpeg_page
from pipelines.readers.png import check_png
from pipelines.readers.turned import TRANSPOSED

PICTURES = ("PNG", "JPEG", "BMP", "TIFF")  # PIL's others include programs (EPS)
WHITE_16 = 65535
JPEGS = ("JPEG", "MPO")  # the second is a JPEG with others behind it


class PictureReader:
    """An image with one level and no mpp (its dpi are for paper), decoded as a whole on the first read."""

    level_downsamples: tuple[float, ...] = (1.0,)
    mpp: float | None = None
    mpp_xy: tuple[float, float] | None = None

    def __init__(self, path: Path) -> None:
        try:
            with warnings.catch_warnings():  # too large pictures are refused below
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                PngImagePlugin.MAX_TEXT_CHUNK = limits.LARGEST_PROFILE
                self._image = Image.open(path, formats=PICTURES)
        except UnidentifiedImageError as error:
            raise SlideError(f"{path}: is not a slide or image that can be read; give a slide, "
                             "PNG, JPEG, BMP or TIFF") from error
        except Image.DecompressionBombError as error:
            raise SlideError(f"{path}: has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, too many for a "
                             "picture; convert it to a tiled TIFF, for instance by vips tiffsave IN OUT.tif --tile "
                             "--pyramid") from error
        self._path = path
        damaged = b"" if "icc_profile" in self._image.info else None  # PIL drops a damaged one
        self.icc_profile: bytes | None = self._image.info.get("icc_profile") or damaged
        self._pixels: np.ndarray | None = None
        width, height = self._image.size
        orientation = self._image.getexif().get(ExifTags.Base.Orientation, 1)
        if self._image.format == "TIFF" and orientation in range(2, 9):  # PIL's size and pixels disagree
            raise SlideError(f"{path}: is stored turned (Orientation {orientation}); save it upright as RGB")
        turned = orientation in TRANSPOSED
        self.level_dimensions: tuple[Dimensions, ...] = ((height, width) if turned else (width, height),)
        self.tile_sizes: tuple[Dimensions, ...] = self.level_dimensions

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `pipelines.readers.Reader`."""
        if self._pixels is None:
            mode = self._image.mode
            if mode in ("P", "PA") or ("transparency" in self._image.info and not mode.startswith("I;16")):
                mode = "RGBA"
            elif mode not in ("1", "L", "LA", "RGB", "RGBA") and not mode.startswith("I;16"):
                mode = "RGB"
            if self._image.format == "TIFF":
                check_jpeg_page(self._path)
            elif self._image.format in JPEGS:
                check_jpeg(self._path.read_bytes())
            elif self._image.format == "PNG":
                check_png(self._path.read_bytes())
            if self._image.format != "TIFF":  # PIL turns those itself
                ImageOps.exif_transpose(self._image, in_place=True)
            pixels = _with_transparency(np.asarray(self._image.convert(mode)), self._image.info.get("transparency"))
            if _is_hidden(pixels):
                raise SlideError(f"{self._path}: is transparent everywhere, and has a picture behind that; save it "
                                 "again as RGB")
            self._pixels = pixels
        return self._pixels[y:y + height, x:x + width]

    read_own = read

    def close(self) -> None:
        """See `pipelines.readers.Reader`."""
        self._image.close()


def _with_transparency(pixels: np.ndarray, transparent: object) -> np.ndarray:
    """Return grey of 16 bit with its transparency, if a value stands for it; other pixels as they are."""
    if pixels.dtype != np.uint16 or not isinstance(transparent, int):
        return pixels
    return np.stack([pixels, np.where(pixels == transparent, 0, np.uint16(WHITE_16))], -1)


def _is_hidden(pixels: np.ndarray) -> bool:
    """Whether all is transparent and not of one colour: some writers leave transparency at 0 and mean none."""
    if pixels.ndim != 3 or pixels.shape[2] not in (2, 4) or pixels[..., -1].any():
        return False
    return bool((pixels != pixels[0, 0]).any())
