# SPDX-License-Identifier: Apache-2.0
"""From shards to batches of (lr, hr), float32 in [0, 1]: one pipeline for training, one for evaluation.

Training is an infinite stream, or some epochs of it, each of a given number of batches:

    shards -> filter -> cache -> shuffle -> repeat -> crop, shrink, flips, quarter turns, other colours
           -> LR by the degradation -> corruption -> batch -> prefetch

Shards of pairs have the LR that was scanned. A share of the examples, `pair_share`, uses it; the others, from the same
patches and from all others, get synthetic LR.

Epoch k depends only on (seed, k): a run that starts with `first_epoch=k` gets the same bits as an uninterrupted one,
without reading earlier epochs. No patch comes twice before all came once. Which examples are corrupted, and how,
depends on (seed, example id) and is the same in every epoch (`pipelines.corrupt`). Synthetic LR is drawn each time.

The order has reasons. Patches are cropped and turned as uint8, a quarter of the bytes. LR is made after that, so that
it corresponds at any offset of the crop, and is rounded to 8 bit like a scanner's file. Examples are mapped one by one:
one fits into the cache of a core, a batch of 16 does not (measured: 1.4 times faster).
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.config import CorruptOptions, DatasetOptions, DegradeOptions, check_seed
from pipelines.corrupt import corrupt_pair, load_outliers
from pipelines.degrade import degrade_example
from pipelines.degrade.family import colour
from pipelines.errors import require
from pipelines.pixels import quantise, to_float
from pipelines.shards import ShardSet, copy_shards, open_shards
from pipelines.shards.records import Order, decode, fold, from_disk, from_memory, in_turn

Shards = ShardSet | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# One number for each use of the seed.
_ORDER, _AUGMENT, _SHRINK, _DEGRADE, _PAIR_ORDER, _CHOICE, _COLOUR = range(1, 8)
DENSITY_STRETCH = 1.6  # largest factor of a colour's optical density; its reciprocal is the smallest
LR_SOURCES = ("auto", "made", "real")
_as_it_is = tf.autograph.experimental.do_not_convert  # converting takes 2 s, and there is nothing to convert


def training_dataset(
    shards: Shards, options: DatasetOptions | None = None, degrade: DegradeOptions | None = None,
    corrupt: CorruptOptions | None = None, *, first_epoch: int = 0, epochs: int | None = None,
    slides: Iterable[str] | None = None, share: tuple[int, int] = (0, 1), **changes: Any,
) -> tf.data.Dataset:
    """Return shuffled batches of (lr, hr): an infinite stream, or some epochs of it.

    Args:
        shards: A folder, several, or a ShardSet.
        options: Batches, crops, augmentation, cache and seed.
        degrade: How LR is made.
        corrupt: What is corrupted on purpose.
        first_epoch: The epoch to start with.
        epochs: How many epochs; None for an infinite stream. `model.fit` needs no `steps_per_epoch` if it is given.
        slides: Ids of the slides to use; None for all.
        share: (i, n) for the i-th, from 0, of n equal parts of each batch, for one of n machines that train together.
        **changes: Fields of `options` to replace, such as batch_size=8.

    Returns:
        lr float32 [batch_size, crop_size/scale, crop_size/scale, 3] in 8-bit steps; hr float32 [batch_size, crop_size,
        crop_size, 3]. With `share`, batches have batch_size / n.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: The crop does not suit the scale or the patches, no patch is left, or the shards are incomplete.
        tf.errors.DataLossError: While iterating: a shard is damaged; see `shards.records.damage_named`.
    """
    options = replace(options or DatasetOptions(), **changes)
    degrade, corrupt = degrade or DegradeOptions(), corrupt or CorruptOptions()
    require(first_epoch >= 0, "first_epoch", "be 0 or more", "0 is the first", first_epoch)
    require(epochs is None or epochs > 0, "epochs", "be positive", "leave it out for an infinite stream", epochs)
    part, parts = share
    require(0 <= part < parts and options.batch_size % parts == 0, "batch_size", f"be divisible by {parts} machines",
            "choose a multiple", options.batch_size)
    size = options.batch_size // parts
    seed, shrink, augment, pair_share = options.seed, options.shrink, options.augment, options.pair_share
    chosen = _chosen(shards, slides)
    least = np.float32(options.min_tissue)  # as the records hold it
    count = int(sum(share >= least for shard in chosen.shards for share in shard.tissue))
    require(count > 0, "min_tissue", "leave at least one patch", f"lower it; there are {chosen.count}",
            options.min_tissue)
    crop = _crop(options.crop_size, chosen.patch_size, degrade)
    require(shrink <= chosen.patch_size / crop, "shrink",
            f"lie in 1 to {chosen.patch_size / crop:.4g}, side of a patch / side of a crop",
            "choose a smaller shrink or crop_size", shrink)
    pairs = chosen.pairs if pair_share else replace(chosen, shards=())
    check_pairs(pairs, degrade.scale)
    orders = [_order(some, options) for some in (chosen, pairs) if some.shards]
    asked = corrupt.fraction > 0 and "outlier" in corrupt.kinds
    outliers = load_outliers(corrupt.outlier_dir, crop) if asked and corrupt.outlier_dir else None
    steps = options.steps_per_epoch or max(1, count // options.batch_size)

    @_as_it_is
    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        records = _passes(orders[0], fold([seed, _ORDER], epoch)).map(lambda record: (record, False))
        if len(orders) > 1:
            real = _passes(orders[1], fold([seed, _PAIR_ORDER], epoch)).map(lambda record: (record, True))
            records = _mixed(records, real, pair_share, fold([seed, _CHOICE], epoch))
        records = records.take(options.batch_size * steps).enumerate()
        if parts > 1:
            records = records.filter(lambda position, record: position % options.batch_size // size == part)
        return records.map(lambda position, record: (epoch, position, *record))

    @_as_it_is
    def pair_of(epoch: tf.Tensor, position: tf.Tensor, record: tf.Tensor, real: tf.Tensor
                ) -> tuple[tf.Tensor, tf.Tensor]:
        _, example_id, pixels, scanned = decode(record)
        augment_seed, degrade_seed = (fold(fold([seed, purpose], epoch), position) for purpose in (_AUGMENT, _DEGRADE))

        def made() -> tuple[tf.Tensor, tf.Tensor]:
            hr = to_float(_cropped_and_turned(pixels, crop, shrink, augment, augment_seed))
            if options.recolour:
                hr = _recoloured(hr, options.recolour, fold(augment_seed, _COLOUR))
            return degrade_example(hr, degrade, degrade_seed), hr

        def as_scanned() -> tuple[tf.Tensor, tf.Tensor]:
            return _pair_cropped_and_turned(scanned, pixels, crop, degrade.scale, augment, augment_seed)

        lr, hr = tf.cond(real, as_scanned, made) if len(orders) > 1 else made()
        downsample = partial(degrade_example, options=degrade, seed=degrade_seed)
        return corrupt_pair(lr, hr, example_id, seed, corrupt, downsample, outliers)

    numbers = tf.data.Dataset.counter(first_epoch).take(-1 if epochs is None else epochs)
    examples = numbers.flat_map(epoch_of).map(pair_of, num_parallel_calls=tf.data.AUTOTUNE)
    batches = examples.batch(size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    number = tf.data.INFINITE_CARDINALITY if epochs is None else epochs * steps
    return _in_order(batches.apply(tf.data.experimental.assert_cardinality(number)))


def evaluation_dataset(
    shards: Shards, *, batch_size: int = 1, degrade: DegradeOptions | None = None, lr: str = "auto",
    slides: Iterable[str] | None = None, limit: int | None = None, seed: int = 0,
) -> tf.data.Dataset:
    """Return each patch once, in a fixed order; if patches have several sizes, the part that all have.

    Args:
        shards: A folder, several, or a ShardSet.
        batch_size: Examples in a batch; the last one may have fewer.
        degrade: How LR is made.
        lr: "made" by `degrade`, "real" for the scanned LR of pairs, or "auto": real if there is one.
        slides: Ids of the slides to use; None for all.
        limit: Use so many patches, the same number from each slide if it has them.
        seed: Seed of `degrade`, together with the example id.

    Returns:
        Dicts of example_id and slide_id, string [B]; lr float32 [B, size/scale, size/scale, 3] in 8-bit steps; hr
        float32 [B, size, size, 3].

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: The patch size is not divisible by the scale, the shards are incomplete, or `lr` is "real" and not
            all are pairs.
    """
    degrade = degrade or DegradeOptions()
    require(batch_size > 0, "batch_size", "be positive", "1 is usual", batch_size)
    require(limit is None or limit > 0, "limit", "be positive", "leave it out for all patches", limit)
    require(lr in LR_SOURCES, "lr", f"be one of {LR_SOURCES}", "'made' is by `degrade`", lr)
    check_seed(seed)
    chosen = _chosen(shards, slides)
    size = _crop(None, chosen.patch_size, degrade)
    side = size // degrade.scale
    there = len(chosen.pairs.shards)
    require(lr != "real" or there == len(chosen.shards), "lr", "be 'made' or 'auto' if a patch has no LR",
            "choose one of them, or give only pairs", lr)
    if lr != "made":
        check_pairs(chosen.pairs, degrade.scale)

    @_as_it_is
    def example_of(record: tf.Tensor) -> dict[str, tf.Tensor]:
        slide_id, example_id, pixels, scanned = decode(record)
        hr = to_float(tf.ensure_shape(pixels[:size, :size], [size, size, 3]))

        def made() -> tf.Tensor:
            hashes = [tf.strings.to_hash_bucket_strong(example_id, 2**31 - 1, key=[seed, salt])
                      for salt in (_DEGRADE, _CHOICE)]
            return degrade_example(hr, degrade, tf.stack(hashes))

        def as_scanned() -> tf.Tensor:
            return to_float(tf.ensure_shape(scanned[:side, :side], [side, side, 3]))

        low = made() if lr == "made" or not there else tf.cond(tf.size(scanned) > 0, as_scanned, made)
        return {"example_id": example_id, "slide_id": slide_id, "lr": low, "hr": hr}

    examples = in_turn(chosen, limit).map(example_of, num_parallel_calls=tf.data.AUTOTUNE)
    return _in_order(examples.batch(batch_size).prefetch(tf.data.AUTOTUNE))


def check_pairs(pairs: ShardSet, scale: int) -> None:
    """Raise a ValueError that names the slide if its pairs have another scale."""
    for shard in pairs.shards:
        require(shard.pair_scale == scale, "scale", f"be {shard.pair_scale}, that of the pairs of {shard.slide_id}",
                "set it, or leave the pairs out", scale)


def _chosen(shards: Shards, slides: Iterable[str] | None) -> ShardSet:
    shards = shards if isinstance(shards, ShardSet) else open_shards(shards)
    if slides is None:
        return shards
    wanted = set(slides)
    missing = sorted(wanted - set(shards.slide_ids))
    require(bool(wanted) and not missing, "slides", "be slides of the shards", f"there are {shards.slide_ids}", missing)
    return replace(shards, shards=tuple(shard for shard in shards.shards if shard.slide_id in wanted))


def _crop(crop_size: int | None, patch_size: int, degrade: DegradeOptions) -> int:
    name, side = ("patch_size", patch_size) if crop_size is None else ("crop_size", crop_size)
    require(0 < side <= patch_size, name, f"lie in 1 to {patch_size}, the size of the patches", "make it smaller", side)
    require(side % degrade.scale == 0, name, f"be divisible by scale={degrade.scale}", "choose a multiple of it", side)
    return side


def _order(shards: ShardSet, options: DatasetOptions) -> Order:
    if options.cache == "memory":
        return from_memory(shards, options.min_tissue)
    shards = shards if options.cache == "none" else copy_shards(shards, options.cache)
    return from_disk(shards, options.min_tissue, options.shuffle_buffer)


def _passes(order: Order, seed: tf.Tensor) -> tf.data.Dataset:
    """Return records without end: pass after pass over all of them, each in another order."""
    return tf.data.Dataset.counter().flat_map(lambda number: order(fold(seed, number)))


def _mixed(made: tf.data.Dataset, real: tf.data.Dataset, share: float, seed: tf.Tensor) -> tf.data.Dataset:
    """Return records of both, this share of them `real`; which, is drawn for each position."""
    choice = tf.data.Dataset.counter().map(
        lambda position: tf.cast(tf.random.stateless_uniform([], fold(seed, position)) < share, tf.int64))
    return tf.data.Dataset.choose_from_datasets([made, real], choice)


def _cropped_and_turned(pixels: tf.Tensor, crop: int, shrink: float, augment: bool, seed: tf.Tensor) -> tf.Tensor:
    """Return a random part of uint8 [size, size, 3] as crop x crop, in one of 8 orientations if `augment`.

    Half of the parts are up to `shrink` times larger and are shrunk.
    """
    drawn = tf.random.stateless_uniform([5], seed)
    side = crop
    if shrink > 1:
        larger, by = tf.unstack(tf.random.stateless_uniform([2], fold(seed, _SHRINK)))
        side = tf.cast(tf.round(crop * tf.where(larger < 0.5, 1 + by * (shrink - 1), 1.0)), tf.int32)
    top, left = _corner(drawn, tf.shape(pixels)[0] - side)
    pixels = pixels[top:top + side, left:left + side]
    if shrink > 1:
        pixels = tf.cast(tf.round(tf.image.resize(pixels, [crop, crop], "area")), tf.uint8)
    return _turned(tf.ensure_shape(pixels, [crop, crop, 3]), drawn, augment)


def _pair_cropped_and_turned(lr: tf.Tensor, hr: tf.Tensor, crop: int, scale: int, augment: bool,
                             seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the same random part of LR and HR, uint8 of any size, as float32, in the same orientation."""
    drawn = tf.random.stateless_uniform([5], seed)
    side = crop // scale
    top, left = _corner(drawn, tf.shape(lr)[0] - side)
    low = tf.ensure_shape(lr[top:top + side, left:left + side], [side, side, 3])
    top, left = scale * top, scale * left
    high = tf.ensure_shape(hr[top:top + crop, left:left + crop], [crop, crop, 3])
    return to_float(_turned(low, drawn, augment)), to_float(_turned(high, drawn, augment))


def _corner(drawn: tf.Tensor, last: tf.Tensor) -> list[tf.Tensor]:
    """Return a random corner (down, right), each from 0 to `last`."""
    return tf.unstack(tf.cast(drawn[:2] * tf.cast(last + 1, tf.float32), tf.int32))


def _turned(pixels: tf.Tensor, drawn: tf.Tensor, augment: bool) -> tf.Tensor:
    if not augment:
        return pixels
    swap, upside_down, mirrored = tf.unstack(drawn[2:] < 0.5)
    turned = tf.cond(swap, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    return tf.ensure_shape(tf.raw_ops.Reverse(tensor=turned, dims=[upside_down, mirrored, False]), pixels.shape)


def _recoloured(hr: tf.Tensor, share: float, seed: tf.Tensor) -> tf.Tensor:
    """Return float32 [H, W, 3] in [0, 1], this share of times in the colours of another stain.

    Red, green and blue are permuted and their optical densities multiplied by 0.6 to 1.6. Glass stays white.
    """
    chosen, *stretch = tf.unstack(tf.random.stateless_uniform([4], seed))

    def other() -> tf.Tensor:
        order = tf.random.experimental.stateless_shuffle([0, 1, 2], fold(seed, _COLOUR))
        power = DENSITY_STRETCH ** (2 * tf.stack(stretch) - 1)  # an optical density times f is an intensity to the f
        return quantise(colour(tf.gather(hr, order, axis=2), tf.ones([3]), power))

    return tf.cond(chosen < share, other, lambda: hr)


def _in_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)
