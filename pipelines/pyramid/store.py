"""The work file: encoded tiles by (level, row, column), in one SQLite file that outlives a kill -9.

Tiles come in batches, each written wholly or not at all, so that what a killed run left is what it had at its last
batch. One process holds the file at a time, and the hold ends with the process, however it ends. The file says what is
being made; to go on with something else in it is refused.
"""
from __future__ import annotations

import errno
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.errors import require

FORMAT = 1
# A batch ends when it is this large or this old: what a kill costs, against the price of a sync to disk.
BATCH_BYTES = 16 * 2**20
BATCH_SECONDS = 5.0
KEPT_KIB = 32 * 1024  # SQLite's memory: a batch and what else is read
PAGE_BYTES = 16384
REMEDY = "make room and go on with --resume, the tiles made so far are kept"

_TABLES = ("CREATE TABLE IF NOT EXISTS made (facts TEXT)",
           "CREATE TABLE IF NOT EXISTS tiles (level INT, row INT, col INT, data BLOB, PRIMARY KEY (level, row, col))")


class TileStore:
    """An open work file. One thread at a time may use it."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        """Open the work file, or make it.

        Args:
            path: Where it is or shall be.
            facts: What is being made, as values that JSON knows.

        Raises:
            Held: Another run holds it.
            ValueError: It was made for other facts, or it is something else.
            OSError: It cannot be written; names it.
        """
        self.path = path
        facts = json.loads(json.dumps({"format": FORMAT, **facts}))
        self._connection = _hold(path)
        try:
            with _told(path):
                self._check(facts)
        except BaseException:
            self._connection.close()
            raise
        self._batch_bytes = 0
        self._batch_start = time.monotonic()

    def has(self, level: int, row: int, column: int) -> bool:
        """Whether a tile is there."""
        with _told(self.path):
            return self._connection.execute("SELECT 1 FROM tiles WHERE level = ? AND row = ? AND col = ?",
                                            (level, row, column)).fetchone() is not None

    def count(self, level: int) -> int:
        """Return how many tiles of a level there are."""
        with _told(self.path):
            return self._connection.execute("SELECT count(*) FROM tiles WHERE level = ?", (level,)).fetchone()[0]

    def get(self, level: int, row: int, column: int) -> bytes:
        """Return a tile that is there."""
        with _told(self.path):
            return self._connection.execute("SELECT data FROM tiles WHERE level = ? AND row = ? AND col = ?",
                                            (level, row, column)).fetchone()[0]

    def put(self, level: int, row: int, column: int, data: bytes) -> None:
        """Add a tile. One that is there already stays as it is.

        Raises:
            OSError: The disk is full; names the file. The batches before this one are kept.
        """
        with _told(self.path):
            self._connection.execute("INSERT OR IGNORE INTO tiles VALUES (?, ?, ?, ?)", (level, row, column, data))
        self._batch_bytes += len(data)
        if self._batch_bytes >= BATCH_BYTES or time.monotonic() - self._batch_start >= BATCH_SECONDS:
            self.commit()

    def commit(self) -> None:
        """End the batch: what was put is on the disk now."""
        with _told(self.path):
            self._connection.commit()
        self._batch_bytes = 0
        self._batch_start = time.monotonic()

    def close(self) -> None:
        """Let go of the file; what was put since the last batch is dropped. Once more does nothing."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        _unlink(self.path)

    def _check(self, facts: dict[str, Any]) -> None:
        """Write what is being made into a new file, and compare it with what an old one says."""
        for table in _TABLES:
            self._connection.execute(table)
        found = self._connection.execute("SELECT facts FROM made").fetchone()
        if found is None:
            self._connection.execute("INSERT INTO made VALUES (?)", (json.dumps(facts),))
            self._connection.commit()
            return
        old = json.loads(found[0])
        differs = [name for name in sorted({*old, *facts}) if old.get(name) != facts.get(name)]
        require(not differs, "output", "be gone on with as it was begun", "repeat that command, choose another output, "
                f"or start anew by --overwrite without --resume (other than before: {', '.join(differs)})",
                str(self.path))


def discard(path: Path) -> None:
    """Delete a work file, whatever it holds, unless a run is at it.

    Raises:
        ValueError: Another run holds it.
    """
    with suppress(_NoWorkFile):
        _hold(path).close()
    _unlink(path)


class Held(ValueError):
    """Another run holds the work file."""


class _NoWorkFile(ValueError):
    """The file is something else."""


def _hold(path: Path) -> sqlite3.Connection:
    """Return a connection that keeps all others out until it is closed."""
    with _told(path):
        connection = sqlite3.connect(path, timeout=0, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute(f"PRAGMA cache_size = -{KEPT_KIB}")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into those of files and arguments."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            raise Held("`output` must be written by one run at a time; wait for the other one, or choose "
                       f"another. Received: output={str(path)!r}") from error
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise _NoWorkFile("`output` must be gone on with in a work file of its own; delete this one, it is "
                              f"another's or damaged. Received: output={str(path)!r}") from error
        if code == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}; {REMEDY}", str(path)) from error
        # SQLite does not say whether a write failed by a quota, a limit on files, or a broken disk.
        raise OSError(errno.EIO, f"cannot be written or read ({error}); {REMEDY}", str(path)) from error


def _unlink(path: Path) -> None:
    for name in (path, path.with_name(f"{path.name}-journal")):
        name.unlink(missing_ok=True)
