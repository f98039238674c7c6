# SPDX-License-Identifier: Apache-2.0
"""The files of a folder of shards, their pages, and opening them. Without TensorFlow, in milliseconds."""
from __future__ import annotations

import glob
import hashlib
import hmac
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

from pipelines.config import PatchOptions
from pipelines.errors import require
from pipelines.files import Count, FileName, Finite, atomic_path, fitting_name, full_disk_named, read_json
from pipelines.patches import Skipped, Source, own_options

UNFINISHED = ".unfinished"
FORMAT = 1
LARGEST_SIDE = 2**16  # of a patch, in pixels
LONGEST_STEM, SHORTENED = 240, 200  # bytes: -00000.tfrecord follows, and the name of a temporary file is longer
REMEDY = "make room and run the same command again, finished slides are kept"  # of a full disk

OF_PAIRS = ("pairs", "scale", "match_colours")  # options that patches without LR do not depend on
OF_FILES = ("patch_size", "stride", "min_tissue", "scale", "match_colours")  # that pairs of files do not depend on
Folder = str | os.PathLike[str]


class ShardEntry(TypedDict):
    """A shard in a page: the name and size of its file, and the tissue share of every record."""

    name: FileName
    bytes: Count
    tissue: list[Finite]


class Page(TypedDict):
    """What a folder of shards says of a slide, as JSON.

    The options of pairs contain `pairs` and `scale`, and the patch_size of the pairs; other pages have neither, like
    all pages before pairs existed. `files` is a digest.
    """

    format: int
    slide_id: str
    options: dict[str, Any]
    region: list[int] | None
    files: str
    count: Count
    shards: list[ShardEntry]
    skipped: list[Skipped]


def page_path(folder: Path, slide_id: str) -> Path:
    """Return the path of a slide's page."""
    return folder / f"{_stem(slide_id)}.json"


def shard_path(folder: Path, slide_id: str, number: int) -> Path:
    """Return the path of a slide's shard."""
    return folder / f"{_stem(slide_id)}-{number:05d}.tfrecord"


def read_page(path: Path) -> Page:
    """Return a page; ValueError if it is damaged, names files in other folders, or is of another version."""
    remedy = "move this file away and extract again"
    page = read_json(path, Page, remedy)
    sizes = [page["options"].get("patch_size"), page["options"].get("scale", 1)]
    sound = (page["format"] == FORMAT and all(type(size) is int and 0 < size <= LARGEST_SIDE for size in sizes)
             and page["count"] == sum(len(shard["tissue"]) for shard in page["shards"]))
    require(sound, "shards", "hold pages of this version only", remedy, str(path))
    return page


def check_whole(folder: Path, page: Page) -> None:
    """Raise a ValueError that names the file if a slide's shard is missing or has another size than was written."""
    for shard in page["shards"]:
        path = folder / shard["name"]
        size = size_of(path)
        state = "is missing" if size is None else f"has {size} of {shard['bytes']} bytes"
        require(size == shard["bytes"], "shards", "be whole", f"extract again, this file {state}", str(path))


def finished_page(source: Source, folder: Path, options: PatchOptions, anew: bool) -> Page | None:
    """Return the page of a slide that is done; None for one that has to be written.

    A slide from other options or files is written again if it gave no patch, or with `anew`.

    Raises:
        ValueError: It has patches and is not to be written `anew`.
    """
    path = page_path(folder, source.slide_id)
    if not path.exists():
        return None
    page, now = read_page(path), fingerprint(source, options)
    differs = [f"{name} was {page['options'].get(name)!r} and is {now['options'].get(name)!r}"
               for name in dict.fromkeys((*now["options"], "pairs"))
               if page["options"].get(name) != now["options"].get(name)]
    differs += [f"{name} differ" for name in ("region", "files") if page[name] != now[name]]
    if differs and (anew or page["count"] == 0):
        return None
    require(not differs, "output", "hold no shards from other options or files",
            f"choose another folder, or delete this one ({path.name}: {', '.join(differs)})", str(folder))
    try:
        check_whole(folder, page)
    except ValueError:
        return None  # damaged since it was written: write it again
    return page


def fingerprint(source: Source, options: PatchOptions) -> dict[str, Any]:
    """Return what a slide's shards depend on. Files count by name and size, so a folder may be moved."""
    files = "\n".join(f"{path.name} {size_of(path)}" for path in source.files).encode(errors="surrogateescape")
    digest = hmac.new(source.key, files, "sha256") if source.key else hashlib.sha256(files)
    values = asdict(own_options(source, options))
    if source.is_pairs:
        values = {name: value for name, value in values.items() if name not in OF_FILES} | {"pairs": "files"}
    elif not options.pairs:
        values = {name: value for name, value in values.items() if name not in OF_PAIRS}
    return {"options": values, "region": list(source.region) if source.region else None,
            "files": digest.hexdigest()}


def remove(folder: Path, slide_id: str) -> None:
    """Delete the page and shards of a slide, page first, and temporary files of a killed run."""
    stem = glob.escape(_stem(slide_id))
    shards = f"{stem}-{'[0-9]' * 5}.tfrecord"
    for pattern in (f"{stem}.json", shards, f".*.tmp.{shards}", f".*.tmp.{stem}.json"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def size_of(path: Path) -> int | None:
    """Return a file's size in bytes, None if it does not exist."""
    return path.stat().st_size if path.exists() else None


def _stem(slide_id: str) -> str:
    """Return a slide id as the start of a file name; a checksum replaces the middle of one that is too long."""
    stem = quote(slide_id, safe=" ()[]+,=@~")  # up to 9 bytes for a letter
    return stem if len(stem) <= LONGEST_STEM else fitting_name("", stem, longest=SHORTENED)


@dataclass(frozen=True)
class Shard:
    """One TFRecord file, with the tissue share of each record.

    `pair_scale` is HR side / LR side if the records are pairs, None if LR is made from HR.
    """

    path: Path
    slide_id: str
    tissue: tuple[float, ...]
    patch_size: int
    pair_scale: int | None = None

    @property
    def count(self) -> int:
        """Number of records."""
        return len(self.tissue)


@dataclass(frozen=True)
class ShardSet:
    """Complete shards, ordered by slide, and what gave no patch."""

    shards: tuple[Shard, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def patch_size(self) -> int:
        """The smallest side of a patch (pairs may be smaller than other patches); 0 without shards."""
        return min((shard.patch_size for shard in self.shards), default=0)

    @property
    def pairs(self) -> ShardSet:
        """The shards of pairs; may be empty."""
        return replace(self, shards=tuple(shard for shard in self.shards if shard.pair_scale))

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
        """Number of patches."""
        return sum(shard.count for shard in self.shards)


def is_shards(folder: Folder) -> bool:
    """Tell whether a folder contains shards, finished or not."""
    folder = Path(folder)
    return folder.is_dir() and ((folder / UNFINISHED).exists() or any(folder.glob("*.tfrecord")))


def open_shards(folders: Folder | Sequence[Folder], slides: Collection[str] | None = None) -> ShardSet:
    """Return the shards of one or several folders.

    Args:
        folders: The folders.
        slides: Ids of the slides to open; None for all. Other slides may have another patch size.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: There are no shards, the extraction is not finished, a shard is missing or has the wrong size, a
            slide is in two folders, or patches that are not pairs differ in size. Names the file.
    """
    pages: dict[str, tuple[Path, Page]] = {}
    for folder in [folders] if isinstance(folders, (str, os.PathLike)) else folders:
        for page in _pages(Path(folder), slides):
            require(page["slide_id"] not in pages, "shards", "have each slide in one folder only",
                    f"remove {page['slide_id']!r} from one of them", str(folder))
            pages[page["slide_id"]] = Path(folder), page
    shards = tuple(Shard(folder / shard["name"], slide_id, tuple(shard["tissue"]), page["options"]["patch_size"],
                         page["options"].get("scale") if page["options"].get("pairs") else None)
                   for slide_id, (folder, page) in sorted(pages.items()) for shard in page["shards"])
    require(bool(shards), "shards", "hold at least one patch", "write some with sr-keras extract", str(folders))
    sizes = {shard.patch_size for shard in shards if not shard.pair_scale}
    require(len(sizes) <= 1, "shards", "have one patch size", f"choose one of {sorted(sizes)}", str(folders))
    skipped = tuple(item for _, page in pages.values() for item in page["skipped"])
    return ShardSet(shards, skipped)


def copy_shards(shards: ShardSet, folder: Folder) -> ShardSet:
    """Copy shards to a folder, say on a faster disk, and return the copies. Existing copies are kept."""
    copies = []
    for shard in shards.shards:
        # Path, size and time are part of the name, so shards that were written again are copied again.
        state = shard.path.stat()
        about = f"{shard.path.resolve()} {state.st_size} {state.st_mtime_ns}"
        key = hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()[:16]
        copy = Path(folder) / fitting_name(f"{key}-", shard.path.name)
        if not copy.exists():
            with full_disk_named(copy, REMEDY), atomic_path(copy) as temporary:
                shutil.copyfile(shard.path, temporary)
        copies.append(replace(shard, path=copy))
    return replace(shards, shards=tuple(copies))


def _pages(folder: Path, slides: Collection[str] | None) -> list[Page]:
    """Return the pages of a folder with finished, complete shards."""
    if not folder.is_dir():
        raise FileNotFoundError(f"`shards` must be a folder; check the spelling. Received: shards={str(folder)!r}")
    finished = not (folder / UNFINISHED).exists()
    require(finished, "shards", "be finished", "repeat the extraction that was stopped", str(folder))
    pages = [read_page(path) for path in sorted(folder.glob("*.json"))]
    wanted = [page for page in pages if slides is None or page["slide_id"] in slides]
    for page in wanted:
        check_whole(folder, page)
    return wanted
