# SPDX-License-Identifier: Apache-2.0
"""Atomic writing (a temporary name, then fsync and rename), full disks named by file, and JSON that is checked.

Temporary files are created anew, so that a link that someone placed under their name is never followed.
"""
from __future__ import annotations

import atexit
import errno
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME = 255  # bytes


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, folder: bool = False) -> Iterator[Path]:
    """Yield an empty file, or folder, beside `path`; on success, with what is written there, it becomes `path`.

    On an error the temporary is removed and `path` is unchanged. A folder needs a `path` that does not exist. The
    suffix is kept, since many writers choose their format by it. The error of a full disk names `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(fitting_name(f".{os.getpid()}.tmp.", target.name))
    remove(temporary)  # of a killed process of the same number, or planted
    try:
        with full_disk_named(target, ""):
            if folder:
                temporary.mkdir()
            else:
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
            yield temporary
            for place in (*temporary.rglob("*"), temporary):
                _sync(place)
            os.replace(temporary, target)
            _sync(target.parent)
    finally:
        remove(temporary)


def fitting_name(prefix: str, name: str, suffix: str = "") -> str:
    """Return prefix, name and suffix as a name that the system takes; a checksum replaces the middle of a long one."""
    room = LONGEST_NAME - len(os.fsencode(prefix + suffix))
    if len(os.fsencode(name)) > room:
        checksum = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = f"{_cut(name, room - 40)}~{checksum}{_cut(name[::-1], 20)[::-1]}"
    return f"{prefix}{name}{suffix}"


def _cut(text: str, room: int) -> str:
    """Return the first characters of a text that take at most `room` bytes."""
    while len(os.fsencode(text)) > room:
        text = text[:-1]
    return text


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically; what is not UTF-8 in a name becomes an escape that JSON reads."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def side_product(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the failure to write a report or a picture beside finished work into a warning."""
    try:
        yield
    except OSError as error:
        print(f"warning: {path} was not written: {error.strerror or error}", file=sys.stderr)


def cache_home() -> Path:
    """Return ~/.cache; for a user without a home, a folder that is deleted when the program ends."""
    home = os.path.expanduser("~")
    return Path(home, ".cache") if os.path.isabs(home) else _homeless()


@functools.cache
def _homeless() -> Path:
    folder = tempfile.mkdtemp(prefix="sr_keras-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def read_json(path: str | os.PathLike[str], kind: type[T], remedy: str) -> T:
    """Return the content of a JSON file as `kind`: a dataclass, a TypedDict, or a type such as dict[str, float].

    Raises:
        ValueError: It is no JSON, or a field has another type or is missing; names the file, the field and the remedy.
        OSError: It cannot be read.
    """
    try:
        return msgspec.convert(json.loads(Path(path).read_bytes()), kind)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, and so is that of UTF-8
        raise ValueError(f"`{path}` must be a JSON file as it was written; {remedy}. Received: {error}") from error


@contextmanager
def full_disk_named(path: Path, remedy: str) -> Iterator[None]:
    """Turn the error of a full disk into one that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        says = f"{os.strerror(error.errno)}; {remedy}".removesuffix("; ")
        raise OSError(error.errno, says, str(path)) from error


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
