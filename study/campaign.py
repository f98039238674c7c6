"""Train all cells of a study that its table does not hold yet.

    OUTPUT/results.csv     written anew after every cell
    OUTPUT/failed.csv      cells that failed in the last run of the study, and why; gone when none did
    OUTPUT/balance.json    how the terms were weighed for the balance "equal", measured once
"""
from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pipelines.errors import require
from pipelines.files import write_text
from pipelines.shards import open_shards
from sr_keras.config import Objective
from study.balance import measure_factors
from study.cells import Bench, Failed, Job, bicubic_rows, run_cells
from study.grid import Cell, cell_flags
from study.results import read_results, write_results

RESULTS_FILE, FAILED_FILE, BALANCE_FILE = "results.csv", "failed.csv", "balance.json"
CELL_BYTES = 64 * 2**20  # what the run of a small cell takes, where there is none to measure
OUTPUT_BYTES = 16 * 2**20  # of the table, figures and residuals of a study


def train_cells(cells: Sequence[Cell], bench: Bench, epsilon: float, at_once: int) -> list[Failed]:
    """Train and score what is not in the table yet, and return what failed.

    Cells of equal balance come last: the others are what the balance is measured on.

    Raises:
        ValueError: The table is none, or holds a cell that was made with other flags; the balance can't be measured.
    """
    (bench.output / FAILED_FILE).unlink(missing_ok=True)
    plain = [Job(cell, tuple(cell_flags(cell))) for cell in cells if cell.balance == "paper"]
    failed: list[Failed] = []
    _train(plain, bench, at_once, len(cells), failed)
    equal = [cell for cell in cells if cell.balance == "equal"]
    if equal:
        factors = _factors(equal, bench, epsilon)
        jobs = [Job(cell, tuple(cell_flags(cell, factors[f"{cell.q:g}"]))) for cell in equal]
        _train(jobs, bench, at_once, len(cells), failed)
    return failed


def require_room(cells: Sequence[Cell], work: Path, output: Path) -> None:
    """Refuse to begin cells that the disk has no room for, by the largest run that is there.

    Raises:
        ValueError: There is less room than that, or OUTPUT has a table that is none.
    """
    done = {row["cell"] for row in read_results(output / RESULTS_FILE)}
    count = sum(cell.name not in done for cell in cells)
    sizes = [sum(path.stat().st_size for path in cell.rglob("*") if path.is_file())
             for cell in (work / "cells").glob("*")]
    each = max([CELL_BYTES, *sizes])
    for name, folder, needed in (("work", work, count * each), ("output", output, OUTPUT_BYTES)):
        free = shutil.disk_usage(_existing(folder)).free
        what = f"{count} more cells of {each / 2**20:.0f} MiB" if name == "work" else f"{needed / 2**20:.0f} MiB"
        require(not count or needed <= free, name, f"have room for {what}", "name a folder on a larger disk, or ask "
                "for fewer cells", f"{folder} with {free / 2**20:.0f} MiB free")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _train(jobs: Sequence[Job], bench: Bench, at_once: int, total: int, failed: list[Failed]) -> None:
    """Train and score what is not in the table yet; add to `failed` what could not be."""
    path = bench.output / RESULTS_FILE
    rows = read_results(path)
    done = {row["cell"]: row["flags"] for row in rows}
    for job in jobs:
        same = done.get(job.cell.name, job.command) == job.command
        require(same, "output", "hold no cell that was made with other flags", "name another folder, or delete its "
                "rows", f"{job.cell.name} in {path}")
    todo = [job for job in jobs if job.cell.name not in done]
    with tqdm(total=total, initial=len(done.keys() - {"bicubic"}), unit="cell", miniters=0) as bar:
        for job, outcome in run_cells(todo, bench, at_once):
            if isinstance(outcome, Failed):
                failed.append(outcome)
                _write_failed(failed, bench.output / FAILED_FILE)
            else:
                rows += outcome if any(row["cell"] == "bicubic" for row in rows) else outcome + bicubic_rows(job, bench)
                write_results(rows, path)
            bar.update()


def _write_failed(failed: Sequence[Failed], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("cell", "reason"), *((one.cell.name, one.reason) for one in failed)])
    write_text(path, text.getvalue())


def _factors(cells: Sequence[Cell], bench: Bench, epsilon: float) -> dict[str, dict[str, float]]:
    """Return q -> factors of the lambdas: those that were measured before, or of the cell of the paper's q."""
    path, qs = bench.output / BALANCE_FILE, sorted({cell.q for cell in cells})
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if all(f"{q:g}" in kept for q in qs):
        return kept
    run = _reference_run(cells[0], bench)
    factors = measure_factors(run / "warmup.keras", run / "autoencoder.keras", open_shards(bench.work / "shards/train"),
                              bench.degrade, qs, epsilon)
    found = {f"{q:g}": {term: round(factor, 6) for term, factor in some.items()} for q, some in factors.items()}
    write_text(path, json.dumps(found, indent=2) + "\n")
    return found


def _reference_run(like: Cell, bench: Bench) -> Path:
    run = bench.run(Cell("srgan_sqe", Objective().q, "paper", like.fraction, like.kind, like.side, like.seed))
    require((run / "warmup.keras").exists(), "grid", "have the cell that the balance is measured on",
            "add method=srgan_sqe at the paper's q; where its run is gone, delete its rows so that it runs again",
            run.parent.name)
    return run
