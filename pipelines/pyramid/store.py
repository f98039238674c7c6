# SPDX-License-Identifier: Apache-2.0
"""The work file: encoded tiles by (level, row, column) in one SQLite file that survives kill -9.

Tiles are written in batches, each completely or not at all. One process holds the file at a time, until it ends. The
file says what is being made, and is refused for anything else.
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
# A batch ends at this size or age: a kill loses at most one batch, and each costs a sync to disk.
BATCH_BYTES = 16 * 2**20
BATCH_SECONDS = 5.0
KEPT_KIB = 32 * 1024  # SQLite's memory, for a batch and for reading
PAGE_BYTES = 16384
REMEDY = "make room and resume with --resume, finished tiles are kept"

_TABLES = ("CREATE TABLE IF NOT EXISTS made (facts TEXT)",
           "CREATE TABLE IF NOT EXISTS tiles (level INT, row INT, col INT, data BLOB, PRIMARY KEY (level, row, col))")


class TileStore:
    """An open work file, for one thread at a time."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        """Open or create the work file; `facts` are JSON values that say what is being made.

        Raises:
            Held: Another run holds it.
            ValueError: It was made for other facts, or is not a work file.
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
        """Whether a tile is stored."""
        with _told(self.path):
            return self._connection.execute("SELECT 1 FROM tiles WHERE level = ? AND row = ? AND col = ?",
                                            (level, row, column)).fetchone() is not None

    def count(self, level: int) -> int:
        """Return how many tiles of a level are stored."""
        with _told(self.path):
            return self._connection.execute("SELECT count(*) FROM tiles WHERE level = ?", (level,)).fetchone()[0]

    def get(self, level: int, row: int, column: int) -> bytes:
        """Return a stored tile."""
        with _told(self.path):
            return self._connection.execute("SELECT data FROM tiles WHERE level = ? AND row = ? AND col = ?",
                                            (level, row, column)).fetchone()[0]

    def put(self, level: int, row: int, column: int, data: bytes) -> None:
        """Add a tile. A stored one is kept.

        Raises:
            OSError: The disk is full; names the file. Earlier batches are kept.
        """
        with _told(self.path):
            self._connection.execute("INSERT OR IGNORE INTO tiles VALUES (?, ?, ?, ?)", (level, row, column, data))
        self._batch_bytes += len(data)
        if self._batch_bytes >= BATCH_BYTES or time.monotonic() - self._batch_start >= BATCH_SECONDS:
            self.commit()

    def commit(self) -> None:
        """End the batch: its tiles are on the disk now."""
        with _told(self.path):
            self._connection.commit()
        self._batch_bytes = 0
        self._batch_start = time.monotonic()

    def close(self) -> None:
        """Close the file, without the tiles since the last batch. May be called again."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        _unlink(self.path)

    def _check(self, facts: dict[str, Any]) -> None:
        """Write the facts to a new file; compare them with those of an old one."""
        for table in _TABLES:
            self._connection.execute(table)
        found = self._connection.execute("SELECT facts FROM made").fetchone()
        if found is None:
            self._connection.execute("INSERT INTO made VALUES (?)", (json.dumps(facts),))
            self._connection.commit()
            return
        old = json.loads(found[0])
        differs = [name for name in sorted({*old, *facts}) if old.get(name) != facts.get(name)]
        require(not differs, "output", "be resumed with the settings of the original run", "repeat that command, "
                f"choose another output, or start again with --overwrite (these settings differ: {', '.join(differs)})",
                str(self.path))


def discard(path: Path) -> None:
    """Delete a work file, unless a run holds it.

    Raises:
        ValueError: Another run holds it.
    """
    with suppress(_NoWorkFile):
        _hold(path).close()
    _unlink(path)


class Held(ValueError):
    """Another run holds the work file."""


class _NoWorkFile(ValueError):
    """The file is not a work file."""


def _hold(path: Path) -> sqlite3.Connection:
    """Return a connection that excludes all others until it is closed."""
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
            raise Held("`output` must be written by one run at a time; wait for the other, or choose "
                       f"another. Received: output={str(path)!r}") from error
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise _NoWorkFile("`output` must have a work file of this program; delete this file, it is damaged or "
                              f"something else. Received: output={str(path)!r}") from error
        if code == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}; {REMEDY}", str(path)) from error
        # SQLite does not tell a quota from a file size limit or a broken disk.
        raise OSError(errno.EIO, f"cannot be written or read ({error}); {REMEDY}", str(path)) from error


def _unlink(path: Path) -> None:
    for name in (path, path.with_name(f"{path.name}-journal")):
        name.unlink(missing_ok=True)
