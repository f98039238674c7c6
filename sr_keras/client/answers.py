"""What is due from a server, and what it gave: nothing is decoded or copied before its size is known to be right.

A server is a program of others: it may be another model, another version, or broken. What comes back must be uint8 of
`scale` times the sides that were sent. A PNG says its size in its header, which is read before its pixels are: a small
file can hold a picture that fills memory.
"""
from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sr_keras.client.errors import BAD_ANSWER, Failure
from sr_keras.client.options import MAX_HALO, MAX_SCALE

PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PNG_HEADER = struct.Struct(">IIBB")  # width, height, bit depth, colour type, right behind PNG_START
EIGHT_BIT_RGB = (8, 2)


@dataclass(frozen=True)
class Due:
    """The answer to one LR picture of `height` x `width`; `scale` None is any up to MAX_SCALE."""

    height: int
    width: int
    scale: int | None

    @property
    def most_values(self) -> int:
        """How many uint8 values the answer has at most."""
        return 3 * self.height * self.width * (self.scale or MAX_SCALE) ** 2

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse an answer of another shape than [1, scale*height, scale*width, 3].

        Raises:
            Failure: It has.
        """
        scales = [self.scale] if self.scale else range(1, MAX_SCALE + 1)
        if not any(shape == (1, scale * self.height, scale * self.width, 3) for scale in scales):
            due = f"[1, {scales[0] * self.height}, {scales[0] * self.width}, 3]"
            due += f", or 2 to {MAX_SCALE} times its sides," if self.scale is None else ""
            raise Failure(BAD_ANSWER, f"sr of shape {list(shape)} where {due} is due")


@dataclass(frozen=True)
class About:
    """What a model says of itself; `max_pixels` None where it has no limit, or does not say it."""

    scale: int
    halo: int
    max_pixels: int | None = None


def from_about(sr_side: Any, halo: Any, max_pixels: Any) -> About:
    """Return what a model says of itself, from its answer about a picture of side 1.

    Raises:
        Failure: It is out of reason.
    """
    numbers = (sr_side, halo, max_pixels)
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers) \
            or not (1 <= sr_side <= MAX_SCALE and 0 <= halo <= MAX_HALO and max_pixels >= 1):
        raise Failure(BAD_ANSWER, f"scale, halo and max_pixels of {numbers} where 1 to {MAX_SCALE}, 0 to {MAX_HALO} "
                                  "and 1 or more are due")
    return About(sr_side, halo, max_pixels)


def from_content(shape: tuple[int, ...], content: bytes, due: Due) -> np.ndarray:
    """Return uint8 values that came as bytes as [1, H, W, 3].

    Raises:
        Failure: They are not what is due.
    """
    due.check(shape)
    if len(content) != math.prod(shape):
        raise Failure(BAD_ANSWER, f"sr of {len(content)} bytes where {math.prod(shape)} are due")
    return np.frombuffer(content, np.uint8).reshape(shape)


def from_numbers(numbers: Any, due: Due, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return uint8 values that came as numbers, nested or, with `shape`, in a row, as [1, H, W, 3].

    Raises:
        Failure: They are not what is due.
    """
    if shape is not None:
        due.check(shape)
    try:
        values = np.asarray(numbers)
        values = values if shape is None else values.reshape(shape)
    except ValueError as error:
        raise Failure(BAD_ANSWER, "sr of numbers that fill no [1, H, W, 3]") from error
    due.check(values.shape)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise Failure(BAD_ANSWER, f"sr of {values.dtype} where whole numbers from 0 to 255 are due")
    return values.astype(np.uint8)


def to_png(lr: np.ndarray) -> bytes:
    """Return uint8 [H, W, 3] as PNG; quickly, since tissue does not become smaller by more effort."""
    file = io.BytesIO()
    Image.fromarray(lr).save(file, "PNG", compress_level=1)
    return file.getvalue()


def from_png(data: bytes, due: Due) -> np.ndarray:
    """Return the pixels of a PNG as [1, H, W, 3].

    Raises:
        Failure: It is no PNG of 8-bit RGB, not of the size that is due, or damaged.
    """
    width, height = _png_size(data)
    due.check((1, height, width, 3))
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            # PIL believes the last header, and there may be a second one.
            due.check((1, image.height, image.width, len(image.getbands())))
            return np.asarray(image)[np.newaxis]
    except Failure:
        raise
    except Exception as error:  # a decoder of other people's bytes raises every kind there is
        raise Failure(BAD_ANSWER, f"a damaged PNG: {error}") from error


def _png_size(data: bytes) -> tuple[int, int]:
    if not data.startswith(PNG_START) or len(data) < len(PNG_START) + PNG_HEADER.size:
        raise Failure(BAD_ANSWER, f"{len(data)} bytes that are no PNG")
    width, height, *kind = PNG_HEADER.unpack_from(data, len(PNG_START))
    if tuple(kind) != EIGHT_BIT_RGB:
        raise Failure(BAD_ANSWER, f"a PNG of {kind[0]} bits and colour type {kind[1]} where 8-bit RGB is due")
    return width, height
