# SPDX-License-Identifier: Apache-2.0
"""Tables of the study in Markdown: means by method, fraction, q and term, paired tests, and the effect of variants.

Cells may be missing: an unfinished study shows "not run". Variants have a table of their own.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from pipelines.files import write_text
from sr_keras.evaluation import METRICS
from study.results import (
    BICUBIC,
    NAMES,
    NOT_RUN,
    Q_SERIES,
    Corruption,
    Row,
    along_q,
    corruptions,
    curve_of,
    curves,
    fractions,
    heading,
    percent,
    scopes,
    select,
    series,
    title,
)
from study.statistics import Paired, Units, compare, estimate, falls, paired, smallest_p, subtract, units

SHOWN = ("ms_ssim", "qilv", "rrmse", "psnr", "ssim")
# Differences between methods: each step in the paper's order, then the total.
STEPS = (("srgan_e", "srgan"), ("srgan_qe", "srgan_e"), ("srgan_sqe", "srgan_qe"), ("srgan_sqe", "srgan"),
         ("srgan_sqe", "bicubic"))
FEW = 10  # with fewer slides or seeds than this, a bootstrap interval is too narrow


def write_tables(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write all tables to one Markdown file, atomically.

    Args:
        rows: From `results.read_results`; cells may be missing.
        path: A .md file.
    """
    plain = [row for row in rows if not row["variant"]]
    parts = ["# Tables of the study", note(plain)]
    for corruption in corruptions(plain) if plain else []:
        words = title(corruption)
        parts.append(f"## {words[0].upper()}{words[1:]}")
        parts += [f"### {head}\n\n{table}" for head, make in TABLES.items() if (table := make(plain, corruption))]
    if variants := variants_table(rows):
        parts.append(f"## Variants, with their difference from the unchanged cell\n\n{variants}")
    write_text(path, "\n\n".join(part.rstrip("\n") for part in parts) + "\n")


def note(rows: Sequence[Row]) -> str:
    """Return the numbers of slides and seeds, and how far to trust intervals and p."""
    slides = len({row["slide"] for row in rows})
    seeds = len({row["seed"] for row in rows if row["seed"] is not None})
    if not slides:
        return "No cell has been scored yet."
    least = f"With {slides * seeds} pairs p cannot be below {smallest_p(slides * seeds):.3g}. " if seeds else ""
    few = " **With so few slides and seeds the intervals are too narrow.**" if min(slides, seeds) < FEW else ""
    return (
        f"{slides} test slide{'s' * (slides != 1)} × {seeds} seed{'s' * (seeds != 1)}. A value is a mean over (slide, "
        "seed) pairs; the value of a pair is a mean over the patches of the slide. Brackets: 95% interval of a "
        "bootstrap that draws slides and seeds independently. With one slide it draws only seeds."
        f"{few} The interval of a mean mainly shows how different the slides are; compare methods by their paired "
        "differences.\n\n"
        f"p is that of a two-sided sign-flip test over the pairs. {least}The test treats pairs as independent, but "
        "pairs of one seed share a network, so the true p is larger. p is not corrected for the number of comparisons. "
        "It says nothing about other slides.\n\n"
        "[n]: mean of n pairs only, fewer than others in its group. Bold: best mean of its group.")


def methods_table(rows: Sequence[Row], corruption: Corruption) -> str:
    """Return a table per metric: the paper's methods and bicubic at each fraction, overall and by magnification."""
    along = fractions(rows, corruption)
    parts = []
    for metric in SHOWN:
        lines = []
        for scope, mine in scopes(rows).items():
            lines += _group([((scope, curve.label), [(metric, curve.rows(mine, one, corruption)) for one in along])
                             for curve in (BICUBIC, *filter(lambda curve: curve.is_paper, curves(rows)))])
        head = (f"{heading(metric)}: slides", "method", *map(percent, along))
        parts.append(_table(head, lines, numbers=len(along)))
    return "\n".join(part for part in parts if part)


def q_table(rows: Sequence[Row], corruption: Corruption) -> str:
    """Return Q_SERIES at every fraction for which at least two q were run; the best q is bold."""
    lines = []
    for fraction in fractions(rows, corruption):
        at = {one: along_q(rows, *one, fraction, corruption) for one in Q_SERIES}
        at = {one: found for one, found in at.items() if len(found) > 1}
        for (method, balance), found in at.items():
            name = NAMES[method] + {"equal": ", equal balance"}.get(balance, "")
            lines += _group([((percent(fraction), name, f"{curve.q:g}"), [(metric, mine) for metric in SHOWN])
                             for curve, mine in found.items()])
        if at:
            bicubic = BICUBIC.rows(rows, fraction, corruption)
            lines += _group([((percent(fraction), "bicubic", ""), [(metric, bicubic) for metric in SHOWN])])
    return _table(("corrupted", "method", "q", *map(heading, SHOWN)), lines)


def steps_table(rows: Sequence[Row], corruption: Corruption) -> str:
    """Return the differences between methods in STEPS."""
    shown = [BICUBIC, *(curve for curve in curves(rows) if curve.is_paper)]
    steps = [(a, b) for step in STEPS for a in shown for b in shown if (a.method, b.method) == step]
    lines = []
    for fraction in fractions(rows, corruption):
        for a, b in steps:
            found = [paired(a.rows(rows, fraction, corruption), b.rows(rows, fraction, corruption), metric)
                     for metric in SHOWN]
            lines += _differences((percent(fraction), f"{a.label} − {b.label}"), found)
    return _table(("corrupted", "difference", "pairs", *map(heading, SHOWN)), lines)


def falls_table(rows: Sequence[Row], corruption: Corruption) -> str:
    """Return how much worse each curve is than at fraction 0, and the difference between SRGAN and SRGAN_SQE."""
    every = curves(rows)
    both_methods = [(a, b) for a in every for b in every if a.is_paper and b.is_paper
                    and (a.method, b.method) == ("srgan", "srgan_sqe")]
    lines = []
    for fraction in filter(None, fractions(rows, corruption)):
        fallen = {curve: [falls(rows, curve, fraction, corruption, metric) for metric in SHOWN] for curve in every}
        for curve, found in fallen.items():
            lines += _differences((percent(fraction), curve.label), [compare(one) for one in found])
        for a, b in both_methods:
            both = [compare(subtract(x, y)) for x, y in zip(fallen[a], fallen[b], strict=True)]
            lines += _differences((percent(fraction), f"{a.label} − {b.label}"), both)
    return _table(("corrupted", "fall of", "pairs", *(METRICS[metric].label for metric in SHOWN)), lines)


def terms_table(rows: Sequence[Row], corruption: Corruption) -> str:
    """Return L_F with at most one more term, at every fraction and q, with the difference from L_F alone."""
    lines = []
    for fraction in fractions(rows, corruption):
        for curve in curves(rows):
            if curve.method.startswith("fidelity"):
                alone = [one for one in series(rows, "fidelity", "paper") if one.q == curve.q]
                base = [row for one in alone for row in one.rows(rows, fraction, corruption)]
                lines += _against((percent(fraction), curve.label), curve.rows(rows, fraction, corruption),
                                  [] if curve.method == "fidelity" else base)
    single = any(row["method"].startswith("fidelity_") for row in rows)
    return _table(("corrupted", "terms", *map(heading, SHOWN)), lines) if single else ""


def variants_table(rows: Sequence[Row]) -> str:
    """Return every variant, with its difference from the same cell without the variant."""
    def cell(row: Row) -> tuple:
        return curve_of(row), row["fraction"], (row["kind"], row["side"])

    lines = []
    for (curve, fraction, corruption), variant in sorted({(cell(row), row["variant"]) for row in rows
                                                          if row["variant"]}, key=str):
        mine = [row for row in rows if cell(row) == (curve, fraction, corruption)]
        leading = (curve.label, percent(fraction), title(corruption), variant)
        lines += _against(leading, select(mine, variant=variant), [row for row in mine if not row["variant"]])
    return _table(("method", "corrupted", "how", "variant", *map(heading, SHOWN)), lines)


TABLES: dict[str, Callable[[Sequence[Row], Corruption], str]] = {
    "Methods by corrupted fraction": methods_table,
    "By q": q_table,
    "Paired differences between methods": steps_table,
    "Fall from fraction 0, positive = worse": falls_table,
    "L_F with single terms, and their difference from L_F alone": terms_table,
}


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], numbers: int = len(SHOWN)) -> str:
    """Return a Markdown table with the last columns aligned right, or nothing without lines."""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines)) if lines else ""


def _group(entries: Sequence[tuple[Sequence[str], Sequence[tuple[str, list[Row]]]]]) -> list[list[str]]:
    """Return lines of means, the best of every column bold; an entry is leading cells and (metric, rows) columns."""
    lines: list[list[str]] = [list(leading) for leading, _ in entries]
    for column in zip(*(columns for _, columns in entries), strict=True):
        metric = column[0][0]
        found = [units(rows, metric) for _, rows in column]
        means = [estimate(one).mean * (1 if METRICS[metric].higher_is_better else -1) for one in found]
        full = max(map(len, found))
        for line, one, mean in zip(lines, found, means, strict=True):
            best = np.isfinite(means).sum() > 1 and mean == np.nanmax(means)
            fewer = f" [{len(one)}]" if len(one) < full and all(seed is not None for _, seed in one) else ""
            line.append(_mean(one, metric, best) + fewer * bool(one))
    return [line for line in lines if any(cell != NOT_RUN for cell in line[len(entries[0][0]):])]


def _mean(values: Units, metric: str, best: bool = False) -> str:
    if not values:
        return NOT_RUN
    one, digits = estimate(values), METRICS[metric].digits
    mean = f"**{one.mean:.{digits}f}**" if best else f"{one.mean:.{digits}f}"
    return f"{mean} ({one.low:.{digits}f} to {one.high:.{digits}f})" if np.isfinite(one.low) else mean


def _difference(found: Paired, metric: str) -> str:
    if not found.pairs:
        return NOT_RUN
    digits = METRICS[metric].digits + 1
    mean, low, high = (f"{value:+.{digits}f}" for value in (found.difference.mean, found.difference.low,
                                                            found.difference.high))
    interval = f" ({low} to {high})" if found.pairs > 1 else ""
    return f"{mean}{interval}, p = {found.p:.3g}"


def _differences(leading: Sequence[str], found: Sequence[Paired]) -> list[list[str]]:
    """Return a line of differences by metric, or none without pairs."""
    pairs = max(one.pairs for one in found)
    cells = [_difference(one, metric) for metric, one in zip(SHOWN, found, strict=True)]
    return [[*leading, str(pairs), *cells]] if pairs else []


def _against(leading: Sequence[str], rows: Sequence[Row], base: Sequence[Row]) -> list[list[str]]:
    """Return a line of means, each with its difference from `base` if there is one; none without rows."""
    cells = [_mean(units(rows, metric), metric) for metric in SHOWN]
    if base:
        cells = [f"{cell}; {_difference(paired(rows, base, metric), metric)}"
                 for cell, metric in zip(cells, SHOWN, strict=True)]
    return [[*leading, *cells]] if rows else []
