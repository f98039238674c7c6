"""The picture beside the standard table: gain over bicubic along sharpness, JPEG quality and noise of LR.

A thin line is a slide, the thick one their mean; below the line at 0 bicubic is better.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.files import atomic_path
from sr_keras.evaluation.conditions import CURVES, REAL_NAME, Curve
from sr_keras.evaluation.gains import Gain
from sr_keras.evaluation.measure import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, LINE, THIN = "#1d1d1f", "#5f5f66", "#0b6cc4", "#9cc4e8"
SHOWN = ("psnr", "ms_ssim", "qilv")
DPI, WIDTH, HEIGHT = 100, 4.2, 2.9  # of the picture; inches of a panel


def picture_of_curves(gains: Sequence[Gain], path: str | os.PathLike[str]) -> None:
    """Draw a column per curve and a row per metric.

    Args:
        gains: By kind of LR; a curve takes those that are its points.
        path: A .png file, written atomically.
    """
    # The first use on a machine builds a cache of fonts, and logs so.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure  # and not pyplot: no display, no global state

    by_name = {gain.condition.name: gain for gain in gains}
    names = [name for name in SHOWN if all(name in slide.gain for gain in gains for slide in gain.slides.values())]
    figure = Figure(figsize=(WIDTH * len(CURVES), HEIGHT * len(names) + 0.6), dpi=DPI, facecolor="white",
                    layout="constrained")
    axes = figure.subplots(len(names), len(CURVES), squeeze=False, sharey="row", sharex="col")
    for row, name in zip(axes, names, strict=True):
        for panel, curve in zip(row, CURVES, strict=True):
            _draw(panel, curve, by_name, name)
        row[0].set_ylabel(f"gain in {METRICS[name].label}", color=INK)
    for panel, curve in zip(axes[-1], CURVES, strict=True):
        panel.set_xlabel(curve.label, color=INK)
    axes[0][0].legend(frameon=False, fontsize=8, labelcolor=FAINT, loc="lower right")
    figure.suptitle("Gain of SR over bicubic: above 0 is better than bicubic", color=INK, fontsize=12)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, pil_kwargs={"optimize": True})


def _draw(panel: Axes, curve: Curve, by_name: dict[str, Gain], metric: str) -> None:
    points = [(value, by_name[condition.name]) for value, condition in curve.points if condition.name in by_name]
    for number, slide_id in enumerate(sorted({slide_id for _, gain in points for slide_id in gain.slides})):
        mine = [(value, gain.slides[slide_id].gain[metric]) for value, gain in points if slide_id in gain.slides]
        panel.plot(*zip(*mine, strict=True), color=THIN, linewidth=1, label="a slide" if number == 0 else None)
    means = [(value, gain.mean(metric)) for value, gain in points]
    panel.plot(*zip(*means, strict=True), color=LINE, linewidth=2.2, marker="o", markersize=4, label="mean over slides")
    panel.axhline(0, color=INK, linewidth=0.9)
    if REAL_NAME in by_name:
        panel.axhline(by_name[REAL_NAME].mean(metric), color=FAINT, linewidth=1, linestyle=(0, (4, 3)),
                      label="real pairs, mean")
    panel.set_xticks([value for value, _ in points])
    panel.tick_params(colors=FAINT, labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
