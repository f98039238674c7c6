"""What lies where in a folder of shards, and the page that each slide has there."""
from __future__ import annotations

import glob
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.config import PatchOptions
from pipelines.errors import require
from pipelines.patches import Source

UNFINISHED = ".unfinished"
FORMAT = 1
REMEDY = "make room and run the same command again, finished slides are kept"  # of a full disk

# A page, as JSON: format, slide_id, options, region, files (a digest), count, shards (of each its name, its bytes and
# the tissue share of every record), skipped. Of pairs the options say which (`pairs`) and of what `scale`, and their
# patch_size is that of the pairs; other pages have neither, as all had before there were pairs.
Page = dict[str, Any]
OF_PAIRS = ("pairs", "scale", "match_colours")  # options that patches without LR do not follow
OF_FILES = ("patch_size", "stride", "min_tissue", "scale", "match_colours")  # options that pairs of files do not follow
KEYS = {"slide_id", "options", "region", "files", "count", "shards", "skipped"}  # and format


def page_path(folder: Path, slide_id: str) -> Path:
    """Return where a slide's page is."""
    return folder / f"{_stem(slide_id)}.json"


def shard_path(folder: Path, slide_id: str, number: int) -> Path:
    """Return where a slide's shard of that number is."""
    return folder / f"{_stem(slide_id)}-{number:05d}.tfrecord"


def read_page(path: Path) -> Page:
    """Return a page.

    Raises:
        ValueError: It is not one, or one of another version.
    """
    try:
        page = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        page = None
    whole = isinstance(page, dict) and page.get("format") == FORMAT and page.keys() >= KEYS
    require(whole, "shards", "hold pages of this version only", "move this one away and extract again", str(path))
    return page


def check_whole(folder: Path, page: Page) -> None:
    """Refuse a slide whose shards are not all there and of the size that was written.

    Raises:
        ValueError: Names the file.
    """
    for shard in page["shards"]:
        path = folder / shard["name"]
        size = size_of(path)
        state = "is missing" if size is None else f"has {size} of {shard['bytes']} bytes"
        require(size == shard["bytes"], "shards", "be whole", f"extract again to mend this one, it {state}", str(path))


def finished_page(source: Source, folder: Path, options: PatchOptions, anew: bool) -> Page | None:
    """Return the page of a slide that is done, None for one that is to be done.

    What was made with other options or from other files is to be done where it gave no patch, or with `anew`.

    Raises:
        ValueError: It is there, with patches, and not to be made `anew`.
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
    require(not differs, "output", "hold no shards that were made otherwise",
            f"choose another folder, or delete this one ({path.name}: {', '.join(differs)})", str(folder))
    try:
        check_whole(folder, page)
    except ValueError:
        return None  # damaged since it was written: to be done again
    return page


def fingerprint(source: Source, options: PatchOptions) -> Page:
    """Return what a slide's shards follow from. Files go by name and size: a folder may be moved."""
    files = "\n".join(f"{path.name} {size_of(path)}" for path in source.files)
    region = list(source.region) if source.region else None
    return {"options": _options(source, options), "region": region,
            "files": hashlib.sha256(files.encode()).hexdigest()}


def remove(folder: Path, slide_id: str) -> None:
    """Delete what there is of a slide, its page first, and what a killed run left of it."""
    stem = glob.escape(_stem(slide_id))
    shards = f"{stem}-{'[0-9]' * 5}.tfrecord"
    for pattern in (f"{stem}.json", shards, f".*.tmp.{shards}", f".*.tmp.{stem}.json"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def size_of(path: Path) -> int | None:
    """Return a file's bytes, None where there is none."""
    return path.stat().st_size if path.exists() else None


def _options(source: Source, options: PatchOptions) -> dict[str, Any]:
    """Return what the choice of patches follows from; the size and scale of file pairs follow from the files."""
    values = asdict(options)
    if source.is_pairs:
        return {**{name: value for name, value in values.items() if name not in OF_FILES}, "pairs": "files"}
    return values if options.pairs else {name: values[name] for name in values if name not in OF_PAIRS}


def _stem(slide_id: str) -> str:
    """Return a slide id as the start of a file name."""
    return quote(slide_id, safe=" ()[]+,=@~")
