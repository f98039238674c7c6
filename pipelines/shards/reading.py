"""Opening shards: which there are, whether they are whole, what they hold. Without TensorFlow: in milliseconds."""
from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.errors import require
from pipelines.files import atomic_path, full_disk_named
from pipelines.patches import Skipped
from pipelines.shards.layout import REMEDY, UNFINISHED, Page, check_whole, read_page

Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class Shard:
    """One TFRecord file; `tissue` has the tissue share of each of its records.

    `pair_scale` is HR side over LR side where the records are pairs, None where LR is made of HR.
    """

    path: Path
    slide_id: str
    tissue: tuple[float, ...]
    patch_size: int
    pair_scale: int | None = None

    @property
    def count(self) -> int:
        """How many records there are."""
        return len(self.tissue)

    def count_from(self, min_tissue: float) -> int:
        """Return how many records have at least that share of tissue, compared in float32 as a dataset does."""
        return int(np.sum(np.asarray(self.tissue, np.float32) >= np.float32(min_tissue)))


@dataclass(frozen=True)
class ShardSet:
    """Whole shards, ordered by slide, and what gave no patch."""

    shards: tuple[Shard, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def patch_size(self) -> int:
        """The smallest side of a patch: pairs may be smaller than patches without LR. 0 where there is none."""
        return min((shard.patch_size for shard in self.shards), default=0)

    @property
    def pairs(self) -> ShardSet:
        """Those whose records are pairs; it may be empty."""
        return replace(self, shards=tuple(shard for shard in self.shards if shard.pair_scale))

    @property
    def plain(self) -> ShardSet:
        """Those whose records have no LR; it may be empty."""
        return replace(self, shards=tuple(shard for shard in self.shards if not shard.pair_scale))

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(shard.path for shard in self.shards)

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """The slides that gave patches, sorted."""
        return tuple(sorted({shard.slide_id for shard in self.shards}))

    @property
    def count(self) -> int:
        """How many patches there are."""
        return sum(shard.count for shard in self.shards)


def is_shards(folder: Folder) -> bool:
    """Tell whether a folder holds shards, finished or not."""
    folder = Path(folder)
    return folder.is_dir() and ((folder / UNFINISHED).exists() or any(folder.glob("*.tfrecord")))


def open_shards(folders: Folder | Sequence[Folder], slides: Collection[str] | None = None) -> ShardSet:
    """Return the shards of one or several folders.

    Args:
        folders: The folders.
        slides: Ids of the slides to open; None for all. Others may be of another patch size.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No shards, an extraction not finished, a shard missing or of another size than was written, a slide
            in two folders, or several patch sizes of patches that are no pairs. Names the file.
    """
    pages: dict[str, tuple[Path, Page]] = {}
    for folder in [folders] if isinstance(folders, (str, os.PathLike)) else folders:
        for page in _pages(Path(folder), slides):
            require(page["slide_id"] not in pages, "shards", "have each slide in one folder only",
                    f"leave {page['slide_id']!r} out of one", str(folder))
            pages[page["slide_id"]] = Path(folder), page
    shards = tuple(Shard(folder / shard["name"], slide_id, tuple(shard["tissue"]), page["options"]["patch_size"],
                         page["options"].get("scale") if page["options"].get("pairs") else None)
                   for slide_id, (folder, page) in sorted(pages.items()) for shard in page["shards"])
    require(bool(shards), "shards", "hold at least one patch", "write some with pipelines.extract", str(folders))
    sizes = {shard.patch_size for shard in shards if not shard.pair_scale}
    require(len(sizes) <= 1, "shards", "have one patch size", f"there are {sorted(sizes)}: choose", str(folders))
    skipped = tuple(Skipped(**item) for _, page in pages.values() for item in page["skipped"])
    return ShardSet(shards, skipped)


def copy_shards(shards: ShardSet, folder: Folder) -> ShardSet:
    """Copy shards into a folder, of a faster disk say, and return them there. A copy that is there already stays."""
    copies = []
    for shard in shards.shards:
        # Source, size and time are part of the name: shards written anew are never taken for the old ones.
        state = shard.path.stat()
        key = hashlib.sha256(f"{shard.path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
        copy = Path(folder) / f"{key}-{shard.path.name}"
        if not copy.exists():
            with full_disk_named(copy, REMEDY), atomic_path(copy) as temporary:
                shutil.copyfile(shard.path, temporary)
        copies.append(replace(shard, path=copy))
    return replace(shards, shards=tuple(copies))


def _pages(folder: Path, slides: Collection[str] | None) -> list[Page]:
    """Return the pages of a folder whose shards are finished and whole."""
    if not folder.is_dir():
        raise FileNotFoundError(f"`shards` must be a folder; check the spelling. Received: shards={str(folder)!r}")
    finished = not (folder / UNFINISHED).exists()
    require(finished, "shards", "be finished", "run the extraction that was stopped again", str(folder))
    pages = [read_page(path) for path in sorted(folder.glob("*.json"))]
    wanted = [page for page in pages if slides is None or page["slide_id"] in slides]
    for page in wanted:
        check_whole(folder, page)
    return wanted
