"""A study as one page: figures, tables, what was run, and patches to look at closely. One file, nothing from outside.

Figures and patches are in the page as data: URIs, all text is escaped. It shows slides: it is meant for the disk that
it lies on, and not to be published with the results.
"""
from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from pipelines.errors import require
from pipelines.files import write_text
from study.page import bullets, data_uri, markdown_to_html, page, table
from study.panels import Panel, ShownPatch, panel_title
from study.results import Row, curve_of

MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}
MOST_BYTES = 11_000_000  # of patches as data: URIs; what does not fit is left out, and the page says so
COLUMNS = ("cell", "method", "fraction", "kind", "side", "q", "balance", "seed", "variant", "seconds", "commit",
           "flags")
BUTTONS = "".join(
    f'<button type="button" data-key="{key}" aria-label="{label}">{sign}</button>'
    for key, label, sign in (("+", "Zoom in", "+"), ("-", "Zoom out", "−"), ("0", "Show all of it", "reset")))
NOTHING = '<p class="faint">Nothing yet.</p>'
HINT = """<p>The same patches for every cell, chosen by their place and not by their scores. Each pixel is drawn as a
square. Turn the wheel over a picture to zoom all pictures of its patch, drag to move; or with the keyboard: Tab to a
patch, then + − 0 and the arrows. Rest on a picture to see which cell it is from.</p>
"""


def write_report(rows: Sequence[Row], path: str | os.PathLike[str], *, tables: str = "",
                 figures: Iterable[Path] = (), patches: Sequence[ShownPatch] = (),
                 failures: Mapping[str, str] | None = None, planned: int | None = None,
                 facts: Mapping[str, str] | None = None) -> None:
    """Write the page, atomically; what is not there yet is said to be so.

    Args:
        rows: Of the results.
        path: An .html file.
        tables: Markdown.
        figures: .svg or .png files; the caption is the name.
        patches: From `panels.shown_patches`.
        failures: Cell -> why it failed.
        planned: How many cells there will be.
        facts: What else was run with: name -> text.

    Raises:
        ValueError: A figure has another suffix.
        FileNotFoundError: There is no such figure.
    """
    sections = {
        "Figures": "".join(map(_figure, figures)),
        "Tables": markdown_to_html(tables),
        "Patches": _patches(patches),
        "What was run": _what_was_run(rows, planned, facts or {}) + _failures(failures or {}) + _cells(rows),
    }
    body = "\n".join(f"<section>\n<h2>{title}</h2>\n{content or NOTHING}\n</section>"
                     for title, content in sections.items())
    write_text(path, page(f"<h1>Study of super-resolution</h1>\n{body}"))


def _figure(path: Path) -> str:
    require(path.suffix in MEDIA, "figures", f"be one of {tuple(MEDIA)}", "draw it anew", str(path))
    name = escape(path.stem.replace("_", " "))
    return (f'<figure><img src="{data_uri(path.read_bytes(), MEDIA[path.suffix])}" alt="{name}">'
            f"<figcaption>{name}</figcaption></figure>\n")


def _patches(patches: Sequence[ShownPatch]) -> str:
    """Return as many patches as may be in a page."""
    shown: list[str] = []
    for patch in patches:
        text = _patch(patch)
        if shown and sum(map(len, shown)) + len(text) > MOST_BYTES:
            shown.append(f"<p>{len(patches) - len(shown)} more would make this page too large.</p>")
            break
        shown.append(text)
    return HINT + "\n".join(shown) if shown else ""


def _patch(patch: ShownPatch) -> str:
    """Return the panels of a patch: a column of references, one for each method, and a row for each fraction."""
    methods, fractions, name = list(patch.labels), patch.fractions, escape(patch.example_id)
    placed = [_panel(1, 1 + i, title, panel) for i, (title, panel) in enumerate(patch.references.items())]
    placed += [_panel(2 + i, 1 + j, panel_title(patch, method, fraction), patch.cells.get((method, fraction)))
               for i, method in enumerate(methods) for j, fraction in enumerate(fractions)]
    panels = "\n".join(placed)
    return (f'<div class="patch" tabindex="0" role="group" aria-label="Patch {name}">\n<div class="bar"><h3>{name}</h3>'
            f'{BUTTONS}</div>\n<div class="scroll"><div class="panels" style="--columns: {1 + len(methods)}">\n{panels}'
            "\n</div></div>\n</div>")


def _panel(column: int, row: int, title: str, panel: Panel | None) -> str:
    from PIL import Image

    place = f"grid-area: {row} / {column}"
    if panel is None:
        return f'<div class="absent" style="{place}">{escape(title)}: not there yet</div>'
    data = io.BytesIO()
    Image.fromarray(panel.image).save(data, "PNG", optimize=True)
    title, caption = escape(title), escape(panel.caption)
    return (f'<figure style="{place}" title="{escape(panel.cell)}"><div class="view">'
            f'<img src="{data_uri(data.getvalue(), MEDIA[".png"])}" alt="{title}" draggable="false"></div>'
            f"<figcaption>{title}<span>{caption}</span></figcaption></figure>")


def _what_was_run(rows: Sequence[Row], planned: int | None, facts: Mapping[str, str]) -> str:
    cells = {row["cell"]: row for row in rows if row["seconds"] is not None}
    slides = {row["slide"]: row["patches"] for row in rows}
    hours = sum(row["seconds"] for row in cells.values()) / 3600
    counts = {
        "cells": f"{len(cells)} finished" + (f" of {planned}" if planned is not None else ""),
        "test patches": f"{sum(slides.values())} of {len(slides)} slides: {', '.join(sorted(slides))}",
        "training time": f"{hours:.1f} hours in all",
        "code": ", ".join(sorted({row["commit"] for row in cells.values() if row["commit"]})) or "unknown",
    }
    return bullets(f"{escape(name)}: {escape(text)}" for name, text in (counts | dict(facts)).items())


def _failures(failures: Mapping[str, str]) -> str:
    return "<h3>What failed</h3>\n" + table(("cell", "reason"), failures.items()) if failures else ""


def _cells(rows: Sequence[Row]) -> str:
    """Return a table of the cells, folded away."""
    cells = {row["cell"]: {**row, "method": curve_of(row).name} for row in rows if row["flags"]}
    body = [[_text(row.get(name)) for name in COLUMNS] for row in cells.values()]
    return f"<details><summary>Every cell and its flags</summary>\n{table(COLUMNS, body)}\n</details>" if body else ""


def _text(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
