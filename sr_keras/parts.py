"""The train, val and test parts of a run: found, parted by slide, read into shards once.

Nothing is ever parted by patch: two patches of one slide share its stain and often its pixels. The one exception, a
single slide cut into regions that share no pixel, is asked for by name or is all that there is.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.files import write_text
from pipelines.options import PatchOptions
from pipelines.patches import Source, check_disjoint, find_sources, split_sources
from pipelines.shards import ShardSet, is_shards, open_shards, write_shards
from sr_keras.options import DataOptions

PARTS = ("train", "val", "test")


def prepare(options: DataOptions, patches: PatchOptions, run: Path, seed: int) -> dict[str, ShardSet]:
    """Return the shards of each part that has any; the val part always has.

    Shards that were given are used where they are. Anything else is read into `run`/data, once: a resumed run finds
    it there. What could not be read is listed in `run`/skipped.json and counted on the screen.

    Raises:
      ValueError: no slide is left to validate on, or a slide is in two parts.
      FileNotFoundError: a path that does not exist.
      pipelines.slide.SlideError: with `strict`, the first slide or patch that can't be read.
    """
    given = {part: getattr(options, f"{part}_data") for part in PARTS}
    if all(is_shards(path) for path in given["train"]):
        parts = _given_shards(given, options, seed)
    else:
        parts = _extracted(given, options, patches, run, seed)
    if "val" not in parts:
        raise ValueError("no slide is left to validate on; name some with --val_data, or raise --val_fraction. "
                         f"Received: train_data={','.join(given['train'])!r}")
    _report(parts, run)
    return parts


def _given_shards(given: dict[str, tuple[str, ...]], options: DataOptions, seed: int) -> dict[str, ShardSet]:
    everything = open_shards(given["train"])
    if not given["val"]:
        sources = [Source(slide_id, ()) for slide_id in everything.slide_ids]
        split = split_sources(sources, options.val_fraction, options.test_fraction, seed)
        ids = {part: [source.slide_id for source in chosen] for part, chosen in zip(PARTS, split, strict=True)}
        return {part: everything.only(chosen) for part, chosen in ids.items() if chosen}
    parts = {"train": everything, **{part: open_shards(given[part]) for part in ("val", "test") if given[part]}}
    for part in parts.keys() - {"train"}:
        shared = sorted(set(everything.slide_ids) & set(parts[part].slide_ids))
        if shared:
            raise ValueError(f"`train_data` and `{part}_data` must share no slide; leave it out of one. "
                             f"Received both with: {', '.join(shared)}")
    return parts


def _extracted(given: dict[str, tuple[str, ...]], options: DataOptions, patches: PatchOptions, run: Path,
               seed: int) -> dict[str, ShardSet]:
    sources = _sources(given, options, seed)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        check_disjoint(sources[one], sources[other])
    parts = {}
    for part in PARTS:
        if not sources[part]:
            continue
        # Validation and test are read whole, on a grid of their own size, without overlap.
        size = patches if part == "train" else replace(patches, patch_size=options.eval_patch_size, stride=None)
        folder = run / "data" / part
        write_shards(sources[part], folder, size, workers=options.workers, strict=options.strict)
        parts[part] = open_shards(folder)
    return parts


def _sources(given: dict[str, tuple[str, ...]], options: DataOptions, seed: int) -> dict[str, list[Source]]:
    found = find_sources(given["train"])
    regions = {part: getattr(options, f"{part}_region") for part in PARTS}
    if any(regions.values()):
        return {part: _cut(part, find_sources(given[part] or given["train"]), region) if region else []
                for part, region in regions.items()}
    if given["val"]:
        return {"train": found, "val": find_sources(given["val"]),
                "test": find_sources(given["test"]) if given["test"] else []}
    split = split_sources(found, options.val_fraction, options.test_fraction, seed)
    return dict(zip(PARTS, (list(part) for part in split), strict=True))


def _cut(part: str, sources: Sequence[Source], region: tuple[int, int, int, int]) -> list[Source]:
    if len(sources) != 1:
        raise ValueError(f"`{part}_region` must cut a single slide; leave it out to part by slide. "
                         f"Received: {part}_region={region!r} with {len(sources)} slides")
    return [replace(sources[0], region=region)]


def _report(parts: dict[str, ShardSet], run: Path) -> None:
    skipped = []
    for part, shards in parts.items():
        skipped += [{"part": part, "slide_id": s.slide_id, "where": s.where, "reason": s.reason} for s in shards.skipped]
        print(f"{part:<6} {shards.count:>6} patches of {shards.patch_size} px from {len(shards.slide_ids)} slide(s)")
    write_text(run / "skipped.json", json.dumps(skipped, indent=2) + "\n")
    unreadable = [entry for entry in skipped]
    if unreadable:
        print(f"skipped {len(unreadable)} patches or slides, listed in {run / 'skipped.json'}")
