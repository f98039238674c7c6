# SPDX-License-Identifier: Apache-2.0
"""Pairs of HR and really scanned LR: from two files, or from two levels of a slide.

    NAME.jpeg       HR, of any size
    NAME_lrXY.png   its LR: pixel (0, 0) covers HR columns X to X+scale-1 and rows Y to Y+scale-1

Files: LR pixel i lies at HR coordinate X + scale*i + (scale-1)/2 (half-pixel centres). The scale follows from the
sizes. HR without LR over it, less than an LR pixel, is cut off. Two folders with the same names are pairs too
(`pair_folders`); there LR covers all of HR.

Levels: LR comes from the level `scale` times coarser. A level is used as it is if its size is HR's divided by the
scale, rounded up or down. Otherwise the nearest level that is at most `MOST_REDUCED` times finer, or coarser by
`MPP_TOLERANCE`, is resampled (Lanczos, without aliasing).

LR must show what HR shows (`mismatch`): HR is averaged to the size of LR and correlated with it (Pearson), at shifts of
up to `SHIFTS` pixels. In 1,730 real pairs the correlation is 0.79 to 0.997, and at other places of a slide up to 0.48.
"""
from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from skimage.feature import match_template

from pipelines.config import SCALES, PatchOptions
from pipelines.errors import require
from pipelines.names import printable
from pipelines.slide import MPP_TOLERANCE, Slide, SlideError, open_slide
from pipelines.sources import LR_NAME, Source, is_tile
from pipelines.tissue import slide_mask

LEAST_CORRELATION = 0.5
SHIFTS = 3  # LR pixels, to each side
MARGIN = 0.01  # by which the correlation at a shift must be better
FLAT = 4.0  # grey levels: images with a smaller standard deviation are not compared; real pairs have 9.4 or more
LOOKED_AT = 256  # LR pixels, from the middle
SAMPLED = 16  # pairs of a slide that are compared to decide on all of them
MOST_REDUCED = 1.5
MASK_SIDE = 64  # pixels of the mask for a pair's share of tissue

Place = tuple[int, int]  # x, y in level 0


def mismatch(hr: np.ndarray, lr: np.ndarray) -> str | None:
    """Return why LR does not show what HR shows; None if it does, or if both are flat.

    Args:
        hr: uint8 [scale*h, scale*w, 3].
        lr: uint8 [h, w, 3].
    """
    (h, w), scale = lr.shape[:2], hr.shape[0] // lr.shape[0]
    fine = _middle(hr.reshape(h, scale, w, scale, 3).mean(axis=(1, 3, 4)))
    coarse = _middle(lr.mean(axis=-1))
    if max(fine.std(), coarse.std()) < FLAT:
        return None
    reach = min(SHIFTS, coarse.shape[0] // 8)
    part = coarse[reach:coarse.shape[0] - reach, reach:coarse.shape[1] - reach]
    found = match_template(fine, part)
    here = found[reach, reach]
    if here < LEAST_CORRELATION:
        return f"LR does not show what HR shows (correlation {here:.2f}, {LEAST_CORRELATION} or more is expected)"
    if found.max() > here + MARGIN:
        down, right = np.array(np.unravel_index(found.argmax(), found.shape)) - reach
        return (f"LR shows a place beside that of HR ({abs(right)} {'left' if right < 0 else 'right'} and {abs(down)} "
                f"{'up' if down < 0 else 'down'}, in LR pixels)")
    return None


def refusal(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> str | None:
    """Return why all pairs of a slide are refused, if most of these (hr, lr) do not correspond; None otherwise."""
    reasons = [mismatch(hr, lr) for hr, lr in pairs]
    bad = [reason for reason in reasons if reason]
    return f"in {len(bad)} of {len(reasons)} places {bad[0]}" if 2 * len(bad) > len(reasons) else None


def sample(items: Sequence[Any]) -> list[Any]:
    """Return `SAMPLED` of the items, evenly spaced."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, SAMPLED).astype(int))] if items else []


def _middle(image: np.ndarray) -> np.ndarray:
    top, left = (max(0, (side - LOOKED_AT) // 2) for side in image.shape)
    return image[top:top + LOOKED_AT, left:left + LOOKED_AT]


class CoarseLevel(NamedTuple):
    """A level that LR can be read from. `exact`: its pixels are LR's pixels."""

    level: int
    exact: bool


class LevelPairs:
    """The pairs of one open slide."""

    def __init__(self, slide: Slide, options: PatchOptions) -> None:
        """Find the levels that LR can be read from.

        Raises:
            SlideError: There is none.
        """
        self._slide, self._options = slide, options
        self._wanted = slide.resolution(options.mpp, options.level)
        self._downsample = self._wanted.downsample * options.scale
        self._candidates = self._find()
        self._chosen = self._candidates[0]
        # Resampled LR also depends on pixels around the patch.
        self.resampled = not all(candidate.exact for candidate in self._candidates)

    def settle(self, places: Sequence[Place]) -> None:
        """Choose the level that shows what HR shows, by looking at some of the places.

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
                             "coarser; leave --pairs out, or use a slide with levels")
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


@dataclass(frozen=True)
class FilePair:
    """Two files of one place. LR is `side` pixels wide and high; HR is cut to `scale` times that from (dx, dy) on."""

    hr: Path
    lr: Path
    name: str
    dx: int
    dy: int
    side: int
    scale: int


def pair_folders(sources: Sequence[Source], data: str | Path, lr_data: str | Path) -> list[Source]:
    """Return the tiles of the folder `data` as HR, with the same folders and names in `lr_data` as LR.

    Raises:
        FileNotFoundError: `lr_data` is not a folder.
        ValueError: `data` contains slides that are not tiles.
    """
    if not Path(lr_data).is_dir():
        raise FileNotFoundError(f"`lr_data` must be a folder; check the spelling. Received: lr_data={str(lr_data)!r}")
    paired = []
    for source in sources:
        require(source.tiles, "lr_data", "go with folders of tiles", f"{source.paths[0]} is not a folder of tiles; "
                "for scans of whole slides use sr-keras register", str(lr_data))
        folder = Path(lr_data) / source.files[0].parent.relative_to(data)
        lr_paths = sorted(folder.iterdir()) if folder.is_dir() else []
        paired.append(replace(source, lr_paths=tuple(path for path in lr_paths if is_tile(path))))
    return paired


def match_files(source: Source) -> tuple[list[FilePair], list[tuple[str, str]]]:
    """Return the pairs of a slide, all of one size and scale, and (file name, reason) of each file without a pair."""
    hr_paths = {path.stem: path for path in source.paths}
    partners = defaultdict(list)
    for path in source.lr_paths or ():
        partners[_place(path)[0]].append(path)
    unfit = [(path.name, f"{path}: has no partner, the LR {path.stem}_lrXY beside it or {path.stem} in lr_data")
             for path in source.paths if path.stem not in partners]
    pairs = []
    for stem, paths in partners.items():
        for lr in paths:
            if stem not in hr_paths:
                unfit.append((lr.name, f"{lr}: has no partner, the HR {stem}"))
                continue
            try:
                pairs.append(_fitted(hr_paths[stem], lr, printable(stem if len(paths) == 1 else lr.stem)))
            except (SlideError, OSError) as error:
                unfit.append((lr.name, str(error)))
    sizes = Counter((pair.side, pair.scale) for pair in pairs).most_common(1)
    for side, scale in (size for size, _ in sizes):
        unfit += [(pair.lr.name, f"{pair.lr}: must have the size of the slide's other pairs, LR {side} x {side} at "
                   f"scale {scale}; move it to another folder. Received: {pair.side} x {pair.side} at {pair.scale}")
                  for pair in pairs if (pair.side, pair.scale) != (side, scale)]
        pairs = [pair for pair in pairs if (pair.side, pair.scale) == (side, scale)]
    return pairs, unfit


def shape_of(source: Source) -> tuple[int, int] | None:
    """Return (patch size, scale) of a slide's pairs from the files' headers; None if there are no pairs."""
    pairs = match_files(source)[0]
    return (pairs[0].side * pairs[0].scale, pairs[0].scale) if pairs else None


def read_pair(pair: FilePair) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (hr uint8 [side*scale, side*scale, 3], lr uint8 [side, side, 3], share of HR that is tissue).

    Raises:
        SlideError: A file cannot be read, or the two do not correspond.
    """
    hr, lr, tissue = _read(pair)
    reason = mismatch(hr, lr)
    if reason:
        raise SlideError(f"{pair.lr}: {reason}")
    return hr, lr, tissue


def refuse_pairs(pairs: Sequence[FilePair]) -> str | None:
    """Return why all pairs of a slide are refused, by looking at some of them; None if they are not."""
    images = []
    for pair in sample(pairs):
        try:
            images.append(_read(pair)[:2])
        except (SlideError, OSError):
            continue  # reported when this pair is read
    reason = refusal(images)
    return f"{pairs[0].lr.parent}: most pairs do not correspond; {reason}" if reason else None


def _read(pair: FilePair) -> tuple[np.ndarray, np.ndarray, float]:
    with open_slide(pair.hr) as slide:
        hr = slide.read_level(0, pair.dx, pair.dy, pair.side * pair.scale, pair.side * pair.scale)
        tissue = float(slide_mask(slide, MASK_SIDE).mean())
    with open_slide(pair.lr) as slide:
        return hr, slide.read_level(0, 0, 0, pair.side, pair.side), tissue


def _place(lr: Path) -> tuple[str, int, int]:
    """Return the stem of the HR file, and where LR starts on it."""
    found = LR_NAME.fullmatch(lr.stem)
    return (found["stem"], int(found["dx"]), int(found["dy"])) if found else (lr.stem, 0, 0)


def _fitted(hr: Path, lr: Path, name: str) -> FilePair:
    """Return a pair with the scale that follows from both sizes.

    Raises:
        SlideError: No scale fits, or a file cannot be opened.
    """
    with open_slide(hr) as slide:
        width, height = slide.dimensions
    with open_slide(lr) as slide:
        lr_w, lr_h = slide.dimensions
    _, dx, dy = _place(lr)
    scale, other = (width - dx) // lr_w, (height - dy) // lr_h
    left = max(width - dx - lr_w * scale, height - dy - lr_h * scale)
    # Without a place in its name, LR covers all of HR.
    fits = scale == other and scale in SCALES and left < (scale if LR_NAME.fullmatch(lr.stem) else 1)
    if not fits or lr_w != lr_h:
        raise SlideError(f"{lr}: must be square and {' or '.join(map(str, SCALES))} times smaller than {hr.name}; "
                         f"cut both to the same place. Received: LR {lr_w} x {lr_h}, HR {width} x {height}, from "
                         f"{dx},{dy} on")
    return FilePair(hr, lr, name, dx, dy, lr_w, scale)
