# SPDX-License-Identifier: Apache-2.0
"""Names of files: lists of them, names that are not UTF-8, and folders with links in them."""
from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

COMMAS = "Commas separate paths; one that exists may contain commas."  # for the help of flags
ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")  # a byte that is not UTF-8, as JSON and flag files write it


def printable(name: str) -> str:
    r"""Return a name as text that every file and font takes: bytes that are not UTF-8 become \xfc, for example."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def escaped(text: str) -> str:
    r"""Return text as UTF-8 files hold it: bytes of names that are not UTF-8 become \udcfc, as in JSON."""
    return text.encode(errors="backslashreplace").decode()


def split_paths(text: str) -> list[str]:
    """Return the paths of a list with commas between them. What exists as a whole is one path, commas included.

    Quotes around a path keep its commas too, as in CSV: "a, b.svs",c.svs.
    """
    if '"' in text and not os.path.lexists(text):
        with suppress(csv.Error):
            return [_existing(piece.strip()) for piece in next(csv.reader([text], skipinitialspace=True), ()) if piece]
    pieces, found = text.split(","), []
    while pieces:
        ends = range(len(pieces), 0, -1)
        wholes = ((_existing(",".join(pieces[:end]).strip()), end) for end in ends)
        path, end = next(((whole, end) for whole, end in wholes if whole and os.path.lexists(whole)),
                         (pieces[0].strip(), 1))
        found += [path] if path else []
        del pieces[:end]
    return found


def _existing(path: str) -> str:
    """Return a path, with escaped bytes as bytes if there is such a file."""
    raw = ESCAPED.sub(lambda byte: chr(0xdc00 + int(byte[1], 16)), path)
    return raw if raw != path and os.path.lexists(raw) and not os.path.lexists(path) else path


def walk(root: Path, is_whole: Callable[[Path], bool] = lambda folder: False) -> Iterator[tuple[Path, list[str]]]:
    """Yield (folder, names of its files) for a folder and all in it, without hidden ones.

    Links to folders are followed after the real folders, so that each folder comes once. A folder that cannot be
    listed, and a link without a suffix that leads nowhere, are named in a warning. A folder that `is_whole`, such as a
    slide that is one, comes without names and is not searched.
    """
    starts, seen = [root], set[str]()
    for start in starts:  # it grows
        for folder, inner, names in os.walk(start, onerror=_warn):
            real = os.path.realpath(folder)
            inner[:] = [] if real in seen else sorted(one for one in inner if not one.startswith("."))
            if real in seen:
                continue
            seen.add(real)
            if is_whole(Path(folder)):
                inner.clear()
                names.clear()
            starts += [path for path in (Path(folder, one) for one in inner) if os.path.islink(path)]
            names = sorted(one for one in names if not one.startswith("."))
            for path in (Path(folder, one) for one in names):
                if not path.suffix and os.path.islink(path) and not os.path.exists(path):
                    _warn(OSError(0, "leads nowhere", str(path)))
            yield Path(folder), names


def _warn(error: OSError) -> None:
    print(f"warning: {error.filename}: {error.strerror}; it is left out", file=sys.stderr)
