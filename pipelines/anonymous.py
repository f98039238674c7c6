# SPDX-License-Identifier: Apache-2.0
"""Names that say nothing: keyed hashes in place of the names of slides and tiles (`--anonymous`).

A plain hash of a name would be found by hashing all names that a hospital may have given. This one needs the key too:
HMAC-SHA256 of name and key, of which 64 bits are kept. Under one key a name always has the same hash, so that a run
can be resumed; without key and slide nothing can be learned from it.
"""
from __future__ import annotations

import hmac
import os
import re
import secrets
from pathlib import Path

from pipelines.errors import require

HELP = "File with a secret key, created if it does not exist. Names of slides and tiles are replaced by keyed hashes " \
       "in everything that is written. Keep the key apart from the outputs"
LEAST_KEY = 32  # bytes
CASE_NAME = re.compile(r"TCGA-\w{2}-\w{4}|anon-[0-9a-f]{16}", re.IGNORECASE)  # of one patient, also once hashed


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
