"""The study in pictures, in the order of the paper's figure 3, as PNG and SVG.

    figure_3a_KIND_SIDE           MS-SSIM, QILV and RRMSE against the corrupted fraction, a line a method
    figure_3b_KIND_SIDE_PERCENT   the same against q at one fraction; figure_3b_clean at none
    robustness_KIND_SIDE          by how much each method, and each q, is worse than with a clean training set
    ..._by_magnification, ..._MAGNIFICATION    the same, slides apart, where they have several magnifications

Lines are means over (slide, seed) pairs, whiskers the 95% interval of a bootstrap crossed over slides and seeds, and
faint points the pairs. Colours are those of Okabe and Ito, which the colour-blind tell apart; markers and dashes say
the same once more. A VGG19 with random weights has hollow markers. The same rows give the same bytes of SVG.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from study.statistics import Units, estimate, falls, units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = ("ms_ssim", "qilv", "rrmse")
INK, FAINT = "#1d1d1f", "#5f5f66"
DPI = 200
WIDTH = 7.2  # inches, the text width of a page
FONT = 8.0  # points at that width
RC: Any = {"svg.hashsalt": "sr_keras", "font.family": "DejaVu Sans", "font.size": FONT, "axes.titlesize": FONT + 1,
      "axes.labelsize": FONT, "xtick.labelsize": FONT, "ytick.labelsize": FONT, "legend.fontsize": FONT,
      "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
      "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.formatter.useoffset": False}
# Colour, marker and dashes of a method, and of one that is balanced equally.
STYLES: dict[str, tuple[str, str, Any]] = {
    "srgan": ("#D55E00", "s", (0, (5, 1.5))), "srgan_e": ("#E69F00", "^", (0, (4, 1.2, 1, 1.2))),
    "srgan_qe": ("#0072B2", "D", (0, (1.2, 1.2))), "srgan_sqe": ("#009E73", "o", "-"),
    "equal": ("#56B4E9", "P", (0, (5, 1.5))), "fidelity": ("#CC79A7", "v", (0, (1.2, 1.2)))}
FRACTION_STYLES = (("#56B4E9", "o"), ("#E69F00", "^"), ("#0072B2", "D"), ("#D55E00", "s"), ("#CC79A7", "v"),
                   ("#009E73", "P"))


@dataclass(frozen=True)
class Line:
    """One line of a panel: its label, style, and the rows at each place along x."""

    label: str
    style: dict[str, Any]
    rows: dict[float, list[Row]]


def write_figures(rows: Sequence[Row], folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every figure that the rows have something for, each as PNG and as SVG, atomically.

    Args:
        rows: Of the study, as `results.read_results` gives them; cells may be missing, variants are left out.
        folder: Is made where there is none.

    Returns:
        The files.
    """
    # The first use on a machine builds a cache of fonts, and logs so.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import rc_context

    paths = []
    with rc_context(RC):
        for name, figure in _figures([row for row in rows if not row["variant"]]):
            for suffix, metadata in ((".png", None), (".svg", {"Date": None})):
                paths.append(Path(folder) / f"{name}{suffix}")
                with atomic_path(paths[-1]) as temporary:
                    figure.savefig(temporary, dpi=DPI, metadata=metadata)
    return paths


def _figures(rows: list[Row]) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of all there is to draw."""
    every, *_ = apart = list(scopes(rows).items())
    cuts = [("", [every])] + ([("_by_magnification", apart[1:])] if len(apart) > 1 else [])
    clean_drawn = False
    for corruption in corruptions(rows):
        name = "clean" if corruption[0] == "none" else "_".join(corruption)
        for suffix, cut in cuts:
            if any(line.rows for line in _by_fraction(rows, corruption)):
                yield f"figure_3a_{name}{suffix}", _figure_3a(cut, corruption)
        for fraction in fractions(rows, corruption):
            if any(len(line.rows) > 1 for line in _by_q(rows, corruption, fraction)) and (fraction or not clean_drawn):
                clean_drawn |= not fraction
                at = f"{name}_{percent(fraction).rstrip('%')}" if fraction else "clean"
                yield from ((f"figure_3b_{at}{suffix}", _figure_3b(cut, corruption, fraction)) for suffix, cut in cuts)
        for scope, mine in apart:
            if _fallen(mine, corruption):
                yield (f"robustness_{name}" + ("" if scope == every[0] else f"_{scope}"),
                       _robustness(mine, corruption, scope))


def _figure_3a(cut: Sequence[tuple[str, list[Row]]], corruption: Corruption) -> Figure:
    words = "Corrupted share of the training examples"
    along = {100 * one: percent(one) for _, rows in cut for one in fractions(rows, corruption)}
    return _panels([(scope, rows, _by_fraction(rows, corruption)) for scope, rows in cut], "a", along, words,
                   title(corruption))


def _figure_3b(cut: Sequence[tuple[str, list[Row]]], corruption: Corruption, fraction: float) -> Figure:
    lines = [(scope, rows, _by_q(rows, corruption, fraction)) for scope, rows in cut]
    found = sorted({q for _, _, some in lines for line in some for q in line.rows})
    place = {q: float(i) for i, q in enumerate(found)}  # q spans a factor of 8 or more: evenly spaced, as on a log axis
    moved = [(scope, rows, [Line(line.label, line.style, {place[q]: mine for q, mine in line.rows.items()})
                            for line in some]) for scope, rows, some in lines]
    what = f"{percent(fraction)} corrupted: {title(corruption)}" if fraction else "no corruption"
    return _panels(moved, "b", {place[q]: f"{q:g}" for q in found}, "q of the quasi-norm", what)


def _by_fraction(rows: list[Row], corruption: Corruption) -> list[Line]:
    """Return a line for each of the paper's methods."""
    return [Line(curve.label, _style(curve), {100 * one: mine for one in fractions(rows, corruption)
                                              if (mine := curve.rows(rows, one, corruption))})
            for curve in curves(rows) if curve.is_paper]


def _by_q(rows: list[Row], corruption: Corruption, fraction: float) -> list[Line]:
    """Return a line for each series that has rows at this fraction, x being q."""
    lines = []
    for method, balance in Q_SERIES:
        found = {curve.q: mine for curve, mine in along_q(rows, method, balance, fraction, corruption).items()
                 if curve.q is not None}
        balanced = {"equal": ", equal balance", "paper": ", the paper's λ"}[balance]
        label = NAMES[method] if method == "fidelity" else f"{NAMES[method]}{balanced}"
        if found:
            lines.append(Line(label, _style(Curve(method, balance=balance)), found))
    return lines


def _fallen(rows: list[Row], corruption: Corruption) -> dict[Curve, dict[float, dict[str, Units]]]:
    """Return curve -> fraction -> metric -> falls, of what has both a clean and a corrupted cell."""
    found: dict[Curve, dict[float, dict[str, Units]]] = {}
    for curve in curves(rows):
        for fraction in filter(None, fractions(rows, corruption)):
            fall = {metric: falls(rows, curve, fraction, corruption, metric) for metric in PANELS}
            if any(fall.values()):
                found.setdefault(curve, {})[fraction] = fall
    return found


def _style(curve: Curve) -> dict[str, Any]:
    colour, marker, dashes = STYLES["equal" if curve.balance == "equal" else curve.method]
    filled = "white" if curve.vgg_weights == "random" else colour
    return {"color": colour, "marker": marker, "linestyle": dashes, "markerfacecolor": filled, "markersize": 4.5,
            "linewidth": 1.4, "markeredgewidth": 1.1}


def _panels(parts: Sequence[tuple[str, list[Row], list[Line]]], letter: str, ticks: dict[float, str], along: str,
            what: str) -> Figure:
    """Draw a row of panels for each scope, a column for each metric."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.15 + 2.05 * len(parts)), layout="constrained", facecolor="white")
    grid = figure.subplots(len(parts), len(PANELS), squeeze=False, sharex=True)
    for j, (scope, rows, lines) in enumerate(parts):
        for i, (axes, metric) in enumerate(zip(grid[j], PANELS, strict=True)):
            axes.set_title(f"({letter}{i + 1}) {heading(metric)}" if j == 0 else heading(metric), loc="left")
            axes.set_ylabel(scope if i == 0 and len(parts) > 1 else "", fontweight="bold")
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.grid(axis="y", color="#e4e4e8", linewidth=0.6)
            axes.set_axisbelow(True)
            _draw(axes, lines, metric, list(ticks))
            _draw_bicubic(axes, rows, metric)
    grid[-1, 1].set_xlabel(along)
    drawn = [units(mine, PANELS[0]) for _, _, lines in parts for line in lines for mine in line.rows.values()]
    _legend(figure, grid, f"{what}\n{_counts(drawn)}", columns=3)
    return figure


def _draw(axes: Axes, lines: Sequence[Line], metric: str, ticks: Sequence[float]) -> None:
    """Draw lines beside each other by a hair, so that no whisker hides another."""
    span = max(ticks) - min(ticks) or 1.0
    shown = [(line, {x: found for x, rows in line.rows.items() if (found := units(rows, metric))}) for line in lines]
    for i, (line, places) in enumerate(shown):
        aside = (i - (len(shown) - 1) / 2) * 0.014 * span
        for x, found in places.items():
            axes.plot([x + aside] * len(found), list(found.values()), color=line.style["color"],
                      marker=line.style["marker"], linestyle="", markersize=3.5, alpha=0.45, markeredgewidth=0)
        if places:
            means = [estimate(found) for found in places.values()]
            axes.errorbar([x + aside for x in places], [one.mean for one in means], _whiskers(means), label=line.label,
                          capsize=1.8, elinewidth=0.9, **line.style)
    axes.set_xlim(min(ticks) - 0.07 * span, max(ticks) + 0.07 * span)
    if not any(places for _, places in shown):
        axes.text(0.5, 0.5, NOT_RUN, transform=axes.transAxes, ha="center", va="center", color=FAINT)
        axes.set_yticks([])


def _draw_bicubic(axes: Axes, rows: list[Row], metric: str) -> None:
    found = units(BICUBIC.rows(rows, 0.0, ("none", "none")), metric)
    if found:
        axes.axhline(estimate(found).mean, color="#8a8a90", linestyle=(0, (3, 2)), linewidth=1.1, label="bicubic",
                     zorder=1)


def _robustness(rows: list[Row], corruption: Corruption, scope: str) -> Figure:
    """Draw the falls of every curve, one below the other, a marker a fraction."""
    from matplotlib.figure import Figure

    fallen = _fallen(rows, corruption)
    every = sorted({fraction for found in fallen.values() for fraction in found})
    figure = Figure(figsize=(WIDTH, 1.3 + len(fallen) * max(0.2, 0.075 * (1 + len(every)))), layout="constrained",
                    facecolor="white")
    grid = figure.subplots(1, len(PANELS), squeeze=False, sharey=True)
    for axes, metric in zip(grid[0], PANELS, strict=True):
        axes.axvline(0, color=FAINT, linewidth=0.8)
        for i, fraction in enumerate(every):
            aside = (i - (len(every) - 1) / 2) * 0.7 / len(every)
            places = {y + aside: found[fraction][metric] for y, found in enumerate(fallen.values())
                      if found.get(fraction, {}).get(metric)}
            _draw_falls(axes, places, FRACTION_STYLES[i % len(FRACTION_STYLES)], f"{percent(fraction)} corrupted")
        axes.set_title(METRICS[metric].label, loc="left")
        axes.set_yticks(range(len(fallen)), [curve.label for curve in fallen])
        axes.set_ylim(len(fallen) - 0.4, -0.6)
        axes.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
        axes.tick_params(axis="y", length=0)
        for y in range(1, len(fallen)):
            axes.axhline(y - 0.5, color="#e4e4e8", linewidth=0.6)
    grid[0, 1].set_xlabel("Fall from a clean training set: right of 0 is worse")
    drawn = [fall[PANELS[0]] for found in fallen.values() for fall in found.values()]
    _legend(figure, grid, f"{title(corruption)}, {scope}\n{_counts(drawn)}", columns=len(every))
    return figure


def _draw_falls(axes: Axes, places: dict[float, Units], style: tuple[str, str], label: str) -> None:
    colour, marker = style
    for y, found in places.items():
        axes.plot(list(found.values()), [y] * len(found), color=colour, marker=marker, linestyle="", markersize=3.5,
                  alpha=0.45, markeredgewidth=0)
    if places:
        means = [estimate(found) for found in places.values()]
        axes.errorbar([one.mean for one in means], list(places), xerr=_whiskers(means), label=label, capsize=1.5,
                      elinewidth=0.9, color=colour, marker=marker, linestyle="", markersize=4)


def _whiskers(means: Sequence[Any]) -> np.ndarray:
    """Return [2, N] lengths below and above; none where there is no interval."""
    return np.nan_to_num([[max(0.0, one.mean - one.low) for one in means], [max(0.0, one.high - one.mean)
                                                                            for one in means]])


def _legend(figure: Figure, grid: np.ndarray, caption: str, columns: int) -> None:
    entries = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(),
                                                                            strict=True)}
    bicubic = entries.pop("bicubic", None)
    entries |= {"bicubic": bicubic} if bicubic is not None else {}
    words = caption[0].upper() + caption[1:]
    legend = figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns,
                           frameon=False, handlelength=3.4, title=words, title_fontsize=FONT)
    legend.get_title().set(multialignment="center", color=FAINT)


def _counts(drawn: Sequence[Units]) -> str:
    """Return in words what the means and intervals of a figure are of; marks may differ in their seeds."""
    slides = max(len({slide for slide, _ in found}) for found in drawn)
    seeds = sorted({len({seed for _, seed in found}) for found in drawn})
    many = " or ".join(map(str, seeds)) if len(seeds) < 3 else f"{seeds[0]} to {seeds[-1]}"
    return (f"Whiskers: 95% interval of the mean over {slides} slide{'s' * (slides != 1)} × {many} "
            f"seed{'s' * (seeds != [1])}; faint: single (slide, seed) pairs")
