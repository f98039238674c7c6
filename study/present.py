"""Show what came of a study: figures, tables, residuals, and the report with its patches.

    OUTPUT/figures, tables.md, residuals/    numbers and plots
    WORK/report.html, patches.png            the same with patches: they show slides
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sr_keras.config import Objective
from study.campaign import RESULTS_FILE
from study.cells import COMMON_FLAGS, Bench, Failed
from study.figures import write_figures
from study.grid import KINDS, Cell
from study.panels import shown_patches, write_sheet
from study.report import write_report
from study.residuals import cell_residuals, write_residuals
from study.results import read_results
from study.tables import write_tables

RESIDUAL_PATCHES = 110


def present(cells: Sequence[Cell], failed: Sequence[Failed], bench: Bench) -> None:
    """Write all of it from what is finished, and say where it is."""
    work, output = bench.work, bench.output
    rows = read_results(output / RESULTS_FILE)
    figures = write_figures(rows, output / "figures")
    write_tables(rows, output / "tables.md")
    figures += _write_residuals(cells, bench)
    patches = shown_patches(rows, work, bench.degrade)
    if patches:
        write_sheet(patches, work / "patches.png")
    write_report(rows, work / "report.html", tables=(output / "tables.md").read_text(encoding="utf-8"),
                 figures=[path for path in figures if path.suffix == ".svg"], patches=patches, planned=len(cells),
                 failures={one.cell.name: one.reason for one in failed},
                 facts={"flags of all cells": (output / COMMON_FLAGS).read_text(encoding="utf-8").replace("\n", " ")})
    made = [output / name for name in (RESULTS_FILE, "tables.md", "figures") if (output / name).exists()]
    print(f"\n{', '.join(map(str, made))}\n"
          f"{work / 'report.html'}: the same with patches to look at; it shows slides, so mind whose they are")


def _write_residuals(cells: Sequence[Cell], bench: Bench) -> list[Path]:
    """Fit the residuals of SRGAN_SQE: of what it was trained on, by kind of corruption, and of the test slides."""
    mine = [cell for cell in cells if cell.method == "srgan_sqe" and cell.q == Objective().q and cell.fraction
            and cell.balance == "paper" and not cell.variant and (bench.run(cell) / "generator.keras").exists()]
    if not mine:
        return []
    cell, shards = mine[0], bench.work / "shards"

    def of(part: str, fraction: float = 0.0, kinds: tuple[str, ...] = KINDS["mixed"]) -> np.ndarray:
        side = cell.side if fraction else "hr"
        return cell_residuals(bench.run(cell), shards / part, bench.degrade, RESIDUAL_PATCHES, cell.seed,
                              replace(bench.corrupt, fraction=fraction, kinds=kinds, side=side))

    write_residuals({"clean training pairs": of("train"),
                     f"{cell.fraction:.0%} corrupted ({cell.kind})": of("train", cell.fraction, KINDS[cell.kind]),
                     "test slides": of("test")}, bench.output / "residuals")
    write_residuals({f"every pair with {kind}": of("train", 1.0, (kind,)) for kind in KINDS[cell.kind]},
                    bench.output / "residuals" / "by_kind")
    return [bench.output / "residuals" / "residuals.svg", bench.output / "residuals" / "by_kind" / "residuals.svg"]
