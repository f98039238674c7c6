"""Pairs from files: HR tiles and the LR that was really scanned of the same places.

    NAME.jpeg       HR, of any size
    NAME_lrXY.png   its LR: pixel (0, 0) lies over HR columns X to X+scale-1 and rows Y to Y+scale-1

LR pixel i lies on HR coordinate X + scale*i + (scale-1)/2 (half-pixel centres). The scale follows from the sizes. What
of HR has no LR over it is cut off: less than the width of an LR pixel. Two folders of the same names are pairs too
(`pair_folders`); there LR covers all of HR. LR that does not show what HR shows is refused: `pipelines.correspondence`.
"""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.config import SCALES, PatchOptions
from pipelines.correspondence import mismatch, refusal, sample
from pipelines.errors import require
from pipelines.slide import SlideError, open_slide, slide_id_of
from pipelines.sources import LR_NAME, Source, is_tile
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


def pair_folders(sources: Sequence[Source], data: str | Path, lr_data: str | Path) -> list[Source]:
    """Return the tiles of the folder `data` as HR, with those of `lr_data` as their LR: the same folders, same names.

    Raises:
        FileNotFoundError: `lr_data` is no folder.
        ValueError: There are slides in `data` that are no tiles.
    """
    if not Path(lr_data).is_dir():
        raise FileNotFoundError(f"`lr_data` must be a folder; check the spelling. Received: lr_data={str(lr_data)!r}")
    paired = []
    for source in sources:
        require(source.tiles, "lr_data", "go with folders of tiles", "for scans of whole slides there is "
                f"python -m pipelines.register; {source.paths[0]} is none of tiles", str(lr_data))
        folder = Path(lr_data) / source.files[0].parent.relative_to(data)
        lr_paths = sorted(folder.iterdir()) if folder.is_dir() else []
        paired.append(replace(source, lr_paths=tuple(path for path in lr_paths if is_tile(path))))
    return paired


def pair_scans(pages: Sequence[str | Path], options: PatchOptions) -> tuple[list[Source], PatchOptions]:
    """Return slides that were registered with a second scan, named by HR, and the options with the scale of the pairs.

    Args:
        pages: What pipelines.register wrote.
        options: Of the patches; `scale` is replaced by that of the scans.

    Raises:
        FileNotFoundError: A page or one of its slides is not there.
        ValueError: A page is none, of other files than are there, or of another scale than the first; or the options
            do not go with it.
    """
    # Slow to import, and of no use to others.
    from pipelines.register.cut import check_cut, scan_paths
    from pipelines.register.registration import read_registration

    sources: list[Source] = []
    for page in pages:
        found = read_registration(page)
        options = replace(options, scale=found.scale) if not sources else options
        require(found.scale == options.scale, "pairs", f"be of one scale, {options.scale} as the first",
                "extract them by themselves", str(page))
        check_cut(found, options)
        lr, hr = scan_paths(found, Path(page))
        sources.append(Source(slide_id_of(hr), (hr,), scans=(Path(page), lr)))
    return sources, options


def match_files(source: Source) -> tuple[list[FilePair], list[tuple[str, str]]]:
    """Return the pairs of a slide, all of one size and scale, and (file name, reason) of each file that is in none."""
    hr_paths = {path.stem: path for path in source.paths}
    partners = defaultdict(list)
    for path in source.lr_paths or ():
        partners[_place(path)[0]].append(path)
    unfit = [(path.name, f"{path}: has no partner, the LR {path.stem}_lrXY beside it or {path.stem} in lr_data")
             for path in source.paths if path.stem not in partners]
    unfit += [(path.name, f"{path}: has no partner, the HR {stem}")
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
    pairs = match_files(source)[0]
    return (pairs[0].patch_size, pairs[0].scale) if pairs else None


def read_pair(pair: FilePair) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (hr uint8 [side*scale, side*scale, 3], lr uint8 [side, side, 3], the share of HR that is tissue).

    Raises:
        SlideError: One of them cannot be read, or they do not correspond.
    """
    hr, lr = _read(pair)
    reason = mismatch(hr, lr)
    if reason:
        raise SlideError(f"{pair.lr}: {reason}")
    with open_slide(pair.hr) as slide:
        return hr, lr, float(slide_mask(slide, MASK_SIDE).mean())


def refuse_pairs(pairs: Sequence[FilePair]) -> str | None:
    """Return why a slide's pairs are refused as a whole, told from some of them; None where they are not."""
    images = []
    for pair in sample(pairs):
        try:
            images.append(_read(pair))
        except (SlideError, OSError):
            continue  # it is listed when it is its turn
    reason = refusal(images)
    return f"{pairs[0].lr.parent}: most pairs do not correspond; {reason}" if reason else None


def _read(pair: FilePair) -> tuple[np.ndarray, np.ndarray]:
    with open_slide(pair.hr) as slide:
        hr = slide.read_level(0, pair.dx, pair.dy, pair.patch_size, pair.patch_size)
    with open_slide(pair.lr) as slide:
        return hr, slide.read_level(0, 0, 0, pair.side, pair.side)


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
              for pair in pairs if (pair.side, pair.scale) != (side, scale)]
    return same, unfit + others
