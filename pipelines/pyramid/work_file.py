# SPDX-License-Identifier: Apache-2.0
"""The work file of a slide: encoded tiles by (level, row, column) in one SQLite file that survives kill -9.

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
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.errors import require
from pipelines.files import fitting_name, parse_json

UNFINISHED, JOURNAL = ".unfinished", "-journal"
FORMAT = 1  # of the work file
# A batch ends at this size or age: a kill loses at most one batch, and each costs a sync to disk.
BATCH_BYTES, BATCH_SECONDS = 16 * 2**20, 5.0
REMEDY = "make room and resume with --resume, finished tiles are kept"

_SETUP = (
    "PRAGMA page_size = 16384",
    "PRAGMA cache_size = -32768",  # KiB, for a batch and for reading
    "PRAGMA locking_mode = EXCLUSIVE",
    "BEGIN EXCLUSIVE",
    "CREATE TABLE IF NOT EXISTS made (facts TEXT)",
    "CREATE TABLE IF NOT EXISTS tiles (level INT, row INT, col INT, data BLOB, PRIMARY KEY (level, row, col))")
_OF_TILE = "FROM tiles WHERE level = ? AND row = ? AND col = ?"


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
        facts = {"format": FORMAT, **facts}
        self._connection = _hold(path)
        try:
            with _told(path):
                self._connection.execute("INSERT INTO made SELECT ? WHERE NOT EXISTS (SELECT * FROM made)",
                                         (json.dumps(facts),))
                found = self._connection.execute("SELECT facts FROM made").fetchone()[0]
            old = parse_json(found, dict[str, Any], path, "start again with --overwrite")
            differs = [name for name in sorted({*old, *facts}) if old.get(name) != facts.get(name)]
            require(not differs, "output", "be resumed with the settings of the original run", "repeat that command, "
                    "choose another output, or start again with --overwrite (these settings differ: "
                    f"{', '.join(differs)})", str(path))
            self.commit()
        except BaseException:
            self._connection.close()
            raise

    def has(self, level: int, row: int, column: int) -> bool:
        """Whether a tile is stored."""
        return self._first(f"SELECT 1 {_OF_TILE}", level, row, column) is not None

    def count(self, level: int) -> int:
        """Return how many tiles of a level are stored."""
        return self._first("SELECT count(*) FROM tiles WHERE level = ?", level)

    def get(self, level: int, row: int, column: int) -> bytes:
        """Return a stored tile."""
        return self._first(f"SELECT data {_OF_TILE}", level, row, column)

    def _first(self, query: str, *values: int) -> Any:
        with _told(self.path):
            found = self._connection.execute(query, values).fetchone()
        return found and found[0]

    def put(self, level: int, row: int, column: int, data: bytes) -> None:
        """Add a tile; a stored one is kept. The error of a full disk names the file, and earlier batches are kept."""
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


class Held(ValueError):
    """Another run holds the work file."""


class _NoWorkFile(ValueError):
    """The file is not a work file."""


def _hold(path: Path) -> sqlite3.Connection:
    """Return a connection that excludes all others until it is closed."""
    with _told(path):
        connection = sqlite3.connect(path, timeout=0, check_same_thread=False)
        try:
            for command in _SETUP:
                connection.execute(command)
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


def facts_of(slide: Path) -> dict[str, Any]:
    """Return what the work file beside a slide says that it is of; nothing if there is none that can be read."""
    path = work_path(slide)
    if path.exists():
        with suppress(OSError, ValueError), _told(path), closing(_hold(path)) as connection:
            row = connection.execute("SELECT facts FROM made").fetchone()
            return parse_json(row[0], dict[str, Any], path, "start again with --overwrite") if row else {}
    return {}


def work_path(path: Path) -> Path:
    """Return the path of the work file of a slide; there is room for the name of SQLite's journal beside it."""
    return path.with_name(fitting_name("", path.name, f"{UNFINISHED}{JOURNAL}").removesuffix(JOURNAL))


def unlink(path: Path) -> None:
    """Remove a work file and its journal, if they are there."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + JOURNAL).unlink(missing_ok=True)


def delete(path: Path) -> None:
    """Delete a work file, whatever is in it.

    Raises:
        Held: Another run holds it.
    """
    with suppress(_NoWorkFile):
        _hold(path).close()
    unlink(path)


def clear_away(slide: Path) -> None:
    """Delete the work file beside a finished slide, which a run leaves that was killed at its very end."""
    path = work_path(slide)
    if path.exists():
        with suppress(Held):  # it is about to delete it
            delete(path)
