"""A few windows of a plane that stand for all of it: in tissue, spread over it, and the same every time."""
from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

Window = tuple[slice, slice]  # rows and columns
GRID = 16  # places a side that are looked at


def sample_windows(shape: tuple[int, ...], count: int, side: int,
                   has_tissue: Callable[[slice, slice], bool] | None = None) -> list[Window]:
    """Return windows of a plane, by rows from its top.

    Args:
        shape: Height and width of the plane first.
        count: How many at most.
        side: Of a window, in pixels; less where the plane is smaller.
        has_tissue: Whether there is tissue in a window; where that is nowhere, windows lie anywhere.
    """
    starts = [_starts(length, min(side, length)) for length in shape[:2]]
    windows = [(slice(y, y + min(side, shape[0])), slice(x, x + min(side, shape[1]))) for y, x in product(*starts)]
    chosen = [window for window in windows if has_tissue(*window)] if has_tissue else []
    chosen = chosen or windows
    # One is drawn of each of `count` stretches: every n-th of a grid might be a column of it.
    ends = np.linspace(0, len(chosen), min(count, len(chosen)) + 1).astype(int)
    return [chosen[i] for i in np.random.default_rng(0).integers(ends[:-1], ends[1:])]


def _starts(length: int, side: int) -> list[int]:
    """Return where windows begin that lie side by side, or, of a long plane, GRID of them from end to end."""
    room = length - side
    places = min(GRID, room // side + 1)
    return [round(room * i / max(1, places - 1)) for i in range(places)]
