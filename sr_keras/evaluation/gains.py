"""Gain over bicubic, LR kind by LR kind: what a model is worth on each, on the worst slide as well as on average.

A gain is SR less bicubic, patch by patch; its mean over a slide's patches is that slide's, and the mean over slides
counts each slide once, however many patches it gave. RRMSE is an error: a gain below 0 is good there. A slide lies
below bicubic when its gain in PSNR is negative.
"""
from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.files import write_text
from sr_keras.evaluation.conditions import STANDARD, Condition
from sr_keras.evaluation.measure import BICUBIC, METRICS, SR, Row
from sr_keras.evaluation.summary import DIFFERENCE, by_patch, finite_mean, heading

GAIN_METRICS = ("psnr", "ms_ssim", "qilv", "rrmse")
Means = dict[str, float]  # by metric


@dataclass(frozen=True)
class SlideGain:
    """Means over the patches of one slide, by metric; `gain` is that of SR less bicubic, patch by patch."""

    patches: int
    bicubic: Means
    sr: Means
    gain: Means


@dataclass(frozen=True)
class Gain:
    """What a model gains on one kind of LR, by slide."""

    condition: Condition
    slides: dict[str, SlideGain]

    def of_slides(self, metric: str) -> Means:
        """Return each slide's gain in a metric; slides that have no finite one are left out."""
        gains = {slide_id: slide.gain[metric] for slide_id, slide in self.slides.items()}
        return {slide_id: gain for slide_id, gain in gains.items() if np.isfinite(gain)}

    def mean(self, metric: str) -> float:
        """Return the mean over slides."""
        return finite_mean(np.array(list(self.of_slides(metric).values())))

    @property
    def worst(self) -> tuple[str, float]:
        """The slide that gains least PSNR, and what it gains; "" and NaN where there is none."""
        return min(self.of_slides("psnr").items(), key=lambda item: item[1], default=("", float("nan")))

    @property
    def below(self) -> int:
        """How many slides lie below bicubic in PSNR."""
        return sum(gain < 0 for gain in self.of_slides("psnr").values())


def gain_of(condition: Condition, rows: Sequence[Row]) -> Gain:
    """Return the gain on one kind of LR, of rows as `measure.score` gives them.

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


def standard_rows(gains: Sequence[Gain]) -> list[Gain]:
    """Return those of the standard list, in its order; the others are points of curves."""
    by_name = {gain.condition.name: gain for gain in gains}
    return [by_name[condition.name] for condition in STANDARD if condition.name in by_name]


def gain_table(gains: Sequence[Gain]) -> str:
    """Return the compact Markdown table: a row per kind of LR, gain over bicubic, worst slide, slides below."""
    names = _metrics(gains)
    head = [*(heading(name) for name in names), "worst slide, PSNR", "slides below bicubic"]
    lines = [f"| LR | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for gain in gains:
        slide_id, least = gain.worst
        cells = [*(_signed(gain.mean(name), name) for name in names), f"{_signed(least, 'psnr')} ({slide_id})",
                 f"{gain.below} of {len(gain.of_slides('psnr'))}"]
        lines.append(f"| {gain.condition.label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def slide_gain_table(gains: Sequence[Gain], metric: str = "psnr") -> str:
    """Return the gain in one metric by kind of LR and slide, as a Markdown table."""
    slide_ids = sorted({slide_id for gain in gains for slide_id in gain.slides})
    lines = [f"| LR | {' | '.join(slide_ids)} |", "| --- |" + " ---: |" * len(slide_ids)]
    for gain in gains:
        cells = [_signed(gain.slides[slide_id].gain[metric], metric) if slide_id in gain.slides else ""
                 for slide_id in slide_ids]
        lines.append(f"| {gain.condition.label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def score_table(gains: Sequence[Gain]) -> str:
    """Return the scores themselves, bicubic → SR, means over slides, as a Markdown table."""
    names = _metrics(gains)
    lines = [f"| LR | {' | '.join(heading(name) for name in names)} |", "| --- |" + " ---: |" * len(names)]
    for gain in gains:
        cells = [" → ".join(f"{_over_slides(gain, method, name):.{METRICS[name].digits}f}" for method in (BICUBIC, SR))
                 for name in names]
        lines.append(f"| {gain.condition.label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_gains_csv(gains: Sequence[Gain], path: str | os.PathLike[str]) -> None:
    """Write a row per kind of LR and slide, atomically: the means of bicubic, of SR and of the gain."""
    names = _metrics(gains)
    columns = [f"{method}_{name}" for name in names for method in (BICUBIC, SR, "gain")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["lr", "slide_id", "patches", *columns])
    for gain in gains:
        for slide_id, slide in gain.slides.items():
            values = [means[name] for name in names for means in (slide.bicubic, slide.sr, slide.gain)]
            writer.writerow([gain.condition.name, slide_id, slide.patches, *(f"{value:.6g}" for value in values)])
    write_text(path, text.getvalue())


def write_gains_json(gains: Sequence[Gain], path: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
    """Write everything there is, atomically: `about` (the model, the data), and by name every kind of LR."""
    listed = {gain.condition.name: _as_json(gain) for gain in gains}
    write_text(path, json.dumps({**about, "lr": listed}, indent=1) + "\n")


def _as_json(gain: Gain) -> dict[str, Any]:
    slide_id, least = gain.worst
    slides = {name: {"patches": slide.patches, BICUBIC: _rounded(slide.bicubic), SR: _rounded(slide.sr),
                     "gain": _rounded(slide.gain)} for name, slide in gain.slides.items()}
    return {"label": gain.condition.label, "gain": _rounded({name: gain.mean(name) for name in _metrics([gain])}),
            "worst_slide": slide_id, "worst_psnr": _rounded({"psnr": least})["psnr"], "slides_below": gain.below,
            "slides": slides}


def _rounded(means: Means) -> dict[str, float | None]:
    """Return values that JSON can hold: six digits, None for what is not finite."""
    return {name: float(f"{value:.6g}") if np.isfinite(value) else None for name, value in means.items()}


def _over_slides(gain: Gain, method: str, metric: str) -> float:
    return finite_mean(np.array([getattr(slide, method)[metric] for slide in gain.slides.values()]))


def _metrics(gains: Sequence[Gain]) -> list[str]:
    """Return the metrics that every slide has; MS-SSIM is missing where patches are small."""
    return [name for name in GAIN_METRICS
            if all(name in slide.gain for gain in gains for slide in gain.slides.values())]


def _signed(value: float, name: str) -> str:
    return f"{value:+.{METRICS[name].digits}f}"
