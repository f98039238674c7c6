"""Train and score cells, several at a time; whatever stops it, the next call goes on.

    WORK/shards/train, val, test    what all cells share
    WORK/common.flags               the flags that all cells share
    WORK/cells/NAME/run             the run folder of `sr_keras.train`, resumed where it stopped
    WORK/cells/NAME/scores          what `sr_keras.evaluate` wrote
    WORK/cells/NAME/log.txt         what both said

A cell runs in processes of its own, which end with the study's: two of them never write into one folder.
"""
from __future__ import annotations

import csv
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipelines.config import CorruptOptions, DegradeOptions
from pipelines.workers import Died, cores, run_jobs
from sr_keras.training.run_folder import read_metrics
from study.grid import Cell
from study.results import Row, slide_means

COMMON_FLAGS = "common.flags"
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


@dataclass(frozen=True)
class Job:
    """A cell and the flags that make it."""

    cell: Cell
    flags: tuple[str, ...]

    @property
    def command(self) -> str:
        """What stands in the results: the options of `sr_keras.train`, less those that say where files are."""
        return " ".join([f"--flagfile={COMMON_FLAGS}", *self.flags])


@dataclass(frozen=True)
class Failed:
    """A cell that could not be trained or scored, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Bench:
    """Where cells are made and their scores go, and how they are scored.

    `patches` is how many test patches are scored; `degrade` how their LR is made; `magnifications` names each test
    slide's; `vgg_weights` is for the methods that have VGG features; `corrupt` holds what cells share of a corruption:
    the strengths, and the tiles of another stain.
    """

    work: Path
    output: Path
    patches: int | None
    degrade: DegradeOptions
    vgg_weights: str
    magnifications: dict[str, str] = field(default_factory=dict)
    corrupt: CorruptOptions = field(default_factory=CorruptOptions)

    def run(self, cell: Cell) -> Path:
        """Return the run folder of a cell."""
        return self.work / "cells" / cell.name / "run"


def run_cells(jobs: Sequence[Job], bench: Bench, at_once: int) -> Iterator[tuple[Job, list[Row] | Failed]]:
    """Yield each job with its rows, or why it failed, as they end."""
    threads = max(1, cores() // at_once)
    work = partial(_work, bench=bench, threads=threads)
    for job, outcome in run_jobs(work, jobs, at_once, lambda count: None):
        yield job, Failed(job.cell, str(outcome)) if isinstance(outcome, Died) else outcome


def _work(job: Job, report: Callable[[int], None], bench: Bench, threads: int) -> list[Row] | Failed:
    """Train a cell, score it, and return a row per test slide; whatever stops that is this cell's failure alone."""
    try:
        return _trained_and_scored(job, bench, threads)
    except (OSError, ValueError, KeyError) as error:  # a full disk, a damaged file of the run
        return Failed(job.cell, f"{type(error).__name__}: {error}")


def _trained_and_scored(job: Job, bench: Bench, threads: int) -> list[Row] | Failed:
    run, shards = bench.run(job.cell), bench.work / "shards"
    scores = run.parent / "scores"
    run.parent.mkdir(parents=True, exist_ok=True)
    train = ["sr_keras.train", f"--flagfile={bench.work / COMMON_FLAGS}", *job.flags, f"--run={run}", "--resume",
             f"--train_data={shards / 'train'}", f"--val_data={shards / 'val'}"]
    evaluate = ["sr_keras.evaluate", f"--model={run}", f"--data={shards / 'test'}", f"--output={scores}",
                f"--blur_sigma={bench.degrade.blur_sigma}", *([f"--limit={bench.patches}"] if bench.patches else [])]
    for command in (train, evaluate):
        reason = _said_failure(command, run.parent / "log.txt", threads)
        if reason:
            return Failed(job.cell, reason)
    return rows_of(job, bench, scores / "scores.csv")


def rows_of(job: Job, bench: Bench, scores: Path) -> list[Row]:
    """Return the rows of a cell that was trained and scored."""
    run = bench.run(job.cell)
    with open(scores, newline="", encoding="utf-8") as handle:
        means = slide_means(list(csv.DictReader(handle)), "sr")
    commit = json.loads((run / "versions.json").read_text(encoding="utf-8"))["commit"]
    seconds = sum(float(row["seconds"]) for row in read_metrics(run))
    vgg = bench.vgg_weights if job.cell.method == "srgan" else None
    return [{**job.cell.columns, "vgg_weights": vgg, "slide": slide,
             "magnification": bench.magnifications.get(slide, ""), **values, "seconds": seconds, "commit": commit,
             "flags": job.command} for slide, values in means.items()]


def bicubic_rows(job: Job, bench: Bench) -> list[Row]:
    """Return the rows of bicubic, which stands beside every cell with the same values."""
    with open(bench.run(job.cell).parent / "scores" / "scores.csv", newline="", encoding="utf-8") as handle:
        means = slide_means(list(csv.DictReader(handle)), "bicubic")
    return [{"cell": "bicubic", "method": "bicubic", "variant": "", "slide": slide,
             "magnification": bench.magnifications.get(slide, ""), **values} for slide, values in means.items()]


def _said_failure(command: Sequence[str], log: Path, threads: int) -> str | None:
    """Run a command with its output going to `log`; return what it said if it failed."""
    count = str(threads)
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": count, "TF_NUM_INTEROP_THREADS": count,
                   "OMP_NUM_THREADS": count}
    with open(log, "a", encoding="utf-8") as file:
        status = subprocess.run([sys.executable, "-m", *command], stdout=file, stderr=file, env=environment,
                                preexec_fn=_end_with_parent, check=False).returncode
    if status == 0:
        return None
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    reason = said[-1].removeprefix("error: ") if said else "it said nothing"
    return f"{command[0]} ended with status {status}: {reason} (see {log})"


def _end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it ends, by kill -9 too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
