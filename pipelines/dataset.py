"""From shards to batches of (lr, hr), float32 in [0, 1]: a pipeline for training, one for evaluation. No Python inside.

Training is an infinite stream, cut into epochs of a given number of batches:

    shards -> filter -> cache -> shuffle -> repeat -> crop, shrink, flips, quarter turns, other colours
           -> LR by the degradation -> corruption -> batch -> prefetch

Shards of pairs carry the LR that was really scanned. A share of the examples, `pair_share`, takes it as it is; the
others, of the same patches and of all others, get an LR that is made.

Epoch k follows from (seed, k) alone: a run that starts with `first_epoch=k` gets bit for bit what an uninterrupted one
gets, without reading what came before. No patch comes twice before all have come once. Which examples are corrupted,
and how, follows from (seed, example id), see `pipelines.corrupt`; it is the same in every epoch. How LR is made is
drawn each time.

Why this order: patches are cropped and turned as uint8, a quarter of the bytes. LR is made after that, so that it
corresponds at any offset of the crop, and is rounded to 8 bit because a scanner's file holds no more. Examples are
mapped one by one and not in batches: one fits the cache of a core, a batch of 16 does not (measured: 1.4 times faster).
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import tensorflow as tf

from pipelines.config import CorruptOptions, DegradeOptions, check_seed
from pipelines.corrupt import corrupt_pair, load_outliers
from pipelines.degrade import degrade_example
from pipelines.degrade.camera import colour
from pipelines.errors import require
from pipelines.pixels import quantise, to_float
from pipelines.shards import ShardSet, copy_shards, open_shards
from pipelines.shards.record import decode
from pipelines.shards.streams import Order, fold, from_disk, from_memory, in_turn

Shards = ShardSet | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# What a seed is for: no two purposes share one.
_ORDER, _AUGMENT, _SHRINK, _DEGRADE, _PAIR_ORDER, _CHOICE, _COLOUR = range(1, 8)
DENSITY_STRETCH = 1.6  # of each colour, at most, and its reciprocal at least
LR_SOURCES = ("auto", "made", "real")
_as_it_is = tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes 2 s


def training_dataset(
    shards: Shards, *, batch_size: int, crop_size: int | None = None, steps_per_epoch: int | None = None,
    first_epoch: int = 0, degrade: DegradeOptions | None = None, corrupt: CorruptOptions | None = None,
    slides: Iterable[str] | None = None, min_tissue: float = 0.0, cache: str | os.PathLike[str] = "none",
    shuffle_buffer: int = 512, augment: bool = True, shrink: float = 1.0, pair_share: float = 0.5,
    recolour: float = 0.0, seed: int = 0,
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
        pair_share: Where there are pairs, the share of the examples whose LR is the pair's own, in [0, 1].
        shrink: Half of the crops of those whose LR is made are taken up to so many times larger, and shrunk to
            crop_size by the mean over their area: slides of 0.25 microns per pixel then teach what 0.5 looks like too.
            1 for none.
        recolour: Share, in [0, 1], of those whose LR is made that get other colours before, as of another stain: red,
            green and blue in another order, the optical density of each times 0.6 to 1.6. Glass stays white.
        seed: Of the order, crops, sizes, flips, turns, colours, degradation and corruption.

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
    require(0 <= pair_share <= 1, "pair_share", "lie in [0, 1]", "0.5 is half of the examples", pair_share)
    require(0 <= recolour <= 1, "recolour", "lie in [0, 1]", "0 leaves all colours", recolour)
    pairs = chosen.pairs if pair_share else replace(chosen, shards=())
    check_pairs(pairs, degrade.scale)

    def order_of(some: ShardSet) -> Order:
        return from_memory(some, min_tissue) if cache == "memory" else from_disk(
            some if cache == "none" else copy_shards(some, cache), min_tissue, shuffle_buffer)

    orders = [order_of(some) for some in (chosen, pairs) if some.shards]
    outliers = _outliers(corrupt, crop)
    per_epoch = batch_size * (steps or max(1, count // batch_size))

    @_as_it_is
    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        streams = [_passes(order, fold([seed, purpose], epoch))
                   for order, purpose in zip(orders, (_ORDER, _PAIR_ORDER), strict=False)]
        records = streams[0].map(lambda record: (record, False))
        if len(streams) > 1:
            records = _mixed(records, streams[1], pair_share, fold([seed, _CHOICE], epoch))
        return records.take(per_epoch).enumerate().map(lambda position, record: (epoch, position, *record))

    @_as_it_is
    def pair_of(epoch: tf.Tensor, position: tf.Tensor, record: tf.Tensor, real: tf.Tensor
                ) -> tuple[tf.Tensor, tf.Tensor]:
        _, example_id, pixels, scanned = decode(record)
        augment_seed, degrade_seed = (fold(fold([seed, purpose], epoch), position) for purpose in (_AUGMENT, _DEGRADE))

        def made() -> tuple[tf.Tensor, tf.Tensor]:
            hr = to_float(_cropped_and_turned(pixels, crop, shrink, augment, augment_seed))
            if recolour:
                hr = _recoloured(hr, recolour, fold(augment_seed, _COLOUR))
            return degrade_example(hr, degrade, degrade_seed), hr

        def as_scanned() -> tuple[tf.Tensor, tf.Tensor]:
            return _pair_cropped_and_turned(scanned, pixels, crop, degrade.scale, augment, augment_seed)

        lr, hr = tf.cond(real, as_scanned, made) if len(orders) > 1 else made()
        downsample = partial(degrade_example, options=degrade, seed=degrade_seed)
        return corrupt_pair(lr, hr, example_id, seed, corrupt, downsample, outliers)

    examples = tf.data.Dataset.counter(first_epoch).flat_map(epoch_of)
    examples = examples.map(pair_of, num_parallel_calls=tf.data.AUTOTUNE)
    return _in_order(examples.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE))


def evaluation_dataset(
    shards: Shards, *, batch_size: int = 1, degrade: DegradeOptions | None = None, lr: str = "auto",
    slides: Iterable[str] | None = None, limit: int | None = None, seed: int = 0,
) -> tf.data.Dataset:
    """Return each patch once, in a fixed order, as it is; of patches of several sizes the part that all have.

    Args:
        shards: A folder, several, or a ShardSet.
        batch_size: Examples in a batch; the last one may have fewer.
        degrade: How LR is made.
        lr: "made" by `degrade`, "real" for the LR that pairs carry, or "auto": real where there is one.
        slides: Ids of the slides to use; None for all.
        limit: Use so many patches, from each slide the same number as far as it has them.
        seed: Of what `degrade` draws; it follows from (seed, example id).

    Returns:
        Dicts of example_id and slide_id, string [B]; lr float32 [B, size/scale, size/scale, 3] in 8-bit steps; hr
        float32 [B, size, size, 3].

    Raises:
        FileNotFoundError: No such folder.
        ValueError: The patch size does not divide by the scale, an argument is out of range, the shards are not
            whole, or hold no pairs or others where `lr` is "real".
    """
    degrade = degrade or DegradeOptions()
    require(batch_size > 0, "batch_size", "be positive", "1 is usual", batch_size)
    require(limit is None or limit > 0, "limit", "be positive", "leave it out for all patches", limit)
    require(lr in LR_SOURCES, "lr", f"be one of {LR_SOURCES}", "'made' is by `degrade`", lr)
    check_seed(seed)
    chosen = _chosen(shards, slides)
    size = _crop(None, chosen.patch_size, degrade)
    there = len(chosen.pairs.shards)
    require(lr != "real" or there == len(chosen.shards), "lr", "be 'made' or 'auto' where patches carry no LR",
            "name pairs alone", lr)
    if lr != "made":
        check_pairs(chosen.pairs, degrade.scale)

    @_as_it_is
    def example_of(record: tf.Tensor) -> dict[str, tf.Tensor]:
        slide_id, example_id, pixels, scanned = decode(record)
        hr = to_float(tf.ensure_shape(pixels[:size, :size], [size, size, 3]))
        side = size // degrade.scale

        def made() -> tf.Tensor:
            return degrade_example(hr, degrade, _seed_of(example_id, seed))

        def as_scanned() -> tf.Tensor:
            return to_float(tf.ensure_shape(scanned[:side, :side], [side, side, 3]))

        low = made() if lr == "made" or not there else tf.cond(tf.size(scanned) > 0, as_scanned, made)
        return {"example_id": example_id, "slide_id": slide_id, "lr": low, "hr": hr}

    examples = in_turn(chosen, limit).map(example_of, num_parallel_calls=tf.data.AUTOTUNE)
    return _in_order(examples.batch(batch_size).prefetch(tf.data.AUTOTUNE))


def check_pairs(pairs: ShardSet, scale: int) -> None:
    """Refuse pairs of another scale.

    Raises:
        ValueError: Names the slide.
    """
    for shard in pairs.shards:
        require(shard.pair_scale == scale, "scale", f"be {shard.pair_scale}, that of the pairs of {shard.slide_id}",
                "or leave the pairs out", scale)


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


def _passes(order: Order, seed: tf.Tensor) -> tf.data.Dataset:
    """Return records without end: pass after pass over all of them, each in an order of its own."""
    return tf.data.Dataset.counter().flat_map(lambda number: order(fold(seed, number)))


def _mixed(made: tf.data.Dataset, real: tf.data.Dataset, share: float, seed: tf.Tensor) -> tf.data.Dataset:
    """Return (record, whether its own LR is taken), the share of which a draw for each position decides."""
    choice = tf.data.Dataset.counter().map(
        lambda position: tf.cast(tf.random.stateless_uniform([], fold(seed, position)) < share, tf.int64))
    return tf.data.Dataset.choose_from_datasets([made, real.map(lambda record: (record, True))], choice)


def _cropped_and_turned(pixels: tf.Tensor, crop: int, shrink: float, augment: bool, seed: tf.Tensor) -> tf.Tensor:
    """Return a random part of uint8 [size, size, 3], crop x crop, as one of its eight orientations if `augment`."""
    drawn = tf.random.stateless_uniform([5], seed)
    side = crop if shrink == 1 else _side(crop, shrink, fold(seed, _SHRINK))
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
    parts = []
    for image, factor, length in ((lr, 1, side), (hr, scale, crop)):
        y, x = factor * top, factor * left
        part = tf.ensure_shape(image[y:y + length, x:x + length], [length, length, 3])
        parts.append(to_float(_turned(part, drawn, augment)))
    return parts[0], parts[1]


def _corner(drawn: tf.Tensor, last: tf.Tensor) -> list[tf.Tensor]:
    """Return a random corner, 0 to `last` included, down and right."""
    return tf.unstack(tf.cast(drawn[:2] * tf.cast(last + 1, tf.float32), tf.int32))


def _turned(pixels: tf.Tensor, drawn: tf.Tensor, augment: bool) -> tf.Tensor:
    if not augment:
        return pixels
    swap, upside_down, mirrored = tf.unstack(drawn[2:] < 0.5)
    side = pixels.shape
    pixels = tf.cond(swap, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    return tf.ensure_shape(tf.raw_ops.Reverse(tensor=pixels, dims=[upside_down, mirrored, False]), side)


def _recoloured(hr: tf.Tensor, share: float, seed: tf.Tensor) -> tf.Tensor:
    """Return float32 [H, W, 3] in [0, 1] in the colours of some other stain, so often as `share` says."""
    chosen, *stretch = tf.unstack(tf.random.stateless_uniform([4], seed))

    def other() -> tf.Tensor:
        order = tf.random.experimental.stateless_shuffle([0, 1, 2], fold(seed, _COLOUR))
        power = DENSITY_STRETCH ** (2 * tf.stack(stretch) - 1)  # an optical density times f is an intensity to the f
        return quantise(colour(tf.gather(hr, order, axis=2), tf.ones([3]), power))

    return tf.cond(chosen < share, other, lambda: hr)


def _side(crop: int, shrink: float, seed: tf.Tensor) -> tf.Tensor:
    """Return the side to crop: `crop` half of the time, otherwise one up to `shrink` times as long."""
    larger, by = tf.unstack(tf.random.stateless_uniform([2], seed))
    factor = tf.where(larger < 0.5, 1 + by * (shrink - 1), 1.0)
    return tf.cast(tf.round(crop * factor), tf.int32)


def _seed_of(example_id: tf.Tensor, seed: int) -> tf.Tensor:
    """Return the seed [2] of what is drawn for an example, the same whenever it is read."""
    return tf.stack([tf.strings.to_hash_bucket_strong(example_id, 2**31 - 1, key=[seed, salt])
                     for salt in (_DEGRADE, _CHOICE)])


def _in_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)
