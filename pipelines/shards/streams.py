"""Serialised records as streams: in an order that a seed decides, for training, or one slide after the other.

An order is a function from a seed, int64 [2], to a dataset of all the records. It is called inside the graph, for every
pass over the data, and what it returns follows from the seed alone.
"""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import tensorflow as tf

from pipelines.errors import require
from pipelines.shards.reading import ShardSet
from pipelines.shards.record import decode_tissue

Order = Callable[[tf.Tensor], tf.data.Dataset]

READ_BYTES = 2**20  # of a shard at a time
SIDE_BY_SIDE = 16  # shards that are read at the same time


def from_memory(shards: ShardSet, min_tissue: float) -> Order:
    """Return an order of the records that have `min_tissue`, from memory: read now, once; each as likely to be next.

    Raises:
        ValueError: They are more than the memory of this machine.
    """
    needed, there = 3 * shards.patch_size**2 * shards.count, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    remedy = f"use 'none' or a folder for {needed / 2**30:.0f} GB of patches"
    require(needed < there, "cache", "fit into this machine's memory", remedy, "memory")
    records = _filtered(tf.data.Dataset.from_tensor_slices(_names(shards)).flat_map(_read), min_tissue).cache()
    count = sum(1 for _ in records)
    return lambda seed: _shuffled(records, count, seed)


def from_disk(shards: ShardSet, min_tissue: float, buffer: int) -> Order:
    """Return an order of the records that have `min_tissue`, from the disk.

    Shards come in random order, several side by side, and the next record is drawn from `buffer` of theirs.
    """
    require(buffer > 0, "shuffle_buffer", "be positive", "1 keeps the order within the shards", buffer)
    names = _names(shards)

    def order(seed: tf.Tensor) -> tf.data.Dataset:
        paths = _shuffled(tf.data.Dataset.from_tensor_slices(names), len(names), fold(seed, 0))
        records = paths.interleave(_read, min(len(names), SIDE_BY_SIDE), num_parallel_calls=tf.data.AUTOTUNE)
        return _shuffled(_filtered(records, min_tissue), buffer, fold(seed, 1))

    return order


def in_turn(shards: ShardSet, limit: int | None = None) -> tf.data.Dataset:
    """Return the records as they lie; with a limit so many, from each slide the same number as far as it has them."""
    names, numbers = _shares(shards, limit)
    taken = tf.data.Dataset.from_tensor_slices((names, tf.constant(numbers, tf.int64)))
    return taken.flat_map(lambda path, number: _read(path).take(number))


def fold(seed: tf.Tensor | list[int], number: tf.Tensor | int) -> tf.Tensor:
    """Return the seed [2] that belongs to a number under a seed [2]."""
    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), tf.cast(number, tf.int64))


def _shuffled(dataset: tf.data.Dataset, buffer: int, seed: tf.Tensor) -> tf.data.Dataset:
    """Shuffle as `seed` says, whatever the program's global seed.

    It is called while a function is traced. There `set_seed` sets the seed of that function alone, which comes before
    the global one. (Not 0: TensorFlow would ask whether the other seed is 0 too, and that is a tensor.)
    """
    tf.random.set_seed(1)
    number = tf.random.stateless_uniform([], seed, None, None, tf.int64)
    return dataset.shuffle(buffer, seed=number, reshuffle_each_iteration=False)


def _filtered(records: tf.data.Dataset, min_tissue: float) -> tf.data.Dataset:
    return records.filter(lambda record: decode_tissue(record) >= min_tissue) if min_tissue > 0 else records


def _shares(shards: ShardSet, limit: int | None) -> tuple[list[str], list[int]]:
    """Return the paths, and how many records of each to take: each slide gives the same number as far as it can."""
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
    return _names(shards), numbers


def _names(shards: ShardSet) -> list[str]:
    return [str(path) for path in shards.paths]


def _read(paths: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(paths, buffer_size=READ_BYTES)
