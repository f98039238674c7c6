# SPDX-License-Identifier: Apache-2.0
"""Atomic writing (a temporary name, then fsync and rename), full disks named by file, and JSON that is checked."""
from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success, the file or folder written there becomes `path`.

    On an error the temporary is removed and `path` is unchanged. A folder needs a `path` that does not exist. The
    suffix is kept, since many writers choose their format by it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.tmp.{target.name}")
    try:
        yield temporary
        for place in (*temporary.rglob("*"), temporary):
            _sync(place)
        os.replace(temporary, target)
        _sync(target.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
        raise OSError(error.errno, f"{os.strerror(error.errno)}; {remedy}", str(path)) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
