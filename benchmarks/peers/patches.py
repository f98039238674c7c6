# SPDX-License-Identifier: Apache-2.0
"""Give every method the same patches, keep what it makes of them, and time it.

    WORK/lr/KIND.npz            example id -> lr uint8 [h, w, 3], for each kind of LR
    WORK/hr/KIND.npz            example id -> hr uint8 [4*h, 4*w, 3]
    WORK/sr/METHOD/KIND.npz     example id -> sr uint8 [4*h, 4*w, 3]

An example id begins with its slide: SLIDE/PATCH. LR, patches and their order are those of `sr_keras.evaluate
--lr=standard`. Files that exist are not made again: remove them to repeat a step.
"""
from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.peers.methods import METHODS, ROOT, SCALE, Method
from pipelines.errors import UserError
from pipelines.files import atomic_path

KINDS = ("pairs", "textbook", "box", "jpeg-80")  # names of `sr_keras.evaluation.conditions.STANDARD`
LARGEST_DEPARTURE = 25  # of 255, the mean over a patch; right ones depart by 2 to 16
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Images = dict[str, np.ndarray]  # by example id


def write_patches(data: Sequence[str], work: Path, per_slide: int) -> None:
    """Write LR of every kind, and its HR.

    Args:
        data: Folders of slides or tiles, some of them pairs.
        work: The work folder.
        per_slide: Patches of each slide and kind.
    """
    from pipelines.config import PatchOptions
    from pipelines.pixels import to_uint8
    from pipelines.shards.records import batches_of
    from sr_keras.evaluation.conditions import condition_named
    from sr_keras.evaluation.scored_patches import find_sets, limit_of, lr_dataset, sets_of, text

    if all((work / "hr" / f"{kind}.npz").exists() for kind in KINDS):
        return
    sets = find_sets(data, work / "cut", PatchOptions(max_patches=per_slide, scale=SCALE), SCALE)
    for kind in KINDS:
        condition = condition_named(kind).at_scale(SCALE)
        found: dict[str, Images] = {"lr": {}, "hr": {}}
        for one in sets_of(condition, sets, SCALE):
            for batch in batches_of(lr_dataset(one, condition, SCALE, limit_of(one, per_slide), seed=0), one):
                for plane, images in found.items():
                    images.update({text(name): image for name, image in
                                   zip(batch["example_id"], to_uint8(np.asarray(batch[plane])), strict=True)})
        for plane, images in found.items():
            _write(work / plane / f"{kind}.npz", images)


def super_resolve(method: Method, command: Sequence[str], work: Path, kinds: Sequence[str] = KINDS) -> None:
    """Have a method super-resolve some kinds of LR.

    Raises:
        UserError: Its runner fails, or what it makes cannot be of this LR.
    """
    for kind in kinds:
        path = work / "sr" / method.name / f"{kind}.npz"
        if path.exists():
            continue
        print(f"{method.name}: {kind}", flush=True)
        lr = work / "lr" / f"{kind}.npz"
        with atomic_path(path) as temporary:
            done = subprocess.run([*command, str(lr), str(temporary)], cwd=ROOT, env=_environment(),
                                  stderr=subprocess.PIPE, text=True)
            if done.returncode:
                raise UserError(f"{method.label} failed on {kind}: {_last_line(done.stderr)}")
            check_resembles(read(lr), read(temporary), method.label)


def check_resembles(lr: Images, sr: Images, label: str) -> None:
    """Refuse SR that cannot be of this LR: a peer whose range or layout is mistaken would only look bad.

    Raises:
        UserError: A size is wrong, or the mean of SCALE x SCALE pixels of SR is far from LR.
    """
    for name, image in sr.items():
        height, width = lr[name].shape[:2]
        if image.shape != (SCALE * height, SCALE * width, 3):
            raise UserError(f"{label} is run wrongly: from {height}x{width} pixels of {name} it makes {image.shape}")
        means = image.reshape(height, SCALE, width, SCALE, 3).mean((1, 3))
        departure = np.abs(means - lr[name]).mean()
        if departure > LARGEST_DEPARTURE:
            raise UserError(f"{label} is run wrongly: its SR of {name}, averaged, departs from LR by {departure:.0f} "
                            "levels; check the range and the layout of its pixels")


def read(path: Path) -> Images:
    """Return the images in a file.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"`work` must hold this file; run the steps lr and sr first. Received: {path}")
    with np.load(path) as images:
        return {name: images[name] for name in images.files}


def measure(commands: Mapping[str, Sequence[str]], rounds: int) -> list[dict[str, Any]]:
    """Time a tile of 64x64 LR pixels by every method on one core, all in turn, round after round.

    Args:
        commands: How the runners are started, by method.
        rounds: Calls of each method.

    Returns:
        A row for each method: medians of its seconds and of its CPU seconds, the largest memory of its process, bytes
        of its weights and files, its runtime, the number of rounds and the load of the machine before.

    Raises:
        UserError: A runner fails.
    """
    load = os.getloadavg()[0]
    environment = {**_environment(), **dict.fromkeys(THREADS, "1")}
    rows = []
    with ExitStack() as stack:
        processes = {name: stack.enter_context(subprocess.Popen(
            [*command, "--time"], cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL)) for name, command in commands.items()}
        about = {name: json.loads(_line(name, process)) for name, process in processes.items()}
        calls: dict[str, list[tuple[float, ...]]] = {name: [] for name in processes}
        for _ in range(rounds):
            for name, process in processes.items():
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                calls[name].append(tuple(map(float, _line(name, process).split())))
    for name, taken in calls.items():
        seconds, cpu_seconds, peak = zip(*taken, strict=True)
        rows.append({"method": name, **about[name], "seconds": median(seconds), "cpu_seconds": median(cpu_seconds),
                     "peak_bytes": int(max(peak)), "rounds": rounds, "load": load})
    return rows


def commands_of(methods: Sequence[Method] = METHODS, **places: Path) -> dict[str, list[str]]:
    """Return how the runners are started, by method; see `Method.command`."""
    return {method.name: method.command(**places) for method in methods}


def _line(name: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise UserError(f"{name}: its runner died; run it by hand to see why: {process.args!r}")
    return line


def _environment() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}


def _write(path: Path, images: Images) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **images)  # type: ignore[arg-type]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:300]
