"""What the cells of a study scored: one tidy table, a row per cell and test slide, as CSV.

    cell        its name, which says all that tells it from the others
    method      bicubic, a method of the paper, or "fidelity" with the terms that stand on top of it
    q           of the quasi-norm
    balance     of the terms: "paper" (its lambdas) or "equal" (see `balance`)
    fraction    share of the training examples that were corrupted
    kind, side  how, and which side of a pair
    seed        of the run
    variant     any other flag that differs from the study's, NAME=VALUE; several are joined by ";"
    vgg_weights of methods with VGG features; empty for the others
    slide, magnification, patches    where it was scored, and on how many patches
    psnr ... lr_consistency          means over the patches of that slide
    seconds     that the cell trained, by the clock; scoring and what the machine did beside it are not told apart
    commit      of the code, and flags, the options of `python -m sr_keras.train` that made it

Bicubic has rows of its own, and empty fields where it has nothing to say.
"""
from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import require
from pipelines.files import write_text
from sr_keras.evaluation import METRICS

Row = dict[str, Any]
CELL = ("cell", "method", "q", "balance", "fraction", "kind", "side", "seed", "variant", "vgg_weights")
COLUMNS = (*CELL, "slide", "magnification", "patches", *METRICS, "seconds", "commit", "flags")
NUMBERS = ("q", "fraction", "seconds", *METRICS)
WHOLE = ("seed", "patches")


def read_results(path: Path) -> list[Row]:
    """Return the rows of a table; numbers as numbers, empty fields as None. No row where there is no file yet.

    Raises:
        ValueError: The file is no such table.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        header = tuple(reader.fieldnames or ())
        require(header == COLUMNS, "output", f"hold the results of a study, with the columns {', '.join(COLUMNS)}",
                "name another folder, or take this file out of it", f"{path} with {', '.join(header) or 'no header'}")
        try:
            return [{name: _value(name, row[name]) for name in COLUMNS} for row in reader]
        except (TypeError, ValueError) as error:  # a row is shorter than the header, or has a word for a number
            raise ValueError(f"`output` must hold a whole table; mend or delete the row. Received: line "
                             f"{reader.line_num} of {path}") from error


def write_results(rows: Iterable[Row], path: Path) -> None:
    """Write a table, atomically, its rows sorted by cell and slide: the same rows give the same bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: (row["cell"], row["slide"])):
        writer.writerow({name: _text(row.get(name)) for name in COLUMNS})
    write_text(path, text.getvalue())


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Return the rows whose columns have these values; a tuple means any of its values."""
    def fits(row: Row) -> bool:
        return all(row[name] in value if isinstance(value, tuple) else row[name] == value
                   for name, value in wanted.items())

    return [row for row in rows if fits(row)]


def slide_means(scores: Sequence[Row], method: str) -> dict[str, Row]:
    """Return slide -> patches and the mean of every metric, from the rows of a scores.csv (a row per patch).

    What is not finite, as the PSNR of a patch without error, is left out of its mean.
    """
    found: dict[str, Row] = {}
    for slide in dict.fromkeys(row["slide_id"] for row in scores):
        mine = [row for row in scores if row["slide_id"] == slide and row["method"] == method]
        values = {name: np.array([float(row[name]) for row in mine]) for name in METRICS if name in mine[0]}
        found[slide] = {"patches": len(mine), **{
            name: float(value[np.isfinite(value)].mean()) for name, value in values.items()}}
    return found


def _value(name: str, text: str | None) -> Any:
    if text is None:
        raise ValueError(name)
    if text == "":
        return "" if name == "variant" else None
    return int(text) if name in WHOLE else float(text) if name in NUMBERS else text


def _text(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
