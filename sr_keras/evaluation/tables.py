# SPDX-License-Identifier: Apache-2.0
"""Means and intervals of the scores of patches, and tables of them: on one kind of LR, or the gain on several.

A mean is the mean over slides of each slide's mean: patches of one slide share stain, scanner and tissue, and a slide
with many patches counts no more than another. The 95% interval is a percentile bootstrap over slides, or over patches
if there is a single slide.

A difference or gain is SR less bicubic, patch by patch. RRMSE is an error: a gain below 0 is good. Both methods are
compared on the same patches: where one of them has no finite score (the PSNR of a patch of one colour, which bicubic
returns without error), the patch is left out of the means of both and of the difference, and named.
"""
from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from pipelines.errors import require
from pipelines.files import read_table, write_csv, write_text
from sr_keras.evaluation.conditions import STANDARD, Condition
from sr_keras.evaluation.scored_patches import BICUBIC, METHODS, METRICS, SR, Row

DIFFERENCE = "difference"
LABELS = {BICUBIC: "bicubic", SR: "SR", DIFFERENCE: "SR − bicubic"}
FEW_SLIDES = 10
RESAMPLES = 1000  # of the bootstrap
MOST_NAMED = 5  # patches in a sentence on those that are left out
GAIN_METRICS = ("psnr", "ms_ssim", "qilv", "rrmse")
READING = ("Gain of SR over bicubic, the mean over slides of each slide's mean: SR is better above 0, in RRMSE below. "
           "A slide is below bicubic when its gain in PSNR is negative. Sigmas are in HR pixels.")
Means = dict[str, dict[str, float]]  # by method, or DIFFERENCE, and metric


@dataclass(frozen=True)
class Estimate:
    """A mean and the bounds of its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Estimates by method and metric, number of patches of each slide, and by metric the patches that are left out."""

    estimates: dict[str, dict[str, Estimate]]
    patches: dict[str, int]
    left_out: dict[str, list[str]]


@dataclass(frozen=True)
class SlideScores:
    """Means over the patches of a slide, and by metric the patches that are left out of them."""

    patches: int
    means: Means
    left_out: dict[str, list[str]]


@dataclass(frozen=True)
class Gain:
    """The gain of a model over bicubic on one kind of LR, by slide."""

    condition: Condition
    slides: dict[str, SlideScores]

    def of_slides(self, metric: str) -> dict[str, float]:
        """Return the gain of each slide in a metric, without slides that have no finite gain."""
        gains = {slide_id: slide.means[DIFFERENCE][metric] for slide_id, slide in self.slides.items()}
        return {slide_id: gain for slide_id, gain in gains.items() if np.isfinite(gain)}

    def mean(self, metric: str, method: str = DIFFERENCE) -> float:
        """Return the mean over slides of the gain, or of the score of a method."""
        return finite_mean([slide.means[method][metric] for slide in self.slides.values()])

    @property
    def worst(self) -> tuple[str, float]:
        """The slide with the least gain in PSNR, and that gain; "" and NaN if there is none."""
        return min(self.of_slides("psnr").items(), key=lambda item: item[1], default=("", float("nan")))

    @property
    def below(self) -> int:
        """Number of slides below bicubic in PSNR."""
        return sum(gain < 0 for gain in self.of_slides("psnr").values())


def summarise(rows: Sequence[Row]) -> Summary:
    """Return means and 95% bootstrap intervals of rows from `score`.

    Raises:
        ValueError: There are no rows, or a patch lacks one of its two methods.
    """
    values, slides = _by_patch(rows)[2], by_slide(rows)
    estimates = {method: {name: _estimate(column if len(slides) == 1 else np.array(
        [slide.means[method][name] for slide in slides.values()]))
        for name, column in columns.items()} for method, columns in values.items()}
    left_out = {name: [patch for slide in slides.values() for patch in slide.left_out[name]] for name in values[SR]}
    return Summary(estimates, {slide_id: slide.patches for slide_id, slide in slides.items()}, left_out)


def by_slide(rows: Sequence[Row]) -> dict[str, SlideScores]:
    """Return the means of each slide.

    Raises:
        ValueError: There are no rows, or a patch lacks one of its two methods.
    """
    example_ids, slide_ids, values = _by_patch(rows)
    found = {}
    for slide_id in sorted(set(slide_ids.tolist())):
        mine = slide_ids == slide_id
        means = {method: {name: finite_mean(column[mine]) for name, column in columns.items()}
                 for method, columns in values.items()}
        left_out = {name: example_ids[mine & np.isnan(column)].tolist() for name, column in values[DIFFERENCE].items()}
        found[slide_id] = SlideScores(int(mine.sum()), means, left_out)
    return found


def finite_mean(values: Any) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    finite = np.asarray(values)[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def _by_patch(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """Return ids and slides of the patches, each [N], and scores by method and metric, each [N].

    Where one method has no finite score, both and the difference are NaN.
    """
    by_method = {method: {row["example_id"]: row for row in rows if row["method"] == method} for method in METHODS}
    require(bool(rows) and by_method[BICUBIC].keys() == by_method[SR].keys(), "rows",
            "contain each patch once as bicubic and once as sr", "take them from `score`", len(rows))
    ids = list(by_method[SR])
    values: dict[str, dict[str, np.ndarray]] = {method: {} for method in (*METHODS, DIFFERENCE)}
    for name in (name for name in METRICS if name in rows[0]):
        pairs = np.array([[by_method[method][i][name] for i in ids] for method in METHODS])
        values[BICUBIC][name], values[SR][name] = np.where(np.isfinite(pairs).all(0), pairs, np.nan)
        values[DIFFERENCE][name] = values[SR][name] - values[BICUBIC][name]
    return np.array(ids), np.array([by_method[SR][i]["slide_id"] for i in ids]), values


def _estimate(units: np.ndarray) -> Estimate:
    units = units[np.isfinite(units)]
    if not len(units):
        return Estimate(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(0)
    means = [units[rng.integers(len(units), size=len(units))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(units.mean()), float(low), float(high))


def markdown_table(summary: Summary) -> str:
    """Return the summary as a Markdown table, the better method in bold, with notes below."""
    names, slides = list(summary.estimates[SR]), len(summary.patches)
    lines = table("", [METRICS[name].heading for name in names], (
        (LABELS[method], *(_cell(summary, method, name) for name in names)) for method in (*METHODS, DIFFERENCE)))
    if slides == 1:
        note = ("Mean over patches, with a 95% interval from resampling them: with a single slide it says nothing about"
                " other slides.")
    else:
        few = " With so few slides it is too narrow." if slides < FEW_SLIDES else ""
        note = f"Mean over slides of each slide's mean, with a 95% interval from resampling slides.{few}"
    notes = [f"{sum(summary.patches.values())} patches of {slides} slide{'s' if slides > 1 else ''}.", note]
    if "ms_ssim" not in names:
        notes.append("MS-SSIM is left out: it needs patches of 161 pixels a side or more.")
    return f"{lines}\n{' '.join([*notes, *_omissions(summary.left_out)])}\n"


def slide_table(rows: Sequence[Row]) -> str:
    """Return the means of each slide, bicubic → SR, as a Markdown table."""
    slides = by_slide(rows)
    names = list(next(iter(slides.values())).means[SR])
    return table("slide", ["patches", *(METRICS[name].heading for name in names)], (
        (slide_id, str(slide.patches), *(both(slide.means[BICUBIC][name], slide.means[SR][name], name)
                                         for name in names)) for slide_id, slide in slides.items()))


def gain_table(gains: Sequence[Gain]) -> str:
    """Return a Markdown table with a row per kind of LR: gains over bicubic, worst slide, slides below bicubic."""
    names = metrics_of(gains)
    return table("LR", [*(METRICS[name].heading for name in names), "worst slide, PSNR", "slides below bicubic"], (
        (gain.condition.label, *(_signed(gain.mean(name), name) for name in names),
         f"{_signed(gain.worst[1], 'psnr')} ({gain.worst[0]})", f"{gain.below} of {len(gain.of_slides('psnr'))}")
        for gain in gains))


def standard_page(gains: Sequence[Gain]) -> str:
    """Return the tables of the standard list as Markdown: gains, the gain in PSNR by slide, and the scores."""
    by_name = {gain.condition.name: gain for gain in gains}  # some are points of curves only
    rows = [by_name[condition.name] for condition in STANDARD if condition.name in by_name]
    slide_ids, names = sorted({slide_id for gain in rows for slide_id in gain.slides}), metrics_of(rows)
    by_slide_text = table("LR", slide_ids, (
        (gain.condition.label, *(_signed(gain.slides[slide_id].means[DIFFERENCE]["psnr"], "psnr")
                                 if slide_id in gain.slides else "" for slide_id in slide_ids)) for gain in rows))
    scores = table("LR", [METRICS[name].heading for name in names], (
        (gain.condition.label, *(both(gain.mean(name, BICUBIC), gain.mean(name, SR), name) for name in names))
        for gain in rows))
    left_out = {name: sorted({f"{patch} ({gain.condition.name})" for gain in rows for slide in gain.slides.values()
                              for patch in slide.left_out[name]}) for name in names}
    reading = " ".join([READING, *_omissions(left_out)])
    return (f"{gain_table(rows)}\n{reading}\n\n**Gain in PSNR by slide**\n\n{by_slide_text}\n"
            f"**Scores, bicubic → SR, means over slides**\n\n{scores}")


def table(first: str, columns: Sequence[str], rows: Iterable[Sequence[str]], rule: str = "---:") -> str:
    """Return a Markdown table with a column of names and columns of numbers, or of what `rule` aligns."""
    lines = [f"| {first} |" if first else "| |", "| --- |" + f" {rule} |" * len(columns)]
    lines[0] += f" {' | '.join(columns)} |"
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def both(rival: float, sr: float, name: str) -> str:
    """Return a table's cell for a metric: bicubic → SR."""
    return " → ".join(f"{value:.{METRICS[name].digits}f}" for value in (rival, sr))


def metrics_of(gains: Sequence[Gain]) -> list[str]:
    """Return the metrics that every slide has; MS-SSIM is missing for small patches."""
    return [name for name in METRICS
            if all(name in slide.means[SR] for gain in gains for slide in gain.slides.values())]


def read_scores(path: str | os.PathLike[str]) -> list[Row]:
    """Return the rows of a CSV file of `score`, scores as numbers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    return read_rows(path, ("example_id", "slide_id", "method"), METRICS)


def read_rows(path: str | os.PathLike[str], words: Collection[str], numbers: Collection[str]) -> list[Row]:
    """Return the rows of a CSV file of scores, those columns as numbers; `words` must be there. Errors as above."""
    kind = msgspec.defstruct("Scores", [*((name, str) for name in words), *((name, float, np.nan) for name in numbers)])
    return [{name: float(text) if name in numbers else text for name, text in row.items()}
            for row in read_table(path, kind, "score again")]


def write_gains_csv(gains: Sequence[Gain], path: str | os.PathLike[str]) -> None:
    """Write a row per kind of LR and slide, atomically: the means of bicubic, of SR and of the gain."""
    columns = {f"{label}_{name}": (method, name) for name in metrics_of(gains)
               for label, method in ((BICUBIC, BICUBIC), (SR, SR), ("gain", DIFFERENCE))}
    write_csv([{"lr": gain.condition.name, "slide_id": slide_id, "patches": slide.patches,
                **{column: slide.means[method][name] for column, (method, name) in columns.items()}}
               for gain in gains for slide_id, slide in gain.slides.items()], path)


def write_gains_json(gains: Sequence[Gain], path: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
    """Write `about` (the model, the data) and, by name, every kind of LR, atomically."""
    listed = {gain.condition.name: {
        "label": gain.condition.label, "gain": _rounded({name: gain.mean(name) for name in metrics_of([gain])}),
        "worst_slide": gain.worst[0], "worst_psnr": _rounded({"psnr": gain.worst[1]})["psnr"],
        "slides_below": gain.below, "slides": {slide_id: {
            "patches": slide.patches, BICUBIC: _rounded(slide.means[BICUBIC]), SR: _rounded(slide.means[SR]),
            "gain": _rounded(slide.means[DIFFERENCE]), "left_out": slide.left_out}
            for slide_id, slide in gain.slides.items()}} for gain in gains}
    write_text(path, json.dumps({**about, "lr": listed}, indent=1) + "\n")


def _omissions(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each metric that leaves out patches."""
    return [f"{METRICS[name].label}: {len(patches)} {'patches are' if len(patches) > 1 else 'patch is'} left out of "
            f"all columns, since bicubic or SR has no finite score there: {', '.join(patches[:MOST_NAMED])}"
            f"{', ...' if len(patches) > MOST_NAMED else ''}." for name, patches in left_out.items() if patches]


def _cell(summary: Summary, method: str, name: str) -> str:
    one, metric = summary.estimates[method][name], METRICS[name]
    sign = "+" if method == DIFFERENCE else ""
    mean, low, high = (f"{value:{sign}.{metric.digits}f}" for value in (one.mean, one.low, one.high))
    means = {other: summary.estimates[other][name].mean for other in METHODS}
    best = max(means.values()) if metric.higher_is_better else min(means.values())
    return f"{f'**{mean}**' if means.get(method) == best else mean} ({low} to {high})"


def _signed(value: float, name: str) -> str:
    return f"{value:+.{METRICS[name].digits}f}"


def _rounded(means: Mapping[str, float]) -> dict[str, float | None]:
    """Return values for JSON: six digits, None if not finite."""
    return {name: float(f"{value:.6g}") if np.isfinite(value) else None for name, value in means.items()}
