# SPDX-License-Identifier: Apache-2.0
"""The scores of a study: results.csv, and its rows grouped into curves along the fraction of corrupted examples.

results.csv has one row per cell and test slide:

    cell        unique name of the cell
    method      bicubic, a method of the paper, or "fidelity" with the terms added to it
    q           power of the quasi-norm
    balance     weights of the terms: "paper" (published lambdas) or "equal" (see `balance`)
    fraction    share of corrupted training examples
    kind, side  kind of corruption, and the corrupted side of a pair
    seed        seed of the run
    variant     other flags that differ from the rest of the study, NAME=VALUE joined by ";"
    vgg_weights for methods with VGG features, else empty
    slide, magnification, patches    where the cell was scored, and on how many patches
    psnr ... lr_consistency          means over the patches of that slide; empty if other patches were left out than
                                     for bicubic
    seconds     training time by the clock
    commit      of the code, and flags: the options of `python -m sr_keras.train`

Bicubic has rows of its own, with empty fields where a column does not apply.

A `Curve` is one method at one q, one balance and one set of VGG weights. A cell with fraction 0 is shared by all kinds
and sides of corruption. Leave out rows with a variant before you build curves.
"""
from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from pipelines.errors import require
from pipelines.files import read_table, read_text, write_text
from sr_keras.config import METHODS
from sr_keras.evaluation import METRICS
from sr_keras.evaluation.tables import by_slide

Row = dict[str, Any]
Corruption = tuple[str, str]  # kind, side
CELL = ("cell", "method", "q", "balance", "fraction", "kind", "side", "seed", "variant", "vgg_weights")
COLUMNS = (*CELL, "slide", "magnification", "patches", *METRICS, "seconds", "commit", "flags")
FLOATS = ("q", "fraction", "seconds", *METRICS)
INTEGERS = ("seed", "patches")
EMPTY = Literal[""]
NAMES = {"bicubic": "bicubic", "srgan": "SRGAN", "srgan_e": "SRGAN_E", "srgan_qe": "SRGAN_QE", "srgan_sqe": "SRGAN_SQE",
         "fidelity": "L_F alone", "fidelity_m": "L_F + L_M", "fidelity_s": "L_F + L_S", "fidelity_d": "L_F + L_D"}
Q_SERIES = (("srgan_sqe", "paper"), ("srgan_sqe", "equal"), ("fidelity", "paper"))  # (method, balance) compared by q
NOT_RUN = "not run"
SAME = 2e-5  # of a mean, which has six digits in the results


def read_results(path: Path) -> list[Row]:
    """Return the rows of results.csv, empty fields as None; no rows if there is no file.

    Raises:
        ValueError: The columns are different, or a row is damaged.
    """
    if not path.exists():
        return []
    remedy = "correct or delete the row, or choose another folder"
    header = tuple(read_text(path, remedy).split("\n", 1)[0].rstrip("\r").split(","))
    require(header == COLUMNS, "output", f"contain the results of a study, with the columns {', '.join(COLUMNS)}",
            "choose another folder, or remove this file", f"{path} with {', '.join(header)[:200] or 'no header'}")
    kinds = {**dict.fromkeys(COLUMNS, str), **dict.fromkeys(FLOATS, float | EMPTY),
             **dict.fromkeys(INTEGERS, int | EMPTY)}
    kind = msgspec.defstruct("Result", list(kinds.items()))
    return [{name: _parse(name, row[name]) for name in COLUMNS} for row in read_table(path, kind, remedy)]


def write_results(rows: Iterable[Row], path: Path) -> None:
    """Write results.csv atomically, sorted by cell and slide: the same rows give the same bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: (row["cell"], row["slide"])):
        writer.writerow({name: f"{value:.6g}" if isinstance(value := row.get(name), float) else value
                         for name in COLUMNS})
    write_text(path, text.getvalue())


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Return the rows whose columns have these values; a tuple accepts any of its values."""
    return [row for row in rows if all(row[name] in value if isinstance(value, tuple) else row[name] == value
                                       for name, value in wanted.items())]


def slide_means(scores: Sequence[Row], method: str) -> dict[str, Row]:
    """Return slide -> number of patches and mean of every metric, from the rows of scores.csv.

    A patch where SR or bicubic has no finite score, such as the PSNR of a patch without error, is left out of the means
    of both. A mean of no patch is None.
    """
    rows = [{name: float(value) if name in METRICS else value for name, value in row.items()} for row in scores]
    return {slide: {"patches": one.patches, **{
        name: value if np.isfinite(value) else None for name, value in one.means[method].items()}}
        for slide, one in by_slide(rows).items()}


def on_same_patches(rows: Sequence[Row], own: Sequence[Row], bicubic: Sequence[Row]) -> list[Row]:
    """Return the rows of a cell without means over other patches than those of the rows of bicubic.

    Cells are compared with each other and with bicubic, so they must leave out the same patches. The same bicubic has
    other means if they do not.

    Args:
        rows: Of the cell, one per slide.
        own: Of bicubic on the patches that the cell is scored on.
        bicubic: Of bicubic in the results.
    """
    pairs = {row["slide"]: row for row in own}, {row["slide"]: row for row in bicubic}

    def alike(slide: str, name: str) -> bool:
        one, other = (found.get(slide, {}).get(name) for found in pairs)
        return one is not None and other is not None and isclose(one, other, rel_tol=SAME)

    return [{name: value if name not in METRICS or alike(row["slide"], name) else None for name, value in row.items()}
            for row in rows]


def _parse(name: str, text: str) -> Any:
    if text == "":
        return "" if name == "variant" else None
    return int(float(text)) if name in INTEGERS else float(text) if name in FLOATS else text


@dataclass(frozen=True)
class Curve:
    """A method with its settings, compared at several fractions of corrupted examples."""

    method: str
    q: float | None = None
    balance: str | None = None
    vgg_weights: str | None = None

    @property
    def name(self) -> str:
        """Name of the method; says so if the VGG19 weights are not ImageNet's."""
        name = NAMES.get(self.method, self.method)
        if self.vgg_weights in (None, "", "imagenet"):
            return name
        return f"{name} ({'random VGG' if self.vgg_weights == 'random' else f'VGG of {Path(self.vgg_weights).name}'})"

    @property
    def label(self) -> str:
        """The name, with q and balance where they are not the method's own."""
        usual = self.method in METHODS and METHODS[self.method].q == self.q
        q = "" if usual or self.q is None else f", q = {self.q:g}"
        return f"{self.name}{q}{', equal balance' if self.balance == 'equal' else ''}"

    @property
    def is_paper(self) -> bool:
        """Whether this is a method of the paper with the paper's settings."""
        return self.method in METHODS and self.q in (None, METHODS[self.method].q) and self.balance in (None, "paper")

    def rows(self, rows: Sequence[Row], fraction: float, corruption: Corruption) -> list[Row]:
        """Return the rows of this curve at a fraction; bicubic has the same rows at every fraction."""
        mine = [row for row in rows if curve_of(row) == self]
        if self.method == "bicubic":
            return mine
        kind, side = corruption
        return select(mine, fraction=fraction, **({"kind": kind, "side": side} if fraction else {}))


BICUBIC = Curve("bicubic")


def curve_of(row: Row) -> Curve:
    """Return the curve that a row belongs to."""
    return Curve(row["method"], *(row.get(name) for name in ("q", "balance", "vgg_weights")))


def curves(rows: Sequence[Row]) -> list[Curve]:
    """Return all curves except bicubic: the methods of the paper in its order, then single terms; each by q."""
    order = list(NAMES)

    def key(curve: Curve) -> tuple:
        place = order.index(curve.method) if curve.method in order else len(order)
        return place, curve.balance == "equal", curve.q or 0, str(curve)

    return sorted({curve_of(row) for row in rows} - {BICUBIC}, key=key)


def series(rows: Sequence[Row], method: str, balance: str) -> list[Curve]:
    """Return the curves of one method and balance, sorted by q.

    The lambdas were published for q = 0.5, where "paper" and "equal" are the same. If "equal" was not run at that q,
    the curve with the paper's balance is used.
    """
    found = [curve for curve in curves(rows) if curve.method == method]
    mine = [curve for curve in found if (curve.balance or "paper") == balance]
    if mine and balance == "equal" and method in METHODS and METHODS[method].q not in [curve.q for curve in mine]:
        mine += [curve for curve in found if curve.is_paper and curve.q == METHODS[method].q]
    return sorted(mine, key=lambda curve: curve.q or 0)


def along_q(rows: Sequence[Row], method: str, balance: str, fraction: float,
            corruption: Corruption) -> dict[Curve, list[Row]]:
    """Return the curves of `series` with their rows at a fraction, restricted to the seeds run with this balance."""
    found = {curve: mine for curve in series(rows, method, balance) if (mine := curve.rows(rows, fraction, corruption))}
    seeds = {row["seed"] for curve, mine in found.items() if curve.balance == balance for row in mine}
    return {curve: same for curve, mine in found.items() if (same := [row for row in mine if row["seed"] in seeds])}


def corruptions(rows: Sequence[Row]) -> list[Corruption]:
    """Return each (kind, side) that was run, mixed on the HR side first; ("none", "none") if there is no other."""
    found = {(row["kind"], row["side"]) for row in rows if row.get("fraction")}
    return sorted(found, key=lambda one: (one[0] != "mixed", one[1] != "hr", one)) or [("none", "none")]


def fractions(rows: Sequence[Row], corruption: Corruption) -> list[float]:
    """Return the fractions that were run with this corruption, including 0."""
    return sorted({row["fraction"] for row in rows if row.get("fraction") is not None
                   and (not row["fraction"] or (row["kind"], row["side"]) == corruption)})


def scopes(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return "all slides" -> rows and, if there are several magnifications, each magnification -> its rows."""
    groups = sorted({row["magnification"] for row in rows if row["magnification"]}, reverse=True)
    apart = {one: select(rows, magnification=one) for one in groups} if len(groups) > 1 else {}
    return {"all slides": list(rows), **apart}


def title(corruption: Corruption) -> str:
    """Return a corruption in words."""
    kind, side = corruption
    if kind == "none":
        return "no corruption"
    return f"{kind} corruption, {'both sides' if side == 'both' else f'{side.upper()} side'}"


def heading(metric: str) -> str:
    """Return the label of a metric with an arrow that points to better values."""
    return f"{METRICS[metric].label} {'↑' if METRICS[metric].higher_is_better else '↓'}"


def percent(fraction: float) -> str:
    """Return a share in per cent."""
    return f"{100 * fraction:g}%"
