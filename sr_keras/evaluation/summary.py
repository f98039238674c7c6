"""From rows of scores to what a paper prints: means, intervals, tables.

A mean is the mean over slides of each slide's mean: patches of one slide share its stain, scanner and tissue, so the
slide is what was sampled, and one with many patches counts no more than another. For the same reason the 95% interval
is a percentile bootstrap over slides. With a single slide there is nothing to resample but its patches; the table says
so.

A score that is not finite (the PSNR of an image equal to its HR, blank glass for one) is left out of means and counted.
"""
from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import require
from pipelines.files import write_text
from sr_keras.evaluation.measure import BICUBIC, METHODS, METRICS, SR, Row

DIFFERENCE = "difference"
LABELS = {BICUBIC: "bicubic", SR: "SR", DIFFERENCE: "SR − bicubic"}
FEW_SLIDES = 10


@dataclass(frozen=True)
class Estimate:
    """A mean and the bounds of its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Estimates by method and metric, those of the "difference" being sr less bicubic patch by patch; notes on them."""

    estimates: dict[str, dict[str, Estimate]]
    slides: int
    patches: int
    notes: tuple[str, ...]


def summarise(rows: Sequence[Row], resamples: int = 1000, seed: int = 0) -> Summary:
    """Return means and 95% bootstrap intervals of rows as `score` gives them.

    Raises:
        ValueError: There are no rows, or a patch lacks one of its two methods.
    """
    slide_ids, values = by_patch(rows)
    slides = len(set(slide_ids))
    estimates = {method: {name: _estimate(slide_ids, column, resamples, seed) for name, column in columns.items()}
                 for method, columns in values.items()}
    return Summary(estimates, slides, len(slide_ids), (_interval_note(slides), *_left_out(values)))


def markdown_table(summary: Summary) -> str:
    """Return the summary as a Markdown table, the better method in bold, with its notes below."""
    names = list(summary.estimates[SR])
    lines = ["| | " + " | ".join(heading(name) for name in names) + " |", "| --- |" + " ---: |" * len(names)]
    for method in (*METHODS, DIFFERENCE):
        cells = [_cell(summary, method, name) for name in names]
        lines.append(f"| {LABELS[method]} | " + " | ".join(cells) + " |")
    counts = f"{summary.patches} patches of {summary.slides} slide{'s' if summary.slides > 1 else ''}."
    return "\n".join(lines) + "\n\n" + " ".join((counts, *summary.notes)) + "\n"


def slide_table(rows: Sequence[Row]) -> str:
    """Return each slide's means, bicubic -> SR, as a Markdown table."""
    slide_ids, values = by_patch(rows)
    names = list(values[SR])
    lines = ["| slide | patches | " + " | ".join(heading(name) for name in names) + " |",
             "| --- |" + " ---: |" * (1 + len(names))]
    for slide_id in dict.fromkeys(slide_ids):
        mine = slide_ids == slide_id
        cells = [" → ".join(f"{finite_mean(values[method][name][mine]):.{METRICS[name].digits}f}" for method in METHODS)
                 for name in names]
        lines.append(f"| {slide_id} | {mine.sum()} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_csv(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write rows to a CSV file, atomically: example_id, slide_id, method, and a column per metric."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
                     for row in rows)
    write_text(path, text.getvalue())


def pick(rows: Sequence[Row], metric: str, each: int = 2) -> dict[str, str]:
    """Return example id -> "best", "median" or "worst": of each kind `each` patches by SR's score, no patch twice."""
    ranked = sorted((row for row in rows if row["method"] == SR), key=lambda row: row[metric],
                    reverse=METRICS[metric].higher_is_better)
    middle = max(0, (len(ranked) - each) // 2)
    chosen: dict[str, str] = {}
    for label, part in (("best", ranked[:each]), ("median", ranked[middle:middle + each]), ("worst", ranked[-each:])):
        for row in part:
            chosen.setdefault(row["example_id"], label)
    return chosen


def by_patch(rows: Sequence[Row]) -> tuple[np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """Return the slide of each patch [N], and the scores by method and metric, each [N] in the same order."""
    by_method = {method: {row["example_id"]: row for row in rows if row["method"] == method} for method in METHODS}
    require(bool(rows) and by_method[BICUBIC].keys() == by_method[SR].keys(), "rows",
            "hold each patch once as bicubic and once as sr", "take them as `score` gives them", len(rows))
    ids = list(by_method[SR])
    names = [name for name in METRICS if name in rows[0]]
    values = {method: {name: np.array([found[i][name] for i in ids]) for name in names}
              for method, found in by_method.items()}
    values[DIFFERENCE] = {name: _difference(values[SR][name], values[BICUBIC][name]) for name in names}
    return np.array([by_method[SR][i]["slide_id"] for i in ids]), values


def finite_mean(values: np.ndarray) -> float:
    """Return the mean of what is finite; NaN where nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def heading(name: str) -> str:
    """Return a metric's name for the head of a table, with an arrow to where better is."""
    return f"{METRICS[name].label} {'↑' if METRICS[name].higher_is_better else '↓'}"


def _difference(sr: np.ndarray, other: np.ndarray) -> np.ndarray:
    finite = np.isfinite(sr) & np.isfinite(other)
    return np.where(finite, np.where(finite, sr, 0) - np.where(finite, other, 0), np.nan)


def _estimate(slide_ids: np.ndarray, column: np.ndarray, resamples: int, seed: int) -> Estimate:
    slides = dict.fromkeys(slide_ids)
    units = np.array([finite_mean(column[slide_ids == slide_id]) for slide_id in slides]) if len(slides) > 1 else column
    units = units[np.isfinite(units)]
    if not len(units):
        return Estimate(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    means = [units[rng.integers(len(units), size=len(units))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(units.mean()), float(low), float(high))


def _interval_note(slides: int) -> str:
    if slides == 1:
        return ("Mean over patches, with a 95% interval from resampling them: with a single slide it says nothing about"
                " other slides.")
    few = " With so few slides it is too narrow." if slides < FEW_SLIDES else ""
    return f"Mean over slides of each slide's mean, with a 95% interval from resampling slides.{few}"


def _left_out(values: dict[str, dict[str, np.ndarray]]) -> list[str]:
    notes = [] if "ms_ssim" in values[SR] else ["MS-SSIM is left out: it needs patches of 161 pixels a side or more."]
    for name in values[SR]:
        count = sum(int((~np.isfinite(values[method][name])).sum()) for method in METHODS)
        if count:
            notes.append(f"{METRICS[name].label}: {count} infinite values are left out.")
    return notes


def _cell(summary: Summary, method: str, name: str) -> str:
    one, metric = summary.estimates[method][name], METRICS[name]
    sign = "+" if method == DIFFERENCE else ""
    mean, low, high = (f"{value:{sign}.{metric.digits}f}" for value in (one.mean, one.low, one.high))
    means = {other: summary.estimates[other][name].mean for other in METHODS}
    best = max(means.values()) if metric.higher_is_better else min(means.values())
    return f"{f'**{mean}**' if means.get(method) == best else mean} ({low} to {high})"
