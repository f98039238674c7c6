# SPDX-License-Identifier: Apache-2.0
"""The exceptions for users' mistakes, and the one form of their messages."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(RuntimeError):
    """An error that a user can cause or must decide on, though no argument is wrong. Shown as one line."""


class SlideError(UserError):
    """A slide or image cannot be read, or not as asked. The message names the file."""


def require(holds: bool, name: str, rule: str, remedy: str, value: object) -> None:
    """Raise ValueError "`name` must `rule`; `remedy`. Received: name=value" unless `holds`."""
    if not holds:
        raise ValueError(f"`{name}` must {rule}; {remedy}. Received: {name}={value!r}")


def require_folder(output: str | None) -> Path:
    """Return the folder `output`; it need not exist yet.

    Raises:
        ValueError: No folder is given, or a file is in its place or above it.
    """
    require(bool(output), "output", "be given", "name a folder to write to", output)
    folder = Path(output or ".")
    there = next(above for above in (folder, *folder.parents) if above.exists())
    require(there.is_dir(), "output", "be a folder", f"{there} is a file: choose another name", output)
    return folder


@contextmanager
def slide_errors(path: Path) -> Iterator[None]:
    """Turn every exception of a decoder into a SlideError that names the file."""
    try:
        yield
    except (SlideError, MemoryError):
        raise
    except Exception as error:  # decoders raise exceptions of every kind for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(f"{path}: cannot be read as a slide or image ({reason})") from error
