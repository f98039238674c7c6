# SPDX-License-Identifier: Apache-2.0
"""From tiles of level 0, in any order and over several runs, to a finished slide.

Tiles are encoded and reduced by threads, and stored in the work file, from which the slide is written at the end.
"""
from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipelines.errors import require
from pipelines.files import atomic_path, full_disk_named, remove
from pipelines.pyramid.dicom import Origin
from pipelines.pyramid.formats import EXTRAS, check_format, write_slide
from pipelines.pyramid.tiff import PyramidOptions, encode, filled_up, levels_of, reduced
from pipelines.pyramid.work_file import REMEDY, TileStore, delete, unlink, work_path

THREADS = min(4, os.cpu_count() or 1)


class PyramidWriter:
    """Writes one slide, from one thread; a context manager. Without `finish`, its work file is kept for a resume."""

    def __init__(self, path: str | os.PathLike[str], width: int, height: int, mpp: float | None,
                 options: PyramidOptions | None = None, *, description: str = "", identity: str = "",
                 icc_profile: bytes | None = None, resume: bool = False, overwrite: bool = False,
                 origin: Origin | None = None) -> None:
        """Begin or resume a slide.

        Args:
            path: The slide. The work file lies beside it until the slide is finished.
            width: Pixels of level 0.
            height: Pixels of level 0.
            mpp: Microns per pixel of level 0, or None.
            options: How it is written.
            description: Text for the file. A resume needs the same text, so it must have no date.
            identity: What else the pixels depend on, such as checksums of model and source.
            icc_profile: Colour profile, which follows from `identity` or `description`. Zarr has no place for it.
            resume: Continue the work file if there is one.
            overwrite: Replace an existing slide when this one is finished; without `resume`, also a work file.
            origin: What a DICOM says of its making.

        Raises:
            ValueError: The slide or a work file exists, the work file is of another run, or an option does not fit.
            UserError: The format needs an extra that is not installed.
            OSError: The disk is full; names the file.
        """
        self.path, self.options = Path(path), options or PyramidOptions()
        self.mpp = None if mpp is None else float(mpp)
        self.description, self._more = description, (icc_profile, origin)
        require(min(width, height) > 0, "size", "be positive", "give pixels", (width, height))
        check_format(self.path, self.options, self.mpp, description)
        self.levels = levels_of(int(width), int(height), self.options.tile)
        work = work_path(self.path)
        _make_way(self.path, work, resume, overwrite)
        facts = {"width": int(width), "height": int(height), "mpp": self.mpp, "options": asdict(self.options),
                 "description": description, "identity": identity}
        self._store = TileStore(work, facts)
        for stale in self.path.parent.glob(f".*.tmp.{glob.escape(self.path.name)}"):
            remove(stale)  # of a killed run: no other run holds the work file
        self._pool, self._finished = ThreadPoolExecutor(THREADS), False
        self._pending: deque[tuple[tuple[int, int, int], Future[bytes]]] = deque()

    def __enter__(self) -> PyramidWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with nullcontext() if kind is None else suppress(OSError):  # a full disk was reported already
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
        for row, column in self.levels[0].places:
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
        require(0 <= row < base.rows and 0 <= column < base.columns, "tile",
                f"lie in a grid of {base.rows} rows and {base.columns} columns", "take rows and columns from missing()",
                (row, column))
        _, _, width, height = base.box(row, column)
        require(pixels.dtype == np.uint8 and pixels.shape == (height, width, 3), "pixels",
                f"be uint8 [{height}, {width}, 3]", "cut them by levels[0].box(row, column)",
                f"{pixels.dtype} {list(pixels.shape)}")
        full = filled_up(pixels, self.options.tile)  # a copy: the caller may reuse its array
        self._pending.append(((0, row, column), self._pool.submit(encode, full, self.options)))
        self._store_pending(2 * THREADS)

    def finish(self) -> None:
        """Complete the lower levels, write the slide, and delete the work file.

        Raises:
            ValueError: A tile of level 0 is missing.
            OSError: The disk is full; names the file. The work file is kept.
        """
        self._drain()
        lacking = self.levels[0].count - self._store.count(0)
        require(lacking == 0, "tiles", "all be put before finish()", "put those of missing()", f"{lacking} missing")
        for number, level in enumerate(self.levels[1:], 1):
            for row, column in level.places:
                if not self._store.has(number, row, column):  # a killed run may have left it out
                    self._reduce(number, row, column)
                    self._store_pending(2 * THREADS)
            self._drain()
        with full_disk_named(self.path, REMEDY), atomic_path(self.path, folder=self.options.format in EXTRAS) as new:
            write_slide(new, self.levels, self._stored, self.options, self.mpp, self.description, *self._more)
            if self.path.is_dir():  # a file is replaced, a folder is not
                remove(self.path)
        self._finished = True
        self._store.close()
        unlink(self._store.path)

    def _reduce_above(self, number: int, row: int, column: int) -> None:
        """Start making the tile below a stored one, once all its tiles are stored, on cores that are idle."""
        below = (number + 1, row // 2, column // 2)
        if (below[0] < len(self.levels) and not self._store.has(*below)
                and all(self._store.has(number, i, j) for line in self._over(*below) for i, j in line)):
            self._reduce(*below)

    def _reduce(self, number: int, row: int, column: int) -> None:
        tiles = [[self._store.get(number - 1, i, j) for i, j in line] for line in self._over(number, row, column)]
        above = self.levels[number - 1]
        made = self._pool.submit(reduced, tiles, above, 2 * row, 2 * column, self.options)
        self._pending.append(((number, row, column), made))

    def _over(self, number: int, row: int, column: int) -> list[list[tuple[int, int]]]:
        """Return the up to 2x2 tiles of the level above that a tile covers, as rows of columns."""
        above = self.levels[number - 1]
        return [[(i, j) for j in range(2 * column, min(2 * column + 2, above.columns))]
                for i in range(2 * row, min(2 * row + 2, above.rows))]

    def _stored(self, number: int) -> Iterator[bytes]:
        """Yield the tiles of a level, row by row."""
        return (self._store.get(number, *place) for place in self.levels[number].places)

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
    require(overwrite or not path.exists(), "output", "not exist", "choose another name, or add --overwrite", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if work.exists() and not resume:
        require(overwrite, "output", "not be unfinished", "continue it with --resume, or start again with --overwrite",
                str(work))
        delete(work)
