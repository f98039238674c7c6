# SPDX-License-Identifier: Apache-2.0
"""From tiles of level 0, in any order and over several runs, to a finished slide."""
from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np

from pipelines.errors import require
from pipelines.files import atomic_path, full_disk_named
from pipelines.pyramid.store import REMEDY, TileStore, discard
from pipelines.pyramid.tiff import PyramidOptions, encode, filled_up, levels_of, reduced, write_tiff

UNFINISHED = ".unfinished"
MOST_THREADS = 4

_Key = tuple[int, int, int]


class PyramidWriter:
    """Writes one slide; use it as a context manager. Without `finish`, its work file is kept for a resume.

    For one thread at a time; tiles are encoded in other threads.
    """

    def __init__(self, path: str | os.PathLike[str], width: int, height: int, mpp: float | None,
                 options: PyramidOptions | None = None, *, description: str = "", identity: str = "",
                 resume: bool = False, overwrite: bool = False) -> None:
        """Begin or resume a slide.

        Args:
            path: The slide. The work file lies beside it until the slide is finished.
            width: Pixels of level 0.
            height: Pixels of level 0.
            mpp: Microns per pixel of level 0, or None.
            options: How it is written.
            description: Text for the file. A resume needs the same text, so it must have no date.
            identity: What else the pixels depend on, such as checksums of model and source.
            resume: Continue the work file if there is one.
            overwrite: Replace an existing slide when this one is finished; without `resume`, also a work file.

        Raises:
            ValueError: The slide or a work file exists, or the work file is of another slide or run.
            OSError: The disk is full; names the file.
        """
        self.path = Path(path)
        self.options = options or PyramidOptions()
        width, height = int(width), int(height)
        self.mpp = None if mpp is None else float(mpp)
        self.description = description
        require(min(width, height) > 0, "size", "be positive", "give pixels", (width, height))
        require(mpp is None or mpp > 0, "mpp", "be positive", "give microns per pixel, or None if unknown", mpp)
        self.levels = levels_of(width, height, self.options.tile)
        work = self.path.with_name(self.path.name + UNFINISHED)
        _make_way(self.path, work, resume, overwrite)
        facts = {"width": width, "height": height, "mpp": self.mpp, "options": asdict(self.options),
                 "description": description, "identity": identity}
        self._store = TileStore(work, facts)
        for stale in self.path.parent.glob(f".*.tmp.{glob.escape(self.path.name)}"):
            stale.unlink(missing_ok=True)  # of a killed run: no other run holds the work file
        threads = min(MOST_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads)
        self._most_pending = 2 * threads
        self._pending: deque[tuple[_Key, Future[bytes]]] = deque()
        self._finished = False

    def __enter__(self) -> PyramidWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        with suppress(OSError):  # a full disk was reported already
            self.close()

    def close(self) -> None:
        """Store the pending tiles, and close the work file."""
        try:
            if not self._finished:
                self._drain()
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._store.close()

    def missing(self) -> Iterator[tuple[int, int]]:
        """Yield row and column of the missing tiles of level 0, row by row; `put` may be called meanwhile."""
        base = self.levels[0]
        for row in range(base.rows):
            for column in range(base.columns):
                key = (0, row, column)
                if not (any(key == other for other, _ in self._pending) or self._store.has(*key)):
                    yield row, column

    def put(self, row: int, column: int, pixels: np.ndarray) -> None:
        """Add a tile of level 0, uint8 [h, w, 3] of the size of its box. A stored one is kept.

        Raises:
            ValueError: There is no such tile, or its size or type is wrong.
            OSError: The disk is full; names the file. All but the last seconds of work are kept.
        """
        base = self.levels[0]
        require(base.has(row, column), "tile", f"lie in a grid of {base.rows} rows and {base.columns} columns",
                "take rows and columns from missing()", (row, column))
        _, _, width, height = base.box(row, column)
        require(pixels.dtype == np.uint8 and pixels.shape == (height, width, 3), "pixels",
                f"be uint8 [{height}, {width}, 3]", "cut them by levels[0].box(row, column)",
                f"{pixels.dtype} {list(pixels.shape)}")
        # A copy: the caller may reuse its array while this one is encoded.
        full = filled_up(pixels, self.options.tile)
        self._later((0, row, column), lambda: encode(full, self.options))
        self._store_pending(self._most_pending)

    def finish(self) -> None:
        """Complete the lower levels, write the slide, and delete the work file.

        Raises:
            ValueError: A tile of level 0 is missing.
            OSError: The disk is full; names the file. The work file is kept.
        """
        self._drain()
        lacking = self.levels[0].count - self._store.count(0)
        require(lacking == 0, "tiles", "all be put before finish()", "put those of missing()", f"{lacking} missing")
        for number in range(1, len(self.levels)):
            self._build(number)
        with full_disk_named(self.path, REMEDY), atomic_path(self.path) as temporary:
            write_tiff(temporary, self.levels, self._stored, self.options, self.mpp, self.description)
        self._finished = True
        self._store.remove()

    def _build(self, number: int) -> None:
        """Make the missing tiles of a level: a killed run may have left some out."""
        level = self.levels[number]
        for row in range(level.rows):
            for column in range(level.columns):
                if not self._store.has(number, row, column):
                    self._reduce(number, row, column)
                    self._store_pending(self._most_pending)
        self._drain()

    def _reduce_above(self, number: int, row: int, column: int) -> None:
        """Start making the tile below a stored one, once all its tiles are stored.

        This uses cores that the computation of pixels leaves idle.
        """
        below = (number + 1, row // 2, column // 2)
        if below[0] == len(self.levels) or self._store.has(*below):
            return
        if all(self._store.has(number, i, j) for i, j in self._over(*below)):
            self._reduce(*below)

    def _reduce(self, number: int, row: int, column: int) -> None:
        above = self.levels[number - 1]
        data = [self._store.get(number - 1, i, j) for i, j in self._over(number, row, column)]
        across = min(2, above.columns - 2 * column)
        tiles = [data[i:i + across] for i in range(0, len(data), across)]
        self._later((number, row, column), lambda: reduced(tiles, above, 2 * row, 2 * column, self.options))

    def _over(self, number: int, row: int, column: int) -> list[tuple[int, int]]:
        """Return the up to 2x2 tiles of the level above that a tile covers, row by row."""
        above = self.levels[number - 1]
        return [(i, j) for i in range(2 * row, min(2 * row + 2, above.rows))
                for j in range(2 * column, min(2 * column + 2, above.columns))]

    def _stored(self, number: int) -> Iterator[bytes]:
        """Yield the tiles of a level, row by row."""
        level = self.levels[number]
        for row in range(level.rows):
            for column in range(level.columns):
                yield self._store.get(number, row, column)

    def _later(self, key: _Key, work: Callable[[], bytes]) -> None:
        """Make a tile in a thread; `_store_pending` waits for it."""
        self._pending.append((key, self._pool.submit(work)))

    def _store_pending(self, most: int) -> None:
        """Store finished tiles in order, until at most `most` are pending."""
        while len(self._pending) > most:
            key, future = self._pending.popleft()
            self._store.put(*key, future.result())
            self._reduce_above(*key)

    def _drain(self) -> None:
        self._store_pending(0)
        self._store.commit()


def _make_way(path: Path, work: Path, resume: bool, overwrite: bool) -> None:
    """Refuse to overwrite files; delete a work file that is not wanted."""
    require(overwrite or not path.exists(), "output", "not exist",
            "choose another name, or add --overwrite", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if work.exists() and not resume:
        require(overwrite, "output", "not be unfinished",
                "continue it with --resume, or start again with --overwrite", str(work))
        discard(work)
