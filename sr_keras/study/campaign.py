"""Train all cells of a study that its table does not hold yet.

    OUTPUT/results.csv     written anew after every cell
    OUTPUT/balance.json    how the terms were weighed for the balance "equal", measured once
"""
from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pipelines.files import write_text
from pipelines.options import require
from pipelines.shards import open_shards
from sr_keras.options import Objective
from sr_keras.study.balance import measure_factors
from sr_keras.study.cells import Bench, Failed, Job, bicubic_rows, run_cells
from sr_keras.study.grid import Cell, cell_flags
from sr_keras.study.results import read_results, write_results

RESULTS_FILE, BALANCE_FILE = "results.csv", "balance.json"
CELL_BYTES = 64 * 2**20  # what the run of a small cell takes, where there is none to measure


def train_cells(cells: Sequence[Cell], bench: Bench, epsilon: float, at_once: int) -> list[Failed]:
    """Train and score what is not in the table yet, and return what failed.

    Cells of equal balance come last: the others are what the balance is measured on.

    Raises:
        ValueError: The table holds a cell that was made with other flags, the balance can't be measured, or there is
            too little room for what is to be trained.
    """
    done = {row["cell"] for row in read_results(bench.output / RESULTS_FILE)}
    require_room(bench, sum(cell.name not in done for cell in cells))
    plain = [Job(cell, tuple(cell_flags(cell))) for cell in cells if cell.balance == "paper"]
    failed = _train(plain, bench, at_once, len(cells))
    equal = [cell for cell in cells if cell.balance == "equal"]
    if equal:
        factors = _factors(equal, bench, epsilon)
        jobs = [Job(cell, tuple(cell_flags(cell, factors[f"{cell.q:g}"]))) for cell in equal]
        failed += _train(jobs, bench, at_once, len(cells))
    return failed


def require_room(bench: Bench, count: int) -> None:
    """Refuse to begin `count` cells that the disk has no room for, by the largest run that is there.

    Raises:
        ValueError: There is less room than that.
    """
    sizes = [sum(path.stat().st_size for path in cell.rglob("*") if path.is_file())
             for cell in (bench.work / "cells").glob("*")]
    each, free = max([CELL_BYTES, *sizes]), shutil.disk_usage(bench.work).free
    require(count * each <= free, "work", f"have room for {count} more cells of {each / 2**20:.0f} MiB",
            "name a folder on a larger disk, or ask for fewer cells", f"{bench.work} with {free / 2**20:.0f} MiB free")


def _train(jobs: Sequence[Job], bench: Bench, at_once: int, total: int) -> list[Failed]:
    path = bench.output / RESULTS_FILE
    rows = read_results(path)
    done = {row["cell"]: row["flags"] for row in rows}
    for job in jobs:
        same = done.get(job.cell.name, job.command) == job.command
        require(same, "output", "hold no cell that was made with other flags", "name another folder, or delete its "
                "rows", f"{job.cell.name} in {path}")
    failed = []
    todo = [job for job in jobs if job.cell.name not in done]
    with tqdm(total=total, initial=len(done.keys() - {"bicubic"}), unit="cell", miniters=0) as bar:
        for job, outcome in run_cells(todo, bench, at_once):
            if isinstance(outcome, Failed):
                failed.append(outcome)
            else:
                rows += outcome if any(row["cell"] == "bicubic" for row in rows) else outcome + bicubic_rows(job, bench)
                write_results(rows, path)
            bar.update()
    return failed


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
