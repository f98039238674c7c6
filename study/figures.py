# SPDX-License-Identifier: Apache-2.0
"""Figures of the study, in the order of the paper's figure 3, as PNG and SVG.

    figure_3a_KIND_SIDE           MS-SSIM, QILV and RRMSE against the corrupted fraction, one line per method
    figure_3b_KIND_SIDE_PERCENT   the same against q at one fraction; figure_3b_clean without corruption
    robustness_KIND_SIDE          loss against a clean training set, per method and q
    ..._by_magnification, ..._MAGNIFICATION    the same by magnification, if there are several

Lines are means over (slide, seed) pairs, whiskers the 95% interval of a bootstrap crossed over slides and seeds, faint
points the single pairs. Colours are those of Okabe and Ito, which colour-blind readers can tell apart; markers and
dashes differ as well. A VGG19 with random weights has hollow markers. The same rows give the same bytes of SVG.
"""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.files import atomic_path
from sr_keras.evaluation import METRICS
from study.results import (
    BICUBIC,
    NAMES,
    NOT_RUN,
    Q_SERIES,
    Corruption,
    Curve,
    Row,
    along_q,
    corruptions,
    curves,
    fractions,
    heading,
    percent,
    scopes,
    title,
)
from study.statistics import Estimate, Units, estimate, falls, units

SHOWN = ("ms_ssim", "qilv", "rrmse")
CLEAN = ("none", "none")
INK, FAINT, BICUBIC_GREY, RULE = "#1d1d1f", "#5f5f66", "#8a8a90", "#e4e4e8"
DPI = 200
WIDTH = 7.2  # inches, the text width of a page
FONT = 8.0  # points at that width
RC: Any = {"svg.hashsalt": "sr_keras", "font.family": "DejaVu Sans", "font.size": FONT, "axes.titlesize": FONT + 1,
      "axes.labelsize": FONT, "xtick.labelsize": FONT, "ytick.labelsize": FONT, "legend.fontsize": FONT,
      "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
      "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.formatter.useoffset": False}
# Colour, marker and dashes of each method, and of equal balance.
STYLES: dict[str, tuple[str, str, Any]] = {
    "srgan": ("#D55E00", "s", (0, (5, 1.5))), "srgan_e": ("#E69F00", "^", (0, (4, 1.2, 1, 1.2))),
    "srgan_qe": ("#0072B2", "D", (0, (1.2, 1.2))), "srgan_sqe": ("#009E73", "o", "-"),
    "equal": ("#56B4E9", "P", (0, (5, 1.5))), "fidelity": ("#CC79A7", "v", (0, (1.2, 1.2)))}
FRACTION_STYLES = (("#56B4E9", "o"), ("#E69F00", "^"), ("#0072B2", "D"), ("#D55E00", "s"), ("#CC79A7", "v"),
                   ("#009E73", "P"))

Scopes = dict[str, list[Row]]  # by name, such as "all slides" or "40x"
Falls = dict[Curve, dict[float, dict[str, Units]]]  # by fraction and metric


@dataclass(frozen=True)
class Line:
    """One line of a panel: label, style, and x -> rows."""

    label: str
    style: dict[str, Any]
    rows: dict[float, list[Row]]


def write_figures(rows: Sequence[Row], folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every figure that there are rows for, as PNG and SVG, atomically.

    Args:
        rows: From `results.read_results`; cells may be missing, variants are left out.
        folder: Created if it does not exist.

    Returns:
        The files.
    """
    paths = []
    with rc_context(RC):
        for name, figure in _figures([row for row in rows if not row["variant"]]):
            for suffix, metadata in ((".png", None), (".svg", {"Date": None})):
                paths.append(Path(folder) / f"{name}{suffix}")
                with atomic_path(paths[-1]) as temporary:
                    figure.savefig(temporary, dpi=DPI, metadata=metadata)
    return paths


def _figures(rows: list[Row]) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of everything that can be drawn."""
    for corruption in corruptions(rows):
        name = "clean" if corruption == CLEAN else "_".join(corruption)
        for suffix, scoped in _cuts(rows):
            yield from _fraction_figure(f"figure_3a_{name}{suffix}", scoped, corruption)
            for fraction in filter(None, fractions(rows, corruption)):
                at = f"{name}_{percent(fraction).rstrip('%')}"
                yield from _q_figure(f"figure_3b_{at}{suffix}", scoped, corruption, fraction)
        for scope, mine in scopes(rows).items():
            suffix = "" if scope == "all slides" else f"_{scope}"
            yield from _robustness_figure(f"robustness_{name}{suffix}", mine, corruption, scope)
    for suffix, scoped in _cuts(rows):
        yield from _q_figure(f"figure_3b_clean{suffix}", scoped, CLEAN, 0.0)


def _cuts(rows: list[Row]) -> Iterator[tuple[str, Scopes]]:
    """Yield a suffix and the rows of each row of panels: all slides, then by magnification if there are several."""
    overall, *by_magnification = scopes(rows).items()
    yield "", dict([overall])
    if by_magnification:
        yield "_by_magnification", dict(by_magnification)


def _fraction_figure(name: str, scoped: Scopes, corruption: Corruption) -> Iterator[tuple[str, Figure]]:
    """Yield a figure with a line for each method of the paper against the corrupted fraction."""
    lines = {scope: [Line(curve.label, _style(curve), {100 * one: mine for one in fractions(rows, corruption)
                                                       if (mine := curve.rows(rows, one, corruption))})
                     for curve in curves(rows) if curve.is_paper] for scope, rows in scoped.items()}
    if any(line.rows for some in lines.values() for line in some):
        ticks = {100 * one: percent(one) for rows in scoped.values() for one in fractions(rows, corruption)}
        yield name, _panels(scoped, lines, "a", ticks, "Corrupted share of the training examples", title(corruption))


def _q_figure(name: str, scoped: Scopes, corruption: Corruption, fraction: float) -> Iterator[tuple[str, Figure]]:
    """Yield a figure with a line for each of Q_SERIES against q, evenly spaced, if one has several q."""
    by_q = {scope: {one: {curve.q: mine for curve, mine in along_q(rows, *one, fraction, corruption).items()
                          if curve.q is not None} for one in Q_SERIES} for scope, rows in scoped.items()}
    if all(len(found) < 2 for series in by_q.values() for found in series.values()):
        return
    place = {q: float(i) for i, q in enumerate(sorted({q for series in by_q.values() for found in series.values()
                                                       for q in found}))}
    balances = {"equal": ", equal balance", "paper": ", the paper's λ"}
    lines = {scope: [Line(NAMES[method] + (balances[balance] if method != "fidelity" else ""),
                          _style(Curve(method, balance=balance)), {place[q]: mine for q, mine in found.items()})
                     for (method, balance), found in series.items() if found] for scope, series in by_q.items()}
    what = f"{percent(fraction)} corrupted: {title(corruption)}" if fraction else "no corruption"
    yield name, _panels(scoped, lines, "b", {place[q]: f"{q:g}" for q in place}, "q of the quasi-norm", what)


def _style(curve: Curve) -> dict[str, Any]:
    colour, marker, dashes = STYLES["equal" if curve.balance == "equal" else curve.method]
    filled = "white" if curve.vgg_weights == "random" else colour
    return {"color": colour, "marker": marker, "linestyle": dashes, "markerfacecolor": filled, "markersize": 4.5,
            "linewidth": 1.4, "markeredgewidth": 1.1}


def _panels(scoped: Scopes, lines: dict[str, list[Line]], letter: str, ticks: dict[float, str], xlabel: str,
            what: str) -> Figure:
    """Draw a row of panels for each scope, with a column for each metric."""
    figure, grid = _new_figure(1.15 + 2.05 * len(scoped), len(scoped), sharex=True)
    for j, (scope, rows) in enumerate(scoped.items()):
        for i, (axes, metric) in enumerate(zip(grid[j], SHOWN, strict=True)):
            axes.set_title(f"({letter}{i + 1}) {heading(metric)}" if j == 0 else heading(metric), loc="left")
            axes.set_ylabel(scope if i == 0 and len(scoped) > 1 else "", fontweight="bold")
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.grid(axis="y", color=RULE, linewidth=0.6)
            axes.set_axisbelow(True)
            _draw_lines(axes, lines[scope], metric, list(ticks))
            bicubic = units(BICUBIC.rows(rows, 0.0, CLEAN), metric)
            if bicubic:
                axes.axhline(estimate(bicubic).mean, color=BICUBIC_GREY, linestyle=(0, (3, 2)), linewidth=1.1,
                             label="bicubic", zorder=1)
    grid[-1, 1].set_xlabel(xlabel)
    drawn = [units(rows, SHOWN[0]) for some in lines.values() for line in some for rows in line.rows.values()]
    _add_legend(figure, grid, f"{what}\n{_counts(drawn)}", columns=3)
    return figure


def _new_figure(height: float, rows: int, sharex: bool = False, sharey: bool = False) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    return figure, figure.subplots(rows, len(SHOWN), squeeze=False, sharex=sharex, sharey=sharey)


def _draw_lines(axes: Axes, lines: Sequence[Line], metric: str, ticks: Sequence[float]) -> None:
    """Draw lines with a small offset along x, so that no whisker hides another."""
    span = max(ticks) - min(ticks) or 1.0
    shown = [(line, {x: found for x, rows in line.rows.items() if (found := units(rows, metric))}) for line in lines]
    for i, (line, places) in enumerate(shown):
        offset = (i - (len(shown) - 1) / 2) * 0.014 * span
        for x, found in places.items():
            axes.plot([x + offset] * len(found), list(found.values()), color=line.style["color"],
                      marker=line.style["marker"], linestyle="", markersize=3.5, alpha=0.45, markeredgewidth=0)
        if places:
            means = [estimate(found) for found in places.values()]
            axes.errorbar([x + offset for x in places], [one.mean for one in means], _whiskers(means), label=line.label,
                          capsize=1.8, elinewidth=0.9, **line.style)
    axes.set_xlim(min(ticks) - 0.07 * span, max(ticks) + 0.07 * span)
    if not any(places for _, places in shown):
        axes.text(0.5, 0.5, NOT_RUN, transform=axes.transAxes, ha="center", va="center", color=FAINT)
        axes.set_yticks([])


def _robustness_figure(name: str, rows: list[Row], corruption: Corruption, scope: str
                       ) -> Iterator[tuple[str, Figure]]:
    """Yield a figure with the falls of every curve, one below the other, with a marker for each fraction."""
    fallen = _all_falls(rows, corruption)
    if not fallen:
        return
    every = sorted({fraction for found in fallen.values() for fraction in found})
    figure, grid = _new_figure(1.3 + len(fallen) * max(0.2, 0.075 * (1 + len(every))), 1, sharey=True)
    for axes, metric in zip(grid[0], SHOWN, strict=True):
        axes.axvline(0, color=FAINT, linewidth=0.8)
        for i, fraction in enumerate(every):
            offset = (i - (len(every) - 1) / 2) * 0.7 / len(every)
            places = {y + offset: found[fraction][metric] for y, found in enumerate(fallen.values())
                      if found.get(fraction, {}).get(metric)}
            _draw_falls(axes, places, FRACTION_STYLES[i % len(FRACTION_STYLES)], f"{percent(fraction)} corrupted")
        axes.set_title(METRICS[metric].label, loc="left")
        axes.set_yticks(range(len(fallen)), [curve.label for curve in fallen])
        axes.set_ylim(len(fallen) - 0.4, -0.6)
        axes.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
        axes.tick_params(axis="y", length=0)
        for y in range(1, len(fallen)):
            axes.axhline(y - 0.5, color=RULE, linewidth=0.6)
    grid[0, 1].set_xlabel("Fall from a clean training set: right of 0 is worse")
    drawn = [fall[SHOWN[0]] for found in fallen.values() for fall in found.values()]
    _add_legend(figure, grid, f"{title(corruption)}, {scope}\n{_counts(drawn)}", columns=len(every))
    yield name, figure


def _all_falls(rows: list[Row], corruption: Corruption) -> Falls:
    """Return the falls of every curve that has both a clean and a corrupted cell."""
    found: Falls = {}
    for curve in curves(rows):
        for fraction in filter(None, fractions(rows, corruption)):
            fall = {metric: falls(rows, curve, fraction, corruption, metric) for metric in SHOWN}
            if any(fall.values()):
                found.setdefault(curve, {})[fraction] = fall
    return found


def _draw_falls(axes: Axes, places: dict[float, Units], style: tuple[str, str], label: str) -> None:
    colour, marker = style
    for y, found in places.items():
        axes.plot(list(found.values()), [y] * len(found), color=colour, marker=marker, linestyle="", markersize=3.5,
                  alpha=0.45, markeredgewidth=0)
    if places:
        means = [estimate(found) for found in places.values()]
        axes.errorbar([one.mean for one in means], list(places), xerr=_whiskers(means), label=label, capsize=1.5,
                      elinewidth=0.9, color=colour, marker=marker, linestyle="", markersize=4)


def _whiskers(means: Sequence[Estimate]) -> np.ndarray:
    """Return [2, N] lengths below and above; 0 without an interval."""
    return np.nan_to_num([[max(0.0, one.mean - one.low) for one in means],
                          [max(0.0, one.high - one.mean) for one in means]])


def _add_legend(figure: Figure, grid: np.ndarray, caption: str, columns: int) -> None:
    """Put one legend for all panels below the figure, bicubic last, with a caption."""
    entries = {label: handle for axes in grid.flat
               for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if "bicubic" in entries:
        entries["bicubic"] = entries.pop("bicubic")
    legend = figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns,
                           frameon=False, handlelength=3.4, title=caption[0].upper() + caption[1:], title_fontsize=FONT)
    legend.get_title().set(multialignment="center", color=FAINT)


def _counts(drawn: Sequence[Units]) -> str:
    """Return the numbers of slides and seeds behind the whiskers; marks may differ in their seeds."""
    slides = max(len({slide for slide, _ in found}) for found in drawn)
    seeds = sorted({len({seed for _, seed in found}) for found in drawn})
    many = " or ".join(map(str, seeds)) if len(seeds) < 3 else f"{seeds[0]} to {seeds[-1]}"
    return (f"Whiskers: 95% interval of the mean over {slides} slide{'s' * (slides != 1)} × {many} "
            f"seed{'s' * (seeds != [1])}; faint: single (slide, seed) pairs")
