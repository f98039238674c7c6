# SPDX-License-Identifier: Apache-2.0
"""The three figures of a study, as SVG and PNG. The same rows give the same bytes of SVG.

    methods     mean MS-SSIM, QILV and RRMSE over slides against the corrupted share, a line for each method
    stability   how much every slide loses from a clean training set to the largest corrupted share, by method
    claims      every claim: the mean difference in units of the effect that counts, and its interval

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; markers and dashes differ as well.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.files import atomic_path
from sr_keras.config import METHODS
from sr_keras.evaluation.scored_patches import METRICS
from study.claims import FAILED, HELD, NOT_RUN, UNDECIDED, Answer, signed
from study.folds import Slide
from study.grid import BICUBIC, Setting
from study.results import Row, by_slide, finished, label
from study.statistics import interval

SHOWN = ("ms_ssim", "qilv", "rrmse")
INK, FAINT, RULE = "#1d1d1f", "#5f5f66", "#e4e4e8"
DPI, WIDTH, FONT = 200, 7.2, 8.0  # WIDTH in inches, the text width of a page; FONT in points at that width
RC: Any = {"svg.hashsalt": "sr_keras", "font.family": "DejaVu Sans", "font.size": FONT, "axes.titlesize": FONT + 1,
           "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
           "axes.spines.top": False, "axes.spines.right": False, "axes.formatter.useoffset": False}
STYLES: dict[str, tuple[str, str, Any]] = {  # colour, marker and dashes of each method
    "srgan": ("#D55E00", "s", (0, (5, 1.5))), "srgan_e": ("#E69F00", "^", (0, (4, 1.2, 1, 1.2))),
    "srgan_qe": ("#0072B2", "D", (0, (1.2, 1.2))), "srgan_sqe": ("#009E73", "o", "-")}
ANSWERS = {HELD: ("#009E73", "o"), FAILED: ("#D55E00", "X"), UNDECIDED: ("#8a8a90", "s")}


def write_figures(settings: Sequence[Setting], rows: Sequence[Row], answers: Sequence[Answer],
                  slides: dict[str, Slide], folder: Path, vgg_weights: str) -> list[Path]:
    """Draw every figure that there are complete cells for; return the files."""
    plain = [one for one in settings if one.method in METHODS and one.q == METHODS[one.method].q and not one.variant
             and one.kind in ("mixed", "none") and finished(rows, one.name, slides)]
    paths = []
    with rc_context(RC):
        figures = {"methods": _methods(plain, rows, vgg_weights), "stability": _stability(plain, rows, vgg_weights),
                   "claims": _claims(answers)}
        for name, figure in ((name, figure) for name, figure in figures.items() if figure):
            for suffix, metadata in ((".png", None), (".svg", {"Date": None})):
                paths.append(folder / f"{name}{suffix}")
                with atomic_path(paths[-1]) as temporary:
                    figure.savefig(temporary, dpi=DPI, metadata=metadata)
    return paths


def _methods(settings: Sequence[Setting], rows: Sequence[Row], vgg_weights: str) -> Figure | None:
    """Draw the means of each method at each corrupted share, beside bicubic; nothing if there is one share."""
    settings = sorted(settings, key=lambda one: one.fraction)  # a line goes from share to share
    shares = sorted({100 * one.fraction for one in settings})
    if len(shares) < 2:
        return None
    figure, panels = _panels(2.9)
    for axes, metric in zip(panels, SHOWN, strict=True):
        axes.set_title(METRICS[metric].heading, loc="left")
        axes.set_xticks(shares, [f"{share:g}%" for share in shares])
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        for number, method in enumerate(METHODS):
            mine = [one for one in settings if one.method == method]
            means = [interval(list(by_slide(rows, one.name, metric).values())) for one in mine]
            _whiskers(axes, [100 * one.fraction + 1.2 * (number - 1.5) for one in mine], means, method,
                      label(mine[0], vgg_weights, corruption=False) if mine else "")
        bicubic = list(by_slide(rows, BICUBIC, metric).values())
        if bicubic:
            axes.axhline(float(np.mean(bicubic)), color="#8a8a90", linestyle=(0, (3, 2)), linewidth=1, label="bicubic")
    panels[1].set_xlabel("Corrupted share of the training examples")
    _legend(figure, panels[:1], "Mean over slides that the network never saw; whiskers: 95% interval over slides")
    return figure


def _stability(settings: Sequence[Setting], rows: Sequence[Row], vgg_weights: str) -> Figure | None:
    """Draw how much each slide loses from the clean training set to the largest corrupted share."""
    by_method = {method: sorted((one for one in settings if one.method == method), key=lambda one: one.fraction)
                 for method in METHODS}
    pairs = {method: (mine[0], mine[-1]) for method, mine in by_method.items()
             if len(mine) > 1 and not mine[0].fraction}
    if not pairs:
        return None
    figure, panels = _panels(0.9 + 0.42 * len(pairs), sharey=True)
    worst = max(last.fraction for _, last in pairs.values())
    for axes, metric in zip(panels, SHOWN, strict=True):
        axes.axvline(0, color=FAINT, linewidth=0.8)
        for y, (method, (clean, last)) in enumerate(pairs.items()):
            values = list(signed(rows, clean.name, last.name, metric).values())
            spread = np.random.default_rng(0).uniform(-0.22, 0.22, len(values))  # so that points do not hide others
            colour, marker, _ = STYLES[method]
            axes.plot(values, y + spread, linestyle="", marker=marker, markersize=3, alpha=0.45, color=colour,
                      markeredgewidth=0)
            mean, low, high = interval(values)
            axes.errorbar(mean, y, xerr=[[mean - low], [high - mean]], color=INK, marker="|", markersize=11, capsize=2)
        axes.set_title(METRICS[metric].label, loc="left")
        axes.set_yticks(range(len(pairs)), [label(one, vgg_weights, corruption=False).replace(", ", ",\n", 1)
                                            for one, _ in pairs.values()])
        axes.set_ylim(len(pairs) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=4)
    panels[1].set_xlabel(f"Loss from 0 to {worst:.0%} corrupted, a point for each slide: right of 0 is worse")
    return figure


def _claims(answers: Sequence[Answer]) -> Figure | None:
    """Draw every claim that was run, in units of the effect that counts."""
    claims = list(dict.fromkeys(one.claim for one in answers if one.answer != NOT_RUN))
    if not claims:
        return None
    figure, panels = _panels(1.0 + 0.24 * len(claims), sharey=True)
    for axes, metric in zip(panels, SHOWN, strict=True):
        axes.axvline(0, color=FAINT, linewidth=0.8)
        for one in (one for one in answers if one.metric == metric and one.claim in claims):
            y = claims.index(one.claim)
            mean, low, high = (value / one.effect for value in (one.compared.mean, one.compared.low, one.compared.high))
            colour, marker = ANSWERS[one.answer]
            axes.errorbar(mean, y, xerr=[[mean - low], [high - mean]], color=colour, marker=marker, markersize=4,
                          capsize=1.5, linestyle="", label=one.answer)
            axes.plot([one.claim.by] * 2, [y - 0.35, y + 0.35], color=INK, linewidth=1)
        axes.set_title(METRICS[metric].label, loc="left")
        axes.set_yticks(range(len(claims)), [claim.claim for claim in claims])
        axes.set_ylim(len(claims) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=5)
    panels[1].set_xlabel("Better by, in effects that count (black mark: what is claimed)")
    _legend(figure, panels, "Answers; whiskers: 95% interval over slides, before Holm's correction")
    return figure


def _panels(height: float, sharey: bool = False) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    return figure, list(figure.subplots(1, len(SHOWN), squeeze=False, sharey=sharey)[0])


def _whiskers(axes: Axes, x: Sequence[float], means: Sequence[tuple[float, float, float]], method: str,
              name: str) -> None:
    if means:
        colour, marker, dashes = STYLES[method]
        middle, low, high = np.array(means).T
        axes.errorbar(x, middle, [middle - low, high - middle], color=colour, marker=marker, linestyle=dashes,
                      label=name, capsize=1.8, elinewidth=0.9, markersize=4.5, linewidth=1.4)


def _legend(figure: Figure, panels: Sequence[Axes], caption: str) -> None:
    entries = {name: handle for axes in panels
               for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend = figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3,
                           frameon=False, handlelength=3.4, title=caption, title_fontsize=FONT)
    legend.get_title().set_color(FAINT)
