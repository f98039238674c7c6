# SPDX-License-Identifier: Apache-2.0
"""Cut a plane into windows: as large as memory allows, with the least overlap.

The plan depends on the size of the plane, the network and the memory that is allowed, never on the memory that is free
at the moment, so that a resumed run computes the same windows. Cores are whole tiles of the output pyramid.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sr_keras.model.tiles import TAIL_REACH, TAIL_SR, Span, best_spans, computed, spans

SR_TILE = 512  # largest side of a pyramid tile, in SR pixels
# GiB that a run takes beside its windows: TensorFlow and the network 0.75, the reader's cache up to 0.25, the tissue
# mask, the encoder and the work file 0.1.
FIXED_GIB = 1.1
MEMORY_GIB = 2.0
GIB = 2**30
# Memory of a whole network for each SR pixel, measured with 6 to 64 filters; the engines differ by a tenth.
BYTES_PER_PIXEL, BYTES_PER_FILTER = 430, 7.5
# Memory of the trunk of a split network for each LR pixel of a window: a constant and a part for each filter, cores on
# their way to the disk included. LiteRT keeps 8 bytes for each pixel that each convolution reads.
TRUNK_BYTES = {"tensorflow": (300, 24), "onnx": (300, 27), "litert": (3500, 33)}
DEFAULT_FILTERS = 64


class MemoryNeed(NamedTuple):
    """Memory in bytes: beside the windows, and for each LR pixel of a window."""

    fixed: float
    pixel: float


@dataclass(frozen=True)
class WindowPlan:
    """The windows of a plane: every row combined with every column."""

    rows: list[Span]
    columns: list[Span]
    scale: int
    halo: int

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return ((y, x) for y in self.rows for x in self.columns)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def overhead(self) -> float:
        """Pixels computed more than once because of the halos, as a share of the plane."""
        return computed(self.rows, self.columns) / (self.rows[-1].core_stop * self.columns[-1].core_stop) - 1

    @property
    def description(self) -> str:
        """Number and size of the windows."""
        return f"{len(self)} of {self.columns[0].side}x{self.rows[0].side}"


def pyramid_tile(scale: int) -> int:
    """Return the side of an output tile: a multiple of 16, for TIFF, and of `scale`, so that cores fit."""
    unit = math.lcm(16, scale)
    return max(1, SR_TILE // unit) * unit


def memory_need(generator: Any, scale: int) -> MemoryNeed:
    """Return the memory that a generator takes: of an engine that runs a split network, or of any other."""
    filters = _filters_of(generator)
    whole = BYTES_PER_PIXEL + BYTES_PER_FILTER * filters
    if getattr(generator, "parts", None) is None:
        return MemoryNeed(FIXED_GIB * GIB, whole * scale**2)
    constant, by_filter = TRUNK_BYTES[generator.name]
    return MemoryNeed(FIXED_GIB * GIB + whole * (TAIL_SR + 2 * scale * TAIL_REACH)**2, constant + by_filter * filters)


def plan_windows(shape: tuple[int, ...], scale: int, halo: int, need: MemoryNeed | None = None,
                 tile: int | None = None, step: int | None = None, memory: float = MEMORY_GIB) -> WindowPlan:
    """Choose the windows of a plane.

    Args:
        shape: Height and width in LR pixels.
        scale: SR side over LR side.
        halo: Receptive field of the network in LR pixels.
        need: From `memory_need`; by default that of the largest default network, run as a whole.
        tile: Side of a window in LR pixels; by default the best that fits in `memory`.
        step: Cores begin at multiples of it; by default the side of an output tile.
        memory: GiB that the whole run may take.

    Raises:
        ValueError: The tile is too small for the halo.
    """
    step = step or pyramid_tile(scale) // scale
    if tile is not None:
        rows, columns = (spans(side, tile, halo, step) for side in shape[:2])
    else:
        need = need or memory_need(None, scale)
        rows, columns = best_spans(shape, halo, step, (memory * GIB - need.fixed) / need.pixel)
    return WindowPlan(rows, columns, scale, halo)


def _filters_of(generator: Any) -> int:
    """Return the filters that the generator's facts state; else those of the largest default network."""
    return getattr(getattr(generator, "facts", None), "filters", None) or DEFAULT_FILTERS
