# SPDX-License-Identifier: Apache-2.0
"""Write the results of a study: figures, tables, residuals, and an HTML page with patches.

    OUTPUT/figures, tables.md, residuals/    numbers and plots
    WORK/report.html, patches.png            the same with patches; they show slides, so keep them with the runs

The page is one file that loads nothing from elsewhere: figures and patches are data: URIs. All text is escaped.
"""
from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from pipelines.errors import require
from pipelines.files import write_text
from sr_keras.config import Objective
from study.figures import write_figures
from study.grid import KINDS, Cell
from study.patches import Panel, ShownPatch, shown_patches, write_sheet
from study.residuals import cell_residuals, write_residuals
from study.results import Row, curve_of, read_results
from study.tables import write_tables
from study.training import COMMON_FLAGS, RESULTS_FILE, Failed, Study

MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
MAX_BYTES = 11_000_000  # of the data: URIs of patches; further patches are left out, and the page says so
RESIDUAL_PATCHES = 110
COLUMNS = ("cell", "method", "fraction", "kind", "side", "q", "balance", "seed", "variant", "seconds", "commit",
           "flags")
TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                        lstrip_blocks=True)
# Part of Keras' requirements. HTML, links and images are shown as text.
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


def write_outputs(cells: Sequence[Cell], failed: Sequence[Failed], study: Study) -> None:
    """Write figures, tables, residuals, patches and the page from the finished cells, and print where they are."""
    work, output = study.work, study.output
    rows = read_results(output / RESULTS_FILE)
    figures = write_figures(rows, output / "figures")
    write_tables(rows, output / "tables.md")
    figures += write_study_residuals(cells, study)
    patches = shown_patches(rows, study)
    if patches:
        write_sheet(patches, work / "patches.png")
    write_page(rows, work / "report.html", tables=(output / "tables.md").read_text(encoding="utf-8"),
               figures=[path for path in figures if path.suffix == ".svg"], patches=patches, planned=len(cells),
               failures={one.cell.name: one.reason for one in failed},
               facts={"flags of all cells": (output / COMMON_FLAGS).read_text(encoding="utf-8").replace("\n", " ")})
    written = [output / name for name in (RESULTS_FILE, "tables.md", "figures") if (output / name).exists()]
    print(f"\n{', '.join(map(str, written))}\n"
          f"{work / 'report.html'}: the same with patches. It shows slides: do not publish it without permission")


def write_study_residuals(cells: Sequence[Cell], study: Study) -> list[Path]:
    """Fit residuals of SRGAN_SQE on clean, corrupted and test pairs, and by kind of corruption; return the figures."""
    trained = [cell for cell in cells if cell.method == "srgan_sqe" and cell.q == Objective().q and cell.fraction
               and cell.balance == "paper" and not cell.variant and (study.run(cell.name) / "generator.keras").exists()]
    if not trained:
        return []
    cell, shards = trained[0], study.work / "shards"

    def residuals(part: str, fraction: float = 0.0, kinds: tuple[str, ...] = KINDS["mixed"]) -> np.ndarray:
        corrupt = replace(study.corrupt, fraction=fraction, kinds=kinds, side=cell.side if fraction else "hr")
        return cell_residuals(study.run(cell.name), shards / part, study.degrade, RESIDUAL_PATCHES, cell.seed, corrupt)

    folder = study.output / "residuals"
    write_residuals({"clean training pairs": residuals("train"),
                     f"{cell.fraction:.0%} corrupted ({cell.kind})": residuals("train", cell.fraction,
                                                                                KINDS[cell.kind]),
                     "test slides": residuals("test")}, folder)
    write_residuals({f"every pair with {kind}": residuals("train", 1.0, (kind,)) for kind in KINDS[cell.kind]},
                    folder / "by_kind")
    return [folder / "residuals.svg", folder / "by_kind" / "residuals.svg"]


def write_page(rows: Sequence[Row], path: str | os.PathLike[str], *, tables: str = "", figures: Iterable[Path] = (),
               patches: Sequence[ShownPatch] = (), failures: Mapping[str, str] | None = None,
               planned: int | None = None, facts: Mapping[str, str] | None = None) -> None:
    """Write the HTML page, atomically; it says what is not there yet.

    Args:
        rows: Rows of the results.
        path: An .html file.
        tables: Markdown.
        figures: .svg or .png files; the caption is the name.
        patches: From `patches.shown_patches`.
        failures: Cell -> reason.
        planned: Number of cells of the whole study.
        facts: Other settings to list: name -> text.

    Raises:
        ValueError: A figure is neither .svg nor .png.
        FileNotFoundError: A figure does not exist.
    """
    shown = _fitting([_patch(patch) for patch in patches])
    cells = {row["cell"]: {**row, "method": curve_of(row).name} for row in rows if row["flags"]}
    write_text(path, TEMPLATES.get_template("report.html.jinja").render(
        figures=[_figure(Path(figure)) for figure in figures], tables=Markup(MARKDOWN.render(tables)),
        patches=shown, omitted=len(patches) - len(shown), facts=_run_facts(rows, planned) | dict(facts or {}),
        failures=failures or {}, columns=COLUMNS,
        cells=[[_text(row.get(name)) for name in COLUMNS] for row in cells.values()]))


def _figure(path: Path) -> dict[str, str]:
    require(path.suffix in MEDIA_TYPES, "figures", f"be one of {tuple(MEDIA_TYPES)}", "draw it in that format",
            str(path))
    return {"name": path.stem.replace("_", " "), "uri": _data_uri(path.read_bytes(), path.suffix)}


def _data_uri(data: bytes, suffix: str) -> str:
    return f"data:{MEDIA_TYPES[suffix]};base64,{base64.b64encode(data).decode()}"


def _patch(patch: ShownPatch) -> dict[str, Any]:
    panels = [{"column": 1 + column, "row": 1 + row, "title": title, "uri": _picture(panel),
               "caption": panel.caption if panel else "", "cell": panel.cell if panel else ""}
              for (column, row), (title, panel) in patch.placed().items()]
    return {"name": patch.example_id, "columns": 1 + len(patch.labels), "panels": panels}


def _picture(panel: Panel | None) -> str:
    """Return a picture as a data: URI, empty without a panel."""
    from PIL import Image

    if panel is None:
        return ""
    data = io.BytesIO()
    Image.fromarray(panel.image).save(data, "PNG", optimize=True)
    return _data_uri(data.getvalue(), ".png")


def _fitting(patches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first patches that together stay below MAX_BYTES, at least one."""
    sizes = np.cumsum([sum(len(panel["uri"]) for panel in patch["panels"]) for patch in patches])
    return list(patches[:max(1, int(np.sum(sizes <= MAX_BYTES)))])


def _run_facts(rows: Sequence[Row], planned: int | None) -> dict[str, str]:
    cells = {row["cell"]: row for row in rows if row["seconds"] is not None}
    slides = {row["slide"]: row["patches"] for row in rows}
    return {
        "cells": f"{len(cells)} finished" + (f" of {planned}" if planned is not None else ""),
        "test patches": f"{sum(slides.values())} of {len(slides)} slides: {', '.join(sorted(slides))}",
        "training time": f"{sum(row['seconds'] for row in cells.values()) / 3600:.1f} hours in total",
        "commits": ", ".join(sorted({row["commit"] for row in cells.values() if row["commit"]})) or "unknown",
    }


def _text(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
