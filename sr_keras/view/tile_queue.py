# SPDX-License-Identifier: Apache-2.0
"""Compute the tiles that somebody looks at, in one thread, and keep the newest in bounded memory.

    tiles = Tiles(most_bytes=2**29)
    tiles.look("browser 1", {("case", "SR", 3, 5): compute}, tell)     # `tell` is called after each tile
    tiles.get(("case", "SR", 3, 5))                                     # None until then
    tiles.look("browser 1", {}, tell)                                   # it moved on: nothing more is computed

What a viewer waits for is replaced by what it looks at next. The viewer that moved last comes first.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from threading import Condition, Thread
from typing import NamedTuple

import numpy as np

Compute = Callable[[], np.ndarray | None]  # None is not kept
Tell = Callable[[Exception | None], None]


class _Wish(NamedTuple):
    """What a viewer waits for, in this order, and how it is told."""

    jobs: dict[Hashable, Compute]
    tell: Tell


class Tiles:
    """Arrays by key, computed by a thread; the ones used last stay within `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes, self.computed = most_bytes, 0, 0
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._wishes: OrderedDict[Hashable, _Wish] = OrderedDict()  # the newest is the last
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._work, name="tiles", daemon=True)
        self._thread.start()

    def get(self, key: Hashable) -> np.ndarray | None:
        """Return what is kept under a key."""
        with self._changed:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def look(self, viewer: Hashable, jobs: Mapping[Hashable, Compute], tell: Tell) -> None:
        """Replace what a viewer waits for; what is kept already is left out.

        Args:
            viewer: Who looks.
            jobs: What to compute, the most urgent first.
            tell: Called in the thread of the tiles after each, with the error if it failed. If it raises, the viewer
                is forgotten.
        """
        with self._changed:
            self._wishes.pop(viewer, None)
            missing = {key: compute for key, compute in jobs.items() if key not in self._kept}
            if missing:
                self._wishes[viewer] = _Wish(missing, tell)
                self._changed.notify()

    def waiting(self, viewer: Hashable) -> int:
        """Return how many tiles a viewer waits for."""
        with self._changed:
            return len(self._wishes[viewer].jobs) if viewer in self._wishes else 0

    def forget(self, viewer: Hashable, then: Callable[[], None] = lambda: None) -> None:
        """Compute nothing more for a viewer that went away; call `then` when nothing of it is being computed."""
        self.look(viewer, {object(): then}, lambda error: None)

    def close(self) -> None:
        """Wait for the tile that is being computed, and end the thread."""
        with self._changed:
            self._closed = True
            self._wishes.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wishes)
                if self._closed:
                    return
                viewer, wish = next(reversed(self._wishes.items()))
                key, compute = next(iter(wish.jobs.items()))
                known = key in self._kept
            error = None if known else self._compute(key, compute)
            with self._changed:
                wish.jobs.pop(key)
                current = self._wishes.get(viewer) is wish
                if current and not wish.jobs:
                    del self._wishes[viewer]
            if current:
                try:
                    wish.tell(error)
                except Exception:  # its browser is gone, and its document with it; the others go on
                    with self._changed:
                        if self._wishes.get(viewer) is wish:
                            del self._wishes[viewer]

    def _compute(self, key: Hashable, compute: Compute) -> Exception | None:
        try:
            array = compute()
        except Exception as error:  # a viewer is told; the thread must go on for the others
            return error
        if array is None:
            return None
        with self._changed:
            self.computed += 1
            self._kept[key] = array
            self.bytes += array.nbytes
            while self.bytes > self.most_bytes and len(self._kept) > 1:
                self.bytes -= self._kept.popitem(last=False)[1].nbytes
        return None
