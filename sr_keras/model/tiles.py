# SPDX-License-Identifier: Apache-2.0
"""Super-resolve an image of any size tile by tile, without seams, in the memory that a tile needs.

`fn` maps [B, h, w, C] to [B, scale*h, scale*w, C'] for any h and w: a Keras model, a SavedModel's signature, an ONNX
session. Arrays are NumPy's.

Each axis is cut into windows of `tile` LR pixels. A window keeps its core and discards `halo` pixels or more on each
side that has a neighbour; the cores cover every pixel of the image once. At the border of the image a window is moved
inwards, not padded, so `fn` sees the true border and always the same shape. Tiled equals whole if no output pixel
depends on an LR pixel further than `halo` from its own.

    side 20, tile 8, halo 2     windows  |0 . . . . . . 7|  |4 . . . . . 11|  |8 . . . . 15|  |12 . . . . 19|
                                cores    |0 . . . . 5|        |6 . . 9|        |10 . 13|          |14 . . 19|

With a `step`, cores begin at multiples of it, so that a core is whole tiles of the output file.

"""
from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from pipelines.errors import require

Pixels = Callable[[np.ndarray], np.ndarray]
BAND_PIXELS = 2**14  # LR pixels of a band, or of a piece of one, of a network that runs in bands
MIN_BAND = 8  # rows


class Box(NamedTuple):
    """Position and size of a piece of output, in its pixels."""

    hr_x: int
    hr_y: int
    hr_width: int
    hr_height: int


class Span(NamedTuple):
    """One window of one axis, in LR pixels, and the core of it that is kept."""

    window_start: int
    window_stop: int
    core_start: int
    core_stop: int

    @property
    def window(self) -> slice:
        """The pixels that `fn` gets."""
        return slice(self.window_start, self.window_stop)

    @property
    def core(self) -> slice:
        """The pixels that are kept."""
        return slice(self.core_start, self.core_stop)

    @property
    def side(self) -> int:
        """The number of pixels that `fn` gets."""
        return self.window_stop - self.window_start


def super_resolve(fn: Callable[[np.ndarray], Any], image: np.ndarray, scale: int, *, halo: int,
                  tile: int = 256) -> np.ndarray:
    """Return `fn(image)`, computed in tiles.

    Args:
        fn: [1, h, w, C] -> [1, scale*h, scale*w, C'].
        image: [H, W, C], any dtype; each side 1 or more.
        scale: Output side / input side.
        halo: LR pixels around its own on which an output pixel depends.
        tile: Side of a window in LR pixels; more than 2*halo, unless the image fits into one tile.

    Returns:
        [scale*H, scale*W, C'] in the dtype of `fn`.

    Raises:
        ValueError: An argument is out of range, or `fn` returned another shape.
    """
    require(len(image.shape) == 3 and min(image.shape) > 0, "image", "have shape [H, W, C], no side 0",
            "add a channel axis to a grey image", tuple(image.shape))
    require(scale >= 1, "scale", "be 1 or more", "it is output side / input side", scale)
    rows, columns = (spans(side, tile, halo) for side in image.shape[:2])
    whole: Any = None
    for y, x in product(rows, columns):
        window = image[np.newaxis, y.window, x.window]
        box, piece = core_of(checked(np.asarray(fn(window)), window, scale)[0], y, x, scale)
        if whole is None:
            whole = np.empty((scale * image.shape[0], scale * image.shape[1], piece.shape[2]), piece.dtype)
        whole[box.hr_y:box.hr_y + box.hr_height, box.hr_x:box.hr_x + box.hr_width] = piece
    return whole


class Limits(NamedTuple):
    """What a window may have: LR pixels, and columns; and whether all must have one shape."""

    pixels: float
    columns: float = math.inf
    one_shape: bool = True


def spans(side: int, tile: int, halo: int, step: int = 1, one_shape: bool = True) -> list[Span]:
    """Cut an axis of `side` pixels into windows of `tile`; their cores cover it once, from multiples of `step` on.

    The last window is moved inwards, or is smaller if they need not have one shape.
    """
    require(halo >= 0, "halo", "be 0 or more", "it is the reach of the network in LR pixels", halo)
    require(tile >= 1, "tile", "be 1 or more", "it is the side of a window in LR pixels", tile)
    if side <= tile:
        return [Span(0, side, 0, side)]
    check_tile(tile, halo, step)
    found, core_start = [], 0
    while core_start < side:
        start = max(core_start - halo, 0)
        if one_shape:
            start = min(start, side - tile)
        stop = min(start + tile, side)
        core_stop = side if stop == side else (stop - halo) // step * step
        found.append(Span(start, stop, core_start, core_stop))
        core_start = core_stop
    return found


def check_tile(tile: int, halo: int, step: int = 1) -> None:
    """Raise a ValueError if a window has no room for a core; an image that fits into one window does not need this."""
    require(tile > 2 * halo, "tile", f"be more than twice the halo of {halo}", "enlarge it", tile)
    require(tile >= 2 * halo + step, "tile", f"be {2 * halo + step} or more: twice the halo of {halo} and a tile of "
            "the output", "enlarge it", tile)


def best_spans(shape: tuple[int, ...], halo: int, step: int, limits: Limits) -> tuple[list[Span], list[Span]]:
    """Return the rows and columns of windows that compute the fewest pixels, halos included.

    Args:
        shape: Height and width of the image in LR pixels; more is ignored.
        halo: As in `super_resolve`.
        step: Cores begin at multiples of it.
        limits: Of a window; the smallest possible window may exceed them.
    """
    smallest = [min(side, 2 * halo + step) for side in shape[:2]]
    limit = max(limits.pixels, smallest[0] * smallest[1])
    tall, wide = (_choices(side, halo, step, min(limit / other, longest), limits.one_shape)
                  for side, other, longest in zip(
                      shape[:2], smallest[::-1], (math.inf, max(limits.columns, smallest[1])), strict=True))
    fitting = [pair for pair in product(tall, wide) if pair[0][0].side * pair[1][0].side <= limit]
    return min(fitting, key=lambda pair: computed(*pair))


def computed(rows: list[Span], columns: list[Span]) -> int:
    """Return how many LR pixels `fn` gets, halos counted every time."""
    return sum(row.side for row in rows) * sum(column.side for column in columns)


def _choices(side: int, halo: int, step: int, longest: float, one_shape: bool) -> list[list[Span]]:
    """Return the ways to cut an axis: into cores of every multiple of `step`, or one window."""
    tiles = {min(side, 2 * halo + times * step) for times in range(1, -(-side // step) + 1)} | {side}
    return [spans(side, tile, halo, step, one_shape) for tile in sorted(tiles) if tile <= longest]


def box_of(y: Span, x: Span, scale: int) -> Box:
    """Return the place of a window's core in the output."""
    return Box(scale * x.core_start, scale * y.core_start, scale * (x.core_stop - x.core_start),
               scale * (y.core_stop - y.core_start))


def core_of(output: np.ndarray, y: Span, x: Span, scale: int) -> tuple[Box, np.ndarray]:
    """Return the place of a window's core in the output, and its pixels of the window's output [H, W, C]."""
    box = box_of(y, x, scale)
    top, left = scale * (y.core_start - y.window_start), scale * (x.core_start - x.window_start)
    return box, output[top:top + box.hr_height, left:left + box.hr_width]


def checked(outputs: np.ndarray, windows: np.ndarray, scale: int) -> np.ndarray:
    """Return the outputs of `fn`, after a check that they are `scale` times as large as its windows."""
    count, height, width = windows.shape[:3]
    require(outputs.ndim == 4 and outputs.shape[:3] == (count, scale * height, scale * width),
            "fn", f"return {scale} times the sides of its input, {windows.shape}", "check `scale`", outputs.shape)
    return outputs
