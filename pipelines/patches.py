# SPDX-License-Identifier: Apache-2.0
"""HR patches from slides: where there is tissue, and the pixels there.

    for patch in read_patches(source, PatchOptions(patch_size=256, mpp=0.5)):
        if isinstance(patch, Skipped): ...

A patch has `patch_size` pixels a side at the given mpp or level; its (x, y) is its top left corner in level 0. Patches
lie on a grid or at random places; if there are more than `max_patches`, some are chosen from all over the slide. The
choice depends only on (seed, slide id). No patch leaves its slide or its source's region. What gives no patch is
returned as `Skipped`, and reading goes on. A tile is a small slide; `Patch.name` says which tile a patch is from.

A patch of a pair has the LR that was scanned: from a file beside the tile or a coarser level (`pipelines.pairs`), or
from a second scan of the same glass (`pipelines.scan_pairs`; the name is then the corner in LR pixels). Pairs whose LR
does not show what HR shows are skipped.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.config import PatchOptions
from pipelines.errors import require
from pipelines.names import printable
from pipelines.pairs import FilePair, LevelPairs, match_files, read_pair, refuse_pairs
from pipelines.scan_pairs import Place, cut, hr_corner, hr_mpp, places_with_tissue, read_registration
from pipelines.slide import LANCZOS_SUPPORT, MPP_TOLERANCE, Resolution, Slide, SlideError, open_slide
from pipelines.sources import MPP_FILE, Region, Source, check_disjoint, draw, find_sources, split_sources
from pipelines.tissue import slide_mask

__all__ = ["Patch", "Skipped", "Source", "check_disjoint", "find_sources", "read_patches", "split_sources"]

MASK_PIXELS_PER_PATCH = 16  # of the tissue mask, along a side
SLIDE_MASK, TILE_MASK = (512, 2048), (64, 2048)  # limits of the mask's longer side, to be quick
DRAWS_PER_PATCH, MOST_DRAWS = 1000, 1_000_000

Corners = tuple[range, range]  # x and y of the corners that patches may have, in pixels of the resolution to read


@dataclass(frozen=True)
class Patch:
    """One HR patch: its corner in level 0, its mpp (None: unknown), the share of it that is tissue.

    `pixels` are uint8 [patch_size, patch_size, 3]. `name` is unique within its slide: x_y, TILE or TILE_x_y. `lr` is
    the LR of a pair, uint8 [patch_size/scale, patch_size/scale, 3]; None for a patch that is not of a pair.
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
        """A name that no other patch has."""
        return f"{self.slide_id}/{self.name}"


@dataclass(frozen=True)
class Skipped:
    """What gave no patch, and why. `where` is "slide", a tile's file, or the x_y of a place.

    `broken` means that it could not be read; otherwise it has no tissue or is smaller than a patch.
    """

    slide_id: str
    where: str
    reason: str
    broken: bool = True


Found = Skipped | tuple[str, Callable[[], Patch]]  # or the `where` and the reader of a patch


def read_patches(source: Source, options: PatchOptions) -> Iterator[Patch | Skipped]:
    """Yield the patches of one slide, top to bottom, and what was skipped.

    With tiles, `max_patches` come from as many tiles as possible. A pair of files is one patch of the size that its LR
    covers, whatever its share of tissue: who made the pairs has chosen them.

    Raises:
        ValueError: The source's region does not lie in its slide.
    """
    require(not (source.tiles and source.region), "region", "be left out for tiles", "it is for slides", source.region)
    options = own_options(source, options)
    reason = _unfit(source, options)
    if reason:
        yield Skipped(source.slide_id, "slide", reason)
        return
    rng = np.random.default_rng(int.from_bytes(draw(options.seed, source.slide_id)[:8], "little"))
    find = _in_pairs if source.is_pairs else _in_scans if source.scans else _in_files
    given = 0
    for item in _listed(source, "slide", find(source, options, rng)):
        if isinstance(item, Skipped):
            yield item
            continue
        where, read = item
        try:
            patch = read()
        except (SlideError, OSError) as error:
            yield Skipped(source.slide_id, where, str(error))
            continue
        yield patch
        given += 1
        if given == options.max_patches:
            return


def own_options(source: Source, options: PatchOptions) -> PatchOptions:
    """Return the options for one source: tiles whose folder says their mpp have it, unless `assume_mpp` is given."""
    return replace(options, assume_mpp=source.mpp) if source.mpp and options.assume_mpp is None else options


def gives_patch(source: Source, options: PatchOptions) -> bool:
    """Tell whether a slide gives at least one patch."""
    return any(isinstance(patch, Patch) for patch in read_patches(source, options))


def _unfit(source: Source, options: PatchOptions) -> str | None:
    """Return why a slide cannot give any of the patches asked for; None if it may."""
    where, mpp, own = source.files[0].parent if source.tiles else source.files[0], options.mpp, options.assume_mpp
    if source.tiles and mpp is not None and own is None:
        return (f"{where}: tiles have no resolution metadata; write their microns per pixel to {MPP_FILE} in that "
                f"folder, set --assume_mpp, or leave --mpp out. Received: mpp={mpp}")
    if source.is_pairs:
        as_it_is = options.level == 0 and (not mpp or not own or abs(mpp / own - 1) <= MPP_TOLERANCE)
        return None if as_it_is else f"{where}: pairs of files are read as they are; leave --mpp and --level out"
    if options.pairs == "scans" and not source.scans:
        return (f"{where}: has no registered second scan; give the .json of sr-keras register to sr-keras extract as "
                "--pairs, and use its shards here")
    if options.pairs == "files":
        return f"{where}: has no LR beside it; name it TILE_lrXY, give --lr_data, or leave --pairs out"
    if options.pairs == "levels" and source.tiles:
        return f"{where}: tiles have one level, and pairs need a coarser one; leave out the tiles or --pairs"
    return None


def _listed(source: Source, where: str, found: Iterator[Found]) -> Iterator[Found]:
    """Yield what is found, and list the file if it cannot be read."""
    try:
        yield from found
    except (SlideError, OSError) as error:
        yield Skipped(source.slide_id, where, str(error))


def _without_tissue(source: Source, where: str, path: Path, options: PatchOptions) -> Skipped:
    reason = f"{path}: has no tissue (no patch with min_tissue={options.min_tissue})"
    return Skipped(source.slide_id, where, reason, broken=False)


def _in_pairs(source: Source, options: PatchOptions, rng: np.random.Generator) -> Iterator[Found]:
    pairs, unfit = match_files(source)
    for file, reason in unfit:
        yield Skipped(source.slide_id, file, reason)
    refusal = refuse_pairs(pairs)
    if refusal:
        yield Skipped(source.slide_id, "slide", refusal)
        return

    def read(pair: FilePair) -> Patch:
        hr, lr, tissue = read_pair(pair)
        return Patch(source.slide_id, pair.dx, pair.dy, options.assume_mpp, tissue, hr, pair.name, lr)

    order = range(len(pairs)) if options.max_patches is None else rng.permutation(len(pairs))
    for pair in (pairs[i] for i in order):
        yield (pair.hr.name, partial(read, pair))


def _in_scans(source: Source, options: PatchOptions, rng: np.random.Generator) -> Iterator[Found]:
    page, lr_path = source.scans or (Path(), Path())
    found, side = read_registration(page), options.patch_size // options.scale

    def read(place: Place) -> Patch:
        pixels, lr_pixels = cut(found, lr, hr, place, side, options.match_colours)
        return Patch(source.slide_id, *hr_corner(found, place), hr_mpp(found), place.tissue, pixels,
                     f"{place.x}_{place.y}", lr_pixels)

    with open_slide(lr_path) as lr, open_slide(source.paths[0]) as hr:
        places = places_with_tissue(found, hr, options)
        if not places:
            yield _without_tissue(source, "slide", page, options)
        if options.max_patches is not None and len(places) > options.max_patches:
            places = [places[i] for i in sorted(rng.permutation(len(places))[:options.max_patches])]
        for place in places:
            yield (f"{place.x}_{place.y}", partial(read, place))


def _in_files(source: Source, options: PatchOptions, rng: np.random.Generator) -> Iterator[Found]:
    limit, paths = options.max_patches, source.paths
    stems = Counter(path.stem for path in paths)
    if limit is not None:
        paths = tuple(paths[i] for i in rng.permutation(len(paths)))
        limit = math.ceil(limit / len(paths))
    for path in paths:
        # a.png beside a.jpg keep their suffixes.
        tile = printable(path.stem if stems[path.stem] == 1 else path.name) if source.tiles else None
        yield from _listed(source, path.name if tile else "slide", _in_file(path, tile, source, options, rng, limit))


def _in_file(path: Path, tile: str | None, source: Source, options: PatchOptions, rng: np.random.Generator,
             limit: int | None) -> Iterator[Found]:
    where, size = path.name if tile else "slide", options.patch_size
    with open_slide(path, options.assume_mpp) as slide:
        wanted = slide.resolution(options.mpp, options.level)
        pairs = LevelPairs(slide, options) if options.pairs == "levels" else None
        resampled = wanted.resampled or (pairs and pairs.resampled)
        reach = LANCZOS_SUPPORT * wanted.downsample * (options.scale if pairs else 1) if resampled else 0
        xs, ys = find_corners(slide, wanted, source.region, options, reach)
        if not (xs and ys):
            region = f"its region {','.join(map(str, source.region))} " if source.region else ""
            reason = f"{path}: {region}is smaller than a patch of {size} pixels"
            yield Skipped(source.slide_id, where, reason, broken=False)
            return
        mask_side = max(slide.dimensions) / (wanted.downsample * size) * MASK_PIXELS_PER_PATCH
        mask = slide_mask(slide, int(np.clip(mask_side, *(TILE_MASK if source.tiles else SLIDE_MASK))))
        places = find_places(slide, wanted, (xs, ys), mask, options, rng, limit)
        if not places:
            yield _without_tissue(source, where, path, options)
        elif pairs:
            pairs.settle([(x, y) for x, y, _ in places])

        def read(x: int, y: int, tissue: float, name: str) -> Patch:
            pixels, lr = pairs.read(x, y) if pairs else (
                slide.read_at(x, y, size, size, options.mpp, options.level), None)
            return Patch(source.slide_id, x, y, wanted.mpp, tissue, pixels, name, lr)

        for x, y, tissue in places:
            name = f"{x}_{y}" if not tile else tile if len(xs) == len(ys) == 1 else f"{tile}_{x}_{y}"
            yield (where if tile else name, partial(read, x, y, tissue, name))


def find_corners(slide: Slide, wanted: Resolution, region: Region | None, options: PatchOptions, reach: float
                 ) -> Corners:
    """Return where corners may lie so that patches stay inside the region (x, y, width, height in level 0) or slide.

    `reach` is how many level-0 pixels around a patch its resampling reads; these must not lie in another region.

    Raises:
        ValueError: The region does not lie in the slide.
    """
    l0_w, l0_h = slide.dimensions
    x, y, width, height = region or (0, 0, l0_w, l0_h)
    inside = x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= l0_w and y + height <= l0_h
    require(inside, "region", f"lie inside the slide's {l0_w} x {l0_h} pixels",
            f"give x, y, width, height in level 0 of {slide.path}", region)
    inset = math.ceil(reach) if region else 0
    nearly = 1e-6  # a rounding error of 1/downsample must not lose the last column of patches
    scale, size = 1 / wanted.downsample, options.patch_size
    first = [math.ceil((start + inset) * scale) for start in (x, y)]
    last = [math.floor((end - inset) * scale + nearly) - size for end in (x + width, y + height)]
    # Corners of pairs are multiples of the scale.
    xs, ys = (range(-(-start // options.unit) * options.unit, end + 1, options.unit)
              for start, end in zip(first, last, strict=True))
    return xs, ys


def find_places(slide: Slide, wanted: Resolution, where: Corners, mask: np.ndarray, options: PatchOptions,
                rng: np.random.Generator, limit: int | None) -> list[tuple[int, int, float]]:
    """Return (x, y, share of tissue) of the chosen places, top to bottom; x and y in level 0."""
    corners = _grid(where, options) if options.sampling == "grid" else _draws(where, rng, limit or 1)
    # Pixels of a level start at the nearest level-0 pixel. A resampled patch starts anywhere, but inside.
    l0_corners = (np.floor if wanted.resampled else np.rint)(corners * wanted.downsample)
    tissue = _tissue_share(mask, l0_corners, wanted.downsample * options.patch_size, slide.dimensions)
    fit = np.flatnonzero(tissue >= options.min_tissue)
    if limit is not None and len(fit) > limit:
        fit = fit[:limit] if options.sampling == "random" else _spread(fit, rng, limit)
    chosen = fit[np.lexsort((l0_corners[fit, 0], l0_corners[fit, 1]))]
    return [(int(l0_corners[i, 0]), int(l0_corners[i, 1]), float(tissue[i])) for i in chosen]


def _grid(where: Corners, options: PatchOptions) -> np.ndarray:
    """Return all corners of the grid [N, 2], row by row."""
    x, y = (each[::(options.stride or options.patch_size) // options.unit] for each in where)
    return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)


def _draws(where: Corners, rng: np.random.Generator, limit: int) -> np.ndarray:
    """Return distinct random corners [N, 2], enough for `limit` of them to hit tissue if it is rare."""
    x, y = where
    count = min(DRAWS_PER_PATCH * limit, MOST_DRAWS)
    corners = rng.integers((x[0], y[0]), (x[-1] + 1, y[-1] + 1), (count, 2))
    corners -= corners % x.step
    first = np.unique(corners[:, 1] * (x[-1] + 1) + corners[:, 0], return_index=True)[1]
    return corners[np.sort(first)]


def _spread(items: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw one item from each of `count` equal parts."""
    edges = np.linspace(0, len(items), count + 1).astype(int)
    return items[rng.integers(edges[:-1], edges[1:])]


def _tissue_share(mask: np.ndarray, l0_corners: np.ndarray, l0_side: float, dimensions: tuple[int, int]) -> np.ndarray:
    """Return the share of tissue in each square, [N] in [0, 1], by a summed-area table of the mask."""
    sums = np.pad(mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    size = np.array(mask.shape[::-1])
    scale = size / np.array(dimensions)
    start = np.minimum(np.rint(l0_corners * scale).astype(int), size - 1)
    end = np.clip(np.rint((l0_corners + l0_side) * scale).astype(int), start + 1, size)
    (x, y), (x_end, y_end) = start.T, end.T
    inside = sums[y_end, x_end] - sums[y, x_end] - sums[y_end, x] + sums[y, x]
    return inside / ((x_end - x) * (y_end - y))
