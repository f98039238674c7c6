"""Pairs from files: HR tiles and the LR that was really scanned of the same places.

    NAME.jpeg       HR, of any size
    NAME_lrXY.png   its LR: pixel (0, 0) lies over HR columns X to X+scale-1 and rows Y to Y+scale-1

LR pixel i lies on HR coordinate X + scale*i + (scale-1)/2 (half-pixel centres). The scale follows from the sizes. What
of HR has no LR over it is cut off; that may be less than one LR pixel.
"""
from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.options import SCALES
from pipelines.slide import SlideError, open_slide
from pipelines.sources import LR_NAME, Source
from pipelines.tissue import slide_mask

MASK_SIDE = 64  # pixels, of the mask that tells a pair's share of tissue


@dataclass(frozen=True)
class FilePair:
    """HR and LR files that belong together. `side` is that of LR, in its pixels; HR is cut to `scale` times that."""

    hr: Path
    lr: Path
    name: str
    dx: int
    dy: int
    side: int
    scale: int

    @property
    def patch_size(self) -> int:
        """The side of HR, as far as LR covers it."""
        return self.side * self.scale


def match_files(source: Source) -> tuple[list[FilePair], list[tuple[str, str]]]:
    """Return the pairs of a slide, of one size and scale all, and (file name, reason) of each file that is in none."""
    hr_paths = {path.stem: path for path in source.paths}
    partners = defaultdict(list)
    for path in source.lr_paths:
        partners[_place(path)[0]].append(path)
    unfit = [(path.name, f"{path}: has no LR beside it (a missing partner: {path.stem}_lrXY)")
             for path in source.paths if path.stem not in partners]
    unfit += [(path.name, f"{path}: has no HR beside it (a missing partner: {stem})")
              for stem, paths in partners.items() if stem not in hr_paths for path in paths]
    pairs = []
    for stem, paths in partners.items():
        for lr in paths if stem in hr_paths else ():
            try:
                pairs.append(_fitted(hr_paths[stem], lr, stem if len(paths) == 1 else lr.stem))
            except (SlideError, OSError) as error:
                unfit.append((lr.name, str(error)))
    return _of_one_size(pairs, unfit)


def shape_of(source: Source) -> tuple[int, int] | None:
    """Return (patch size, scale) of a slide's pairs from the heads of the files; None where it gives none."""
    pairs = match_files(source)[0] if source.lr_paths else []
    return (pairs[0].patch_size, pairs[0].scale) if pairs else None


def read_pair(pair: FilePair) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (hr uint8 [side*scale, side*scale, 3], lr uint8 [side, side, 3], the share of HR that is tissue).

    Raises:
        SlideError: One of them cannot be read.
    """
    with open_slide(pair.hr) as slide:
        hr = slide.read_region(pair.dx, pair.dy, 0, pair.patch_size, pair.patch_size)
        tissue = float(slide_mask(slide, MASK_SIDE).mean())
    with open_slide(pair.lr) as slide:
        return hr, slide.read_region(0, 0, 0, pair.side, pair.side), tissue


def _place(lr: Path) -> tuple[str, int, int]:
    """Return the stem of the HR file, and where LR begins on it."""
    found = LR_NAME.fullmatch(lr.stem)
    return (found["stem"], int(found["dx"]), int(found["dy"])) if found else (lr.stem, 0, 0)


def _fitted(hr: Path, lr: Path, name: str) -> FilePair:
    """Return a pair, its scale from the sizes of both.

    Raises:
        SlideError: No scale fits, or a file cannot be opened.
    """
    with open_slide(hr) as slide:
        width, height = slide.dimensions
    with open_slide(lr) as slide:
        lr_w, lr_h = slide.dimensions
    _, dx, dy = _place(lr)
    scales = {(width - dx) // lr_w, (height - dy) // lr_h}
    scale = scales.pop()
    left = max(width - dx - lr_w * scale, height - dy - lr_h * scale)
    # A name without a place says that LR covers all of HR.
    fits = not scales and scale in SCALES and left < (scale if LR_NAME.fullmatch(lr.stem) else 1)
    if not fits or lr_w != lr_h:
        raise SlideError(f"{lr}: must be square and {' or '.join(map(str, SCALES))} times smaller than {hr.name}; "
                         f"cut both to the same place. Received: LR {lr_w} x {lr_h}, HR {width} x {height}, from "
                         f"{dx},{dy} on")
    return FilePair(hr, lr, name, dx, dy, lr_w, scale)


def _of_one_size(pairs: list[FilePair], unfit: list[tuple[str, str]]) -> tuple[list[FilePair], list[tuple[str, str]]]:
    """Return the pairs of the most common size and scale; the others are listed."""
    if not pairs:
        return pairs, unfit
    (side, scale), _ = Counter((pair.side, pair.scale) for pair in pairs).most_common(1)[0]
    same = [pair for pair in pairs if (pair.side, pair.scale) == (side, scale)]
    others = [(pair.lr.name, f"{pair.lr}: must have the size of the slide's other pairs, LR {side} x {side} at scale "
               f"{scale}; put it into a folder of its own. Received: {pair.side} x {pair.side} at {pair.scale}")
              for pair in pairs if pair not in same]
    return same, unfit + others
