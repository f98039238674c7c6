"""From shards to batches of (lr, hr), float32 in [0, 1]: one pipeline for training, one for evaluation. No Python inside.

Training, an infinite stream in epochs of a given number of batches:

    shards -> (filter) -> (cache) -> shuffle -> repeat -> crop, flips, quarter turns -> blur, subsample, 8 bit -> corruption
           -> batch -> prefetch

Epoch k follows from (seed, k) alone, so a run that starts at `first_epoch=k` sees bit for bit what an uninterrupted one
sees, and loses no time on skipping. Within an epoch a patch does not come twice before all have come once. Which examples
are corrupted and how follows from (seed, example id), see `pipelines.corrupt`: it is the same in every epoch.

The order matters. Patches are cropped and turned as uint8, a quarter of the bytes. LR is made from what was cropped and
turned, and so corresponds to it at every offset. LR is rounded to 8 bit, which is what a scanner's file can hold.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

import tensorflow as tf

from pipelines.corrupt import corrupt_pair, load_outliers
from pipelines.degrade import degrade as degrade_images
from pipelines.options import CorruptOptions, DegradeOptions, require
from pipelines.pixels import quantise, to_float
from pipelines.shards import ShardSet, copy_shards, open_shards
from pipelines.shards.record import decode, decode_tissue

Shards = ShardSet | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

READ_BYTES = 2**20  # of one shard at a time
OPEN_SHARDS = 16  # read from side by side
_ORDER, _AUGMENT = 1, 2  # what seeds are for: no two purposes share one


def training_dataset(
    shards: Shards, *, batch_size: int, crop_size: int | None = None, steps_per_epoch: int | None = None,
    first_epoch: int = 0, degrade: DegradeOptions | None = None, corrupt: CorruptOptions | None = None,
    slides: Iterable[str] | None = None, min_tissue: float = 0.0, cache: str | os.PathLike[str] = "none",
    shuffle_buffer: int = 512, augment: bool = True, seed: int = 0,
) -> tf.data.Dataset:
    """Return infinite shuffled batches of (lr, hr).

    Args:
        shards: Folder, folders, or a ShardSet.
        batch_size: Every batch has this many; more than there are patches works by repetition.
        crop_size: Side of the random crop of each patch; None for the whole patch.
        steps_per_epoch: Batches in an epoch; by default as many as the patches fill, at least one.
        first_epoch: Epoch to start with.
        degrade: How LR is made.
        corrupt: What is spoilt on purpose.
        slides: Ids of the slides to use; None for all.
        min_tissue: Least tissue share of a patch.
        cache: "none", "memory" (the patches as uint8), or a folder, of a faster disk say, to copy the shards to.
        shuffle_buffer: Patches held for shuffling, the memory this takes without a cache. Shards come in random order
            and are read 16 side by side, so it need not hold them all.
        augment: Whether to flip and turn.
        seed: Of order, crops, flips, turns and corruption.

    Returns:
        lr float32 [batch_size, crop/scale, crop/scale, 3] in 8-bit steps, hr float32 [batch_size, crop, crop, 3].

    Raises:
        ValueError: The crop is not divisible by the scale or larger than a patch, no patch is left, or an argument is
            out of range. `tf.errors.DataLossError` while iterating: a shard is damaged.
        FileNotFoundError: No such folder.
    """
    degrade, corrupt = degrade or DegradeOptions(), corrupt or CorruptOptions()
    chosen, count = _choose(shards, slides, min_tissue)
    crop = crop_size or chosen.patch_size
    _check_sides(chosen.patch_size, crop, degrade.scale)
    require(batch_size > 0, "batch_size", "be positive", "16 is usual", batch_size)
    require(steps_per_epoch is None or steps_per_epoch > 0, "steps_per_epoch", "be positive", "leave it out", steps_per_epoch)
    require(first_epoch >= 0, "first_epoch", "be 0 or more", "0 starts at the beginning", first_epoch)
    require(shuffle_buffer > 0, "shuffle_buffer", "be positive", "1 keeps the order of the shards", shuffle_buffer)
    per_epoch = batch_size * (steps_per_epoch or max(1, count // batch_size))
    outliers = _outliers(corrupt, crop)
    shuffled = _shuffled(chosen, count, min_tissue, cache, shuffle_buffer)

    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = _seed(seed, _ORDER, epoch)
        passes = tf.data.Dataset.counter().flat_map(lambda number: shuffled(_fold(order, number)))
        return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(epoch).repeat(), passes.take(per_epoch).enumerate())

    def pair_of(epoch: tf.Tensor, numbered: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        position, record = numbered
        _, example_id, pixels = decode(record, chosen.patch_size)
        pixels = _augmented(pixels, crop, augment, _fold(_seed(seed, _AUGMENT, epoch), position))
        lr, hr = _pair(pixels, degrade)
        return corrupt_pair(lr, hr, example_id, seed, corrupt, degrade, outliers)

    examples = tf.data.Dataset.counter(first_epoch).flat_map(epoch_of)
    pairs = examples.map(pair_of, num_parallel_calls=tf.data.AUTOTUNE)
    return _in_order(pairs.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE))
