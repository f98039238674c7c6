# SPDX-License-Identifier: Apache-2.0
"""Gain over bicubic on every kind of LR of the standard list, by slide, in tables, files and curves.

    standard.md     the table of gains, the gain in PSNR by slide, and the scores themselves
    standard.csv    a row per kind of LR and slide
    standard.json   model, data, and for each kind of LR gains and scores, for programs
    standard.png    gain against sharpness, JPEG quality and noise

A gain is SR less bicubic, patch by patch. The gain of a slide is the mean over its patches, and the mean over slides
counts each slide once. RRMSE is an error: a gain below 0 is good. A slide is below bicubic if its gain in PSNR is
negative.

Random parts of LR (noise, the position of the JPEG grid) depend on seed and example id alone: the same call gives the
same numbers, and two models get the same LR.
"""
from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from pipelines.config import DegradeOptions
from pipelines.files import atomic_path, write_text
from pipelines.shards import ShardSet
from pipelines.shards.records import damage_named
from sr_keras.evaluation.conditions import CURVES, REAL_NAME, STANDARD, Condition, Curve, standard_conditions
from sr_keras.evaluation.scores import (
    BICUBIC,
    DIFFERENCE,
    METRICS,
    SR,
    Row,
    both,
    by_patch,
    finite_mean,
    heading,
    score,
    table,
)
from sr_keras.evaluation.shard_sets import limit_of, lr_dataset, pairs_of, share_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PER_SLIDE = 25  # patches of a slide for each kind of LR; about ten minutes on two cores with the shipped model
READING = ("Gain of SR over bicubic, the mean over slides of each slide's mean: SR is better above 0, in RRMSE below. "
           "A slide is below bicubic when its gain in PSNR is negative. Sigmas are in HR pixels.")
GAIN_METRICS = ("psnr", "ms_ssim", "qilv", "rrmse")
CURVE_METRICS = ("psnr", "ms_ssim", "qilv")
INK, FAINT, LINE, THIN = "#1d1d1f", "#5f5f66", "#0b6cc4", "#9cc4e8"
DPI, WIDTH, HEIGHT = 100, 4.2, 2.9  # of the picture; inches of a panel
Means = dict[str, float]  # by metric


@dataclass(frozen=True)
class SlideGain:
    """Means over the patches of a slide, by metric; `gain` is SR less bicubic, patch by patch."""

    patches: int
    bicubic: Means
    sr: Means
    gain: Means


@dataclass(frozen=True)
class Gain:
    """The gain of a model on one kind of LR, by slide."""

    condition: Condition
    slides: dict[str, SlideGain]

    def of_slides(self, metric: str) -> Means:
        """Return the gain of each slide in a metric, without slides that have no finite gain."""
        gains = {slide_id: slide.gain[metric] for slide_id, slide in self.slides.items()}
        return {slide_id: gain for slide_id, gain in gains.items() if np.isfinite(gain)}

    def mean(self, metric: str) -> float:
        """Return the mean over slides."""
        return finite_mean(np.array(list(self.of_slides(metric).values())))

    @property
    def worst(self) -> tuple[str, float]:
        """The slide with the least gain in PSNR, and that gain; "" and NaN if there is none."""
        return min(self.of_slides("psnr").items(), key=lambda item: item[1], default=("", float("nan")))

    @property
    def below(self) -> int:
        """Number of slides below bicubic in PSNR."""
        return sum(gain < 0 for gain in self.of_slides("psnr").values())


def score_standard(upscale: Callable[[np.ndarray], Any], sets: Sequence[ShardSet], scale: int,
                   per_slide: int | None = PER_SLIDE, seed: int = 0) -> list[Gain]:
    """Return the gain on every kind of LR of the standard list and of the curves.

    Args:
        upscale: lr float32 [B, h, w, 3] -> sr.
        sets: The patches, each set of one size; see `shard_sets.find_sets`. Real LR is scored if some of them have it.
        scale: Scale of the model.
        per_slide: Patches of each slide; None for all.
        seed: Seed of the random parts of LR.

    Raises:
        ValueError: Pairs are of another scale than the model.
    """
    real, made = share_out([pairs_of(one, scale) for one in sets if one.pairs.shards]), share_out(sets)
    found = [(condition, real if condition.is_real else made)
             for condition in standard_conditions(scale, real=bool(real))]
    total = sum(limit_of(one, per_slide) or one.count for _, sets in found for one in sets)
    with tqdm(desc="scoring", unit="patch", total=total) as bar:
        return [gain_of(condition, score(upscale, _batches(sets, condition, scale, per_slide, seed, bar),
                                         DegradeOptions(scale), GAIN_METRICS)) for condition, sets in found]


def gain_of(condition: Condition, rows: Sequence[Row]) -> Gain:
    """Return the gain on one kind of LR, from rows of `scores.score`.

    Raises:
        ValueError: There are no rows, or a patch lacks one of its two methods.
    """
    slide_ids, values = by_patch(rows)
    found = {}
    for slide_id in sorted(set(slide_ids.tolist())):
        mine = slide_ids == slide_id
        means = {method: {name: finite_mean(column[mine]) for name, column in columns.items() if name in GAIN_METRICS}
                 for method, columns in values.items()}
        found[slide_id] = SlideGain(int(mine.sum()), means[BICUBIC], means[SR], means[DIFFERENCE])
    return Gain(condition, found)


def write_standard(gains: Sequence[Gain], paths: Sequence[Path], title: str, about: Mapping[str, Any]) -> str:
    """Write the four files, and return the table of gains.

    Args:
        gains: From `score_standard`.
        paths: Of the Markdown page, the CSV, the JSON and the picture.
        title: The first line of the page: the model and the data.
        about: The same for the JSON.
    """
    rows = standard_rows(gains)
    gains_text = gain_table(rows)
    page, rows_file, programs, picture = paths
    write_text(page, f"{title}\n\n{gains_text}\n{READING}\n\n**Gain in PSNR by slide**\n\n{slide_gain_table(rows)}\n"
                     f"**Scores, bicubic → SR, means over slides**\n\n{score_table(rows)}")
    write_gains_csv(gains, rows_file)
    write_gains_json(gains, programs, about)
    draw_curves(gains, picture)
    return gains_text


def standard_rows(gains: Sequence[Gain]) -> list[Gain]:
    """Return the gains of the standard list, in its order; the others are points of curves."""
    by_name = {gain.condition.name: gain for gain in gains}
    return [by_name[condition.name] for condition in STANDARD if condition.name in by_name]


def gain_table(gains: Sequence[Gain]) -> str:
    """Return a Markdown table with a row per kind of LR: gains over bicubic, worst slide, slides below bicubic."""
    names = _metrics(gains)
    return table("LR", [*(heading(name) for name in names), "worst slide, PSNR", "slides below bicubic"], (
        (gain.condition.label, *(_signed(gain.mean(name), name) for name in names),
         f"{_signed(gain.worst[1], 'psnr')} ({gain.worst[0]})", f"{gain.below} of {len(gain.of_slides('psnr'))}")
        for gain in gains))


def slide_gain_table(gains: Sequence[Gain], metric: str = "psnr") -> str:
    """Return a Markdown table of the gain in one metric by kind of LR and slide."""
    slide_ids = sorted({slide_id for gain in gains for slide_id in gain.slides})
    return table("LR", slide_ids, (
        (gain.condition.label, *(_signed(gain.slides[slide_id].gain[metric], metric) if slide_id in gain.slides else ""
                                 for slide_id in slide_ids)) for gain in gains))


def score_table(gains: Sequence[Gain]) -> str:
    """Return a Markdown table of the scores, bicubic → SR, means over slides."""
    names = _metrics(gains)
    return table("LR", [heading(name) for name in names], (
        (gain.condition.label, *(both(_over_slides(gain, BICUBIC, name), _over_slides(gain, SR, name), name)
                                 for name in names)) for gain in gains))


def write_gains_csv(gains: Sequence[Gain], path: str | os.PathLike[str]) -> None:
    """Write a row per kind of LR and slide, atomically: the means of bicubic, of SR and of the gain."""
    names = _metrics(gains)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["lr", "slide_id", "patches",
                     *(f"{method}_{name}" for name in names for method in (BICUBIC, SR, "gain"))])
    for gain in gains:
        for slide_id, slide in gain.slides.items():
            values = [means[name] for name in names for means in (slide.bicubic, slide.sr, slide.gain)]
            writer.writerow([gain.condition.name, slide_id, slide.patches, *(f"{value:.6g}" for value in values)])
    write_text(path, file.getvalue())


def write_gains_json(gains: Sequence[Gain], path: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
    """Write `about` (the model, the data) and, by name, every kind of LR, atomically."""
    listed = {gain.condition.name: _as_json(gain) for gain in gains}
    write_text(path, json.dumps({**about, "lr": listed}, indent=1) + "\n")


def draw_curves(gains: Sequence[Gain], path: str | os.PathLike[str]) -> None:
    """Draw the gain over bicubic as a PNG, atomically: a column per curve, a row per metric.

    A thin line is a slide, the thick one the mean over slides. Bicubic is better below 0.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports the font cache that its first use builds
    from matplotlib.figure import Figure  # not pyplot, which needs a display and global state

    by_name = {gain.condition.name: gain for gain in gains}
    names = [name for name in CURVE_METRICS if name in _metrics(gains)]
    figure = Figure(figsize=(WIDTH * len(CURVES), HEIGHT * len(names) + 0.6), dpi=DPI, facecolor="white",
                    layout="constrained")
    axes = figure.subplots(len(names), len(CURVES), squeeze=False, sharey="row", sharex="col")
    for row, name in zip(axes, names, strict=True):
        for panel, curve in zip(row, CURVES, strict=True):
            _draw_curve(panel, curve, by_name, name)
        row[0].set_ylabel(f"gain in {METRICS[name].label}", color=INK)
    for panel, curve in zip(axes[-1], CURVES, strict=True):
        panel.set_xlabel(curve.label, color=INK)
    axes[0][0].legend(frameon=False, fontsize=8, labelcolor=FAINT, loc="lower right")
    figure.suptitle("Gain of SR over bicubic: above 0 is better than bicubic", color=INK, fontsize=12)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, pil_kwargs={"optimize": True})


def _batches(sets: Sequence[ShardSet], condition: Condition, scale: int, per_slide: int | None, seed: int,
             bar: tqdm) -> Iterator[dict[str, Any]]:
    for one in sets:
        dataset = lr_dataset(one, condition, scale, limit_of(one, per_slide), seed)
        with damage_named(one.paths):
            for batch in dataset.as_numpy_iterator():
                yield batch
                bar.update(len(batch["lr"]))


def _as_json(gain: Gain) -> dict[str, Any]:
    slide_id, least = gain.worst
    slides = {name: {"patches": slide.patches, BICUBIC: _rounded(slide.bicubic), SR: _rounded(slide.sr),
                     "gain": _rounded(slide.gain)} for name, slide in gain.slides.items()}
    return {"label": gain.condition.label, "gain": _rounded({name: gain.mean(name) for name in _metrics([gain])}),
            "worst_slide": slide_id, "worst_psnr": _rounded({"psnr": least})["psnr"], "slides_below": gain.below,
            "slides": slides}


def _rounded(means: Means) -> dict[str, float | None]:
    """Return values for JSON: six digits, None if not finite."""
    return {name: float(f"{value:.6g}") if np.isfinite(value) else None for name, value in means.items()}


def _over_slides(gain: Gain, method: str, metric: str) -> float:
    return finite_mean(np.array([getattr(slide, method)[metric] for slide in gain.slides.values()]))


def _metrics(gains: Sequence[Gain]) -> list[str]:
    """Return the metrics that every slide has; MS-SSIM is missing for small patches."""
    return [name for name in GAIN_METRICS
            if all(name in slide.gain for gain in gains for slide in gain.slides.values())]


def _signed(value: float, name: str) -> str:
    return f"{value:+.{METRICS[name].digits}f}"


def _draw_curve(panel: Axes, curve: Curve, by_name: dict[str, Gain], metric: str) -> None:
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
