# SPDX-License-Identifier: Apache-2.0
"""Score patches by a model and by bicubic: the patches, and the scores of each.

A model is scored on sets of shards: patches without LR, and pairs, which may be of another size. Of a slide that is in
both, the first set gives the HR for all LR that is made, and the second the real LR.

Images are scored as 8-bit files would hold them, so that a model gains nothing by fractions of a grey level or by
values outside [0, 1].
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions, PatchOptions
from pipelines.dataset import check_pairs, evaluation_dataset
from pipelines.errors import require
from pipelines.patches import find_sources
from pipelines.pixels import quantise
from pipelines.shards import ShardSet, is_shards, open_shards, print_skipped, write_shards
from pipelines.shards.records import print_mixed_mpp
from pipelines.sources import is_among
from sr_keras import metrics
from sr_keras.evaluation.conditions import Condition
from sr_keras.metrics import bicubic
from sr_keras.training.split import PARTS_FILE, open_part

BICUBIC, SR = METHODS = ("bicubic", "sr")
Row = dict[str, Any]  # example_id, slide_id, method, and a float per metric


@dataclass(frozen=True)
class Metric:
    """How a table shows a metric; neither a high nor a low value is better where `higher_is_better` is None."""

    label: str
    higher_is_better: bool | None
    digits: int

    @property
    def heading(self) -> str:
        """The label with an arrow to the better side."""
        return self.label + {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]


METRICS = {
    "psnr": Metric("PSNR (dB)", True, 2),
    "ssim": Metric("SSIM", True, 3),
    "ms_ssim": Metric("MS-SSIM", True, 3),
    "qilv": Metric("QILV", True, 3),
    "rrmse": Metric("RRMSE", False, 4),
    "lr_consistency": Metric("LR consistency", False, 4),
}


def find_shards(data: Sequence[str], folder: Path, options: PatchOptions, scale: int) -> ShardSet:
    """Return the shards of a run, the shards in `data`, or those cut from slides and images into `folder`.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: There are no patches, shards and slides are mixed, `folder` is inside the data, or patches are too
            small or not divisible by the scale.
    """
    if _is_run(data):
        shards = open_part(Path(data[0]))
    else:
        shards = open_shards(list(data)) if _are_shards(data) else _cut_shards(data, folder, options, scale)
    print_mixed_mpp(shards)
    return shards


def find_sets(data: Sequence[str], folder: Path, options: PatchOptions, scale: int) -> list[ShardSet]:
    """Return the same as sets of one patch size and pair scale each, pairs last; it raises the same errors.

    Folders of pairs are cut separately, because a slide of the same name may be in both. Slides that were cut by other
    options before are cut again.
    """
    if _is_run(data):
        sets = [open_part(Path(data[0]))]
    elif _are_shards(data):
        sets = [open_shards(path) for path in data]
    else:
        kinds: dict[str, list[str]] = {"plain": [], "pairs": []}
        for path in data:
            pairs = all(source.lr_paths for source in find_sources([path]))
            kinds["pairs" if pairs else "plain"].append(path)
        sets = [_cut_shards(paths, folder / kind, options, scale, anew=True) for kind, paths in kinds.items() if paths]
    print_mixed_mpp(*sets)
    found = []
    for one in sets:
        for kind in dict.fromkeys((shard.patch_size, shard.pair_scale) for shard in one.shards):
            shards = tuple(shard for shard in one.shards if (shard.patch_size, shard.pair_scale) == kind)
            found.append(replace(one, shards=shards))
    return sorted(found, key=lambda one: one.shards[0].pair_scale is not None)


def sets_of(condition: Condition, sets: Sequence[ShardSet], scale: int) -> list[ShardSet]:
    """Return the sets that give a kind of LR, each slide only in the first that has it, without sets that become empty.

    Raises:
        ValueError: See `pairs_of`.
    """
    paired = [one for one in sets if one.pairs.shards] or sets
    taken: set[str] = set()
    found = []
    for one in [pairs_of(one, scale) for one in paired] if condition.is_real else sets:
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
    counts = {slide_id: sum(shard.count for shard in shards.shards if shard.slide_id == slide_id)
              for slide_id in shards.slide_ids}
    return sum(min(count, per_slide) for count in counts.values())


def lr_dataset(shards: ShardSet, condition: Condition, scale: int, limit: int | None, seed: int) -> tf.data.Dataset:
    """Return batches of patches with one kind of LR, as `pipelines.dataset.evaluation_dataset` gives them."""
    return evaluation_dataset(shards, batch_size=4, degrade=condition.degrade or DegradeOptions(scale),
                              lr="real" if condition.is_real else "made", limit=limit, seed=seed)


def _is_run(data: Sequence[str]) -> bool:
    return len(data) == 1 and (Path(data[0]) / PARTS_FILE).is_file()


def _are_shards(data: Sequence[str]) -> bool:
    given = [is_shards(path) for path in data]
    require(all(given) or not any(given), "data", "be shards or slides, not both", "score them separately",
            ",".join(data))
    return all(given)


def _cut_shards(data: Sequence[str], folder: Path, options: PatchOptions, scale: int, anew: bool = False) -> ShardSet:
    """Cut slides and images into patches in `folder`."""
    require(not is_among(folder, data), "output", "be outside of the data; otherwise its pictures would be scored the "
            "next time", "name another folder", str(folder))
    require(options.patch_size >= metrics.WINDOW, "patch_size", f"be {metrics.WINDOW} or more",
            "SSIM compares windows of that side", options.patch_size)
    require(options.patch_size % scale == 0, "patch_size", f"be divisible by scale={scale}, the model's",
            "choose a multiple of it", options.patch_size)
    sources = find_sources(data)
    print_skipped(write_shards(sources, folder, options, anew=anew).skipped)
    # The folder may contain slides of an earlier evaluation, which are not scored.
    return open_shards(folder, {source.slide_id for source in sources})


def score_images(hr: Any, sr: Any, lr: Any, degrade: DegradeOptions | None = None,
                 names: Collection[str] = tuple(METRICS)) -> dict[str, np.ndarray]:
    """Return metrics of sr against hr, each float32 [B]; without MS-SSIM if sides are under 161 pixels.

    Args:
        hr: Float [B, H, W, 3] in [0, 1].
        sr: The same.
        lr: Float [B, H/scale, W/scale, 3], the input of sr.
        degrade: How lr was made. lr_consistency is computed for textbook degradations only, which draw nothing.
        names: Which metrics, of METRICS.

    Raises:
        ValueError: Shapes do not fit, or images are smaller than an 11x11 window.
    """
    degrade = degrade or DegradeOptions()
    require(tuple(hr.shape) == tuple(sr.shape), "sr", f"have the shape of hr, {tuple(hr.shape)}",
            "take a model of this scale", tuple(sr.shape))
    require(tuple(hr.shape[1:3]) == tuple(degrade.scale * side for side in lr.shape[1:3]), "lr",
            f"be hr's sides over scale={degrade.scale}", "give the scale it was made with", tuple(lr.shape))
    lacking = {"lr_consistency"} | ({"ms_ssim"} if min(hr.shape[1:3]) < metrics.MS_SSIM_SIDE else set())
    blur_sigma = degrade.range_of("blur_sigma")[0] if degrade.is_textbook and "lr_consistency" in names else None
    wanted = tuple(name for name in METRICS if name in set(names) - lacking)
    return {name: value.numpy() for name, value in _values(hr, sr, lr, wanted, degrade.scale, blur_sigma).items()}


@tf.function(reduce_retracing=True, autograph=False)  # hundreds of small operations, which are slow one by one
def _values(hr: Any, sr: Any, lr: Any, names: tuple[str, ...], scale: int, blur_sigma: float | None
            ) -> dict[str, tf.Tensor]:
    values = {name: getattr(metrics, name)(hr, sr) for name in names}
    if blur_sigma is None:
        return values
    return values | {"lr_consistency": metrics.lr_consistency(lr, sr, scale, blur_sigma)}


def score(upscale: Callable[[np.ndarray], Any], batches: Iterable[Mapping[str, Any]],
          degrade: DegradeOptions | None = None, names: Collection[str] = tuple(METRICS)) -> list[Row]:
    """Score a model and bicubic on every patch.

    Args:
        upscale: lr float32 [B, h, w, 3] in [0, 1] -> sr [B, scale*h, scale*w, 3], float; it is rounded to 8 bit here.
        batches: Dicts of example_id, slide_id [B], lr, hr, as `pipelines.dataset.evaluation_dataset` gives them.
        degrade: How lr was made.
        names: Which metrics, of METRICS.

    Returns:
        For each patch a row of "bicubic" and one of "sr": example_id, slide_id, method, and a float per metric.

    Raises:
        ValueError: There is no patch, or `upscale` has another scale than `degrade`.
    """
    degrade = degrade or DegradeOptions()
    rows: list[Row] = []
    for batch in batches:
        lr, hr = np.asarray(batch["lr"]), np.asarray(batch["hr"])
        images = {BICUBIC: bicubic(lr, degrade.scale), SR: quantise(np.asarray(upscale(lr)))}
        values = {method: score_images(hr, image, lr, degrade, names) for method, image in images.items()}
        for i, (example_id, slide_id) in enumerate(zip(batch["example_id"], batch["slide_id"], strict=True)):
            rows += [{"example_id": text(example_id), "slide_id": text(slide_id), "method": method,
                      **{name: float(value[i]) for name, value in values[method].items()}} for method in METHODS]
    require(bool(rows), "data", "contain at least one patch", "name other slides or lower min_tissue", 0)
    return rows


def text(value: Any) -> str:
    """Return a string of a dataset, bytes or a tensor, as str."""
    value = value.numpy() if isinstance(value, tf.Tensor) else value
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
