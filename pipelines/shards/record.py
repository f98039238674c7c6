"""One patch as a record: a `tf.train.Example`.

slide_id, name: bytes. x, y: the corner in level 0. mpp: 0 where unknown. tissue: share in [0, 1]. size. pixels: the
bytes of uint8 [size, size, 3]. Of a pair also lr_size, and lr: the bytes of uint8 [lr_size, lr_size, 3]. Raw, because a
PNG of them takes 25 times as long to decode as they take to copy, for 0.6 of the space.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from pipelines.errors import require
from pipelines.patches import Patch

_TEXT, _SHARE = tf.io.FixedLenFeature([], tf.string), tf.io.FixedLenFeature([], tf.float32)
_FIELDS = {
    "slide_id": _TEXT, "name": _TEXT, "pixels": _TEXT, "size": tf.io.FixedLenFeature([], tf.int64),
    "lr": tf.io.FixedLenFeature([], tf.string, b""), "lr_size": tf.io.FixedLenFeature([], tf.int64, 0)}


def encode(patch: Patch) -> bytes:
    """Return a patch as a serialised record; the bytes follow from the patch alone."""
    features = {
        "slide_id": _bytes(patch.slide_id.encode()), "name": _bytes(patch.name.encode()),
        "x": _int(patch.x), "y": _int(patch.y), "mpp": _float(patch.mpp or 0), "tissue": _float(patch.tissue),
        "size": _int(patch.pixels.shape[0]), "pixels": _bytes(patch.pixels.tobytes())}
    if patch.lr is not None:
        features |= {"lr_size": _int(patch.lr.shape[0]), "lr": _bytes(patch.lr.tobytes())}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def decode(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return (slide id, example id, hr uint8 [size, size, 3], lr uint8 [h, h, 3]) of a serialised record.

    The sizes are the record's own, unknown to the graph; h is 0 where the record is no pair.
    """
    fields = tf.io.parse_single_example(record, _FIELDS)
    hr, lr = (tf.reshape(tf.io.decode_raw(fields[pixels], tf.uint8), tf.stack([fields[size], fields[size], 3]))
              for pixels, size in (("pixels", "size"), ("lr", "lr_size")))
    return fields["slide_id"], tf.strings.join([fields["slide_id"], "/", fields["name"]]), hr, lr


def decode_tissue(record: tf.Tensor) -> tf.Tensor:
    """Return the tissue share of a serialised record, float32."""
    return tf.io.parse_single_example(record, {"tissue": _SHARE})["tissue"]


def decode_mpp(record: tf.Tensor) -> tf.Tensor:
    """Return the microns per pixel of a serialised record, float32; 0 where they are unknown."""
    return tf.io.parse_single_example(record, {"mpp": tf.io.FixedLenFeature([], tf.float32)})["mpp"]


@contextmanager
def damage_named(paths: Iterable[Path]) -> Iterator[None]:
    """While records of these shards, or of copies of them, are read: name the damaged file, which TensorFlow does not.

    Raises:
        ValueError: A record is not what was written.
    """
    try:
        yield
    except tf.errors.DataLossError as error:
        for path in paths:
            require(_is_sound(path), "shards", "be as they were written", "delete it and extract again", str(path))
        raise ValueError("`cache` must hold the shards as they were written; these are sound: remove the copies in it. "
                         f"Received: {error.message}") from error


def _is_sound(path: Path) -> bool:
    try:
        for _ in tf.data.TFRecordDataset(str(path)):
            pass
    except tf.errors.DataLossError:
        return False
    return True


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))


def _float(value: float) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=[float(value)]))
