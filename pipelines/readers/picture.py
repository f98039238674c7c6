# SPDX-License-Identifier: Apache-2.0
"""Pictures read by PIL: PNG, JPEG, BMP, palette and CMYK TIFF."""
from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipelines.errors import SlideError
from pipelines.readers.tiff import Dimensions


class PictureReader:
    """An image with one level and no mpp (its dpi are for paper), decoded as a whole on the first read."""

    level_downsamples: tuple[float, ...] = (1.0,)
    mpp: float | None = None

    def __init__(self, path: Path) -> None:
        try:
            with warnings.catch_warnings():  # too large pictures are refused below
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                self._image = Image.open(path)
        except UnidentifiedImageError as error:
            raise SlideError(f"{path}: is no slide or image that OpenSlide, tifffile or PIL can read") from error
        except Image.DecompressionBombError as error:
            raise SlideError(f"{path}: has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, too many for a "
                             "picture; convert it to a tiled TIFF, for instance by vips tiffsave IN OUT.tif --tile "
                             "--pyramid") from error
        self._pixels: np.ndarray | None = None
        self.level_dimensions: tuple[Dimensions, ...] = (self._image.size,)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `pipelines.readers.Reader`."""
        if self._pixels is None:
            self._pixels = np.asarray(self._image.convert(_plain_mode(self._image)))
        return self._pixels[y:y + height, x:x + width]

    read_own = read

    def close(self) -> None:
        """See `pipelines.readers.Reader`."""
        self._image.close()


def _plain_mode(image: Image.Image) -> str:
    """Return the mode to convert to, one that `pipelines.pixels.as_rgb` accepts."""
    if image.mode in ("P", "PA") or "transparency" in image.info:
        return "RGBA"
    return image.mode if image.mode in ("1", "L", "LA", "RGB", "RGBA") or image.mode.startswith("I;16") else "RGB"
