# SPDX-License-Identifier: Apache-2.0
"""Names of files: lists of them, names that are not UTF-8, folders with links in them, and names that say nothing.

With `--anonymous` keyed hashes take the place of the names of slides and tiles. A plain hash of a name would be found
by hashing all names that a hospital may have given. This one needs the key too: HMAC-SHA256 of name and key, of which
64 bits are kept. Under one key a name always has the same hash, so that a run can be resumed; without key and slide
nothing can be learned from it.
"""
from __future__ import annotations

import csv
import hmac
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pipelines.errors import require

# What a terminal obeys instead of showing it: controls but line breaks, tabs and the colours of progress bars, and
# marks that change the direction of what follows, so that gnp.exe is shown as exe.png.
OBEYED = re.compile("\x1b(?!\\[(?:[0-9;]*m|A))|[\0-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f"
                    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
COMMAS = "Commas separate paths; one that exists may contain commas."  # for the help of flags
ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")  # a byte that is not UTF-8, as JSON and flag files write it
ANONYMOUS = "File with a secret key, created if it does not exist. Names of slides and tiles are replaced by keyed " \
            "hashes in everything that is written. Keep the key apart from the outputs"  # for the help of flags
LEAST_KEY = 32  # bytes
CASE_NAME = re.compile(r"TCGA-\w{2}-\w{4}|anon-[0-9a-f]{16}", re.IGNORECASE)  # of one patient, also once hashed


def printable(name: str) -> str:
    r"""Return a name as text that every file and font takes: bytes that are not UTF-8 become \xfc, for example."""
    return visible(name.encode(errors="surrogateescape").decode(errors="backslashreplace"))


def visible(text: str) -> str:
    r"""Return text with escapes for what a terminal obeys and does not show: \x07 or \u202e, for example."""
    return OBEYED.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


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


def read_key(path: str | None) -> bytes | None:
    """Return the key in a file, which is made if it does not exist; None without a path.

    Raises:
        ValueError: It is not a file, or too short to be a key.
    """
    if path is None:
        return None
    if not os.path.lexists(path):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(f"{secrets.token_hex(LEAST_KEY)}\n")
    key = Path(path).read_bytes().strip() if Path(path).is_file() else b""
    require(len(key) >= LEAST_KEY, "anonymous", f"be a file with a key of {LEAST_KEY} bytes or more",
            "name a file that does not exist to create one", path)
    return key


def alias(name: str, key: bytes) -> str:
    """Return the hash of a name; slides of one case of TCGA begin with the hash of the case, to be split by it."""
    case = CASE_NAME.search(name)
    return "-".join(["anon", *([_hash(case.group().upper(), key)] if case else []), _hash(name, key)])


def _hash(name: str, key: bytes) -> str:
    return hmac.new(key, os.fsencode(name), "sha256").hexdigest()[:16]
