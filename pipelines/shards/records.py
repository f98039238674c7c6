# SPDX-License-Identifier: Apache-2.0
"""Patches as records (`tf.train.Example`), and streams of records in a seeded order or slide by slide.

Fields: slide_id, name; x, y (the corner in level 0); mpp (0 if unknown); tissue (share in [0, 1]); size; pixels (uint8
[size, size, 3]). Pairs also have lr_size and lr (uint8 [lr_size, lr_size, 3]). Pixels are raw: decoding a PNG takes 25
times as long as copying them, for 0.6 of the space.

An `Order` is a function from a seed, int64 [2], to a dataset of all records. It is called inside the graph for every
pass over the data; its order depends only on the seed.
"""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from pipelines.errors import require
from pipelines.patches import Patch
from pipelines.shards.reading import Shard, ShardSet

_TEXT = tf.io.FixedLenFeature([], tf.string)
_FIELDS = {
    "slide_id": _TEXT, "name": _TEXT, "pixels": _TEXT, "size": tf.io.FixedLenFeature([], tf.int64),
    "lr": tf.io.FixedLenFeature([], tf.string, b""), "lr_size": tf.io.FixedLenFeature([], tf.int64, 0)}
Order = Callable[[tf.Tensor], tf.data.Dataset]
READ_BYTES = 2**20  # of a shard at a time
ONE_MAGNIFICATION = 1.3  # 20x is 0.44 to 0.55 microns per pixel, 40x 0.22 to 0.27
SIDE_BY_SIDE = 16  # shards that are read at the same time


def encode(patch: Patch) -> bytes:
    """Return a patch as a serialised record; its bytes depend only on the patch."""
    values: dict[str, bytes | int | float] = {
        "slide_id": patch.slide_id.encode(), "name": patch.name.encode(), "x": int(patch.x), "y": int(patch.y),
        "mpp": float(patch.mpp or 0), "tissue": float(patch.tissue), "size": patch.pixels.shape[0],
        "pixels": patch.pixels.tobytes()}
    if patch.lr is not None:
        values |= {"lr_size": patch.lr.shape[0], "lr": patch.lr.tobytes()}
    features = tf.train.Features(feature={name: _feature(value) for name, value in values.items()})
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


def decode(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return (slide id, example id, hr uint8 [size, size, 3], lr uint8 [h, h, 3]) of a serialised record.

    The graph does not know the sizes; h is 0 if the record is not a pair.
    """
    fields = tf.io.parse_single_example(record, _FIELDS)
    hr, lr = (tf.reshape(tf.io.decode_raw(fields[pixels], tf.uint8), tf.stack([fields[size], fields[size], 3]))
              for pixels, size in (("pixels", "size"), ("lr", "lr_size")))
    return fields["slide_id"], tf.strings.join([fields["slide_id"], "/", fields["name"]]), hr, lr


def decode_number(record: tf.Tensor, name: str) -> tf.Tensor:
    """Return "mpp" (0 if unknown) or "tissue" of a serialised record, float32."""
    return tf.io.parse_single_example(record, {name: tf.io.FixedLenFeature([], tf.float32)})[name]


@contextmanager
def damage_named(shards: Iterable[Shard]) -> Iterator[None]:
    """Raise a ValueError that names the damaged file if reading these shards, or copies, fails; TensorFlow does not.

    Every record has a checksum (CRC-32C), so a changed bit anywhere in a shard is noticed.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        for shard in shards:
            damage = _damage(shard)
            require(damage is None, "shards", "be undamaged", "delete this file and extract again",
                    f"{shard.path}: {damage}")
        if isinstance(error, tf.errors.InvalidArgumentError):  # of something else
            raise
        raise ValueError("`cache` must hold undamaged copies; the shards are undamaged, so remove the copies. "
                         f"Received: {error.message}") from error


def batches_of(dataset: tf.data.Dataset, shards: ShardSet) -> Iterator[dict[str, Any]]:
    """Yield the batches of a dataset of shards; a damaged shard is named as by `damage_named`."""
    with damage_named(shards.shards):
        yield from dataset.as_numpy_iterator()


def mpp_range(*sets: ShardSet) -> tuple[float, float] | None:
    """Return the smallest and largest mpp, from one patch of each slide, since a slide has one; None if unknown."""
    shards = {(shard.slide_id, shard.path.parent): shard for one in sets for shard in one.shards}.values()
    with damage_named(shards):
        found = [float(decode_number(record, "mpp")) for shard in shards
                 for record in tf.data.TFRecordDataset(os.fsencode(shard.path)).take(1)]
    known = [mpp for mpp in found if mpp > 0]
    return (min(known), max(known)) if known else None


def print_mixed_mpp(*sets: ShardSet) -> None:
    """Print a line if slides differ in mpp by more than scanners of one magnification do."""
    low, high = mpp_range(*sets) or (1, 1)
    if high > ONE_MAGNIFICATION * low:
        print(f"slides of {low:.3g} to {high:.3g} microns per pixel are mixed: cut them with one --mpp to have one "
              "magnification")


def _damage(shard: Shard) -> str | None:
    """Return what is wrong with a shard, None if it is sound."""
    number = 0
    try:
        for *_, hr, lr in tf.data.TFRecordDataset(os.fsencode(shard.path)).map(decode):
            number += 1
            scale = shard.pair_scale
            if hr.shape[0] < shard.patch_size or (scale and hr.shape[0] != scale * lr.shape[0]):
                return f"record {number} is of {hr.shape[0]} and {lr.shape[0]} pixels, and its page says otherwise"
    except tf.errors.DataLossError:
        return f"record {number + 1} has another checksum than it was written with"
    except tf.errors.InvalidArgumentError:
        return f"record {number + 1} is not a patch"
    return None


def _feature(value: bytes | int | float) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


def from_memory(shards: ShardSet, min_tissue: float) -> Order:
    """Return an order of the records with `min_tissue`, which are read once and kept in memory; a uniform shuffle.

    Raises:
        ValueError: They need more than the memory of this machine.
    """
    needed, there = 3 * shards.patch_size**2 * shards.count, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    remedy = f"use 'none' or a folder for {needed / 2**30:.0f} GB of patches"
    require(needed < there, "cache", "fit into this machine's memory", remedy, "memory")
    records = _filtered(tf.data.Dataset.from_tensor_slices(_names(shards)).flat_map(_read), min_tissue).cache()
    count = sum(1 for _ in records)
    return lambda seed: _shuffled(records, count, seed)


def from_disk(shards: ShardSet, min_tissue: float, buffer: int) -> Order:
    """Return an order of the records with `min_tissue`, read from disk.

    Shards come in random order, several at a time, and the next record is drawn from a buffer of `buffer` records.
    """
    require(buffer > 0, "shuffle_buffer", "be positive", "1 keeps the order within the shards", buffer)
    names = _names(shards)

    def order(seed: tf.Tensor) -> tf.data.Dataset:
        paths = _shuffled(tf.data.Dataset.from_tensor_slices(names), len(names), fold(seed, 0))
        records = paths.interleave(_read, min(len(names), SIDE_BY_SIDE), num_parallel_calls=tf.data.AUTOTUNE)
        return _shuffled(_filtered(records, min_tissue), buffer, fold(seed, 1))

    return order


def in_turn(shards: ShardSet, limit: int | None = None) -> tf.data.Dataset:
    """Return the records in order; with a limit so many, from each slide the same number if it has them."""
    left = Counter[str]()
    for shard in shards.shards:
        left[shard.slide_id] += shard.count
    if limit is not None:
        for number, slide_id in enumerate(sorted(left, key=left.__getitem__)):
            left[slide_id] = min(left[slide_id], limit // (len(left) - number))
            limit -= left[slide_id]
    numbers = []
    for shard in shards.shards:
        numbers.append(min(shard.count, left[shard.slide_id]))
        left[shard.slide_id] -= numbers[-1]
    taken = tf.data.Dataset.from_tensor_slices((_names(shards), tf.constant(numbers, tf.int64)))
    return taken.flat_map(lambda path, number: _read(path).take(number))


def fold(seed: tf.Tensor | list[int], number: tf.Tensor | int) -> tf.Tensor:
    """Return the seed [2] for a number, from a seed [2]."""
    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), tf.cast(number, tf.int64))


def _shuffled(dataset: tf.data.Dataset, buffer: int, seed: tf.Tensor) -> tf.data.Dataset:
    """Shuffle by `seed`, independently of the program's global seed.

    It is called while a function is traced. There `set_seed` sets the seed of that function only, which takes
    precedence. (Not 0: TensorFlow would compare the other seed, a tensor, with 0 too.)
    """
    tf.random.set_seed(1)
    number = tf.random.stateless_uniform([], seed, None, None, tf.int64)
    return dataset.shuffle(buffer, seed=number, reshuffle_each_iteration=False)


def _filtered(records: tf.data.Dataset, min_tissue: float) -> tf.data.Dataset:
    return records.filter(lambda record: decode_number(record, "tissue") >= min_tissue) if min_tissue > 0 else records


def _names(shards: ShardSet) -> list[bytes]:
    return [os.fsencode(path) for path in shards.paths]


def _read(paths: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(paths, buffer_size=READ_BYTES)
