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
from typing import Any

from sr_keras.tiling import Span, best_spans, computed, spans

# The side of the pyramid's tiles in SR pixels, at most: cores are so many whole tiles.
SR_TILE = 512
# What a run takes of memory beside its windows, in GiB: TensorFlow 0.65, the reader's last tiles up to 0.25, the mask,
# tiles being encoded and the work file 0.1.
FIXED_GIB = 1.0
MEMORY_GIB = 2.0
# What a window takes for each SR pixel, measured on TensorFlow with networks of 6, 32 and 64 filters.
BYTES_PER_PIXEL, BYTES_PER_FILTER = 430, 6.5
DEFAULT_FILTERS = 64


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
        """Pixels computed more than once, as a share of the plane: what the halos cost."""
        return computed(self.rows, self.columns) / (self.rows[-1].core_stop * self.columns[-1].core_stop) - 1

    @property
    def windows(self) -> str:
        """How many windows, of which size."""
        return f"{len(self)} of {self.columns[0].side}x{self.rows[0].side}"


def pyramid_tile(scale: int) -> int:
    """Return the side of an output tile: a multiple of 16, as TIFF wants it, and of `scale`, so that cores fit."""
    unit = math.lcm(16, scale)
    return max(1, SR_TILE // unit) * unit


def plan(shape: tuple[int, ...], scale: int, halo: int, filters: int = DEFAULT_FILTERS, tile: int | None = None,
         step: int | None = None, memory: float = MEMORY_GIB) -> Plan:
    """Choose the windows of a plane.

    Args:
        shape: Its height and width in LR pixels.
        scale: SR side over LR side.
        halo: How far an SR pixel sees, in LR pixels.
        filters: Channels of the network at SR size, by which its memory goes.
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
        most = (memory - FIXED_GIB) * 2**30 / ((BYTES_PER_PIXEL + BYTES_PER_FILTER * filters) * scale**2)
        rows, columns = best_spans(shape, halo, step, most)
    return Plan(rows, columns, scale, halo)


def filters_of(generator: Any) -> int:
    """Return the channels of a loaded generator as far as its facts tell them; else those of the largest default."""
    facts = getattr(generator, "facts", None) or {}
    said = re.search(r"^--filters=(\d+)$", facts.get("flags") or "", re.MULTILINE)
    return int(said[1]) if said else DEFAULT_FILTERS
