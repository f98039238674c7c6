"""HR patches from slides: which places have tissue, and what is there.

    for patch in read_patches(source, PatchOptions(patch_size=256, mpp=0.5)):
        if isinstance(patch, Skipped): ...

A patch is `patch_size` pixels a side at the asked mpp or level; its (x, y) is its top left corner in level 0. Places
lie on a grid or are drawn at random; where there are more than `max_patches`, some are drawn from all over. All of it
follows from (seed, slide id) and nothing else. No patch leaves its slide or its source's region. What gives no patch is
given back as `Skipped`, and the rest goes on.

A tile is a small slide of its own, with coordinates of its own: `Patch.name` says which tile it is from.

Where pairs are asked for, a patch brings the LR that was scanned: from a file beside the tile (`pipelines.pairs`), from
a coarser level of the slide (`pipelines.levels`), or from a second scan of the same glass (`pipelines.register`; the
name is then the corner in LR pixels). LR that does not show what HR shows is skipped.
"""
from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.config import PatchOptions
from pipelines.errors import require
from pipelines.levels import LevelPairs
from pipelines.pairs import match_files, read_pair, refuse_pairs
from pipelines.places import find_places, find_span, mask_side
from pipelines.slide import LANCZOS_SUPPORT, MPP_TOLERANCE, Slide, SlideError, open_slide
from pipelines.sources import Source, check_disjoint, find_sources, split_sources
from pipelines.tissue import slide_mask

__all__ = ["Patch", "Skipped", "Source", "check_disjoint", "find_sources", "read_patches", "split_sources"]


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


def read_patches(source: Source, options: PatchOptions) -> Iterator[Patch | Skipped]:
    """Yield the patches of one slide, top to bottom, and what had to be skipped.

    Of tiles, `max_patches` are drawn from as many tiles as possible. A pair of files is one patch, as large as its LR
    covers and whatever its tissue: whoever made the pairs has chosen them.

    Raises:
        ValueError: The source's region does not lie in its slide.
    """
    require(not (source.tiles and source.region), "region", "be left out for tiles", "it cuts a slide", source.region)
    reason = _unfit(source, options)
    if reason:
        yield Skipped(source.slide_id, "slide", reason)
        return
    rng = np.random.default_rng(_entropy(options.seed, source.slide_id))
    given = 0
    read = _read_pairs if source.is_pairs else _read_scans if source.scans else _read_files
    for patch in read(source, options, rng):
        yield patch
        given += isinstance(patch, Patch)
        if given == options.max_patches:
            return


def gives_patch(source: Source, options: PatchOptions) -> bool:
    """Tell whether a slide gives a patch at all; the first that can be read decides."""
    return any(isinstance(patch, Patch) for patch in read_patches(source, options))


def _unfit(source: Source, options: PatchOptions) -> str | None:
    """Return why a slide as a whole cannot give what is asked for, None where it may."""
    where, mpp, own = source.files[0].parent if source.tiles else source.files[0], options.mpp, options.assume_mpp
    if source.tiles and mpp is not None and own is None:
        return (f"{where}: tiles do not say their microns per pixel; give them by --assume_mpp, or leave --mpp out. "
                f"Received: mpp={mpp}")
    if source.is_pairs:
        as_it_is = options.level == 0 and (not mpp or not own or abs(mpp / own - 1) <= MPP_TOLERANCE)
        return None if as_it_is else f"{where}: pairs of files are read as they are; leave --mpp and --level out"
    if options.pairs == "scans" and not source.scans:
        return (f"{where}: has no second scan that it was registered with; give the .json of pipelines.register to "
                "pipelines.extract by --pairs, and name its shards here")
    if options.pairs == "files":
        return f"{where}: has no LR beside it; name it TILE_lrXY, give --lr_data, or leave --pairs out"
    if options.pairs == "levels" and source.tiles:
        return f"{where}: tiles have one level, and no coarser one to pair it with; leave them or --pairs out"
    return None


def _tile_names(source: Source) -> dict[Path, str]:
    """Return what each tile is called; a.png beside a.jpg keep their suffixes."""
    count = Counter(path.stem for path in source.paths)
    return {path: path.stem if count[path.stem] == 1 else path.name for path in source.paths if source.tiles}


def _read_pairs(source: Source, options: PatchOptions, rng: np.random.Generator) -> Iterator[Patch | Skipped]:
    pairs, unfit = match_files(source)
    for file, reason in unfit:
        yield Skipped(source.slide_id, file, reason)
    refusal = refuse_pairs(pairs)
    if refusal:
        yield Skipped(source.slide_id, "slide", refusal)
        return
    order = range(len(pairs)) if options.max_patches is None else rng.permutation(len(pairs))
    for pair in (pairs[i] for i in order):
        try:
            hr, lr, tissue = read_pair(pair)
        except (SlideError, OSError) as error:
            yield Skipped(source.slide_id, pair.hr.name, str(error))
        else:
            yield Patch(source.slide_id, pair.dx, pair.dy, options.assume_mpp, tissue, hr, pair.name, lr)


def _read_scans(source: Source, options: PatchOptions, rng: np.random.Generator) -> Iterator[Patch | Skipped]:
    # Slow to import, and of no use to others.
    from pipelines.register.cut import cut, hr_corner, hr_mpp, places_with_tissue
    from pipelines.register.registration import read_registration

    page, lr_path = source.scans or (Path(), Path())
    found, side = read_registration(page), options.patch_size // options.scale
    try:
        with open_slide(lr_path) as lr, open_slide(source.paths[0]) as hr:
            places = places_with_tissue(found, hr, options)
            if not places:
                reason = f"{page}: has no tissue (no patch with min_tissue={options.min_tissue})"
                yield Skipped(source.slide_id, "slide", reason, broken=False)
            if options.max_patches is not None and len(places) > options.max_patches:
                places = [places[i] for i in sorted(rng.permutation(len(places))[:options.max_patches])]
            for place in places:
                name = f"{place.x}_{place.y}"
                try:
                    pixels, lr_pixels = cut(found, lr, hr, place, side, options.match_colours)
                except SlideError as error:
                    yield Skipped(source.slide_id, name, str(error))
                else:
                    yield Patch(source.slide_id, *hr_corner(found, place), hr_mpp(found), place.tissue, pixels, name,
                                lr_pixels)
    except (SlideError, OSError) as error:
        yield Skipped(source.slide_id, "slide", str(error))


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
            pairs = LevelPairs(slide, options) if options.pairs == "levels" else None
            resampled = wanted.resampled or (pairs and pairs.resampled)
            reach = LANCZOS_SUPPORT * wanted.downsample * (options.scale if pairs else 1) if resampled else 0
            span = find_span(slide, wanted, source.region, options, reach)
            if span.is_empty:
                region = f"its region {','.join(map(str, source.region))} " if source.region else ""
                reason = f"{path}: {region}is smaller than a patch of {options.patch_size} pixels"
                yield Skipped(source.slide_id, where, reason, broken=False)
                return
            mask = slide_mask(slide, mask_side(slide, wanted, options.patch_size, source.tiles))
            places = find_places(slide, wanted, span, mask, options, rng, limit)
            if not places:
                reason = f"{path}: has no tissue (no patch with min_tissue={options.min_tissue})"
                yield Skipped(source.slide_id, where, reason, broken=False)
            elif pairs:
                pairs.settle([(x, y) for x, y, _ in places])
            for x, y, tissue in places:
                name = f"{x}_{y}" if not tile else tile if span.is_one_place else f"{tile}_{x}_{y}"
                try:
                    pixels, lr = pairs.read(x, y) if pairs else (_hr(slide, x, y, options), None)
                except SlideError as error:
                    yield Skipped(source.slide_id, where if tile else name, str(error))
                else:
                    yield Patch(source.slide_id, x, y, wanted.mpp, tissue, pixels, name, lr)
    except (SlideError, OSError) as error:
        yield Skipped(source.slide_id, where, str(error))


def _hr(slide: Slide, x: int, y: int, options: PatchOptions) -> np.ndarray:
    return slide.read_at(x, y, options.patch_size, options.patch_size, options.mpp, options.level)


def _entropy(seed: int, slide_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{slide_id}".encode()).digest()[:8], "little")
