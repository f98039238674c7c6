"""The patches that are scored: found or cut, and shared out so that each slide is scored once.

A model is scored on sets of shards, one of patches without LR and one of pairs, which may be of another size. A slide
that is in both gives its HR from the first for all LR that is made, and its real LR from the second.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import DegradeOptions, PatchOptions
from pipelines.dataset import check_pairs, evaluation_dataset
from pipelines.errors import require
from pipelines.patches import find_sources
from pipelines.shards import ShardSet, is_shards, open_shards, write_shards
from pipelines.sources import is_among
from sr_keras.evaluation.conditions import Condition
from sr_keras.metrics import WINDOW
from sr_keras.training.split import PARTS_FILE, open_part

if TYPE_CHECKING:
    import tensorflow as tf

BATCH = 4


def find_shards(data: Sequence[str], folder: Path, options: PatchOptions, scale: int, anew: bool = False) -> ShardSet:
    """Return the shards that `data` names, or those of its slides, written to `folder` as `options` say.

    With `anew`, slides that lie there cut otherwise are cut again.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: There are no patches, shards are given beside slides, `folder` lies in one of slides, or patches
            are too small or do not divide by the scale.
    """
    if is_run(data):
        return open_part(Path(data[0]))
    if _are_shards(data):
        return open_shards(list(data))
    check_outside(folder.parent, data)
    require(options.patch_size >= WINDOW, "patch_size", f"be {WINDOW} or more",
            "SSIM looks at windows of that side", options.patch_size)
    require(options.patch_size % scale == 0, "patch_size", f"be divisible by scale={scale}, the model's",
            "choose a multiple of it", options.patch_size)
    sources = find_sources(data)
    skipped = write_shards(sources, folder, options, anew=anew).skipped
    if skipped:
        print(f"{len(skipped)} patches or slides are left out, for one {skipped[0].slide_id}: {skipped[0].reason}")
    # Slides of an earlier evaluation into the same folder stay there, and out of this one.
    return open_shards(folder, {source.slide_id for source in sources})


def find_sets(data: Sequence[str], folder: Path, options: PatchOptions, scale: int) -> list[ShardSet]:
    """Return the same as sets each of one patch size, those without LR first.

    Folders of pairs are cut apart from the others, so that a slide may be in both: it is known by its name.

    Raises:
        FileNotFoundError, ValueError: As `find_shards`.
    """
    if is_run(data):
        return of_one_size([open_part(Path(data[0]))])
    if _are_shards(data):
        return of_one_size([open_shards(path) for path in data])
    check_outside(folder.parent, data)
    kinds: dict[str, list[str]] = {"plain": [], "pairs": []}
    for path in data:
        pairs = all(source.lr_paths for source in find_sources([path]))
        kinds["pairs" if pairs else "plain"].append(path)
    return of_one_size([find_shards(paths, folder / kind, options, scale, anew=True)
                        for kind, paths in kinds.items() if paths])


def of_one_size(sets: Sequence[ShardSet]) -> list[ShardSet]:
    """Split sets so that all patches of one have one size, and all are pairs of one scale or none is; pairs last."""
    found = []
    for one in sets:
        for kind in dict.fromkeys((shard.patch_size, shard.pair_scale) for shard in one.shards):
            shards = tuple(shard for shard in one.shards if (shard.patch_size, shard.pair_scale) == kind)
            found.append(replace(one, shards=shards))
    return sorted(found, key=lambda one: one.shards[0].pair_scale is not None)


def share_out(sets: Sequence[ShardSet]) -> list[ShardSet]:
    """Return the sets with each slide in the first that has it; what is left empty is left out."""
    taken: set[str] = set()
    found = []
    for one in sets:
        shards = tuple(shard for shard in one.shards if shard.slide_id not in taken)
        taken |= {shard.slide_id for shard in shards}
        found += [replace(one, shards=shards)] if shards else []
    return found


def pairs_of(shards: ShardSet, scale: int) -> ShardSet:
    """Return those that hold real LR.

    Raises:
        ValueError: None does, or of another scale than the model.
    """
    found = shards.pairs
    require(bool(found.shards), "data", "hold pairs, patches with the LR that was really scanned",
            "name such data, or another --lr", str(shards.paths[0].parent))
    check_pairs(found, scale)
    return found


def limit_of(shards: ShardSet, per_slide: int | None) -> int | None:
    """Return how many patches that is, where each slide gives `per_slide` as far as it has them; None for all."""
    if per_slide is None:
        return None
    counts = Counter[str]()
    for shard in shards.shards:
        counts[shard.slide_id] += shard.count
    return sum(min(count, per_slide) for count in counts.values())


def lr_dataset(shards: ShardSet, condition: Condition, scale: int, limit: int | None, seed: int) -> tf.data.Dataset:
    """Return batches of patches with one kind of LR, as `pipelines.dataset.evaluation_dataset` gives them."""
    return evaluation_dataset(shards, batch_size=BATCH, degrade=condition.degrade or DegradeOptions(scale),
                              lr="real" if condition.is_real else "made", limit=limit, seed=seed)


def is_run(data: Sequence[str]) -> bool:
    """Tell whether `data` is the folder of a training run."""
    return len(data) == 1 and (Path(data[0]) / PARTS_FILE).is_file()


def check_outside(output: Path, data: Sequence[str]) -> None:
    """Refuse an output folder among the slides that are scored.

    Raises:
        ValueError: It is one.
    """
    require(not is_among(output, data), "output", "lie outside of the data: its pictures would be scored the next time",
            "name another folder", str(output))


def _are_shards(data: Sequence[str]) -> bool:
    given = [is_shards(path) for path in data]
    require(all(given) or not any(given), "data", "be shards or slides, not both", "score one after the other",
            ",".join(data))
    return all(given)
