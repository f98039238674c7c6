# SPDX-License-Identifier: Apache-2.0
"""Find or cut the patches that are scored, and share them out so that each slide is scored once.

A model is scored on sets of shards: patches without LR, and pairs, which may be of another size. Of a slide that is in
both, the first set gives the HR for all LR that is made, and the second the real LR.
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


def find_shards(data: Sequence[str], folder: Path, options: PatchOptions, scale: int) -> ShardSet:
    """Return the shards of a run, the shards in `data`, or those cut from slides and images into `folder`.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: There are no patches, shards and slides are mixed, `folder` is inside the data, or patches are too
            small or not divisible by the scale.
    """
    if is_run(data):
        return open_part(Path(data[0]))
    return open_shards(list(data)) if _are_shards(data) else _cut_shards(data, folder, options, scale)


def find_sets(data: Sequence[str], folder: Path, options: PatchOptions, scale: int) -> list[ShardSet]:
    """Return the same as sets of one patch size each, those without LR first.

    Folders of pairs are cut separately, because a slide of the same name may be in both. Slides that were cut by other
    options before are cut again.

    Raises:
        FileNotFoundError, ValueError: As `find_shards`.
    """
    if is_run(data):
        return split_by_size([open_part(Path(data[0]))])
    if _are_shards(data):
        return split_by_size([open_shards(path) for path in data])
    _check_outside(folder.parent, data)
    kinds: dict[str, list[str]] = {"plain": [], "pairs": []}
    for path in data:
        pairs = all(source.lr_paths for source in find_sources([path]))
        kinds["pairs" if pairs else "plain"].append(path)
    return split_by_size([_cut_shards(paths, folder / kind, options, scale, anew=True)
                          for kind, paths in kinds.items() if paths])


def split_by_size(sets: Sequence[ShardSet]) -> list[ShardSet]:
    """Split sets so that all patches of one have the same size and pair scale; pairs last."""
    found = []
    for one in sets:
        for kind in dict.fromkeys((shard.patch_size, shard.pair_scale) for shard in one.shards):
            shards = tuple(shard for shard in one.shards if (shard.patch_size, shard.pair_scale) == kind)
            found.append(replace(one, shards=shards))
    return sorted(found, key=lambda one: one.shards[0].pair_scale is not None)


def share_out(sets: Sequence[ShardSet]) -> list[ShardSet]:
    """Return the sets with each slide only in the first that has it, without sets that become empty."""
    taken: set[str] = set()
    found = []
    for one in sets:
        shards = tuple(shard for shard in one.shards if shard.slide_id not in taken)
        taken |= {shard.slide_id for shard in shards}
        found += [replace(one, shards=shards)] if shards else []
    return found


def pairs_of(shards: ShardSet, scale: int) -> ShardSet:
    """Return the shards with real LR.

    Raises:
        ValueError: There are none, or they are of another scale than the model.
    """
    found = shards.pairs
    require(bool(found.shards), "data", "contain pairs, patches with a scanned LR", "name such data, or another --lr",
            str(shards.paths[0].parent))
    check_pairs(found, scale)
    return found


def limit_of(shards: ShardSet, per_slide: int | None) -> int | None:
    """Return the number of patches if each slide gives up to `per_slide`; None for all."""
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
    """Whether `data` is the folder of a training run."""
    return len(data) == 1 and (Path(data[0]) / PARTS_FILE).is_file()


def _cut_shards(data: Sequence[str], folder: Path, options: PatchOptions, scale: int, anew: bool = False) -> ShardSet:
    """Cut slides and images into patches in `folder`."""
    _check_outside(folder.parent, data)
    require(options.patch_size >= WINDOW, "patch_size", f"be {WINDOW} or more", "SSIM compares windows of that side",
            options.patch_size)
    require(options.patch_size % scale == 0, "patch_size", f"be divisible by scale={scale}, the model's",
            "choose a multiple of it", options.patch_size)
    sources = find_sources(data)
    skipped = write_shards(sources, folder, options, anew=anew).skipped
    if skipped:
        print(f"{len(skipped)} patches or slides are skipped, for example {skipped[0].slide_id}: {skipped[0].reason}")
    # The folder may contain slides of an earlier evaluation, which are not scored.
    return open_shards(folder, {source.slide_id for source in sources})


def _check_outside(output: Path, data: Sequence[str]) -> None:
    require(not is_among(output, data), "output", "be outside of the data; otherwise its pictures would be scored the "
            "next time", "name another folder", str(output))


def _are_shards(data: Sequence[str]) -> bool:
    given = [is_shards(path) for path in data]
    require(all(given) or not any(given), "data", "be shards or slides, not both", "score them separately",
            ",".join(data))
    return all(given)
