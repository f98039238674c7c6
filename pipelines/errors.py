"""What is raised where a user is wrong, and the one form of words that all messages have."""
from __future__ import annotations

from pathlib import Path


class UserError(RuntimeError):
    """What a user can cause or must decide on, though no argument is wrong; it is said in one line."""


def require(holds: bool, name: str, rule: str, remedy: str, value: object) -> None:
    """Raise ValueError "`name` must `rule`; `remedy`. Received: name=value" unless `holds`."""
    if not holds:
        raise ValueError(f"`{name}` must {rule}; {remedy}. Received: {name}={value!r}")


def require_folder(output: str | None) -> Path:
    """Return the folder that `output` names; it need not be there yet.

    Raises:
        ValueError: None is named, or a file is in its place or above it.
    """
    require(bool(output), "output", "be given", "name a folder to write to", output)
    folder = Path(output or ".")
    there = next(above for above in (folder, *folder.parents) if above.exists())
    require(there.is_dir(), "output", "be a folder", f"{there} is a file: name another", output)
    return folder
