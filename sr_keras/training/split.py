"""The train, val and test parts of a run: found, parted by slide, read into shards once.

Nothing is ever parted by patch: two patches of one slide share its stain and often its pixels. The one exception, a
single slide cut into regions that share no pixel, is asked for by name or is all that there is.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

from pipelines.config import PatchOptions
from pipelines.errors import require
from pipelines.files import write_text
from pipelines.pairs import shape_of
from pipelines.patches import Source, check_disjoint, find_sources, gives_patch, split_sources
from pipelines.shards import ShardSet, is_shards, open_shards, write_shards
from pipelines.slide import SlideError
from sr_keras.config import DataOptions
from sr_keras.training.run_folder import read_json

PARTS = ("train", "val", "test")
PARTS_FILE = "parts.json"
REMAKE = "take a copy of it, or --resume the training, which writes it anew"
Slides = ShardSet | list[Source]


def find_parts(options: DataOptions, patches: PatchOptions, seed: int) -> dict[str, Slides]:
    """Return the slides of each part, nothing written yet; an empty list where it has none.

    Slides that are parted here and give no patch fall to the training part, where they are listed: no part is left to
    them alone.

    Raises:
      ValueError: no slide is left to validate on, a slide is in two parts, or pairs are of another scale than
        `patches` say.
      FileNotFoundError: a path that does not exist.
    """
    found = _find(options, patches, seed)
    regions = any(getattr(options, f"{part}_region") for part in PARTS)
    require(bool(found["val"]), "val_data", "name what to validate on where no slide of train_data is kept for it",
            "give it, or --val_region" if regions else "give it, or raise --val_fraction", ",".join(options.val_data))
    for slides in found.values():
        _check_scale(slides, patches.scale)
    for one, other in combinations(found, 2):
        check_disjoint(_sources(found[one]), _sources(found[other]))
    return found


def patch_size(part: str, slides: Slides, options: DataOptions, patches: PatchOptions) -> int:
    """Return the side of a part's smallest patches: that of the shards, or that at which slides will be read.

    Raises:
      ValueError: the part is cut of slides, and too narrow for a patch.
    """
    if isinstance(slides, ShardSet):
        return slides.patch_size
    shapes = [shape for source in slides if (shape := shape_of(source))]
    if shapes and all(source.is_pairs for source in slides):
        return min(size for size, _ in shapes)
    size = min([_size(part, options, patches).patch_size, *(size for size, _ in shapes)])
    if slides and patches.mpp is None and all(source.region for source in slides):
        side = max(min(source.region[2:]) for source in slides if source.region)
        require(size <= side, "patch_size" if part == "train" else "eval_patch_size",
                f"be {side} or less, the narrower side of what is cut of a slide for {part}", "take smaller patches or "
                "more slides (--flagfile=sr_keras/flagfiles/demo.flags fits the sample slide)", size)
    return size


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
    where = {part: _where(shards, run) for part, shards in parts.items()}
    write_text(run / PARTS_FILE, json.dumps(where, indent=2) + "\n")
    return parts


def open_part(run: Path, part: str | None = None) -> ShardSet:
    """Return a part of a finished or running run: the one that is named, or test, or val where there is no test.

    Raises:
      ValueError: `run` has no such part, or parts.json is damaged.
      FileNotFoundError: the part's shards are gone.
    """
    path = run / PARTS_FILE
    parts = read_json(path, REMAKE) if path.exists() else {}
    part = part or ("test" if "test" in parts else "val")
    require(part in parts, "run", f"have a {part} part", "name a folder that training has read its slides into",
            str(run))
    try:
        folders, slide_ids = [Path(folder) for folder in parts[part]["folders"]], set(parts[part]["slides"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"`{PARTS_FILE}` must name the folders and slides of its {part} part; {REMAKE}. "
                         f"Received: {str(path)!r}") from error
    found = [run / (_own(folder, run, part) or folder) for folder in folders]
    for folder in found:
        if not folder.is_dir():
            raise FileNotFoundError(f"`run` must find the shards of its {part} part where its {PARTS_FILE} says; put "
                                    f"them back, or change it there. Received: {str(folder)!r}")
    return _only_ids(open_shards(found), slide_ids)


def _where(shards: ShardSet, run: Path) -> dict[str, list[str]]:
    """Return where shards are, by the run where they lie in it: a run that is moved takes its own along."""
    home = run.resolve()
    folders = sorted({path.parent.resolve() for path in shards.paths})
    return {"folders": [str(folder.relative_to(home) if folder.is_relative_to(home) else folder) for folder in folders],
            "slides": list(shards.slide_ids)}


def _own(folder: Path, run: Path, part: str) -> Path | None:
    """Return the run's own folder of a part for the full path that runs of old gave it, wherever the run was then."""
    own = Path("data") / part
    return own if folder.is_absolute() and folder.parts[-2:] == own.parts and (run / own).is_dir() else None


def _only_ids(shards: ShardSet, slide_ids: set[str]) -> ShardSet:
    return replace(shards, shards=tuple(shard for shard in shards.shards if shard.slide_id in slide_ids))


def _find(options: DataOptions, patches: PatchOptions, seed: int) -> dict[str, Slides]:
    given = {part: getattr(options, f"{part}_data") for part in PARTS}
    regions = {part: getattr(options, f"{part}_region") for part in PARTS}
    slides: dict[str, Slides] = {}
    for part, paths in given.items():
        region = regions[part]
        if region:
            slides[part] = _cut(part, find_sources(paths or given["train"], name=_flag(part, options)), region)
        else:
            slides[part] = _open(paths, f"{part}_data") if paths else []
    if any(regions.values()):
        return slides
    if slides["val"]:
        return slides
    # A test part that was given leaves every slide of train_data to the other two.
    test_fraction = 0 if slides["test"] else options.test_fraction

    def split(sources: list[Source]) -> dict[str, list[Source]]:
        return dict(zip(PARTS, split_sources(sources, options.val_fraction, test_fraction, seed), strict=True))

    sources = _sources(slides["train"])
    parts = split(sources) if isinstance(slides["train"], ShardSet) else _usable(sources, split, options, patches)
    chosen = {part: _only(slides["train"], mine) for part, mine in parts.items()}
    return {**chosen, "test": slides["test"] or chosen["test"]}


def _check_scale(slides: Slides, scale: int) -> None:
    """Refuse pairs of another scale than the model's."""
    given: dict[str, int | None]
    if isinstance(slides, ShardSet):
        given = {shard.slide_id: shard.pair_scale for shard in slides.pairs.shards}
    else:
        given = {source.slide_id: shape[1] for source in slides if (shape := shape_of(source))}
    for slide_id, found in given.items():
        require(found == scale, "scale", f"be {found}, that of the pairs of {slide_id}",
                "or leave that slide out: a model has one scale", scale)


def _usable(sources: list[Source], split: Callable[[list[Source]], dict[str, list[Source]]], options: DataOptions,
            patches: PatchOptions) -> dict[str, list[Source]]:
    """Return the split of what can be used: one bad slide that alone is a part's would cost the whole training.

    Only so many slides are looked into as it takes to know that each part has a patch.
    """
    rest, bad = sources, list[Source]()
    while rest:
        try:
            parts = split(rest)
        except (SlideError, ValueError):  # too few are left
            break
        dead = next((mine for part, mine in parts.items() if mine and not any(
            gives_patch(source, _size(part, options, patches)) for source in mine)), None)
        if dead is None:
            return {**parts, "train": parts["train"] + bad}
        ids = {source.slide_id for source in dead}
        bad += [source for source in rest if source.slide_id in ids]
        rest = [source for source in rest if source.slide_id not in ids]
    return split(sources)  # reading them says what is wrong


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
    kept = sum(shards.count for part, shards in parts.items() if part != "train")
    if parts["train"].count < kept:
        print("most patches are kept aside, since slides are parted by number whatever their size: "
              "name the slides to validate on with --val_data and --test_data, or try another --seed")
    write_text(run / "skipped.json", json.dumps(skipped, indent=2) + "\n")
    broken = sum(item["broken"] for item in skipped)
    if broken:
        print(f"skipped {broken} patches or slides that can't be read, listed in {run / 'skipped.json'}")
