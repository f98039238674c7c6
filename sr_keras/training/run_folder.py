# SPDX-License-Identifier: Apache-2.0
"""A run folder: the flags and software of a training run, its data, checkpoints, scores and models.

    runs/NAME/
        flags.txt         every flag; `--flagfile` on it repeats the run
        versions.json     versions of Python, the packages and the platform
        data/             shards of the train, val and test parts, unless they were given as shards
        parts.json        which slides are train, val and test, and where their shards are
        skipped.json      patches and slides that could not be read, with the reason
        checkpoints/      see `callbacks`
        metrics.csv       one row per stage and epoch
        manifold.json     how far the autoencoder's code moves with noise, blur and contrast
        tensorboard/, pictures/
        .lock             held by the process that trains, with its number and machine
        autoencoder.keras, warmup.keras, adversarial.keras   the best epoch of each finished stage
        generator.keras   the best generator of the last stage: evaluated, exported and used

This module does not import TensorFlow.
"""
from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TypedDict

from pipelines.files import Count, read_table, read_text, write_csv, write_text
from sr_keras.model.facts import FLAGS_FILE

VERSIONS_FILE, LOCK_FILE = "versions.json", ".lock"
BEGUN = ("parts.json", "checkpoints")  # a run has begun once one of these exists
LEFTOVER = re.compile(r"\.\d+\.tmp\..+")  # files that `pipelines.files.atomic_path` left when it was killed
# Flags that change no weight but for rounding; a run may be renamed.
MAY_CHANGE = ("keep_checkpoints", "max_skipped", "run", "strategy", "strict", "worker_wait_s", "workers")


def open_run(folder: Path, flags: str, resume: bool, defaults: str = "") -> None:
    """Create a run folder, or check that the run in it was started with these flags.

    Raises:
        ValueError: As `check_run`, or the run is being trained.
    """
    begun = check_run(folder, flags, resume, defaults)
    _lock(folder)
    for path in (*folder.glob(".*.tmp.*"), *folder.glob("checkpoints/.*.tmp.*")):
        if LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not begun:
        write_text(folder / VERSIONS_FILE, json.dumps(versions(), indent=2) + "\n")
        write_text(folder / FLAGS_FILE, flags)


def check_run(folder: Path, flags: str, resume: bool, defaults: str = "") -> bool:
    """Return whether a run has begun in a folder, which is then one of these flags.

    A run that stopped before its data was read has not begun; other flags may replace its own. `flags` and `defaults`
    have one flag a line; the defaults stand for flags that are newer than the run.

    Raises:
        ValueError: The folder has a run and `resume` is false; it has something else; or the flags differ.
    """
    written = folder / FLAGS_FILE
    begun = written.exists() and any((folder / name).exists() for name in BEGUN)
    if begun:
        if not resume:
            raise ValueError(f"`run` must be a new folder; add --resume to continue the run in it, or name another. "
                             f"Received: run={str(folder)!r}")
        _check_same(read_text(written, "restore a copy of it, or name another run"), flags, written, defaults)
    elif not written.exists() and not all(path.name in (VERSIONS_FILE, LOCK_FILE) or LEFTOVER.fullmatch(path.name)
                                          for path in folder.glob("*")):
        raise ValueError(f"`run` must be a new folder or the folder of a run; this one holds something else: name "
                         f"another. Received: run={str(folder)!r}")
    return begun


def _lock(folder: Path) -> None:
    """Hold the run folder until this process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    about = os.fstat(handle)
    if (about.st_dev, about.st_ino) in _HELD:  # by this process, also if the folder was renamed
        os.close(handle)
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = os.read(handle, 200).decode(errors="replace").strip()
        os.close(handle)
        raise ValueError(f"`run` must not be trained twice at once; wait for {who or 'the other process'}, or stop it. "
                         f"Received: run={str(folder)!r}") from error
    except OSError:  # a file system without locks
        pass
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
    _HELD[about.st_dev, about.st_ino] = handle


_HELD: dict[tuple[int, int], int] = {}  # a lock file's device and number -> its handle


def _check_same(before: str, now: str, path: Path, defaults: str) -> None:
    old, new, default = (dict(line.lstrip("-").partition("=")[::2] for line in text.splitlines())
                         for text in (before, now, defaults))
    differing = [f"--{name} was {old.get(name, 'not given')} and is {new.get(name, 'not given')}"
                 for name in sorted(old.keys() | new.keys())
                 if name not in MAY_CHANGE and old.get(name, default.get(name)) != new.get(name)]
    if differing:
        raise ValueError(f"Cannot resume: these flags differ from the original run; resume with "
                         f"--flagfile={path} --resume, or name another run: {'; '.join(differing)}")


def versions() -> dict[str, str]:
    """Return the versions of Python, the platform, the required packages and, in a checkout, the commit."""
    return {"python": platform.python_version(), "platform": platform.platform(), "sr_keras": _version("sr_keras"),
            **{package: _version(package) for package in _required()}, "commit": _commit()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _required() -> list[str]:
    """Return the requirements of `sr_keras` without extras."""
    try:
        lines = requires("sr_keras") or []
    except PackageNotFoundError:  # a checkout that is not installed
        return ["tensorflow", "keras"]
    return [re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line]


def _commit() -> str:
    try:
        ran = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=Path(__file__).parent,
                             capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return ran.stdout.strip() or "unknown"


class _Epoch(TypedDict):
    """The columns of metrics.csv that are needed; the others differ from stage to stage."""

    stage: str
    epoch: Count


def read_metrics(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv; none if there is no file yet.

    Raises:
        ValueError: It is damaged.
    """
    path = run / "metrics.csv"
    return read_table(path, _Epoch, "correct it or move it away") if path.exists() else []


def record_metrics(run: Path, stage: str, epoch: int, values: dict[str, float]) -> None:
    """Add the row of one epoch to metrics.csv; it replaces later rows of this stage, left by a killed run."""
    rows = [row for row in read_metrics(run) if row["stage"] != stage or int(float(row["epoch"])) < epoch]
    rows.append({"stage": stage, **{name: f"{value:.6g}" for name, value in values.items()}, "epoch": str(epoch)})
    columns = dict.fromkeys(name for row in rows for name, value in row.items() if value)
    write_csv([{name: row.get(name, "") for name in columns} for row in rows], run / "metrics.csv")
