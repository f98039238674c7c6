# SPDX-License-Identifier: Apache-2.0
"""Train and score the cells of a study, several at a time. Running the same study again resumes it.

    WORK/shards/train, val, test    shared by all cells
    WORK/common.flags               flags shared by all cells
    WORK/cells/NAME/run             run folder of `sr_keras.train`
    WORK/cells/NAME/scores          output of `sr_keras.evaluate`
    WORK/cells/NAME/log.txt         output of both commands
    OUTPUT/results.csv              rewritten after every cell
    OUTPUT/failed.csv               cells that failed in the last call, with the reason; removed if none failed
    OUTPUT/balance.json             factors of the lambdas for the balance "equal", measured once

Each cell runs in processes that end when the study's process ends, so that two never write to the same folder.
"""
from __future__ import annotations

import csv
import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from pipelines.config import CorruptOptions, DegradeOptions
from pipelines.errors import require
from pipelines.files import Finite, read_json, write_text
from pipelines.shards import open_shards
from pipelines.workers import Died, cores, run_jobs
from sr_keras.config import Objective
from sr_keras.evaluation import read_scores
from sr_keras.training.run_folder import VERSIONS_FILE, read_metrics
from study.balance import measure_factors
from study.grid import Cell, cell_flags
from study.results import Row, on_same_patches, read_results, slide_means, write_results

COMMON_FLAGS, RESULTS_FILE, FAILED_FILE, BALANCE_FILE = "common.flags", "results.csv", "failed.csv", "balance.json"
CELL_BYTES = 64 * 2**20  # disk space of a small run, used until there is a run to measure
OUTPUT_BYTES = 16 * 2**20  # disk space of table, figures and residuals
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


@dataclass(frozen=True)
class Study:
    """Folders of a study, and how its cells are scored.

    `patches` is the number of test patches (None: all), `degrade` how their LR is made, `magnifications` the
    magnification by slide, `vgg_weights` the weights for methods with VGG features, and `corrupt` the strengths and the
    outlier tiles, which all cells share.
    """

    work: Path
    output: Path
    patches: int | None
    degrade: DegradeOptions
    vgg_weights: str
    magnifications: dict[str, str] = field(default_factory=dict)
    corrupt: CorruptOptions = field(default_factory=CorruptOptions)

    def run(self, cell: str) -> Path:
        """Return the run folder of the cell with this name."""
        return self.work / "cells" / cell / "run"

    def scores(self, cell: str) -> Path:
        """Return the scores of the cell with this name, a file with one row per patch and method."""
        return self.work / "cells" / cell / "scores" / "scores.csv"


@dataclass(frozen=True)
class Job:
    """A cell and its training flags."""

    cell: Cell
    flags: tuple[str, ...]

    @property
    def command(self) -> str:
        """The training options as recorded in the results: without paths."""
        return " ".join([f"--flagfile={COMMON_FLAGS}", *self.flags])


@dataclass(frozen=True)
class Failed:
    """A cell that could not be trained or scored, with the reason."""

    cell: Cell
    reason: str


def train_cells(cells: Sequence[Cell], study: Study, epsilon: float, at_once: int) -> list[Failed]:
    """Train and score the cells that results.csv does not contain, and return those that failed.

    Cells with equal balance come last, because the balance is measured on one of the others.

    Raises:
        ValueError: results.csv is damaged or has a cell trained with other flags, or the balance cannot be measured.
    """
    (study.output / FAILED_FILE).unlink(missing_ok=True)
    failed: list[Failed] = []
    _train([Job(cell, tuple(cell_flags(cell))) for cell in cells if cell.balance == "paper"], study, at_once,
           len(cells), failed)
    equal = [cell for cell in cells if cell.balance == "equal"]
    if equal:
        factors = _balance(equal, study, epsilon)
        _train([Job(cell, tuple(cell_flags(cell, factors[f"{cell.q:g}"]))) for cell in equal], study, at_once,
               len(cells), failed)
    return failed


def require_disk_space(cells: Sequence[Cell], work: Path, output: Path) -> None:
    """Refuse to start if the disk is too small for the missing cells, estimated by the largest run so far.

    Raises:
        ValueError: There is too little space, or results.csv is damaged.
    """
    done = {row["cell"] for row in read_results(output / RESULTS_FILE)}
    count = sum(cell.name not in done for cell in cells)
    sizes = [sum(path.stat().st_size for path in cell.rglob("*") if path.is_file())
             for cell in (work / "cells").glob("*")]
    each = max([CELL_BYTES, *sizes])
    for name, folder, needed, what in (
            ("work", work, count * each, f"{count} more cells of {each / 2**20:.0f} MiB"),
            ("output", output, OUTPUT_BYTES, f"{OUTPUT_BYTES / 2**20:.0f} MiB")):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        require(not count or needed <= free, name, f"have space for {what}", "choose a folder on a larger disk, or "
                "fewer cells", f"{folder} with {free / 2**20:.0f} MiB free")


def _train(jobs: Sequence[Job], study: Study, at_once: int, total: int, failed: list[Failed]) -> None:
    """Train and score what is missing in results.csv; append failures to `failed`."""
    path = study.output / RESULTS_FILE
    rows = read_results(path)
    done = {row["cell"]: row["flags"] for row in rows}
    for job in jobs:
        require(done.get(job.cell.name, job.command) == job.command, "output", "contain no cell trained with other "
                "flags", "choose another folder, or delete the rows of this cell", f"{job.cell.name} in {path}")
    missing = [job for job in jobs if job.cell.name not in done]
    work = partial(_train_and_score, study=study, threads=max(1, cores() // at_once))
    with tqdm(total=total, initial=len(done.keys() - {"bicubic"}), unit="cell", miniters=0) as bar:
        for job, outcome in run_jobs(work, missing, at_once, lambda count: None):
            if isinstance(outcome, Died):
                outcome = Failed(job.cell, str(outcome))
            if isinstance(outcome, Failed):
                failed.append(outcome)
                _write_failed(failed, study.output / FAILED_FILE)
            else:
                own = _bicubic_rows(job.cell, study)
                bicubic = [row for row in rows if row["cell"] == "bicubic"]
                rows += on_same_patches(outcome, own, bicubic) if bicubic else outcome + own
                write_results(rows, path)
            bar.update()


def _train_and_score(job: Job, report: Callable[[int], None], study: Study, threads: int) -> list[Row] | Failed:
    """Train and score a cell in a process of its own; return a row per test slide."""
    run, shards, scores = study.run(job.cell.name), study.work / "shards", study.scores(job.cell.name)
    train = ["sr_keras.train", f"--flagfile={study.work / COMMON_FLAGS}", *job.flags, f"--run={run}", "--resume",
             f"--train_data={shards / 'train'}", f"--val_data={shards / 'val'}"]
    evaluate = ["sr_keras.evaluate", f"--model={run}", f"--data={shards / 'test'}", f"--output={scores.parent}",
                f"--blur_sigma={study.degrade.blur_sigma}", *([f"--limit={study.patches}"] if study.patches else [])]
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        for command in (train, evaluate):
            error = _run_command(command, run.parent / "log.txt", threads)
            if error:
                return Failed(job.cell, error)
        return _cell_rows(job, study)
    except (OSError, ValueError, KeyError) as error:  # a full disk, a damaged file of the run: other cells go on
        return Failed(job.cell, f"{type(error).__name__}: {error}")


def _run_command(command: Sequence[str], log: Path, threads: int) -> str | None:
    """Run a module with its output appended to `log`; return the last line of the log if it fails."""
    count = str(threads)
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": count, "TF_NUM_INTEROP_THREADS": count,
                   "OMP_NUM_THREADS": count}
    with open(log, "a", encoding="utf-8") as file:
        status = subprocess.run([sys.executable, "-m", *command], stdout=file, stderr=file, env=environment,
                                preexec_fn=_end_with_parent, check=False).returncode
    if status == 0:
        return None
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    reason = lines[-1].removeprefix("error: ") if lines else "no output"
    return f"{command[0]} ended with status {status}: {reason} (see {log})"


def _end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, even by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _cell_rows(job: Job, study: Study) -> list[Row]:
    run = study.run(job.cell.name)
    return [{**job.cell.columns, "vgg_weights": study.vgg_weights if job.cell.method == "srgan" else None, **means,
             "seconds": sum(float(row["seconds"]) for row in read_metrics(run)),
             "commit": read_json(run / VERSIONS_FILE, dict[str, str], "write it anew").get("commit", "unknown"),
             "flags": job.command}
            for means in _slide_columns(job.cell, study, "sr")]


def _bicubic_rows(cell: Cell, study: Study) -> list[Row]:
    """Return the rows of bicubic, which is scored with every cell: the same values, if the same patches count."""
    return [{"cell": "bicubic", "method": "bicubic", "variant": "", **means}
            for means in _slide_columns(cell, study, "bicubic")]


def _slide_columns(cell: Cell, study: Study, method: str) -> list[Row]:
    means = slide_means(read_scores(study.scores(cell.name)), method)
    return [{"slide": slide, "magnification": study.magnifications.get(slide, ""), **values}
            for slide, values in means.items()]


def _write_failed(failed: Sequence[Failed], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("cell", "reason"), *((one.cell.name, one.reason) for one in failed)])
    write_text(path, text.getvalue())


def _balance(cells: Sequence[Cell], study: Study, epsilon: float) -> dict[str, dict[str, float]]:
    """Return q -> factors of the lambdas, from balance.json or measured on the cell with the paper's q."""
    path, qs = study.output / BALANCE_FILE, sorted({cell.q for cell in cells})
    known = read_json(path, dict[str, dict[str, Finite]], "remove it, and it is measured again") if path.exists() \
        else {}
    if all(f"{q:g}" in known for q in qs):
        return known
    like = cells[0]
    reference = Cell("srgan_sqe", Objective().q, "paper", like.fraction, like.kind, like.side, like.seed)
    run = study.run(reference.name)
    require((run / "warmup.keras").exists(), "grid", "include the cell that the balance is measured on", "add "
            "method=srgan_sqe with the paper's q; if its run was deleted, delete its rows to train it again",
            reference.name)
    factors = measure_factors(run / "warmup.keras", run / "autoencoder.keras", open_shards(study.work / "shards/train"),
                              study.degrade, qs, epsilon)
    found = {f"{q:g}": {term: round(factor, 6) for term, factor in some.items()} for q, some in factors.items()}
    write_text(path, json.dumps(found, indent=2) + "\n")
    return found
