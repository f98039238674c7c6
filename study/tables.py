"""The study in Markdown: means by method, fraction, q and term, the paired tests, and what a variant changed.

Every table takes the rows that are there: an unfinished study has "not run" where cells are missing. Variants stand in
a table of their own.
"""
from __future__ import annotations

import os
from collections.abc import Sequence

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
STEPS = (("srgan_e", "srgan"), ("srgan_qe", "srgan_e"), ("srgan_sqe", "srgan_qe"), ("srgan_sqe", "srgan"),
         ("srgan_sqe", "bicubic"))
FEW = 10  # slides or seeds


def write_tables(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write all tables to one Markdown file, atomically.

    Args:
        rows: Of the study, as `results.read_results` gives them; cells may be missing.
        path: A .md file.
    """
    plain = [row for row in rows if not row["variant"]]
    parts = ["# Tables of the study", note(plain)]
    for corruption in corruptions(plain) if plain else []:
        tables = (("Methods by corrupted fraction", methods_table(plain, corruption)),
                  ("Along q", q_table(plain, corruption)),
                  ("Paired differences between methods", steps_table(plain, corruption)),
                  ("Fall from fraction 0, positive = worse", falls_table(plain, corruption)),
                  ("Single terms on top of L_F, and what each adds", terms_table(plain, corruption)))
        words = title(corruption)
        parts.append(f"## {words[0].upper()}{words[1:]}")
        parts += [f"### {head}\n\n{table}" for head, table in tables if table]
    if variants := variants_table(rows):
        parts.append(f"## Variants, and what each adds to the cell it varies\n\n{variants}")
    write_text(path, "\n\n".join(part.rstrip("\n") for part in parts) + "\n")


def note(rows: Sequence[Row]) -> str:
    """Return how many slides and seeds there are, and what intervals and p of so many are worth."""
    slides = len({row["slide"] for row in rows})
    seeds = len({row["seed"] for row in rows if row["seed"] is not None})
    if not slides:
        return "No cell has been scored yet."
    least = f"with {slides * seeds} pairs it cannot go below {smallest_p(slides * seeds):.3g}" if seeds else "no pairs"
    few = " **So few slides and seeds make these intervals too narrow.**" if min(slides, seeds) < FEW else ""
    return (
        f"{slides} test slide{'s' * (slides != 1)} × {seeds} seed{'s' * (seeds != 1)}. A value is a mean over (slide, "
        "seed) pairs, each a mean over the slide's patches; in brackets its 95% interval, of a bootstrap that draws "
        f"slides and seeds independently, or seeds alone where there is one slide.{few} Those of a mean show above all "
        "how the slides differ: paired differences are what to read.\n\n"
        "p is that of a two-sided sign-flip test over the pairs, whose smallest value with n pairs is 2/2^n: "
        f"{least}. It takes pairs as independent, though those of a seed share a network: the true p is larger. It "
        "is not corrected for the number of comparisons, and speaks of runs on these slides, not of other slides.\n\n"
        "[n]: of n pairs only, fewer than another of its group. Bold: the best mean of its group.")


def methods_table(rows: Sequence[Row], corruption: Corruption) -> str:
    """Return a table a metric: the paper's methods and bicubic at each fraction, overall and by magnification."""
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
    """Return each series along q at every fraction where it has two values of q or more; the best q in bold."""
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
    """Return each method less its predecessor in the paper's order, and SRGAN_SQE less SRGAN and less bicubic."""
    shown = [BICUBIC, *(curve for curve in curves(rows) if curve.is_paper)]
    lines = []
    for fraction in fractions(rows, corruption):
        for a, b in ((a, b) for later, earlier in STEPS for a in shown for b in shown
                     if (a.method, b.method) == (later, earlier)):
            found = [paired(a.rows(rows, fraction, corruption), b.rows(rows, fraction, corruption), metric)
                     for metric in SHOWN]
            lines += _differences((percent(fraction), f"{a.label} − {b.label}"), found)
    return _table(("corrupted", "difference", "pairs", *map(heading, SHOWN)), lines)


def falls_table(rows: Sequence[Row], corruption: Corruption) -> str:
    """Return how much each curve loses from fraction 0 to the others, and SRGAN's loss less that of SRGAN_SQE."""
    every = curves(rows)
    lines = []
    for fraction in fractions(rows, corruption):
        fallen = {curve: [falls(rows, curve, fraction, corruption, metric) for metric in SHOWN]
                  for curve in every if fraction}
        for curve, found in fallen.items():
            lines += _differences((percent(fraction), curve.label), [compare(one) for one in found])
        for a, b in ((a, b) for a in fallen for b in fallen if a.is_paper and b.is_paper
                     and (a.method, b.method) == ("srgan", "srgan_sqe")):
            both = [compare(subtract(x, y)) for x, y in zip(fallen[a], fallen[b], strict=True)]
            lines += _differences((percent(fraction), f"{a.label} − {b.label}"), both)
    return _table(("corrupted", "fall of", "pairs", *(METRICS[metric].label for metric in SHOWN)), lines)


def terms_table(rows: Sequence[Row], corruption: Corruption) -> str:
    """Return L_F with one term on top at every fraction, q and balance, each with its difference from L_F alone."""
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
    """Return every variant, with its difference from the cell that differs from it in nothing else."""
    def cell(row: Row) -> tuple:
        return curve_of(row), row["fraction"], (row["kind"], row["side"])

    lines = []
    for (curve, fraction, corruption), variant in sorted({(cell(row), row["variant"]) for row in rows
                                                          if row["variant"]}, key=str):
        mine = [row for row in rows if cell(row) == (curve, fraction, corruption)]
        leading = (curve.label, percent(fraction), title(corruption), variant)
        lines += _against(leading, select(mine, variant=variant), [row for row in mine if not row["variant"]])
    return _table(("method", "corrupted", "how", "variant", *map(heading, SHOWN)), lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], numbers: int = len(SHOWN)) -> str:
    """Return a Markdown table, its last columns aligned as numbers, or nothing where it has no line."""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines)) if lines else ""


def _group(entries: Sequence[tuple[Sequence[str], Sequence[tuple[str, list[Row]]]]]) -> list[list[str]]:
    """Return lines of means, in every column the best of the group in bold: entries are leading cells and columns."""
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
    """Return a line of differences by metric, or none where there is no pair."""
    pairs = max(one.pairs for one in found)
    cells = [_difference(one, metric) for metric, one in zip(SHOWN, found, strict=True)]
    return [[*leading, str(pairs), *cells]] if pairs else []


def _against(leading: Sequence[str], rows: Sequence[Row], base: Sequence[Row]) -> list[list[str]]:
    """Return a line of means, each with its difference from a base where there is one; none without rows."""
    cells = [_mean(units(rows, metric), metric) for metric in SHOWN]
    if base:
        cells = [f"{cell}; {_difference(paired(rows, base, metric), metric)}"
                 for cell, metric in zip(cells, SHOWN, strict=True)]
    return [[*leading, *cells]] if rows else []
