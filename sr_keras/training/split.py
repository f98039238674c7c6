# SPDX-License-Identifier: Apache-2.0
"""The train, val and test parts of a run: find the slides, split them, read them into shards once.

Slides are split, never patches: two patches of one slide share its stain and often its pixels. The only exception is a
single slide that is cut into regions without common pixels.
"""
from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TypedDict

from pipelines.cases import case_finder
from pipelines.config import PatchOptions
from pipelines.errors import require
from pipelines.files import read_json, side_product, write_text
from pipelines.pairs import shape_of
from pipelines.patches import Source, check_disjoint, find_sources, gives_patch, split_sources
from pipelines.shards import ShardSet, is_shards, open_shards, print_skipped, write_shards
from pipelines.slide import SlideError
from sr_keras.config import DataOptions

PARTS = ("train", "val", "test")
PARTS_FILE = "parts.json"
REMEDY = "restore a copy of it, or --resume the training, which writes it again"
Slides = ShardSet | list[Source]
Split = Callable[[list[Source]], tuple[list[Source], ...]]


class Part(TypedDict):
    """What parts.json says of a part; folders are relative to the run if they are in it."""

    folders: list[str]
    slides: list[str]


def find_parts(options: DataOptions, patches: PatchOptions, seed: int) -> dict[str, Slides]:
    """Return the slides of each part, an empty list for a part without any. Nothing is written.

    Slides that give no patch go to the training part, so that val and test do not consist of them alone.

    Raises:
        ValueError: There is no slide to validate on, a slide or case is in two parts, a slide has no case, or pairs
            have another scale than `patches`.
        FileNotFoundError: A path does not exist.
    """
    found = {part: _find(part, options) for part in PARTS}
    case_of = case_finder(options.case_pattern, options.cases)
    regions = any(getattr(options, f"{part}_region") for part in PARTS)
    if not regions and not found["val"]:
        # With test_data, train_data is split into train and val only.
        split = partial(split_sources, val_fraction=options.val_fraction,
                        test_fraction=0 if found["test"] else options.test_fraction, seed=seed, case_of=case_of)
        parts = _split(found["train"], split, options, patches)
        found = {**parts, "test": found["test"] or parts["test"]}
    require(bool(found["val"]), "val_data", "name slides to validate on, since none of train_data is held out",
            "give it, or --val_region" if regions else "give it, or raise --val_fraction", ",".join(options.val_data))
    for slides in found.values():
        for slide_id, scale in _scales(slides).items():
            require(scale == patches.scale, "scale", f"be {scale}, that of the pairs of {slide_id}",
                    "set it, or leave that slide out: a model has one scale", patches.scale)
    for one, other in combinations(found, 2):
        check_disjoint(_sources(found[one]), _sources(found[other]), case_of)
    return found


def patch_size(part: str, slides: Slides, options: DataOptions, patches: PatchOptions) -> int:
    """Return the side of a part's smallest patches: that of its shards, or that at which slides will be read.

    Raises:
        ValueError: The part is a region that is too narrow for a patch.
    """
    if isinstance(slides, ShardSet):
        return slides.patch_size
    shapes = [shape for source in slides if (shape := shape_of(source))]
    if shapes and all(source.is_pairs for source in slides):
        return min(size for size, _ in shapes)
    size = min([_patches_of(part, options, patches).patch_size, *(size for size, _ in shapes)])
    if slides and patches.mpp is None and all(source.region for source in slides):
        side = max(min(source.region[2:]) for source in slides if source.region)
        require(size <= side, "patch_size" if part == "train" else "eval_patch_size",
                f"be {side} or less, the narrower side of the {part} region", "use smaller patches or "
                "more slides (--flagfile=sr_keras/flagfiles/demo.flags fits the sample slide)", size)
    return size


def read_parts(found: dict[str, Slides], options: DataOptions, patches: PatchOptions, run: Path) -> dict[str, ShardSet]:
    """Return the shards of each part that has slides.

    Shards are used where they are. Slides are read once into `run`/data; a resumed run finds them there. Patches and
    slides that can't be read are listed in `run`/skipped.json and counted on the screen.

    Raises:
        ValueError: A part gives no patch.
        pipelines.slide.SlideError: With `strict`, the first slide or patch that can't be read.
    """
    anew = not (run / PARTS_FILE).exists()  # replace what an interrupted start has read
    parts = {part: _read(part, slides, run, patches, options, anew) for part, slides in found.items() if slides}
    _report(parts, run)
    where = {part: _where(shards, run) for part, shards in parts.items()}
    write_text(run / PARTS_FILE, json.dumps(where, indent=2) + "\n")
    return parts


def open_part(run: Path, part: str | None = None) -> ShardSet:
    """Return a part of a run: the one that is named, else test, else val.

    Raises:
        ValueError: `run` has no such part, or parts.json is damaged.
        FileNotFoundError: The shards are missing.
    """
    path = run / PARTS_FILE
    parts = read_json(path, dict[str, Part], REMEDY) if path.exists() else {}
    part = part or ("test" if "test" in parts else "val")
    require(part in parts, "run", f"have a {part} part", "give a run folder whose training has read its slides",
            str(run))
    folders, slide_ids = [Path(folder) for folder in parts[part]["folders"]], set(parts[part]["slides"])
    require(bool(folders), PARTS_FILE, f"name the folders of the {part} part", REMEDY, str(path))
    outside = [str(folder) for folder in folders if ".." in folder.parts]
    require(not outside, PARTS_FILE, "name folders in the run, or by their whole path", REMEDY, f"{path}: {outside}")
    own = Path("data") / part
    if (run / own).is_dir():  # older runs wrote absolute paths, and may have been moved
        folders = [own if folder.is_absolute() and folder.parts[-2:] == own.parts else folder for folder in folders]
    for folder in folders:
        if not os.path.isdir(run / folder):  # False also for a name that is too long
            raise FileNotFoundError(f"`run` must have the shards of its {part} part where its {PARTS_FILE} says; put "
                                    f"them back, or change the path there. Received: {str(run / folder)!r}")
    return open_shards([run / folder for folder in folders], slide_ids)


def _where(shards: ShardSet, run: Path) -> Part:
    """Return the folders of shards, relative to the run if they are in it, so that the run can be moved."""
    home = run.resolve()
    folders = sorted({path.parent.resolve() for path in shards.paths})
    return {"folders": [str(folder.relative_to(home) if folder.is_relative_to(home) else folder) for folder in folders],
            "slides": list(shards.slide_ids)}


def _find(part: str, options: DataOptions) -> Slides:
    """Return the slides that are given for a part."""
    paths, region, name = getattr(options, f"{part}_data"), getattr(options, f"{part}_region"), _flag(part, options)
    if region:
        sources = find_sources(paths or options.train_data, name=name)
        require(len(sources) == 1, f"{part}_region", "cut a single slide",
                f"leave it out to split the {len(sources)} slides by slide", region)
        return [replace(sources[0], region=region)]
    shards = [is_shards(path) for path in paths]
    require(all(shards) or not any(shards), name, "be shards alone or slides alone", "extract the slides first",
            ",".join(paths))
    if not paths:
        return []
    return open_shards(paths) if all(shards) else find_sources(paths, name=name)


def _scales(slides: Slides) -> dict[str, int | None]:
    """Return the scale of the slides that have pairs."""
    if isinstance(slides, ShardSet):
        return {shard.slide_id: shard.pair_scale for shard in slides.pairs.shards}
    return {source.slide_id: shape[1] for source in slides if (shape := shape_of(source))}


def _split(slides: Slides, split: Split, options: DataOptions, patches: PatchOptions) -> dict[str, Slides]:
    if not isinstance(slides, ShardSet):
        return dict(_usable(slides, split, options, patches))
    ids = [{source.slide_id for source in mine} for mine in split(_sources(slides))]
    return {part: replace(slides, shards=tuple(shard for shard in slides.shards if shard.slide_id in mine))
            if mine else [] for part, mine in zip(PARTS, ids, strict=True)}


def _usable(sources: list[Source], split: Split, options: DataOptions,
            patches: PatchOptions) -> dict[str, list[Source]]:
    """Return a split in which every part has a patch; slides of a part without any are moved to train.

    Only as many slides are opened as this needs.
    """
    rest, bad = sources, list[Source]()
    while rest:
        try:
            parts = dict(zip(PARTS, split(rest), strict=True))
        except (SlideError, ValueError):  # too few are left
            break
        empty = next((mine for part, mine in parts.items() if mine and not any(
            gives_patch(source, _patches_of(part, options, patches)) for source in mine)), None)
        if empty is None:
            return {**parts, "train": parts["train"] + bad}
        ids = {source.slide_id for source in empty}
        bad += [source for source in rest if source.slide_id in ids]
        rest = [source for source in rest if source.slide_id not in ids]
    return dict(zip(PARTS, split(sources), strict=True))  # reading them raises the error that explains it


def _flag(part: str, options: DataOptions) -> str:
    """Return the flag that names a part's slides."""
    return f"{part}_data" if getattr(options, f"{part}_data") else "train_data"


def _sources(slides: Slides) -> list[Source]:
    return [Source(slide_id, ()) for slide_id in slides.slide_ids] if isinstance(slides, ShardSet) else list(slides)


def _patches_of(part: str, options: DataOptions, patches: PatchOptions) -> PatchOptions:
    """Return how patches of a part are cut: those of val and test in their own size, without overlap."""
    return patches if part == "train" else replace(patches, patch_size=options.eval_patch_size, stride=None)


def _read(part: str, slides: Slides, run: Path, patches: PatchOptions, options: DataOptions, anew: bool) -> ShardSet:
    if isinstance(slides, ShardSet):
        return slides
    folder = run / "data" / part
    write_shards(slides, folder, _patches_of(part, options, patches), workers=options.workers, strict=options.strict,
                 anew=anew, name=_flag(part, options), max_skipped=options.max_skipped)
    # An interrupted start may have left slides of another part there.
    return open_shards(folder, {source.slide_id for source in slides})


def _report(parts: dict[str, ShardSet], run: Path) -> None:
    from pipelines.shards.records import print_mixed_mpp  # TensorFlow

    skipped = []
    for part, shards in parts.items():
        skipped += [{"part": part, **asdict(item)} for item in shards.skipped]
        print(f"{part:<6} {shards.count:>6} patches of {shards.patch_size} px from {len(shards.slide_ids)} slide(s)")
    print_mixed_mpp(*parts.values())
    times = Counter(slide_id for shards in parts.values() for slide_id in shards.slide_ids)
    cut = [slide_id for slide_id, count in times.items() if count > 1]
    if cut:
        print(f"{', '.join(cut)}: cut into regions for several parts, so the scores say nothing of other slides; to "
              "hold slides out, give three or more that can be used")
    if 2 * parts["train"].count < sum(shards.count for shards in parts.values()):
        few = 2 * len(parts["train"].slide_ids) <= sum(len(shards.slide_ids) for shards in parts.values())
        print("most patches are held out, because " + (
            "few slides are left to train on: add slides, or lower --val_fraction and --test_fraction" if few else
            "slides are split by number and not by size: set --max_patches, the most of each slide, or name small "
            "slides as --val_data and --test_data"))
    with side_product(run / "skipped.json"):
        write_text(run / "skipped.json", json.dumps(skipped, indent=2) + "\n")
    broken = [item for shards in parts.values() for item in shards.skipped if item.broken]
    print_skipped(broken)
    if broken:
        print(f"skipped {len(broken)} patches or slides that can't be used, listed in {run / 'skipped.json'}")
