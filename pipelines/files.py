# SPDX-License-Identifier: Apache-2.0
"""Atomic writing (a temporary name, then fsync and rename), full disks named by file, and checked reading.

Temporary files are created anew, so that a link that someone placed under their name is never followed.

What a program wrote is checked when it is read back, by `read_json`, `read_table` or `read_text`: it may be damaged, of
another version, or made to harm. They raise ValueError "`FILE` must be WHAT; REMEDY. Received: REASON" for all that is
wrong with a file, and FileNotFoundError if there is none. Fields that are absent from old files have defaults.
"""
from __future__ import annotations

import atexit
import csv
import errno
import functools
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME = 255  # bytes
LARGEST_READ = 2**28  # bytes of a file that is read back

# Fields of files that are read back. A plain float may be NaN or infinite.
Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e300)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_NAME = r"^(?!\.{1,2}$)[^/\0]+\Z"
FileName = Annotated[str, msgspec.Meta(pattern=_NAME)]  # of a file in the same folder


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, folder: bool = False) -> Iterator[Path]:
    """Yield an empty file, or folder, beside `path`; on success, with what is written there, it becomes `path`.

    On an error the temporary is removed and `path` is unchanged. A folder needs a `path` that does not exist. The
    suffix is kept, since many writers choose their format by it. An error of writing the temporary names `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(fitting_name(f".{os.getpid()}.tmp.", target.name))
    try:
        remove(temporary)  # of a killed process of the same number, or planted
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
    except OSError as error:
        if not Path(str(error.filename)).is_relative_to(temporary):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        remove(temporary)


def fitting_name(prefix: str, name: str, suffix: str = "", longest: int = LONGEST_NAME) -> str:
    """Return prefix, name and suffix as a name that the system takes; a checksum replaces the middle of a long one."""
    room = longest - len(os.fsencode(prefix + suffix))
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


def write_csv(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write rows, which have the same columns, to a CSV file, atomically; floats with six digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
                     for row in rows)
    write_text(path, text.getvalue())


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


def read_text(path: str | os.PathLike[str], remedy: str, what: str = "a text file as it was written") -> str:
    """Return the text of a file that a program wrote; see the module for the errors."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a folder" if path.is_dir() else "no regular file")
        if (size := path.stat().st_size) > LARGEST_READ:
            raise ValueError(f"{size} bytes, more than {LARGEST_READ // 2**20} MiB")
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _damaged(path, what, remedy, getattr(error, "strerror", None) or error) from error


def read_json(path: str | os.PathLike[str], kind: type[T], remedy: str) -> T:
    """Return the content of a JSON file as `kind`: a dataclass, a TypedDict, or a type such as dict[str, float].

    An error names the field; see the module.
    """
    return parse_json(read_text(path, remedy, JSON_FILE), kind, path, remedy)


def parse_json(text: str | bytes, kind: type[T], where: str | os.PathLike[str], remedy: str) -> T:
    """Return JSON that was found in the file `where` as `kind`, like `read_json`."""
    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise _damaged(where, JSON_FILE, remedy, error) from error
    return checked(content, kind, where, remedy)


def checked(content: object, kind: type[T], where: str | os.PathLike[str], remedy: str) -> T:
    """Return JSON values that came from the file `where` as `kind`, like `read_json`."""
    try:
        return msgspec.convert(content, kind)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise _damaged(where, JSON_FILE, remedy, error) from error


def read_table(path: str | os.PathLike[str], kind: type, remedy: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file, every field as text.

    An error names the file and the row; see the module.

    Args:
        path: The file.
        kind: A TypedDict or a class of msgspec, with the columns that must be there and the type of their fields.
        remedy: What to do about a damaged file.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, remedy, TABLE), newline=""), strict=True)
    try:
        rows: list[dict[str, Any]] = []
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num} with another number of fields than the header")
            rows.append(row)
            msgspec.convert(row, kind, strict=False)
    except (csv.Error, ValueError) as error:
        line = f" (line {reader.line_num})" if isinstance(error, msgspec.ValidationError) else ""
        raise _damaged(path, TABLE, remedy, f"{error}{line}") from error
    return rows


JSON_FILE, TABLE = "a JSON file as it was written", "a CSV table as it was written"


def _damaged(path: str | os.PathLike[str], what: str, remedy: str, reason: object) -> ValueError:
    text = str(reason).replace(f"matching regex {_NAME!r}", "that names a file in the same folder")
    return ValueError(f"`{os.fspath(path)}` must be {what}; {remedy}. Received: {text}")


def check_writable(name: str, paths: Iterable[Path]) -> None:
    """Refuse paths of the argument `name` that cannot be written, before the work; no file is left behind.

    Their folders need not exist.
    """
    nearest = {next(folder for folder in path.parents if folder.exists()): path for path in paths}
    for folder, path in nearest.items():
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(f"`{name}` must be a writable path; choose another, because no file can be created in "
                             f"{folder} ({error.strerror}). Received: {name}={str(path)!r}") from error


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
    elif os.path.lexists(path):  # on a read-only disk, deleting what is not there is an error
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
