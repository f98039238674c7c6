# SPDX-License-Identifier: Apache-2.0
"""Find slides, and split them into train, validation and test. Slides are split, never patches.

A `Source` is one slide: a slide file (or a rectangle of it), or all tiles of one slide, which lie in one folder. In a
folder, PNG, JPEG and BMP files are tiles, and TIFFs of at most `TILE_SIDE` pixels a side without resolution metadata. A
file that is named itself is always a slide. OME-Zarr folders and DICOM series are slides, whatever their names (see
`pipelines.readers.folders`).

A file mpp.txt in a folder holds the microns per pixel of the tiles there and in folders below, as a number.

NAME_lrXY is not a tile but the low resolution of the tile NAME beside it (see `pipelines.pairs`).
"""
from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipelines.errors import require
from pipelines.names import CASE_NAME, alias, printable, split_paths
from pipelines.readers.folders import dicom_slide_of, walk_slides
from pipelines.readers.resolution import PLAUSIBLE_MPP
from pipelines.sample import cached_sample_slide
from pipelines.slide import SlideError, open_slide, slide_id_of
from pipelines.tissue import slide_mask

TILE_SIDE = 1024
TILE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
SLIDE_SUFFIXES = TIFF_SUFFIXES | {
    ".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".qptiff", ".btf"}
INPUT_SUFFIXES = TILE_SUFFIXES | SLIDE_SUFFIXES
LARGEST_TILE_BYTES = TILE_SIDE * TILE_SIDE * 8  # uncompressed RGBA of 16 bit
CUT_THUMBNAIL = 512
MPP_FILE, LARGEST_MPP_FILE = "mpp.txt", 100  # bytes
LR_NAME = re.compile(r"(?P<stem>.+)_lr(?P<dx>\d)(?P<dy>\d)")  # of the LR of a pair, without suffix
RUN_FILES = frozenset({"flags.txt", "versions.json"})  # of a training run, whose pictures are not slides

Region = tuple[int, int, int, int]
CaseOf = Callable[[str], str]


@dataclass(frozen=True)
class Source:
    """One slide: its file, or with `tiles` the files of its tiles. `region` is (x, y, width, height) in level 0.

    With `lr_paths` the tiles are the HR of pairs and these the LR (see `pipelines.pairs`). `scans` are the JSON file of
    `pipelines.register` and the second scan, LR, that was registered with this slide. `mpp` is that of the tiles. Where
    there is a `key`, the id is a hash and no name may be written (see `pipelines.names`).
    """

    slide_id: str
    paths: tuple[Path, ...]
    region: Region | None = None
    tiles: bool = False
    lr_paths: tuple[Path, ...] | None = None
    scans: tuple[Path, Path] | None = None
    key: bytes | None = field(default=None, repr=False)
    mpp: float | None = None

    @property
    def is_pairs(self) -> bool:
        """Whether the tiles have LR files beside them."""
        return self.lr_paths is not None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the slide is read from."""
        return self.paths + (self.lr_paths or ()) + (self.scans or ())


def find_sources(spec: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
                 cache_dir: str | os.PathLike[str] | None = None, name: str = "data") -> list[Source]:
    """Return the slides in `spec`, sorted by id.

    Args:
        spec: Files and folders, as a list or separated by commas; folders are searched recursively, linked ones too.
            The word `sample` is the slide of `pipelines.sample`.
        cache_dir: Where the sample slide is kept.
        name: The flag of `spec`, for error messages.

    Returns:
        Sources with unique ids: the name of the file or of the tiles' folder, preceded by parent folders as far as
            needed.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: There is no slide or picture, there is a training run, or an mpp.txt is not a number.
    """
    found: dict[tuple[Path, bool], list[Path]] = {}
    mpp: dict[tuple[Path, bool], float | None] = {}
    names = _names(spec)
    for one in names:
        path = cached_sample_slide(cache_dir) if str(one) == "sample" else Path(one)
        if not os.path.exists(path):
            raise FileNotFoundError(f"`{name}` must exist; check the spelling. Received: {name}={str(path)!r}")
        slide = dicom_slide_of(path)
        more = dict(_in_folder(path, name)) if path.is_dir() else {_key(slide): [slide]}
        found |= more
        mpp |= {key: _mpp_of(paths[0].parent, path) for key, paths in more.items() if key[1]}
    require(bool(found), name, "hold slides or images", "name another folder",
            ",".join(map(str, names)))
    ids = _unique_ids(list(found))
    sources = [_source(ids[key], paths, key[1], mpp.get(key)) for key, paths in found.items()]
    return sorted(sources, key=lambda source: source.slide_id)


def anonymous(source: Source, key: bytes) -> Source:
    """Return a slide under a hash of its id."""
    return replace(source, slide_id=alias(source.slide_id, key), key=key)


def is_among(path: str | os.PathLike[str], spec: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> bool:
    """Tell whether `path` is one of the files and folders of `spec`, or lies in one; it need not exist."""
    return any(_real(path).is_relative_to(_real(one)) for one in _names(spec) if str(one) != "sample")


def split_sources(sources: Sequence[Source], val_fraction: float, test_fraction: float,
                  seed: int = 0, case_of: CaseOf | None = None) -> tuple[list[Source], list[Source], list[Source]]:
    """Split slides into train, val and test; no slide and no case (patient) is in two parts.

    The split depends only on (seed, case) and the number of cases. Each requested part gets at least one case. If
    there are fewer cases than parts, every slide is cut into bands without common pixels, by their share of the
    tissue; with a `case_of` this is refused.

    Args:
        sources: The slides.
        val_fraction: Share of the cases to validate on.
        test_fraction: Share of the cases to test on.
        seed: Another one gives another split.
        case_of: From `pipelines.cases`: the case of a slide id; `tcga_case` by default.

    Raises:
        ValueError: A folder of tiles would have to be cut, a slide has no case, or there are fewer cases than parts.
        SlideError: A slide that has to be cut cannot be read.
    """
    fractions = (1 - val_fraction - test_fraction, val_fraction, test_fraction)
    cases = {source.slide_id: (case_of or tcga_case)(source.slide_id) for source in sources}
    count, parts_wanted = len(set(cases.values())), sum(fraction > 0 for fraction in fractions)
    if count < parts_wanted:
        if case_of:
            raise ValueError(f"`train_data` must hold {parts_wanted} cases, one for each part; add slides of other "
                             "cases, name --val_data, set --test_fraction=0, or leave --case_pattern and --cases out. "
                             f"Received: {count} case(s)")
        return _cut_each(sources, fractions)
    drawn = sorted(set(cases.values()), key=lambda case: draw(seed, case))
    n_val, n_test = (max(1, round(fraction * len(drawn))) if fraction > 0 else 0 for fraction in fractions[1:])
    n_val = min(n_val, len(drawn) - 1 - min(n_test, 1))
    n_test = min(n_test, len(drawn) - 1 - n_val)
    parts = drawn[n_val + n_test:], drawn[:n_val], drawn[n_val:n_val + n_test]
    train, val, test = (
        sorted((source for source in sources if cases[source.slide_id] in part), key=lambda source: source.slide_id)
        for part in parts)
    return train, val, test


def tcga_case(slide_id: str) -> str:
    """Return the patient's part of a slide id by TCGA's pattern (TCGA-XX-XXXX), or the whole id without one."""
    found = CASE_NAME.search(slide_id)
    return found.group().upper() if found else slide_id


def check_disjoint(train: Iterable[Source], val: Iterable[Source], case_of: CaseOf | None = None) -> None:
    """Check that two parts share no slide and no case; see `split_sources`.

    Raises:
        ValueError: A slide id, a case or a file is in both, except as two regions without common pixels; or there are
            tiles and pairs in folders of the same name, which are of one slide.
    """
    find_case = case_of or tcga_case
    held_out = [(other, _files(other), find_case(other.slide_id)) for other in val]
    for one in train:
        files, case = _files(one), find_case(one.slide_id)
        for other, other_files, other_case in held_out:
            same = one.slide_id == other.slide_id or files & other_files or (
                one.is_pairs != other.is_pairs and _folder_name(one) == _folder_name(other))
            cut = one.region and other.region and not case_of  # by `split_sources`, which has too few cases
            if not same and not cut and case == other_case:
                raise ValueError("`train_data` and `val_data` must share no case (patient); remove its slides from "
                                 f"one of them. Received: {one.slide_id} and {other.slide_id}")
            if same and not (one.region and other.region and not _overlap(one.region, other.region)):
                raise ValueError("`train_data` and `val_data` must share no slide; remove it from one of them. "
                                 f"Received both with: {other.slide_id}")


def _files(source: Source) -> set[Path]:
    return {_real(path) for path in source.files}


def _real(path: str | os.PathLike[str]) -> Path:
    """Return the path without links; unlike `Path.resolve` it takes links that lead in a circle."""
    return Path(os.path.realpath(path))


def _folder_name(source: Source) -> str | None:
    return source.files[0].parent.name if source.tiles else None


def _key(path: Path) -> tuple[Path, bool]:
    """Return what identifies a slide file; a link that leads nowhere is identified by its own name."""
    return _real(path) if os.path.exists(path) else _real(path.parent) / path.name, False


def _mpp_of(folder: Path, root: Path) -> float | None:
    """Return the number in the mpp.txt of a folder, or else of the nearest folder above it up to `root`."""
    for place in (folder, *folder.parents):
        path = place / MPP_FILE
        if path.is_file():
            with path.open("rb") as file, suppress(ValueError):
                mpp = float(file.read(LARGEST_MPP_FILE))
                if PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
                    return mpp
            low, high = PLAUSIBLE_MPP
            raise ValueError(f"`{MPP_FILE}` must hold the microns per pixel of the tiles beside it, a number from "
                             f"{low:g} to {high:g}; correct it, for example to 0.5. Received: {str(path)!r}")
        if place == root:
            break
    return None


def _source(slide_id: str, paths: Sequence[Path], tiles: bool, mpp: float | None) -> Source:
    lr_paths = tuple(path for path in paths if tiles and LR_NAME.fullmatch(path.stem))
    return Source(slide_id, tuple(path for path in paths if path not in lr_paths), tiles=tiles,
                  lr_paths=lr_paths or None, mpp=mpp)


def _names(spec: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    if isinstance(spec, str):
        return [*split_paths(spec)]
    return [spec] if isinstance(spec, os.PathLike) else list(spec)


def _in_folder(root: Path, name: str) -> Iterator[tuple[tuple[Path, bool], list[Path]]]:
    """Yield ((resolved path, whether these are tiles), files) for every slide under a folder."""
    for folder, slides, files in walk_slides(root, INPUT_SUFFIXES):
        require(not all(os.path.exists(folder / one) for one in RUN_FILES), name, "hold slides and no training run",
                "name the slides, or the shards in the run's data folder", str(folder))
        tiles: list[Path] = []
        for path in files:
            (tiles if is_tile(path) else slides).append(path)
        yield from ((_key(path), [path]) for path in slides)
        if tiles:
            yield (_real(folder), True), tiles


def is_tile(path: Path) -> bool:
    """Tell whether a file in a folder is a tile."""
    suffix = path.suffix.lower()
    # A broken link or a pipe is skipped when it is read.
    if suffix not in TIFF_SUFFIXES or not os.path.isfile(path) or path.stat().st_size > LARGEST_TILE_BYTES:
        return suffix in TILE_SUFFIXES
    try:
        with open_slide(path) as image:
            return image.mpp is None and max(image.dimensions) <= TILE_SIDE
    except (SlideError, OSError):
        return True  # skipped with its folder, instead of becoming a slide of its own


def _unique_ids(keys: Sequence[tuple[Path, bool]]) -> dict[tuple[Path, bool], str]:
    """Name each file or folder by as many of its last folders as make it unique, in text that is UTF-8."""
    parts = {key: (*key[0].parent.parts[1:], key[0].name if key[1] else slide_id_of(key[0])) for key in keys}
    same = Counter(parts.values())
    # case.svs beside case.tif keep their suffixes; a folder may be a slide and have tiles.
    parts = {key: own if same[own] == 1 else (*own[:-1], key[0].name + "_tiles" * (key[1] and (key[0], False) in parts))
             for key, own in parts.items()}
    ids: dict[tuple[Path, bool], str] = {}
    for depth in range(1, 1 + max(len(own) for own in parts.values())):
        short = {key: printable("--".join(own[-depth:])) for key, own in parts.items()}
        count = Counter(short.values())
        ids |= {key: name for key, name in short.items() if key not in ids and count[name] == 1}
    return {key: ids.get(key) or f"{short[key]}~{hashlib.sha256(os.fsencode(key[0])).hexdigest()[:8]}" for key in keys}


def draw(seed: int, slide_id: str) -> bytes:
    """Return random bytes for a slide, which do not depend on the other slides."""
    return hashlib.sha256(f"{seed}/{slide_id}".encode(errors="surrogateescape")).digest()


def _cut_each(sources: Sequence[Source], fractions: Sequence[float]) -> tuple[list[Source], list[Source], list[Source]]:
    parts: tuple[list[Source], list[Source], list[Source]] = ([], [], [])
    for source in sources:
        if source.tiles or len(source.paths) != 1:
            raise ValueError("`train_data` must hold one slide each for train, val and test; put the tiles of each "
                             f"slide into a separate folder, or set --val_data. Received: {len(sources)}, "
                             f"{', '.join(one.slide_id for one in sources)}")
        for part, region in zip(parts, _bands(source, fractions), strict=True):
            part.extend([replace(source, region=region)] if region else [])
    return parts


def _bands(source: Source, fractions: Sequence[float]) -> list[Region | None]:
    """Cut a slide across its longer side into bands with these fractions of the tissue; None for a fraction of 0."""
    with open_slide(source.paths[0]) as slide:
        x, y, width, height = source.region or (0, 0, *slide.dimensions)
        mask = slide_mask(slide, CUT_THUMBNAIL)
        scale = mask.shape[1] / slide.dimensions[0]
    inside = mask[int(y * scale):math.ceil((y + height) * scale), int(x * scale):math.ceil((x + width) * scale)]
    across = width >= height
    amount = inside.sum(axis=0 if across else 1) + 1e-3  # so that a slide without tissue is cut by length
    share = np.concatenate([[0], np.cumsum(amount) / amount.sum()])
    cuts = np.interp(np.cumsum([0, *fractions]), share, np.linspace(0, width if across else height, len(share)))
    bands = [(int(start), int(end) - int(start)) for start, end in pairwise(np.rint(cuts))]
    return [None if not size else (x + start, y, size, height) if across else (x, y + start, width, size)
            for start, size in bands]


def _overlap(one: Region, other: Region) -> bool:
    return (one[0] < other[0] + other[2] and other[0] < one[0] + one[2]
            and one[1] < other[1] + other[3] and other[1] < one[1] + one[3])
