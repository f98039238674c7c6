# SPDX-License-Identifier: Apache-2.0
"""One slide as it is looked at: its LR plane, and layers over it that are read tile by tile.

    with Scene(Path("case.svs"), [generator]) as scene:
        sr = scene.read("srgan_sqe_x4", (1, 0))         # column 1, row 0: uint8 [512, 512, 3]

All layers cover the same plane; a layer of scale s has s x s pixels for each of the plane. Those of models and of
bicubic interpolation are `SuperResolvedSlide`s, so their pixels are those of a finished output.
"""
from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import ndimage

from pipelines.config import SCALES, DegradeOptions
from pipelines.errors import SlideError, require
from pipelines.pixels import to_float, to_uint8
from pipelines.slide import open_slide
from sr_keras.slides.enlarge import open_plane
from sr_keras.slides.inspection import find_mismatches, inspect_input
from sr_keras.slides.loop import BICUBIC_REACH
from sr_keras.slides.lr_plane import HasTissue, LRPlane, find_tissue
from sr_keras.slides.reports import describe_model
from sr_keras.slides.super_resolved import SuperResolvedSlide
from sr_keras.slides.trust_map import (
    UNUSUAL,
    VISIBLE,
    Expect,
    candidates,
    fit_degradation,
    measure,
    reach,
    square_side,
)
from sr_keras.slides.window_plan import EnlargeOptions

if TYPE_CHECKING:
    from sr_keras.model.loading import LoadedGenerator

TILE = 128  # LR pixels of a tile, a side: a tile of SR at scale 4
FITTED_ON = 2  # tiles with tissue, to fit the degradation that the trust map needs
THUMBNAIL = 512
SR_CACHE = 2**25  # bytes for each model: the trust map looks beyond a tile. `tile_queue` keeps what is shown
LR, BICUBIC = "LR", "bicubic"

Cell = tuple[int, int]  # column and row of a tile
Read = Callable[[slice, slice], np.ndarray]


class Bicubic(NamedTuple):
    """Bicubic interpolation as a generator."""

    scale: int
    halo: int = BICUBIC_REACH
    path: Path = Path(BICUBIC)

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Enlarge uint8 [B, h, w, 3]."""
        from sr_keras.metrics import bicubic  # imports TensorFlow

        return to_uint8(bicubic(to_float(lr), self.scale)).numpy()


class Layer(NamedTuple):
    """Pixels over a plane: `read` takes rows and columns in LR pixels, and returns uint8 [scale*h, scale*w, 3].

    Trust is measured with a `margin` of LR pixels around a tile; 0 where it can't be measured.
    """

    scale: int
    read: Read
    margin: int = 0


class Scene:
    """An open slide with its layers by name: LR, bicubic, one for each model, and a finished output if one is given."""

    def __init__(self, path: Path, generators: Sequence[LoadedGenerator], options: EnlargeOptions | None = None,
                 finished: Path | None = None) -> None:
        """Open a slide.

        Args:
            path: A slide or picture.
            generators: The models, from `sr_keras.model.engines.open_engine`.
            options: They choose the plane: mpp, level, assume_mpp.
            finished: An output of `super_resolve` of this slide with these options.

        Raises:
            SlideError: The slide, or the finished output, cannot be read.
            ValueError: The finished output was made of another plane.
        """
        self.path, self.generators, self.options = path, by_name(generators), options or EnlargeOptions()
        self._degradations: dict[str, DegradeOptions] = {}
        self._quartiles: dict[str, float] = {}
        self._expect = cache(self._load_head)
        self._files = ExitStack()
        with ExitStack() as opened:
            self._slide = opened.enter_context(open_slide(path, self.options.assume_mpp))
            self.lr = open_plane(self._slide, self.options)
            enlarged = {name: _computed(self._open(opened, one)) for name, one in self.generators.items()}
            if finished:
                plane = LRPlane(opened.enter_context(open_slide(finished)))
                enlarged[f"finished {finished.name}"] = _of_file(self.lr, plane)
            self.finest = max(layer.scale for layer in enlarged.values())
            self._interpolated = self._open(opened, Bicubic(self.finest), cache_bytes=0)
            self.layers = {LR: Layer(1, self._read_lr), BICUBIC: _computed(self._interpolated)._replace(margin=0),
                           **enlarged}
            self._files = opened.pop_all()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    @property
    def enlarged(self) -> list[str]:
        """The names of the layers of models and of the finished output."""
        return [name for name in self.layers if name not in (LR, BICUBIC)]

    @property
    def unit(self) -> float:
        """Microns of an LR pixel, a side; 1 where the slide does not say."""
        return self.lr.mpp or 1.0

    @property
    def unreadable(self) -> bool:
        """Whether a place of what was looked at cannot be read, and is shown white."""
        return bool(self.lr.unreadable.cells or self._interpolated.lr.unreadable.cells)

    @cached_property
    def thumbnail(self) -> np.ndarray:
        """The whole slide, uint8 [h, w, 3], its longer side `THUMBNAIL` pixels at most."""
        return self._slide.thumbnail(THUMBNAIL)

    @cached_property
    def has_tissue(self) -> HasTissue:
        """Whether a part of the plane shows tissue."""
        return find_tissue(self.lr)

    def _check_file(self) -> None:
        """Raise a SlideError if the slide no longer exists; a file that is open may still give pixels."""
        if not os.path.exists(self.path):
            raise SlideError(f"{self.path}: no longer exists; restore it, or close this page")

    def read(self, name: str, cell: Cell) -> np.ndarray:
        """Return a tile of a layer: uint8 [h, w, 3], less at the right and lower border.

        Raises:
            ValueError: It lies outside of the plane.
            SlideError: The slide no longer exists.
        """
        self._check_file()
        return self.layers[name].read(*self._slices(cell))

    def trust(self, name: str, cell: Cell, known: Sequence[Cell]) -> np.ndarray:
        """Return what the trust map shows of the squares of an SR tile, float32 [rows, columns], in grey levels.

        That is the expected error if the model has a head that predicts it better, or else the LR error; see
        `sr_keras.slides.trust_map`. The degradation is fitted once, on the first tiles with tissue.

        Args:
            name: Of an SR layer.
            cell: The tile.
            known: Tiles that are computed already, to fit the degradation on.
        """
        layer, square = self.layers[name], self.square(name)
        if expect := self._expect(name):
            return self._expected(name, expect, cell)
        degrade = self._degradations.get(name)
        if degrade is None:
            chosen = [one for one in known if self.has_tissue(*self._slices(one))][:FITTED_ON]
            pairs = [(self._read_lr(*self._slices(one)), self.read(name, one)) for one in chosen or [cell]]
            degrade = fit_degradation(pairs, layer.scale)
            if chosen:
                self._degradations[name] = degrade
        inner, outer = self._slices(cell), self._slices(cell, layer.margin)
        error = measure(self._read_lr(*outer), layer.read(*outer), degrade).lr_error
        rows, columns = (slice((core.start - all_of.start) // square, math.ceil((core.stop - all_of.start) / square))
                         for core, all_of in zip(inner, outer, strict=True))
        return error[rows, columns]

    def square(self, name: str) -> int:
        """Return the side of a square of the trust map of an SR layer, in LR pixels."""
        return square_side(1, 1, self.layers[name].scale)

    def usual_error(self, name: str) -> float:
        """Return up to which value a square of an SR layer is not unusual, in grey levels.

        An LR error is compared with what is usual for the model; an expected error with the upper quartile of the first
        tile with tissue.
        """
        generator = self.generators.get(name)
        usual = generator.facts.usual_departure if generator else None
        return self._quartiles.get(name) or max(VISIBLE, UNUSUAL * usual[1] if usual else 0)

    def overview(self, lr_box: tuple[int, int, int, int], coarser: int) -> np.ndarray:
        """Return the slide in a box of the plane (x0, y0, x1, y1), a pixel for each `coarser` x `coarser` of it.

        Raises:
            SlideError: The slide no longer exists.
        """
        self._check_file()
        x0, y0, x1, y1 = lr_box
        slide, step = self._interpolated, self.finest * coarser
        level = slide.get_best_level_for_downsample(step)
        found = slide.level_downsamples[level]
        size = (max(1, round((x1 - x0) * self.finest / found)), max(1, round((y1 - y0) * self.finest / found)))
        picture = slide.read_region((x0 * self.finest, y0 * self.finest), level, size).convert("RGB")
        return np.asarray(picture.reduce(max(1, round(step / found))))

    def warnings(self) -> list[str]:
        """Return what the models were not made for in this slide."""
        found = inspect_input(open_plane(self._slide, self.options), self.has_tissue)
        return list(dict.fromkeys(warning for generator in self.generators.values()
                                  for warning in find_mismatches(found, generator.facts)))

    def first_place(self) -> tuple[int, int]:
        """Return the LR pixel in the middle of the most detailed part of the slide."""
        height, width = self.lr.shape[:2]
        density = -np.log10(np.clip(self.thumbnail.mean(2), 1, 255) / 255)
        steps = np.hypot(*np.gradient(np.pad(density, 1, "edge")))[1:-1, 1:-1]  # a gradient needs two pixels
        detail = ndimage.uniform_filter(steps, max(3, min(density.shape) // 16))
        y, x = np.unravel_index(detail.argmax(), detail.shape)
        return int((x + 0.5) * width / detail.shape[1]), int((y + 0.5) * height / detail.shape[0])

    def _load_head(self, name: str) -> Expect | None:
        """Return what predicts the error of an SR layer better than its LR error does."""
        from sr_keras.model.uncertainty_head import load_uncertainty  # imports TensorFlow

        generator = self.generators.get(name)
        head = load_uncertainty(generator.path) if generator else None
        return Expect(head, generator.halo, self.has_tissue) if generator and head and head.facts.is_better else None

    def _expected(self, name: str, expect: Expect, cell: Cell) -> np.ndarray:
        rows, columns = self._slices(cell)
        square = self.square(name)
        shape = tuple(-(-(part.stop - part.start) // square) for part in (rows, columns))
        error = np.broadcast_to(np.float32(expect.squares(self.lr, rows, columns, square)), shape)
        if error.any() and name not in self._quartiles:
            self._quartiles[name] = max(VISIBLE, float(np.percentile(error, 75)))
        return error

    def _open(self, opened: ExitStack, generator: Any, cache_bytes: int = SR_CACHE) -> SuperResolvedSlide:
        slide = SuperResolvedSlide(self.path, generator, self.options, cache_bytes=cache_bytes)
        return opened.enter_context(slide)

    def _read_lr(self, rows: slice, columns: slice) -> np.ndarray:
        return self.lr[rows, columns]

    def _slices(self, cell: Cell, margin: int = 0) -> tuple[slice, slice]:
        """Return rows and columns of a tile, with a margin that ends where the plane ends."""
        (column, row), (height, width) = cell, self.lr.shape[:2]
        require(0 <= column * TILE < width and 0 <= row * TILE < height, "tile",
                f"lie inside the {width}x{height} pixels of {self.path.name}", f"a tile has {TILE} of them a side",
                cell)
        return (slice(max(0, row * TILE - margin), min(height, (row + 1) * TILE + margin)),
                slice(max(0, column * TILE - margin), min(width, (column + 1) * TILE + margin)))


def by_name(generators: Sequence[LoadedGenerator]) -> dict[str, LoadedGenerator]:
    """Return models by the names that they are shown by; those of two with one name end in a number."""
    names = [str(describe_model(generator)["name"]) for generator in generators]
    return {name if names.count(name) == 1 else f"{name} ({i + 1})": generators[i] for i, name in enumerate(names)}


def _computed(slide: SuperResolvedSlide) -> Layer:
    """Return the layer of a slide that is computed where it is read."""
    scale = slide.generator.scale

    def read(rows: slice, columns: slice) -> np.ndarray:
        size = (scale * (columns.stop - columns.start), scale * (rows.stop - rows.start))
        return np.asarray(slide.read_region((scale * columns.start, scale * rows.start), 0, size).convert("RGB"))

    return Layer(scale, read, _margin(scale))


def _of_file(lr: LRPlane, sr: LRPlane) -> Layer:
    """Return the layer of a finished output.

    Raises:
        ValueError: Its sides are not a multiple of the plane's.
    """
    scale = max(1, round(sr.shape[1] / lr.shape[1]))
    require(sr.shape[:2] == (scale * lr.shape[0], scale * lr.shape[1]), "finished", "be the output of this whole slide",
            f"give the --mpp or --level that it was made with; the slide is read at {lr.shape[1]}x{lr.shape[0]} pixels",
            f"{sr.shape[1]}x{sr.shape[0]} pixels")

    def read(rows: slice, columns: slice) -> np.ndarray:
        return sr[scale * rows.start:scale * rows.stop, scale * columns.start:scale * columns.stop]

    return Layer(scale, read, _margin(scale))


def _margin(scale: int) -> int:
    """Return how many LR pixels around a tile its trust map depends on, in whole squares; 0 where there is none."""
    if scale not in SCALES:
        return 0
    square = square_side(1, 1, scale)
    return square * -(-max(map(reach, candidates(scale))) // square)
