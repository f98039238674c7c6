"""Pairs from a slide's own levels: HR at one level, LR at the level `scale` times coarser, of the same place.

LR pixel i lies on HR coordinate scale*i + (scale-1)/2 (half-pixel centres). A level is taken as it is where its size is
that of HR's divided by the scale, rounded up or down: its pixels are then exactly `scale` times as large, and patches
begin on multiples of the scale. Otherwise the nearest level that is at most `MOST_REDUCED` times finer, or as little
coarser as `MPP_TOLERANCE`, is resampled (Lanczos, its support widened by the factor, no aliasing). What is further away
would no longer be what the scanner gives. A level is used only where it shows what HR shows: see
`pipelines.correspondence`.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.config import PatchOptions
from pipelines.correspondence import mismatch, refusal, sample
from pipelines.slide import MPP_TOLERANCE, Slide, SlideError

MOST_REDUCED = 1.5

Place = tuple[int, int]  # x, y in level 0


@dataclass(frozen=True)
class CoarseLevel:
    """A level that LR can be read from; `exact`: its pixels are those of LR."""

    level: int
    exact: bool


class LevelPairs:
    """The pairs of one open slide."""

    def __init__(self, slide: Slide, options: PatchOptions) -> None:
        """Look for levels that are coarse enough.

        Raises:
            SlideError: There is none.
        """
        self._slide, self._options = slide, options
        self._wanted = slide.resolution(options.mpp, options.level)
        self._downsample = self._wanted.downsample * options.scale
        self._candidates = self._find()
        self._chosen = self._candidates[0]

    @property
    def resampled(self) -> bool:
        """Whether LR may be resampled, so that its pixels follow from some around the patch too."""
        return not all(candidate.exact for candidate in self._candidates)

    def settle(self, places: Sequence[Place]) -> None:
        """Choose the level that shows what HR shows in most of `places`, of which some are looked at.

        Raises:
            SlideError: No level does.
        """
        places = sample(places)
        fine = [self._hr(*place) for place in places]
        reasons = []
        for candidate in self._candidates:
            reason = refusal(zip(fine, (self._lr(candidate, *place) for place in places), strict=True))
            if reason is None:
                self._chosen = candidate
                return
            width, height = self._slide.level_dimensions[candidate.level]
            reasons.append(f"level {candidate.level} ({width} x {height} pixels): {reason}")
        raise SlideError(f"{self._slide.path}: no level shows the slide {self._options.scale} times coarser, so there "
                         f"are no pairs; {'; '.join(reasons)}")

    def read(self, l0_x: int, l0_y: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (hr uint8 [patch_size, patch_size, 3], lr uint8 [patch_size/scale, patch_size/scale, 3]).

        Raises:
            SlideError: Pixels cannot be decoded, or the two do not correspond.
        """
        hr, lr = self._hr(l0_x, l0_y), self._lr(self._chosen, l0_x, l0_y)
        reason = mismatch(hr, lr)
        if reason:
            raise SlideError(f"{self._slide.path}: at {l0_x},{l0_y} {reason}")
        return hr, lr

    def _find(self) -> list[CoarseLevel]:
        slide, scale, finest = self._slide, self._options.scale, self._wanted.level
        if len(slide.level_dimensions) == 1:
            raise SlideError(f"{slide.path}: has one level, and pairs of levels need another that is {scale} times "
                             "coarser; leave --pairs out, or give a slide with levels")
        found = []
        for level in range(finest + 1, len(slide.level_dimensions)):
            off = [abs(coarse - fine / scale) for coarse, fine in
                   zip(slide.level_dimensions[level], slide.level_dimensions[finest], strict=True)]
            factor = self._downsample / slide.level_downsamples[level]
            exact = not self._wanted.resampled and max(off) <= 1
            if exact or 1 / (1 + MPP_TOLERANCE) <= factor <= MOST_REDUCED:
                found.append((not exact, abs(math.log(factor)), CoarseLevel(level, exact)))
        if not found:
            there = ", ".join(f"{downsample:.4g}" for downsample in slide.level_downsamples)
            raise SlideError(f"{slide.path}: has no level about {self._downsample:.4g} times coarser than its finest; "
                             f"choose another --scale, --level or --mpp. Received: levels at {there}")
        return [candidate for _, _, candidate in sorted(found, key=lambda one: one[:2])]

    def _hr(self, l0_x: int, l0_y: int) -> np.ndarray:
        size = self._options.patch_size
        if self._wanted.resampled:
            return self._slide.read_at(l0_x, l0_y, size, size, self._options.mpp)
        return self._slide.read_level(self._wanted.level, *self._corner(l0_x, l0_y), size, size)

    def _lr(self, coarse: CoarseLevel, l0_x: int, l0_y: int) -> np.ndarray:
        side = self._options.patch_size // self._options.scale
        if not coarse.exact:
            return self._slide.read_scaled(coarse.level, self._downsample, l0_x, l0_y, side, side)
        x, y = (position // self._options.scale for position in self._corner(l0_x, l0_y))
        return self._slide.read_level(coarse.level, x, y, side, side)

    def _corner(self, l0_x: int, l0_y: int) -> Place:
        """Return a place in pixels of HR's level; it is a multiple of the scale."""
        return round(l0_x / self._wanted.downsample), round(l0_y / self._wanted.downsample)
