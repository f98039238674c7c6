# SPDX-License-Identifier: Apache-2.0
"""The trust map: the error to expect of an output, or how much it differs from its input, square by square.

    with open_slide("case.svs") as slide:
        trust = measure_file(LRPlane(slide), Path("case_x4.tif"), scale=4)
    trust.lr_error, trust.threshold             # float32 [rows, columns] in grey levels of 255; limit of outliers

The LR error of a square is `metrics.lr_consistency` in it: the root mean square of degrade(sr) - lr. Files call it
`departure`. Rounding the LR to 8 bit leaves 0.3 for a perfect SR, and JPEG of quality 90 adds to it. The map shows what
SR invents or hides at the size of LR pixels. It cannot show finer detail that is wrong, because the blur removes it.

A model with an uncertainty head (`sr_keras.model.uncertainty_head`) knows more: `expected`, the mean of |HR - SR| that
the head predicts from the input. It is shown in place of the LR error if it predicted real errors better on validation
slides. Blocks of glass, which is only interpolated, have 0.

The point spread of a slide is unknown, so textbook blurs and the mean over `scale` x `scale` pixels are tried;
`degrade` is the one that comes nearest to the input of this slide.

The finished file is measured, with its seams and its compression. Squares are 16 pixels of the output wide, doubled
until the map has no more than LONGEST_SIDE of them a side.
"""
from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.config import DegradeOptions, Range
from pipelines.errors import require
from pipelines.pixels import to_float, to_uint8
from pipelines.slide import open_slide
from pipelines.tissue import TYPICAL_MPP, tissue_mask
from sr_keras.slides.lr_plane import HasTissue, LRPlane, Plane, find_tissue, sample_windows

if TYPE_CHECKING:
    from sr_keras.model.loading import LoadedGenerator
    from sr_keras.model.uncertainty_head import HeadFacts, Uncertainty

FINEST = 16  # least side of a square, in pixels of the output
LONGEST_SIDE = 2048
BLOCK = 1024  # pixels of the output that are measured at once, a side
FENCE = 3.0  # outliers are above Tukey's fence: the upper quartile and so many interquartile ranges
VISIBLE = 2.0  # and above this, since smaller errors are invisible
UNUSUAL = 1.5  # a median above the usual range by this factor means input that the model does not know
WINDOWS, WINDOW = 8, 96  # number of windows to fit the degradation on, and their side in LR pixels
PATCHES = 12  # largest number of patches of a slide for `usual_departure`
SIGMAS = tuple(0.05 * step for step in range(17))  # Gaussian blurs tried, in LR pixels: up to 3.2 HR pixels at scale 4
UNIT = "grey levels of 255"


@dataclass(frozen=True)
class TrustMap:
    """The LR error of an output, by squares.

    Attributes:
        lr_error: float32 [rows, columns] in grey levels of 255. Squares at the right and lower border may be cut off.
        thumbnail: The input, uint8 [rows, columns, 3].
        square: Side of a square in pixels of the output.
        width: Of the output.
        height: Of the output.
        mpp: Microns per pixel of the output.
        degradation: How the output was degraded again.
        usual: Usual range of the median LR error of a slide for this model; None if unknown.
        expected: The expected error, like `lr_error`; None without a head that predicts better.
        measured: What was measured of the model's head on validation slides; None without a head.
    """

    lr_error: np.ndarray
    thumbnail: np.ndarray
    square: int
    width: int
    height: int
    mpp: float | None = None
    degradation: DegradeOptions | None = None
    usual: Range | None = None
    expected: np.ndarray | None = None
    measured: HeadFacts | None = None

    @property
    def shown(self) -> np.ndarray:
        """What the map shows: the expected error, or else the LR error."""
        return self.lr_error if self.expected is None else self.expected

    @cached_property
    def quartiles(self) -> tuple[float, float, float]:
        """Quartiles of what is shown, in tissue; of the whole map if there is no tissue."""
        return self._quartiles(self.shown)

    @cached_property
    def lr_median(self) -> float:
        """Median of the LR error, likewise."""
        return self._quartiles(self.lr_error)[1]

    def _quartiles(self, values: np.ndarray) -> tuple[float, float, float]:
        tissue = tissue_mask(self.thumbnail, (self.mpp or TYPICAL_MPP) * self.square)
        low, middle, high = np.percentile(values[tissue] if tissue.any() else values, (25, 50, 75))
        return float(low), float(middle), float(high)

    @property
    def threshold(self) -> float:
        """Values above it are outliers."""
        low, _, high = self.quartiles
        return max(VISIBLE, high + FENCE * (high - low))

    @property
    def is_unusual(self) -> bool:
        """Whether the whole slide has a larger LR error than is usual, so that no region stands out."""
        return self.usual is not None and self.lr_median > UNUSUAL * self.usual[1]


def measure_file(lr: LRPlane, output: Path, scale: int, progress: Callable[[int], None] | None = None,
                 usual: Range | None = None, head: Uncertainty | None = None, halo: int = 0) -> TrustMap:
    """Return the trust map of a finished slide or picture, with the degradation that fits it; see `measure`.

    `head` is used if it predicts errors better than the LR error does.

    Raises:
        SlideError: Input or output cannot be read at all. Unreadable places of either are white.
        ValueError: Their sizes do not fit.
    """
    with open_slide(output) as slide:
        sr = LRPlane(slide)
        _check_sides(lr, sr, scale)
        has_tissue = find_tissue(lr)
        windows = sample_windows(lr.shape, WINDOWS, WINDOW, has_tissue)
        pairs = ((lr[rows, columns], sr[times(rows, scale), times(columns, scale)]) for rows, columns in windows)
        fitted = fit_degradation(pairs, scale)
        large = scale * max(lr.shape[:2]) > BLOCK  # in a small picture the network has computed glass, too
        expect = Expect(head, halo, has_tissue if large else None) if head and head.facts.is_better else None
        found = measure(lr, sr, fitted, None if lr.mpp is None else lr.mpp / scale, progress, expect)
        return replace(found, usual=usual, measured=head.facts if head else None)


class Expect(NamedTuple):
    """How the expected error is computed: the head, how many LR pixels it sees on each side, and where tissue is."""

    head: Uncertainty
    halo: int
    has_tissue: HasTissue | None = None

    def squares(self, lr: Plane | np.ndarray, rows: slice, columns: slice, side: int) -> np.ndarray | float:
        """Return the expected errors of the squares of a block of LR; 0 if it is glass."""
        if self.has_tissue and not self.has_tissue(rows, columns):
            return 0.0
        y, x = _widened(rows, columns, lr, self.halo)
        expected = self.head.expected(lr[y, x][np.newaxis])[0].numpy()
        scale = expected.shape[0] // (y.stop - y.start)
        own = expected[times(slice(rows.start - y.start, rows.stop - y.start), scale),
                       times(slice(columns.start - x.start, columns.stop - x.start), scale)]
        return _square_means(own[..., np.newaxis], scale * side)[..., 0]


def measure(lr: Plane | np.ndarray, sr: Plane | np.ndarray, degrade: DegradeOptions, mpp: float | None = None,
            progress: Callable[[int], None] | None = None, expect: Expect | None = None) -> TrustMap:
    """Return the trust map of an output.

    Args:
        lr: The input, uint8 [h, w, 3]; only `.shape` and `[y0:y1, x0:x1]` are used.
        sr: The output, [scale*h, scale*w, 3], likewise.
        degrade: How LR was made: one of `candidates`, or another textbook blur.
        mpp: Microns per pixel of the output.
        progress: Called with the number of SR pixels measured since the last call.
        expect: What computes the expected error; None for a map without it.

    Raises:
        ValueError: The sizes do not fit.
    """
    scale, (height, width) = degrade.scale, lr.shape[:2]
    _check_sides(lr, sr, scale)
    side = square_side(height, width, scale)
    shape = -(-height // side), -(-width // side)
    lr_error, thumbnail = np.empty(shape, np.float32), np.empty((*shape, 3), np.uint8)
    expected = np.empty(shape, np.float32) if expect else None
    step = max(1, BLOCK // (scale * side)) * side
    for y, x in ((y, x) for y in range(0, height, step) for x in range(0, width, step)):
        rows, columns = slice(y, min(y + step, height)), slice(x, min(x + step, width))
        pixels, difference = _compare(lr, sr, rows, columns, degrade)
        squares = slice(y // side, -(-rows.stop // side)), slice(x // side, -(-columns.stop // side))
        lr_error[squares] = 255 * np.sqrt(_square_means(np.square(difference), side).mean(-1))
        thumbnail[squares] = np.rint(_square_means(pixels, side))
        if expect and expected is not None:
            expected[squares] = expect.squares(lr, rows, columns, side)
        if progress:
            progress(difference.shape[0] * difference.shape[1] * scale**2)
    return TrustMap(lr_error, thumbnail, scale * side, scale * width, scale * height, mpp, degrade, expected=expected)


def usual_departure(generator: LoadedGenerator, batches: Iterable[Mapping[str, Any]]) -> Range | None:
    """Return the usual range of the LR error: the least and the largest median of a slide; None without patches.

    The degradation is fitted to each patch.

    Args:
        generator: A trained generator.
        batches: Dicts of slide_id [B] and lr [B, h, w, 3], float in [0, 1], from validation slides, as
            `pipelines.dataset.evaluation_dataset` gives them.
    """
    errors: dict[bytes | str, list[np.ndarray]] = defaultdict(list)
    for batch in batches:
        for slide_id, lr in zip(batch["slide_id"], to_uint8(np.asarray(batch["lr"])), strict=True):
            if len(errors[slide_id]) < PATCHES:
                sr = generator(lr[np.newaxis])[0]
                fitted = fit_degradation([(lr, sr)], generator.scale)
                errors[slide_id].append(measure(lr, sr, fitted).lr_error.ravel())
    medians = [float(np.median(np.concatenate(found))) for found in errors.values()]
    return (min(medians), max(medians)) if medians else None


def candidates(scale: int) -> list[DegradeOptions]:
    """Return the degradations that are tried: the mean over `scale` x `scale` pixels, and blurs."""
    return [DegradeOptions(scale, blurs=("none",), resamplings=("box",)),
            *(DegradeOptions(scale, blur_sigma=round(scale * sigma, 3)) for sigma in SIGMAS)]


def fit_degradation(pairs: Iterable[tuple[np.ndarray, np.ndarray]], scale: int) -> DegradeOptions:
    """Return the candidate that makes the LR of the SR with the least squared error.

    Args:
        pairs: Windows of LR and SR, uint8 [h, w, 3] and [scale*h, scale*w, 3]. Borders that are affected by pixels
            outside of the window are ignored, unless the window has nothing else.
        scale: SR side over LR side.
    """
    tried = candidates(scale)
    errors, margin = np.zeros(len(tried)), max(reach(options) for options in tried)
    for lr, sr in pairs:
        rows, columns = (slice(margin, -margin) if side > 2 * margin else slice(None) for side in lr.shape[:2])
        lr_float, sr_float = to_float(lr), to_float(sr)
        for i, options in enumerate(tried):
            errors[i] += np.square(degrade_again(sr_float, options) - lr_float)[rows, columns].sum()
    return tried[int(errors.argmin())]


def degrade_again(sr: np.ndarray, options: DegradeOptions) -> np.ndarray:
    """Return float [H, W, 3] degraded by a candidate, or another textbook blur: [H/scale, W/scale, 3]."""
    down, right = (_matrix(options, side // options.scale) for side in sr.shape[:2])
    return np.moveaxis(down @ np.moveaxis(sr, -1, 0) @ right.T, 0, -1)


def reach(options: DegradeOptions) -> int:
    """Return how far `degrade_again` looks beyond a window, in LR pixels."""
    first, weights = _taps(options)
    return -(-max(-first, first + len(weights) - options.scale) // options.scale)


def square_side(height: int, width: int, scale: int) -> int:
    """Return the side of a square in LR pixels: `FINEST`, doubled until no side of the map is too long."""
    finest = -(-FINEST // scale)
    return finest * 2 ** max(0, math.ceil(math.log2(max(height, width) / (finest * LONGEST_SIDE))))


def _compare(lr: Plane | np.ndarray, sr: Plane | np.ndarray, rows: slice, columns: slice,
             options: DegradeOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return a block of LR, uint8, and degrade(sr) - lr of it, on [0, 1]."""
    scale, margin = options.scale, reach(options)
    # The block is read with a margin. It ends where the slide ends, and degrade mirrors there as with the whole slide.
    y, x = _widened(rows, columns, lr, margin)
    again = degrade_again(to_float(sr[times(y, scale), times(x, scale)]), options)
    pixels = lr[rows, columns]
    return pixels, again[rows.start - y.start:rows.stop - y.start,
                         columns.start - x.start:columns.stop - x.start] - to_float(pixels)


def _widened(rows: slice, columns: slice, lr: Plane | np.ndarray, margin: int) -> tuple[slice, slice]:
    """Return a block of LR with a margin, as far as there are pixels."""
    y, x = (slice(max(0, core.start - margin), min(side, core.stop + margin))
            for core, side in zip((rows, columns), lr.shape[:2], strict=True))
    return y, x


def _check_sides(lr: Plane | np.ndarray, sr: Plane | np.ndarray, scale: int) -> None:
    height, width = lr.shape[:2]
    require(tuple(sr.shape[:2]) == (scale * height, scale * width), "output", f"have {scale} times the sides of the "
            f"input, {width}x{height}", "give an input and the output made of it", f"{sr.shape[1]}x{sr.shape[0]}")


def times(part: slice, scale: int) -> slice:
    """Return the pixels of SR over some of LR, along an axis."""
    return slice(scale * part.start, scale * part.stop)


def _square_means(values: np.ndarray, side: int) -> np.ndarray:
    """Return the means over squares, float64; those at the end may be cut off."""
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], side)
        lengths = np.diff(starts, append=values.shape[axis])
        sums = np.add.reduceat(values, starts, axis, dtype=np.float64)
        values = sums / np.expand_dims(lengths, (1, 2) if axis == 0 else (0, 2))
    return values


def _taps(options: DegradeOptions) -> tuple[int, np.ndarray]:
    """Return the weights of the HR pixels along one axis that make LR pixel 0, and the index of the first of them."""
    if not options.is_textbook:
        return 0, np.full(options.scale, 1 / options.scale)
    from pipelines.degrade import taps  # imports TensorFlow, which --help does not need

    return taps(options.scale, options.range_of("blur_sigma")[0])


@lru_cache(maxsize=128)
def _matrix(options: DegradeOptions, side: int) -> np.ndarray:
    """Return a candidate as a matrix along one axis, float32 [side, scale*side]; all of them are separable."""
    scale, (first, weights) = options.scale, _taps(options)
    at = scale * np.arange(side)[:, np.newaxis] + first + np.arange(len(weights))
    at %= 2 * scale * side  # mirrored, as degrade does
    matrix = np.zeros((side, scale * side), np.float32)
    np.add.at(matrix, (np.arange(side)[:, np.newaxis], np.minimum(at, 2 * scale * side - 1 - at)),
              np.asarray(weights, np.float32))
    return matrix
