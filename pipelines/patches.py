"""HR patches from slides: which places have tissue, and what is there.

    for patch in read_patches(source, PatchOptions(patch_size=256, mpp=0.5)):
        if isinstance(patch, Skipped): ...

A patch is `patch_size` pixels a side at the asked mpp or level; its (x, y) is its top left corner in level 0. Places
lie on a grid or are drawn at random; where there are more than `max_patches`, some are drawn from all over. All of it
follows from (seed, slide id) and nothing else. No patch leaves its slide or its source's region. What gives no patch is
given back as `Skipped`, and the rest goes on.

A tile is a small slide of its own, with coordinates of its own: `Patch.name` says which tile it is from.
"""
from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.options import PatchOptions, require
from pipelines.pairs import match_files, read_pair
from pipelines.slide import LANCZOS_SUPPORT, Resolution, Slide, SlideError, open_slide
from pipelines.sources import Region, Source, check_disjoint, find_sources, split_sources
from pipelines.tissue import slide_mask

__all__ = ["Patch", "Skipped", "Source", "check_disjoint", "find_sources", "read_patches", "split_sources"]

# A patch should cover some 16 pixels of the mask, and a mask should be quick: limits of its longer side.
MASK_PIXELS_PER_PATCH = 16
SLIDE_MASK, TILE_MASK = (512, 2048), (64, 2048)
DRAWS_PER_PATCH, MOST_DRAWS = 1000, 1_000_000


@dataclass(frozen=True)
class Patch:
    """One HR patch: where it is in level 0, its true mpp (None: unknown), the share of it that is tissue.

    `pixels` are uint8 [patch_size, patch_size, 3]. `name` tells it apart within its slide: x_y, TILE or TILE_x_y.
    `lr` is the low resolution of a pair, uint8 [patch_size/scale, patch_size/scale, 3]; None where it is made later.
    """

    slide_id: str
    x: int
    y: int
    mpp: float | None
    tissue: float
    pixels: np.ndarray = field(repr=False)
    name: str
    lr: np.ndarray | None = field(default=None, repr=False)

    @property
    def example_id(self) -> str:
        """What tells this patch apart from every other."""
        return f"{self.slide_id}/{self.name}"


@dataclass(frozen=True)
class Skipped:
    """What gave no patch, and why. `where` is "slide", the file of a tile, or the x_y of a place.

    `broken` tells what could not be read from what had nothing to read: no tissue, or smaller than a patch.
    """

    slide_id: str
    where: str
    reason: str
    broken: bool = True


@dataclass(frozen=True)
class _Span:
    """Where a patch's corner may lie, ends included, in pixels of the resolution that is read."""

    x: int
    last_x: int
    y: int
    last_y: int

    @property
    def is_empty(self) -> bool:
        return self.last_x < self.x or self.last_y < self.y

    @property
    def is_one_place(self) -> bool:
        return self.last_x == self.x and self.last_y == self.y


def read_patches(source: Source, options: PatchOptions) -> Iterator[Patch | Skipped]:
    """Yield the patches of one slide, top to bottom, and what had to be skipped.

    Of tiles, `max_patches` are drawn from as many tiles as possible. A pair of files is one patch, as large as its LR
    covers and whatever its tissue: whoever made the pairs has chosen them.

    Raises:
        ValueError: The source's region does not lie in its slide.
    """
    require(not (source.tiles and source.region), "region", "be left out for tiles", "it cuts a slide", source.region)
    if source.tiles and options.mpp is not None and options.assume_mpp is None:
        yield Skipped(source.slide_id, "slide", f"{source.files[0].parent}: tiles do not say their microns per pixel; "
                      f"give them by --assume_mpp, or leave --mpp out. Received: mpp={options.mpp}")
        return
    rng = np.random.default_rng(_entropy(options.seed, source.slide_id))
    given = 0
    for patch in (_read_pairs if source.lr_paths else _read_files)(source, options, rng):
        yield patch
        given += isinstance(patch, Patch)
        if given == options.max_patches:
            return


def gives_patch(source: Source, options: PatchOptions) -> bool:
    """Tell whether a slide gives a patch at all; the first that can be read decides."""
    return any(isinstance(patch, Patch) for patch in read_patches(source, options))


def _tile_names(source: Source) -> dict[Path, str]:
    """Return what each tile is called; a.png beside a.jpg keep their suffixes."""
    count = Counter(path.stem for path in source.paths)
    return {path: path.stem if count[path.stem] == 1 else path.name for path in source.paths if source.tiles}


def _read_pairs(source: Source, options: PatchOptions, rng: np.random.Generator) -> Iterator[Patch | Skipped]:
    pairs, unfit = match_files(source)
    for file, reason in unfit:
        yield Skipped(source.slide_id, file, reason)
    order = range(len(pairs)) if options.max_patches is None else rng.permutation(len(pairs))
    for pair in (pairs[i] for i in order):
        try:
            hr, lr, tissue = read_pair(pair)
        except (SlideError, OSError) as error:
            yield Skipped(source.slide_id, pair.hr.name, str(error))
        else:
            yield Patch(source.slide_id, pair.dx, pair.dy, options.assume_mpp, tissue, hr, pair.name, lr)


def _read_files(source: Source, options: PatchOptions, rng: np.random.Generator) -> Iterator[Patch | Skipped]:
    limit, paths = options.max_patches, source.paths
    if limit is not None:
        paths = tuple(paths[i] for i in rng.permutation(len(paths)))
    per_file = None if limit is None else math.ceil(limit / len(paths))
    names = _tile_names(source)
    for path in paths:
        yield from _read_file(path, names.get(path), source, options, rng, per_file)


def _read_file(path: Path, tile: str | None, source: Source, options: PatchOptions, rng: np.random.Generator,
               limit: int | None) -> Iterator[Patch | Skipped]:
    where = path.name if tile else "slide"
    try:
        with open_slide(path, options.assume_mpp) as slide:
            wanted = slide.resolution(options.mpp, options.level)
            span = _span(slide, wanted, source.region, options.patch_size)
            if span.is_empty:
                region = f"its region {','.join(map(str, source.region))} " if source.region else ""
                reason = f"{path}: {region}is smaller than a patch of {options.patch_size} pixels"
                yield Skipped(source.slide_id, where, reason, broken=False)
                return
            mask = slide_mask(slide, _mask_side(slide, wanted, options.patch_size, source.tiles))
            places = _places(slide, wanted, span, mask, options, rng, limit)
            if not places:
                reason = f"{path}: has no tissue (no patch with min_tissue={options.min_tissue})"
                yield Skipped(source.slide_id, where, reason, broken=False)
            for x, y, tissue in places:
                name = f"{x}_{y}" if not tile else tile if span.is_one_place else f"{tile}_{x}_{y}"
                try:
                    pixels = slide.read_at(x, y, *(options.patch_size,) * 2, options.mpp, options.level)
                except SlideError as error:
                    yield Skipped(source.slide_id, where if tile else name, str(error))
                else:
                    yield Patch(source.slide_id, x, y, wanted.mpp, tissue, pixels, name)
    except (SlideError, OSError) as error:
        yield Skipped(source.slide_id, where, str(error))


def _span(slide: Slide, wanted: Resolution, region: Region | None, size: int) -> _Span:
    l0_w, l0_h = slide.dimensions
    x, y, width, height = region or (0, 0, l0_w, l0_h)
    inside = x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= l0_w and y + height <= l0_h
    require(inside, "region", f"lie inside the slide's {l0_w} x {l0_h} pixels",
            f"give x, y, width, height in level 0 of {slide.path}", region)
    # Resampling looks at the filter's support around a patch; that must not reach into another region either.
    inset = math.ceil(LANCZOS_SUPPORT * wanted.downsample) if region and wanted.resampled else 0
    scale = 1 / wanted.downsample
    return _Span(math.ceil((x + inset) * scale), _floor((x + width - inset) * scale) - size,
                 math.ceil((y + inset) * scale), _floor((y + height - inset) * scale) - size)


def _floor(value: float) -> int:
    """Floor, but 3 for 2.9999999: what 1/downsample cost must not cost the last column of patches."""
    return math.floor(value + 1e-6)


def _places(slide: Slide, wanted: Resolution, span: _Span, mask: np.ndarray, options: PatchOptions,
            rng: np.random.Generator, limit: int | None) -> list[tuple[int, int, float]]:
    """Return (x, y, share of tissue) of the chosen places, x and y in level 0, top to bottom."""
    corners = _grid(span, options) if options.sampling == "grid" else _draws(span, rng, limit or 1)
    # A level's own pixels have their nearest level-0 pixel; a resampled patch starts where it is told, and inside.
    l0_corners = (np.floor if wanted.resampled else np.rint)(corners * wanted.downsample)
    tissue = _tissue_share(mask, l0_corners, wanted.downsample * options.patch_size, slide.dimensions)
    fit = np.flatnonzero(tissue >= options.min_tissue)
    if limit is not None and len(fit) > limit:
        fit = fit[:limit] if options.sampling == "random" else _spread(fit, rng, limit)
    chosen = fit[np.lexsort((l0_corners[fit, 0], l0_corners[fit, 1]))]
    return [(int(l0_corners[i, 0]), int(l0_corners[i, 1]), float(tissue[i])) for i in chosen]


def _grid(span: _Span, options: PatchOptions) -> np.ndarray:
    """Return all corners of the grid [N, 2], row by row."""
    step = options.stride or options.patch_size
    x, y = np.arange(span.x, span.last_x + 1, step), np.arange(span.y, span.last_y + 1, step)
    return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)


def _draws(span: _Span, rng: np.random.Generator, limit: int) -> np.ndarray:
    """Return random corners [N, 2], each once: enough that `limit` of them hit tissue where it is rare."""
    count = min(DRAWS_PER_PATCH * limit, MOST_DRAWS)
    corners = rng.integers((span.x, span.y), (span.last_x + 1, span.last_y + 1), (count, 2))
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


def _mask_side(slide: Slide, wanted: Resolution, size: int, is_tile: bool) -> int:
    side = max(slide.dimensions) / (wanted.downsample * size) * MASK_PIXELS_PER_PATCH
    return int(np.clip(side, *(TILE_MASK if is_tile else SLIDE_MASK)))


def _entropy(seed: int, slide_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{slide_id}".encode()).digest()[:8], "little")
