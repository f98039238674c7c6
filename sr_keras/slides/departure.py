"""How far SR departs from what was scanned, measured on the finished file, block by block.

    with open_slide("case.svs") as slide:
        trust = measure_file(LRView(slide), Path("case_x4.tif"), scale=4)
    trust.departure, trust.threshold                  # float32 [rows, columns] in grey levels of 255; what is far out

The departure is `metrics.lr_consistency` square by square: the root mean square of degrade(sr) - lr, where `degrade` is
what fits this slide, see `fitting`. An 8-bit LR leaves 0.3 to a perfect SR, a JPEG of quality 90 adds to it. It tells
what SR invents or hides at the size of LR pixels; finer detail that is wrong and vanishes in the blur does not show.

Each block has the margin that the blur looks around. So nothing has to outlive a kill, the seams between tiles are
measured too, and so is what the compression did. Squares are 16 pixels of the output wide, or so many times as many
that a side of the map has `LONGEST_SIDE` of them at most.
"""
from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pipelines.config import DegradeOptions, Range
from pipelines.errors import require
from pipelines.files import atomic_path
from pipelines.pixels import to_float
from pipelines.pyramid.tiff import MICRONS_PER_CM
from pipelines.slide import open_slide
from pipelines.tissue import TYPICAL_MPP, tissue_mask
from sr_keras.slides.fitting import degrade_again, fit_degradation, reach
from sr_keras.slides.loop import Plane
from sr_keras.slides.lr_plane import LRView, TissueMap
from sr_keras.slides.samples import sample_windows

FINEST = 16  # pixels of the output to a square of the map, at least
LONGEST_SIDE = 2048
BLOCK = 1024  # pixels of the output that are measured at once, a side
# Far out by Tukey's fence, with quartiles so that a fifth of bad tissue does not hide itself; and never what nobody
# would see.
FENCE = 3.0
VISIBLE = 2.0
UNUSUAL = 1.5  # a median so many times beyond what is usual comes of input that the model does not know
WINDOWS, WINDOW = 8, 96  # how many are looked at to find the degradation that fits, and their side in LR pixels
UNIT = "grey levels of 255"
SAYS = '{"departure": '  # so a map begins its description


@dataclass(frozen=True)
class TrustMap:
    """The departure of an output of `width` x `height` pixels, and what the input looks like, by squares of `square`.

    `departure` is float32 [rows, columns] in grey levels of 255, `thumbnail` uint8 [rows, columns, 3]; squares at the
    right and lower border are cut off. `mpp` is the output's. `degradation` is how the output was degraded again, and
    `usual` is what is usual for the model at the median of a slide; None where nobody knows.
    """

    departure: np.ndarray
    thumbnail: np.ndarray
    square: int
    width: int
    height: int
    mpp: float | None = None
    degradation: DegradeOptions | None = None
    usual: Range | None = None

    @cached_property
    def quartiles(self) -> tuple[float, float, float]:
        """Quartiles of the departure in tissue; of all where there is none."""
        tissue = tissue_mask(self.thumbnail, (self.mpp or TYPICAL_MPP) * self.square)
        low, middle, high = np.percentile(self.departure[tissue] if tissue.any() else self.departure, (25, 50, 75))
        return float(low), float(middle), float(high)

    @property
    def threshold(self) -> float:
        """What departs further is far out."""
        low, _, high = self.quartiles
        return max(VISIBLE, high + FENCE * (high - low))


    @property
    def is_unusual(self) -> bool:
        """Whether the slide departs everywhere further than is usual: no region of it stands out."""
        return self.usual is not None and self.quartiles[1] > UNUSUAL * self.usual[1]


def measure_file(lr: LRView, output: Path, scale: int, progress: Callable[[int], None] | None = None,
                 usual: Range | None = None) -> TrustMap:
    """Return the map of a finished slide or picture, by the degradation that fits it; see `measure`.

    Raises:
        SlideError: One of the two can't be read at all. Places of either that can't are white.
        ValueError: The sides do not fit.
    """
    with open_slide(output) as slide:
        sr = LRView(slide)
        _check_sides(lr, sr, scale)
        windows = sample_windows(lr.shape, WINDOWS, WINDOW, TissueMap(lr).any_in)
        pairs = ((lr[rows, columns], sr[_times(rows, scale), _times(columns, scale)]) for rows, columns in windows)
        fitted = fit_degradation(pairs, scale)
        return replace(measure(lr, sr, fitted, None if lr.mpp is None else lr.mpp / scale, progress), usual=usual)


def measure(lr: Plane | np.ndarray, sr: Plane | np.ndarray, degrade: DegradeOptions, mpp: float | None = None,
            progress: Callable[[int], None] | None = None) -> TrustMap:
    """Compare SR with what it was made from.

    Args:
        lr: The input, uint8 [h, w, 3], of which only `.shape` and `[y0:y1, x0:x1]` are used.
        sr: The output, [scale*h, scale*w, 3], likewise.
        degrade: How LR was made: one of `fitting.candidates`, or another textbook blur.
        mpp: Microns per pixel of the output.
        progress: Called with how many pixels of the output were measured since the last call.

    Raises:
        ValueError: The sides do not fit.
    """
    scale, (height, width) = degrade.scale, lr.shape[:2]
    _check_sides(lr, sr, scale)
    side = square_side(height, width, scale)
    shape = -(-height // side), -(-width // side)
    departure, thumbnail = np.empty(shape, np.float32), np.empty((*shape, 3), np.uint8)
    step = max(1, BLOCK // (scale * side)) * side
    for y, x in ((y, x) for y in range(0, height, step) for x in range(0, width, step)):
        rows, columns = slice(y, min(y + step, height)), slice(x, min(x + step, width))
        pixels, error = _compared(lr, sr, rows, columns, degrade)
        there = slice(y // side, -(-rows.stop // side)), slice(x // side, -(-columns.stop // side))
        departure[there] = 255 * np.sqrt(_means(np.square(error), side).mean(-1))
        thumbnail[there] = np.rint(_means(pixels, side))
        if progress:
            progress(error.shape[0] * error.shape[1] * scale**2)
    return TrustMap(departure, thumbnail, scale * side, scale * width, scale * height, mpp, degrade)


def square_side(height: int, width: int, scale: int) -> int:
    """Return the side of a square of the map in LR pixels: `FINEST`, doubled until no side of the map is too long."""
    finest = -(-FINEST // scale)
    return finest * 2 ** max(0, math.ceil(math.log2(max(height, width) / (finest * LONGEST_SIDE))))


def write_map(path: Path, trust: TrustMap) -> None:
    """Write the departure as a tiled TIFF of one float32 channel, with the mpp of a square."""
    said = json.dumps({"departure": f"RMS of degrade(sr) - lr, in {UNIT}", "square": trust.square,
                       "width": trust.width, "height": trust.height})
    scale: dict[str, Any] = {}
    if trust.mpp is not None:
        scale = {"resolution": (MICRONS_PER_CM / (trust.mpp * trust.square),) * 2, "resolutionunit": "CENTIMETER"}
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, trust.departure, photometric="minisblack", tile=(256, 256), metadata=None,
                         compression="adobe_deflate", software=False, description=said, **scale)


def is_map(path: Path) -> bool:
    """Whether a file is a map that `write_map` wrote."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return tiff.pages[0].description.startswith(SAYS)
    except Exception:  # decoders of other people's bytes raise every kind there is
        return False


def _compared(lr: Plane | np.ndarray, sr: Plane | np.ndarray, rows: slice, columns: slice,
              options: DegradeOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return a block of LR and degrade(sr) - lr there, on [0, 1]."""
    scale, margin = options.scale, reach(options)
    # Where the slide ends the window ends, and degrade mirrors there as it would with the whole slide.
    y, x = (slice(max(0, core.start - margin), min(side, core.stop + margin))
            for core, side in zip((rows, columns), lr.shape[:2], strict=True))
    again = degrade_again(to_float(sr[_times(y, scale), _times(x, scale)]), options)
    pixels = lr[rows, columns]
    return pixels, again[rows.start - y.start:rows.stop - y.start,
                         columns.start - x.start:columns.stop - x.start] - to_float(pixels)


def _check_sides(lr: Plane | np.ndarray, sr: Plane | np.ndarray, scale: int) -> None:
    height, width = lr.shape[:2]
    require(tuple(sr.shape[:2]) == (scale * height, scale * width), "output", f"have {scale} times the sides of the "
            f"input, {width}x{height}", "give the pair that belongs together", f"{sr.shape[1]}x{sr.shape[0]}")


def _times(part: slice, scale: int) -> slice:
    return slice(scale * part.start, scale * part.stop)


def _means(values: np.ndarray, side: int) -> np.ndarray:
    """Return means over squares, float64; those at the end may be cut off."""
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], side)
        lengths = np.diff(starts, append=values.shape[axis])
        sums = np.add.reduceat(values, starts, axis, dtype=np.float64)
        values = sums / np.expand_dims(lengths, (1, 2) if axis == 0 else (0, 2))
    return values
