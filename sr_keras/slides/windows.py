"""Which windows a plane is cut into: as large as memory allows, and the fewest pixels computed in all.

Cores are whole tiles of the pyramid that is written. The windows follow from the size of the plane, the network and
the memory that is asked for, never from what is free at the moment: a resumed run computes what the one before it
would have computed.
"""
from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sr_keras.model.split_network import TAIL_REACH, TAIL_SR
from sr_keras.model.tiles import Span, best_spans, computed, spans

# The side of the pyramid's tiles in SR pixels, at most: cores are so many whole tiles.
SR_TILE = 512
# What a run takes of memory beside its windows, in GiB: TensorFlow and the network 0.75, the reader's last tiles up to
# 0.25, the mask, tiles being encoded and the work file 0.1.
FIXED_GIB = 1.1
MEMORY_GIB = 2.0
GIB = 2**30
# What a network takes for each SR pixel, measured with 6 to 64 filters; the engines differ by a tenth.
BYTES_PER_PIXEL, BYTES_PER_FILTER = 430, 7.5
# What the trunk of `strips` takes for each LR pixel of a window, and for each filter of it, cores on their way to the
# disk included. LiteRT keeps 8 bytes for each pixel that each convolution looks at: 648 of 9x9, 72 of 3x3, those of 16
# blocks here.
TRUNK_BYTES = {"tensorflow": (300, 24), "onnx": (300, 27), "litert": (3500, 33)}
DEFAULT_FILTERS = 64


class Needs(NamedTuple):
    """What is taken of memory in bytes: beside the windows, and for each LR pixel of one."""

    fixed: float
    pixel: float


@dataclass(frozen=True)
class Plan:
    """The windows of a plane, and what they cost."""

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
        """Pixels computed more than once, as a share of the plane: what the halos cost, of an engine in its trunk."""
        return computed(self.rows, self.columns) / (self.rows[-1].core_stop * self.columns[-1].core_stop) - 1

    @property
    def windows(self) -> str:
        """How many windows, of which size."""
        return f"{len(self)} of {self.columns[0].side}x{self.rows[0].side}"


def pyramid_tile(scale: int) -> int:
    """Return the side of an output tile: a multiple of 16, as TIFF wants it, and of `scale`, so that cores fit."""
    unit = math.lcm(16, scale)
    return max(1, SR_TILE // unit) * unit


def needs(generator: Any, scale: int) -> Needs:
    """Return what a generator takes: an engine, which runs the parts of `strips`, or any other, run as a whole."""
    filters = filters_of(generator)
    whole = BYTES_PER_PIXEL + BYTES_PER_FILTER * filters
    if getattr(generator, "parts", None) is None:
        return Needs(FIXED_GIB * GIB, whole * scale**2)
    constant, by_filter = TRUNK_BYTES[generator.name]
    return Needs(FIXED_GIB * GIB + whole * (TAIL_SR + 2 * scale * TAIL_REACH)**2, constant + by_filter * filters)


def plan(shape: tuple[int, ...], scale: int, halo: int, need: Needs | None = None, tile: int | None = None,
         step: int | None = None, memory: float = MEMORY_GIB) -> Plan:
    """Choose the windows of a plane.

    Args:
        shape: Its height and width in LR pixels.
        scale: SR side over LR side.
        halo: How far an SR pixel sees, in LR pixels.
        need: From `needs`; that of the largest default network, run as a whole, if left out.
        tile: Side of a window in LR pixels; the best that fits in `memory` if left out.
        step: Cores begin at multiples of it; of an output tile if left out.
        memory: GiB that the whole run may take.

    Raises:
        ValueError: The tile is too small for the halo.
    """
    step = step or pyramid_tile(scale) // scale
    if tile is not None:
        rows, columns = (spans(side, tile, halo, step) for side in shape[:2])
    else:
        need = need or needs(None, scale)
        rows, columns = best_spans(shape, halo, step, (memory * GIB - need.fixed) / need.pixel)
    return Plan(rows, columns, scale, halo)


def filters_of(generator: Any) -> int:
    """Return the channels of a loaded generator as far as its facts tell them; else those of the largest default."""
    facts = getattr(generator, "facts", None)
    said = re.search(r"^--filters=(\d+)$", getattr(facts, "flags", None) or "", re.MULTILINE)
    return int(said[1]) if said else DEFAULT_FILTERS
