# SPDX-License-Identifier: Apache-2.0
"""Conversion of pixels: uint8 in files, shards and serving; float32 in [0, 1] inside.

`to_float`, `to_uint8` and `quantise` take NumPy arrays or TensorFlow tensors of any shape and return the same kind,
with bit-identical values. `as_rgb` turns any decoded image into uint8 [H, W, 3], with NumPy only.

TensorFlow is imported only for tensors, so that reading slides does not need it.
"""
from __future__ import annotations

from typing import Any

import numpy as np

Images = Any  # np.ndarray or tf.Tensor; functions return the kind that they get
WHITE = 255
# A product, since graph compilers replace a division by a constant with it, and values must be the same everywhere.
_STEP = np.float32(1 / 255)


def to_float(images: Images) -> Images:
    """Return uint8 images as float32 in [0, 1]."""
    if isinstance(images, np.ndarray):
        return images.astype(np.float32) * _STEP
    import tensorflow as tf
    return tf.cast(images, tf.float32) * _STEP


def to_uint8(images: Images) -> Images:
    """Return float images in [0, 1] as uint8; halves round to even, other values are clipped."""
    if isinstance(images, np.ndarray):
        return np.rint(np.clip(images.astype(np.float32) * 255, 0, 255)).astype(np.uint8)
    import tensorflow as tf
    return tf.cast(tf.round(tf.clip_by_value(tf.cast(images, tf.float32) * 255, 0, 255)), tf.uint8)


def quantise(images: Images) -> Images:
    """Return float images as float32 in [0, 1] after rounding to 8 bit."""
    return to_float(to_uint8(images))


def as_rgb(array: np.ndarray, name: str) -> np.ndarray:
    """Return a decoded image, [H, W] or [H, W, 1 to 4] of uint8, uint16 or bool, as uint8 RGB [H, W, 3].

    Grey is repeated, alpha is composited over white (glass), 16 bit is scaled by 1/257 so that 65535 becomes 255, and
    one-bit images become 0 and 255. `name` is for error messages.

    Raises:
        ValueError: Another shape or dtype.
    """
    pixels = array[..., np.newaxis] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise ValueError("`image` must have 1 to 4 channels, last; convert it to RGB. "
                         f"Received: {name} with shape={array.shape}")
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype != np.uint8:
        raise ValueError("`image` must hold 8 or 16 bit pixels; convert it to 8 bit. "
                         f"Received: {name} with dtype={array.dtype}")
    if pixels.shape[2] in (2, 4):
        pixels = _over_white(pixels)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _over_white(pixels: np.ndarray) -> np.ndarray:
    """Composite uint8 [H, W, C + alpha] over white. Returns uint8 [H, W, C]."""
    colour, alpha = pixels[..., :-1], pixels[..., -1:]
    if alpha.min(initial=255) == 255:
        return colour
    mixed = colour.astype(np.uint32) * alpha + WHITE * (255 - alpha.astype(np.uint32))
    return ((mixed + 127) // 255).astype(np.uint8)
