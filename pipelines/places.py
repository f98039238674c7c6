"""Where a slide's patches lie: on a grid or at random, inside of the slide or a region of it, on tissue.

Spans and corners are in pixels of the resolution that is read; places are (x, y) in level 0.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipelines.config import PatchOptions
from pipelines.errors import require
from pipelines.slide import Resolution, Slide
from pipelines.sources import Region

# A patch should cover some 16 pixels of the mask, and a mask should be quick: limits of its longer side.
MASK_PIXELS_PER_PATCH = 16
SLIDE_MASK, TILE_MASK = (512, 2048), (64, 2048)
DRAWS_PER_PATCH, MOST_DRAWS = 1000, 1_000_000


@dataclass(frozen=True)
class Span:
    """Where a patch's corner may lie, ends included, in pixels of the resolution that is read."""

    x: int
    last_x: int
    y: int
    last_y: int

    @property
    def is_empty(self) -> bool:
        """Whether there is no such corner."""
        return self.last_x < self.x or self.last_y < self.y

    @property
    def is_one_place(self) -> bool:
        """Whether there is one such corner."""
        return self.last_x == self.x and self.last_y == self.y


def find_span(slide: Slide, wanted: Resolution, region: Region | None, options: PatchOptions, reach: float) -> Span:
    """Return where corners may lie so that patches, and what they are resampled from, stay inside.

    Args:
        slide: An open slide.
        wanted: What is read.
        region: x, y, width, height in level 0; None for the whole slide.
        options: Of the patches.
        reach: Pixels of level 0 around a patch that it is resampled from. They must not lie in another region.

    Raises:
        ValueError: The region does not lie in the slide.
    """
    l0_w, l0_h = slide.dimensions
    x, y, width, height = region or (0, 0, l0_w, l0_h)
    inside = x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= l0_w and y + height <= l0_h
    require(inside, "region", f"lie inside the slide's {l0_w} x {l0_h} pixels",
            f"give x, y, width, height in level 0 of {slide.path}", region)
    inset = math.ceil(reach) if region else 0
    scale, size = 1 / wanted.downsample, options.patch_size
    first = [math.ceil((start + inset) * scale) for start in (x, y)]
    last = [_floor((end - inset) * scale) - size for end in (x + width, y + height)]
    # LR pixels of pairs begin at multiples of the scale.
    (x, y), (last_x, last_y) = ([-(-start // options.unit) * options.unit for start in first],
                                [end - end % options.unit for end in last])
    return Span(x, last_x, y, last_y)


def _floor(value: float) -> int:
    """Floor, but 3 for 2.9999999: what 1/downsample cost must not cost the last column of patches."""
    return math.floor(value + 1e-6)


def find_places(slide: Slide, wanted: Resolution, span: Span, mask: np.ndarray, options: PatchOptions,
                rng: np.random.Generator, limit: int | None) -> list[tuple[int, int, float]]:
    """Return (x, y, share of tissue) of the chosen places, x and y in level 0, top to bottom."""
    corners = _grid(span, options) if options.sampling == "grid" else _draws(span, rng, limit or 1, options.unit)
    # A level's own pixels have their nearest level-0 pixel; a resampled patch starts where it is told, and inside.
    l0_corners = (np.floor if wanted.resampled else np.rint)(corners * wanted.downsample)
    tissue = _tissue_share(mask, l0_corners, wanted.downsample * options.patch_size, slide.dimensions)
    fit = np.flatnonzero(tissue >= options.min_tissue)
    if limit is not None and len(fit) > limit:
        fit = fit[:limit] if options.sampling == "random" else _spread(fit, rng, limit)
    chosen = fit[np.lexsort((l0_corners[fit, 0], l0_corners[fit, 1]))]
    return [(int(l0_corners[i, 0]), int(l0_corners[i, 1]), float(tissue[i])) for i in chosen]


def _grid(span: Span, options: PatchOptions) -> np.ndarray:
    """Return all corners of the grid [N, 2], row by row."""
    step = options.stride or options.patch_size
    x, y = np.arange(span.x, span.last_x + 1, step), np.arange(span.y, span.last_y + 1, step)
    return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)


def _draws(span: Span, rng: np.random.Generator, limit: int, unit: int) -> np.ndarray:
    """Return random corners [N, 2], each once: enough that `limit` of them hit tissue where it is rare."""
    count = min(DRAWS_PER_PATCH * limit, MOST_DRAWS)
    corners = rng.integers((span.x, span.y), (span.last_x + 1, span.last_y + 1), (count, 2))
    corners -= corners % unit
    first = np.unique(corners[:, 1] * (span.last_x + 1) + corners[:, 0], return_index=True)[1]
    return corners[np.sort(first)]


def _spread(items: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw one item from each of `count` equal stretches."""
    edges = np.linspace(0, len(items), count + 1).astype(int)
    return items[rng.integers(edges[:-1], edges[1:])]


def _tissue_share(mask: np.ndarray, l0_corners: np.ndarray, l0_side: float, dimensions: tuple[int, int]) -> np.ndarray:
    """Return the share of tissue in each square, [N] in [0, 1], from sums over the mask's rectangles."""
    sums = np.pad(mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    size = np.array(mask.shape[::-1])
    scale = size / np.array(dimensions)
    start = np.minimum(np.rint(l0_corners * scale).astype(int), size - 1)
    end = np.clip(np.rint((l0_corners + l0_side) * scale).astype(int), start + 1, size)
    (x, y), (x_end, y_end) = start.T, end.T
    inside = sums[y_end, x_end] - sums[y, x_end] - sums[y_end, x] + sums[y, x]
    return inside / ((x_end - x) * (y_end - y))


def mask_side(slide: Slide, wanted: Resolution, size: int, is_tile: bool) -> int:
    """Return the longer side of the mask that tells where patches of `size` pixels have tissue."""
    side = max(slide.dimensions) / (wanted.downsample * size) * MASK_PIXELS_PER_PATCH
    return int(np.clip(side, *(TILE_MASK if is_tile else SLIDE_MASK)))
