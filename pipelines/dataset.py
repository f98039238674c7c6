"""From shards to batches of (lr, hr), float32 in [0, 1]: a pipeline for training, one for evaluation. No Python inside.

Training is an infinite stream, cut into epochs of a given number of batches:

    shards -> filter -> cache -> shuffle -> repeat -> crop, shrink, flips, quarter turns -> blur, subsample, 8 bit
           -> corruption -> batch -> prefetch

Epoch k follows from (seed, k) alone: a run that starts with `first_epoch=k` gets bit for bit what an uninterrupted one
gets, without reading what came before. No patch comes twice before all have come once. Which examples are corrupted,
and how, follows from (seed, example id), see `pipelines.corrupt`; it is the same in every epoch.

Why this order: patches are cropped and turned as uint8, a quarter of the bytes. LR is made after that, so that it
corresponds at any offset of the crop, and is rounded to 8 bit because a scanner's file holds no more. Examples are
mapped one by one and not in batches: one fits the cache of a core, a batch of 16 does not (measured: 1.4 times faster).
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

import tensorflow as tf

from pipelines.corrupt import corrupt_pair, load_outliers
from pipelines.degrade import degrade as degrade_images
from pipelines.options import CorruptOptions, DegradeOptions, check_seed, require
from pipelines.pixels import quantise, to_float
from pipelines.shards import ShardSet, copy_shards, open_shards
from pipelines.shards.record import decode
from pipelines.shards.streams import fold, from_disk, from_memory, in_turn

Shards = ShardSet | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_ORDER, _AUGMENT, _SHRINK = 1, 2, 3  # what a seed is for: no two purposes share one
_as_it_is = tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes 2 s


def training_dataset(
    shards: Shards, *, batch_size: int, crop_size: int | None = None, steps_per_epoch: int | None = None,
    first_epoch: int = 0, degrade: DegradeOptions | None = None, corrupt: CorruptOptions | None = None,
    slides: Iterable[str] | None = None, min_tissue: float = 0.0, cache: str | os.PathLike[str] = "none",
    shuffle_buffer: int = 512, augment: bool = True, shrink: float = 1.0, seed: int = 0,
) -> tf.data.Dataset:
    """Return infinite, shuffled batches of (lr, hr).

    Args:
        shards: A folder, several, or a ShardSet.
        batch_size: Examples in a batch; more than there are works by repetition.
        crop_size: Side of the random crop of each patch; None takes whole patches.
        steps_per_epoch: Batches in an epoch; by default as many as the examples fill, at least one.
        first_epoch: The epoch to start with.
        degrade: How LR is made.
        corrupt: What is spoilt on purpose.
        slides: Ids of the slides to use; None for all.
        min_tissue: Least tissue share of a patch.
        cache: "none"; "memory", for the patches as uint8; or a folder, on a faster disk say, to copy the shards to.
        shuffle_buffer: Patches to draw the next one from, and what memory it takes. It need not hold all: shards come
            in random order, 16 side by side. With cache="memory" all are drawn from, at no further cost.
        augment: Flip and turn.
        shrink: Half of the crops are taken up to so many times larger, and shrunk to crop_size by the mean over their
            area: slides of 0.25 microns per pixel then teach what 0.5 looks like too. 1 for none.
        seed: Of the order, crops, sizes, flips, turns and corruption.

    Returns:
        lr float32 [batch_size, crop_size/scale, crop_size/scale, 3] in 8-bit steps; hr float32 [batch_size, crop_size,
        crop_size, 3].

    Raises:
        FileNotFoundError: No such folder.
        ValueError: The crop does not divide by the scale or is larger than a patch, no patch is left, an argument is
            out of range, or the shards are not whole.
        tf.errors.DataLossError: While iterating: a shard was damaged, its size kept; see `shards.record.damage_named`.
    """
    degrade, corrupt = degrade or DegradeOptions(), corrupt or CorruptOptions()
    require(batch_size > 0, "batch_size", "be positive", "16 is usual", batch_size)
    require(first_epoch >= 0, "first_epoch", "be 0 or more", "0 is the beginning", first_epoch)
    check_seed(seed)
    steps = steps_per_epoch
    require(steps is None or steps > 0, "steps_per_epoch", "be positive", "leave it out for all examples", steps)
    chosen = _chosen(shards, slides)
    count = _count(chosen, min_tissue)
    crop = _crop(crop_size, chosen.patch_size, degrade)
    require(1 <= shrink <= chosen.patch_size / crop, "shrink",
            f"lie in 1 to {chosen.patch_size / crop:.4g}, the side of a patch over that of a crop",
            "make it or the crop smaller", shrink)
    order = from_memory(chosen, min_tissue) if cache == "memory" else from_disk(
        chosen if cache == "none" else copy_shards(chosen, cache), min_tissue, shuffle_buffer)
    outliers = _outliers(corrupt, crop)
    per_epoch = batch_size * (steps or max(1, count // batch_size))

    @_as_it_is
    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = fold([seed, _ORDER], epoch)
        passes = tf.data.Dataset.counter().flat_map(lambda number: order(fold(epoch_seed, number)))
        return passes.take(per_epoch).enumerate().map(lambda position, record: (epoch, position, record))

    @_as_it_is
    def pair_of(epoch: tf.Tensor, position: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, example_id, pixels = decode(record, chosen.patch_size)
        pixels = _cropped_and_turned(pixels, crop, shrink, augment, fold(fold([seed, _AUGMENT], epoch), position))
        lr, hr = _pair(pixels, degrade)
        return corrupt_pair(lr, hr, example_id, seed, corrupt, degrade, outliers)

    examples = tf.data.Dataset.counter(first_epoch).flat_map(epoch_of)
    pairs = examples.map(pair_of, num_parallel_calls=tf.data.AUTOTUNE)
    return _in_order(pairs.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE))


def evaluation_dataset(
    shards: Shards, *, batch_size: int = 1, degrade: DegradeOptions | None = None,
    slides: Iterable[str] | None = None, limit: int | None = None,
) -> tf.data.Dataset:
    """Return each patch once, in a fixed order, as it is.

    Args:
        shards: A folder, several, or a ShardSet.
        batch_size: Examples in a batch; the last one may have fewer.
        degrade: How LR is made.
        slides: Ids of the slides to use; None for all.
        limit: Use so many patches, from each slide the same number as far as it has them.

    Returns:
        Dicts of example_id and slide_id, string [B]; lr float32 [B, size/scale, size/scale, 3] in 8-bit steps; hr
        float32 [B, size, size, 3].

    Raises:
        FileNotFoundError: No such folder.
        ValueError: The patch size does not divide by the scale, an argument is out of range, or the shards are not
            whole.
    """
    degrade = degrade or DegradeOptions()
    require(batch_size > 0, "batch_size", "be positive", "1 is usual", batch_size)
    require(limit is None or limit > 0, "limit", "be positive", "leave it out for all patches", limit)
    chosen = _chosen(shards, slides)
    _crop(None, chosen.patch_size, degrade)

    @_as_it_is
    def example_of(record: tf.Tensor) -> dict[str, tf.Tensor]:
        slide_id, example_id, pixels = decode(record, chosen.patch_size)
        lr, hr = _pair(pixels, degrade)
        return {"example_id": example_id, "slide_id": slide_id, "lr": lr, "hr": hr}

    examples = in_turn(chosen, limit).map(example_of, num_parallel_calls=tf.data.AUTOTUNE)
    return _in_order(examples.batch(batch_size).prefetch(tf.data.AUTOTUNE))


def _chosen(shards: Shards, slides: Iterable[str] | None) -> ShardSet:
    shards = shards if isinstance(shards, ShardSet) else open_shards(shards)
    if slides is None:
        return shards
    wanted = set(slides)
    missing = sorted(wanted - set(shards.slide_ids))
    require(bool(wanted) and not missing, "slides", "be slides of the shards", f"there are {shards.slide_ids}", missing)
    return replace(shards, shards=tuple(shard for shard in shards.shards if shard.slide_id in wanted))


def _count(shards: ShardSet, min_tissue: float) -> int:
    count = sum(shard.count_from(min_tissue) for shard in shards.shards)
    require(count > 0, "min_tissue", "leave at least one patch", f"lower it; there are {shards.count}", min_tissue)
    return count


def _crop(crop_size: int | None, patch_size: int, degrade: DegradeOptions) -> int:
    name, side = ("patch_size", patch_size) if crop_size is None else ("crop_size", crop_size)
    require(0 < side <= patch_size, name, f"lie in 1 to {patch_size}, the size of the patches", "make it smaller", side)
    require(side % degrade.scale == 0, name, f"be divisible by scale={degrade.scale}", "choose a multiple of it", side)
    return side


def _outliers(corrupt: CorruptOptions, size: int) -> tf.Tensor | None:
    if corrupt.fraction == 0 or "outlier" not in corrupt.kinds or corrupt.outlier_dir is None:
        return None
    return load_outliers(corrupt.outlier_dir, size)


def _cropped_and_turned(pixels: tf.Tensor, crop: int, shrink: float, augment: bool, seed: tf.Tensor) -> tf.Tensor:
    """Return a random part of uint8 [size, size, 3], crop x crop, as one of its eight orientations if `augment`."""
    drawn = tf.random.stateless_uniform([5], seed)
    side = crop if shrink == 1 else _side(crop, shrink, fold(seed, _SHRINK))
    if pixels.shape[0] != crop:
        corners = tf.cast(pixels.shape[0] - side + 1, tf.float32)
        top, left = tf.unstack(tf.cast(drawn[:2] * corners, tf.int32))
        pixels = pixels[top:top + side, left:left + side]
    if shrink > 1:
        pixels = tf.cast(tf.round(tf.image.resize(pixels, [crop, crop], "area")), tf.uint8)
    if augment:
        swap, upside_down, mirrored = tf.unstack(drawn[2:] < 0.5)
        pixels = tf.cond(swap, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        pixels = tf.raw_ops.Reverse(tensor=pixels, dims=[upside_down, mirrored, False])
    return tf.ensure_shape(pixels, [crop, crop, 3])


def _side(crop: int, shrink: float, seed: tf.Tensor) -> tf.Tensor:
    """Return the side to crop: `crop` half of the time, otherwise one up to `shrink` times as long."""
    larger, by = tf.unstack(tf.random.stateless_uniform([2], seed))
    factor = tf.where(larger < 0.5, 1 + by * (shrink - 1), 1.0)
    return tf.cast(tf.round(crop * factor), tf.int32)


def _pair(pixels: tf.Tensor, degrade: DegradeOptions) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (lr, hr) of one uint8 patch."""
    hr = to_float(pixels)
    return quantise(degrade_images(hr[tf.newaxis], degrade.scale, degrade.blur_sigma)[0]), hr


def _in_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)
