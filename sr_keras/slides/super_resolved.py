# SPDX-License-Identifier: Apache-2.0
"""A super-resolved slide that is computed where it is looked at: what takes an OpenSlide slide takes this one.

    from sr_keras import SuperResolvedSlide

    with SuperResolvedSlide("case.svs", "saved_models/srgan_sqe_x4") as slide:
        slide.dimensions, slide.properties["openslide.mpp-x"]          # (8880, 11868), "0.12475"
        slide.read_region((4096, 2048), 0, (256, 256))                 # an RGBA picture

Levels are those of the file that `sr_keras.slides.enlarge_file` writes: each half of the one before. Level 0 is SR, and
so is every level that is finer than the input. Coarser ones need no network: the level of the input's size is the LR
plane itself, and those beyond are read from the levels of the source. So an overview costs what it costs of the source.

Pixels of SR are those of that file before compression, within 1 of 255. The tiles last used are kept; see `sr_tiles`.
Threads may share a slide: levels that need no network are read while a tile is computed. Processes open their own.
"""
from __future__ import annotations

import math
import os
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
from PIL import Image

from pipelines.console import import_tensorflow
from pipelines.errors import require
from pipelines.pixels import WHITE
from pipelines.pyramid.tiff import levels_of
from pipelines.readers.openslide_process import associated_images, open_by_library
from pipelines.slide import Slide, SlideError, open_slide
from sr_keras.config import SHIPPED_MODEL
from sr_keras.slides.lr_plane import CELL, SOURCE_SIDE, LRPlane
from sr_keras.slides.sr_tiles import SRTiles
from sr_keras.slides.window_plan import EnlargeOptions

if TYPE_CHECKING:
    from sr_keras.model.loading import LoadedGenerator

CACHE_BYTES = 2**28  # 340 tiles of 512 x 512: some screens full
NAME = "sr_keras"


class SuperResolvedSlide(openslide.AbstractSlide):
    """A slide as a model super-resolves it, by the interface of openslide-python; a context manager.

    Attributes:
        generator: The model, ready for use.
        lr: The plane that is super-resolved.
    """

    def __init__(self, path: str | os.PathLike[str], model: str | Path | LoadedGenerator = SHIPPED_MODEL,
                 options: EnlargeOptions | None = None, *, engine: str = "auto",
                 cache_bytes: int = CACHE_BYTES) -> None:
        """Open a slide.

        Args:
            path: What `pipelines.slide.open_slide` takes: a slide or a picture.
            model: What `sr_keras.model.loading.load_generator` takes, or what it or `open_engine` returned.
            options: What is read (`mpp`, `level`, `region`, `assume_mpp`), and with `everywhere` the network on glass
                too. Those of writing have no effect.
            engine: What runs a model that is given by its path; see `sr_keras.model.engines.open_engine`. Others than
                TensorFlow convert a model when it is opened for the first time.
            cache_bytes: Limit on the bytes of SR tiles that are kept; 0 for none.

        Raises:
            FileNotFoundError: There is no such file or model.
            SlideError: It is no slide, or cannot be read at the resolution that the options ask for.
            ValueError: The model is none, or an argument is out of range.
        """
        super().__init__()
        require(cache_bytes >= 0, "cache_bytes", "be 0 or more", "256 MiB are usual", cache_bytes)
        options = options or EnlargeOptions()
        self._path, self._closed = Path(path), False
        self._source = open_slide(path, options.assume_mpp)
        try:
            self.generator = _open_model(model, engine)
            self.lr = LRPlane(self._source, options.mpp, options.level, options.region)
            self._tiles = SRTiles(self.generator, self.lr, options, cache_bytes)
            self._profile = _profile_of(self._source)
            scale, (height, width) = self.generator.scale, self.lr.shape[:2]
            self._levels = levels_of(scale * width, scale * height, self._tiles.side)
            self._properties, self._associated_images = self._describe()
        except BaseException:
            self._source.close()
            raise

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r}, {str(self.generator.path)!r})"

    @classmethod
    def detect_format(cls, filename: str | os.PathLike[str]) -> str | None:
        """Return "sr_keras" if the file can be opened, else None."""
        try:
            open_slide(filename).close()
        except (OSError, SlideError):
            return None
        return NAME

    def close(self) -> None:
        """Close the file and forget the tiles; may be called again."""
        with self._tiles.reading:
            if not self._closed:
                self._closed = True
                self._source.close()
        self._tiles.clear()

    @property
    def level_count(self) -> int:
        """Number of levels."""
        return len(self._levels)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level."""
        return tuple((level.width, level.height) for level in self._levels)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Side of a pixel of each level, in pixels of level 0: 1, 2, 4..."""
        return tuple(2.0**level for level in range(len(self._levels)))

    @property
    def properties(self) -> Mapping[str, str]:
        """Those of OpenSlide that hold for SR, and what it was made of.

        A scanner's own, such as aperio.MPP, are true of the source alone and left out.
        """
        return self._properties

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """Label, macro and thumbnail of the source, up to one that OpenSlide cannot read."""
        return self._associated_images

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """Return the coarsest level that is at least as fine as `downsample`; level 0 if there is none."""
        return max(0, sum(one <= downsample for one in self.level_downsamples) - 1)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """Return a part of a level, computed if it has to be; transparent outside the slide.

        Args:
            location: x and y of the upper left corner in pixels of level 0; the nearest pixel of the level is taken.
            level: Number of the level.
            size: Width and height in pixels of the level.

        Returns:
            A picture RGBA. A place of the source that cannot be read is white.

        Raises:
            openslide.OpenSlideError: There is no such level, or the size is negative.
            ValueError: The slide is closed.
            SlideError: It is a picture that cannot be decoded.
        """
        if not 0 <= level < len(self._levels):
            raise openslide.OpenSlideError(f"`level` must be 0 to {len(self._levels) - 1}; choose one of the levels of "
                                           f"this slide. Received: level={level!r}")
        if min(size) < 0:
            raise openslide.OpenSlideError("`size` must not be negative; give width and height in pixels. "
                                           f"Received: size={size!r}")
        self._check_open()
        region = Image.new("RGBA", size)
        (width, height), (x, y) = size, (math.floor(at / 2**level + 0.5) for at in location)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, self._levels[level].width), min(y + height, self._levels[level].height)
        if left < right and top < bottom:
            read = self._read_sr if level == 0 or 2**level < self.generator.scale else self._read_source
            pixels = read(level, slice(top, bottom), slice(left, right))
            region.paste(Image.fromarray(pixels).convert("RGBA"), (left - x, top - y))
        if self._profile is not None:
            region.info["icc_profile"] = self._profile
        return region

    def _read_sr(self, level: int, rows: slice, columns: slice) -> np.ndarray:
        """Return a window inside a level that is made of SR tiles: uint8 [h, w, 3]."""
        pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
        side = self._tiles.side >> level
        for row, column in product(_touched(rows, side), _touched(columns, side)):
            tile = Image.fromarray(self._tiles.get(row, column))
            self._check_open()  # after the tile: it is white if another thread closed the slide meanwhile
            for _ in range(level):  # as the writer of a pyramid does, which rounds at each level
                tile = tile.reduce(2)
            y, x = row * side, column * side
            top, left = max(rows.start, y), max(columns.start, x)
            bottom, right = min(rows.stop, y + tile.height), min(columns.stop, x + tile.width)
            pixels[top - rows.start:bottom - rows.start, left - columns.start:right - columns.start] = (
                np.asarray(tile)[top - y:bottom - y, left - x:right - x])
        return pixels

    def _read_source(self, level: int, rows: slice, columns: slice) -> np.ndarray:
        """Return a window inside a level that needs no network: uint8 [h, w, 3]."""
        if 2**level == self.generator.scale:
            with self._tiles.reading:
                self._check_open()
                return self.lr[rows, columns]
        l0_side = self.lr.downsample * 2**level / self.generator.scale
        source = max(i for i, one in enumerate(self._source.level_downsamples) if one <= l0_side)
        block = max(1, int(SOURCE_SIDE * self._source.level_downsamples[source] / l0_side))
        pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
        for y, x in product(range(0, pixels.shape[0], block), range(0, pixels.shape[1], block)):
            self._fill(pixels[y:y + block, x:x + block], source, l0_side, columns.start + x, rows.start + y)
        return pixels

    def _fill(self, pixels: np.ndarray, source: int, l0_side: float, x: int, y: int) -> None:
        """Resample a block from a level of the source; where that fails, its quarters, and white at last."""
        height, width = pixels.shape[:2]
        l0_x, l0_y = self.lr.l0_point(0, 0)
        try:
            with self._tiles.reading:
                self._check_open()
                pixels[:] = self._source.read_scaled(source, l0_side, l0_x + x * l0_side, l0_y + y * l0_side,
                                                     width, height, Image.Resampling.HAMMING)
        except SlideError:
            if max(width, height) <= CELL:
                pixels[:] = WHITE
                return
            half_h, half_w = -(-height // 2), -(-width // 2)
            for top, left in product(range(0, height, half_h), range(0, width, half_w)):
                self._fill(pixels[top:top + half_h, left:left + half_w], source, l0_side, x + left, y + top)

    def _check_open(self) -> None:
        require(not self._closed, "slide", "be open", "open it again to read from it", str(self._path))

    def _describe(self) -> tuple[dict[str, str], dict[str, Image.Image]]:
        """Return the properties and the associated images."""
        scale, mpp = self.generator.scale, self.lr.mpp
        found = {openslide.PROPERTY_NAME_VENDOR: NAME, "sr_keras.source": self._path.name,
                 "sr_keras.model": str(self.generator.path), "sr_keras.scale": str(scale),
                 openslide.PROPERTY_NAME_COMMENT: "super-resolved; not for diagnosis"}
        if mpp is not None:
            found |= dict.fromkeys((openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y), f"{mpp / scale:.9g}")
        found["openslide.level-count"] = str(self.level_count)
        for i, (width, height) in enumerate(self.level_dimensions):
            values = {"width": width, "height": height, "downsample": self.level_downsamples[i],
                      "tile-width": self._tiles.side, "tile-height": self._tiles.side}
            found |= {f"openslide.level[{i}].{name}": str(value) for name, value in values.items()}
        try:
            source = open_by_library(self._path)
        except (openslide.OpenSlideError, SlideError):  # a picture, or a slide that another library reads
            return found, {}
        with source:
            power = source.properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
            if power is not None:
                found[openslide.PROPERTY_NAME_OBJECTIVE_POWER] = f"{float(power) * scale / self.lr.downsample:.4g}"
            return found, associated_images(source)


def _touched(part: slice, side: int) -> range:
    """Return the numbers of the tiles that a range of pixels touches."""
    return range(part.start // side, -(-part.stop // side))


def _open_model(model: str | Path | LoadedGenerator, engine: str) -> Any:
    if not isinstance(model, str | Path):
        return model
    import_tensorflow()
    from sr_keras.model.engines import open_engine

    return open_engine(engine, model)


def _profile_of(slide: Slide) -> bytes | None:
    try:
        return slide.icc_profile
    except SlideError:  # damaged, and the pixels are the same without it
        return None
