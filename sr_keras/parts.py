"""The train, val and test parts of a run: found, parted by slide, read into shards once.

Nothing is ever parted by patch: two patches of one slide share its stain and often its pixels. The one exception, a
single slide cut into regions that share no pixel, is asked for by name or is all that there is.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

from pipelines.files import write_text
from pipelines.options import PatchOptions, require
from pipelines.patches import Source, check_disjoint, find_sources, split_sources
from pipelines.shards import ShardSet, is_shards, open_shards, write_shards
from sr_keras.options import DataOptions

PARTS = ("train", "val", "test")
PARTS_FILE = "parts.json"
Slides = ShardSet | list[Source]


def find_parts(options: DataOptions, seed: int) -> dict[str, Slides]:
    """Return the slides of each part, nothing read or written yet; an empty list where it has none.

    Raises:
      ValueError: no slide is left to validate on, or a slide is in two parts.
      FileNotFoundError: a path that does not exist.
    """
    found = _find(options, seed)
    if not found["val"]:
        raise ValueError("no slide is left to validate on; name some with --val_data, or raise --val_fraction. "
                         f"Received: train_data={','.join(options.train_data)!r}")
    for one, other in combinations(found, 2):
        check_disjoint(_sources(found[one]), _sources(found[other]))
    return found


def patch_size(part: str, slides: Slides, options: DataOptions, patches: PatchOptions) -> int:
    """Return the side of a part's patches: that of the shards, or that at which slides will be read."""
    return slides.patch_size if isinstance(slides, ShardSet) else _size(part, options, patches).patch_size


def read_parts(found: dict[str, Slides], options: DataOptions, patches: PatchOptions, run: Path) -> dict[str, ShardSet]:
    """Return the shards of each part that has any.

    Shards that were given are used where they are. Anything else is read into `run`/data, once: a resumed run finds
    it there. What could not be read is listed in `run`/skipped.json and counted on the screen.

    Raises:
      ValueError: a part gives no patch.
      pipelines.slide.SlideError: with `strict`, the first slide or patch that can't be read.
    """
    anew = not (run / PARTS_FILE).exists()  # what a start that came to nothing has read gives way
    parts = {part: _read(part, slides, run, patches, options, anew) for part, slides in found.items() if slides}
    _report(parts, run)
    write_text(run / PARTS_FILE, json.dumps({part: _where(shards) for part, shards in parts.items()}, indent=2) + "\n")
    return parts


def open_part(run: Path, part: str | None = None) -> ShardSet:
    """Return a part of a finished or running run: the one that is named, or test, or val where there is no test.

    Raises:
      ValueError: `run` has no such part.
    """
    path = run / PARTS_FILE
    parts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    part = part or ("test" if "test" in parts else "val")
    if part not in parts:
        raise ValueError(f"`run` must have a {part} part; name a folder that training has read its slides into. "
                         f"Received: run={str(run)!r}")
    return _only_ids(open_shards(parts[part]["folders"]), set(parts[part]["slides"]))


def _where(shards: ShardSet) -> dict[str, list[str]]:
    folders = sorted({str(path.parent.resolve()) for path in shards.paths})
    return {"folders": folders, "slides": list(shards.slide_ids)}


def _only_ids(shards: ShardSet, slide_ids: set[str]) -> ShardSet:
    return replace(shards, shards=tuple(shard for shard in shards.shards if shard.slide_id in slide_ids))


def _find(options: DataOptions, seed: int) -> dict[str, Slides]:
    given = {part: getattr(options, f"{part}_data") for part in PARTS}
    regions = {part: getattr(options, f"{part}_region") for part in PARTS}
    if any(regions.values()):
        return {part: _cut(part, find_sources(given[part] or given["train"], name=_flag(part, options)), region)
                if region else [] for part, region in regions.items()}
    slides = {part: _open(paths, f"{part}_data") if paths else [] for part, paths in given.items()}
    if slides["val"]:
        return slides
    # A test part that was given leaves every slide of train_data to the other two.
    test_fraction = 0 if slides["test"] else options.test_fraction
    split = split_sources(_sources(slides["train"]), options.val_fraction, test_fraction, seed)
    parts = dict(zip(PARTS, (_only(slides["train"], chosen) for chosen in split), strict=True))
    return {**parts, "test": slides["test"] or parts["test"]}


def _open(paths: tuple[str, ...], name: str) -> Slides:
    shards = [is_shards(path) for path in paths]
    require(all(shards) or not any(shards), name, "be shards alone or slides alone", "extract the slides first",
            ",".join(paths))
    return open_shards(paths) if all(shards) else find_sources(paths, name=name)


def _flag(part: str, options: DataOptions) -> str:
    """Return the flag that names a part's slides."""
    return f"{part}_data" if getattr(options, f"{part}_data") else "train_data"


def _sources(slides: Slides) -> list[Source]:
    return [Source(slide_id, ()) for slide_id in slides.slide_ids] if isinstance(slides, ShardSet) else list(slides)


def _only(slides: Slides, chosen: Sequence[Source]) -> Slides:
    if not isinstance(slides, ShardSet):
        return list(chosen)
    return _only_ids(slides, {source.slide_id for source in chosen}) if chosen else []


def _cut(part: str, sources: Sequence[Source], region: tuple[int, int, int, int]) -> list[Source]:
    if len(sources) != 1:
        raise ValueError(f"`{part}_region` must cut a single slide; leave it out to part by slide. "
                         f"Received: {part}_region={region!r} with {len(sources)} slides")
    return [replace(sources[0], region=region)]


def _size(part: str, options: DataOptions, patches: PatchOptions) -> PatchOptions:
    # Validation and test are read on a grid of their own size, without overlap.
    return patches if part == "train" else replace(patches, patch_size=options.eval_patch_size, stride=None)


def _read(part: str, slides: Slides, run: Path, patches: PatchOptions, options: DataOptions, anew: bool) -> ShardSet:
    if isinstance(slides, ShardSet):
        return slides
    folder = run / "data" / part
    write_shards(slides, folder, _size(part, options, patches), workers=options.workers, strict=options.strict,
                 anew=anew, name=_flag(part, options))
    # A start that came to nothing may have left slides of another part there.
    return open_shards(folder, {source.slide_id for source in slides})


def _report(parts: dict[str, ShardSet], run: Path) -> None:
    skipped = []
    for part, shards in parts.items():
        skipped += [{"part": part, **asdict(item)} for item in shards.skipped]
        print(f"{part:<6} {shards.count:>6} patches of {shards.patch_size} px from {len(shards.slide_ids)} slide(s)")
    write_text(run / "skipped.json", json.dumps(skipped, indent=2) + "\n")
    broken = sum(item["broken"] for item in skipped)
    if broken:
        print(f"skipped {broken} patches or slides that can't be read, listed in {run / 'skipped.json'}")
