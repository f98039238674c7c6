# SPDX-License-Identifier: Apache-2.0
"""Score patches by a model and by bicubic, and summarise the scores in tables.

Images are scored as 8-bit files would hold them, so that a model gains nothing by fractions of a grey level or by
values outside [0, 1].

A mean is the mean over slides of each slide's mean: patches of one slide share stain, scanner and tissue, and a slide
with many patches counts no more than another. The 95% interval is a percentile bootstrap over slides, or over patches
if there is a single slide. Scores that are not finite (the PSNR of blank glass, for example) are excluded and counted.
"""
from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions
from pipelines.errors import require
from pipelines.files import write_text
from pipelines.pixels import quantise
from sr_keras import metrics
from sr_keras.metrics import bicubic

BICUBIC, SR = METHODS = ("bicubic", "sr")
DIFFERENCE = "difference"
LABELS = {BICUBIC: "bicubic", SR: "SR", DIFFERENCE: "SR − bicubic"}
FEW_SLIDES = 10
Row = dict[str, Any]  # example_id, slide_id, method, and a float per metric


@dataclass(frozen=True)
class Metric:
    """How a table shows a metric."""

    label: str
    higher_is_better: bool
    digits: int


METRICS = {
    "psnr": Metric("PSNR (dB)", True, 2),
    "ssim": Metric("SSIM", True, 3),
    "ms_ssim": Metric("MS-SSIM", True, 3),
    "qilv": Metric("QILV", True, 3),
    "rrmse": Metric("RRMSE", False, 4),
    "lr_consistency": Metric("LR consistency", False, 4),
}


@dataclass(frozen=True)
class Estimate:
    """A mean and the bounds of its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Estimates by method and metric ("difference" is sr less bicubic, patch by patch), and notes on them."""

    estimates: dict[str, dict[str, Estimate]]
    slides: int
    patches: int
    notes: tuple[str, ...]


def score_images(hr: Any, sr: Any, lr: Any, degrade: DegradeOptions | None = None,
                 names: Collection[str] = tuple(METRICS)) -> dict[str, np.ndarray]:
    """Return metrics of sr against hr, each float32 [B]; without MS-SSIM if sides are under 161 pixels.

    Args:
        hr: Float [B, H, W, 3] in [0, 1].
        sr: The same.
        lr: Float [B, H/scale, W/scale, 3], the input of sr.
        degrade: How lr was made. lr_consistency is computed for textbook degradations only, which draw nothing.
        names: Which metrics, of METRICS.

    Raises:
        ValueError: Shapes do not fit, or images are smaller than an 11x11 window.
    """
    degrade = degrade or DegradeOptions()
    require(tuple(hr.shape) == tuple(sr.shape), "sr", f"have the shape of hr, {tuple(hr.shape)}",
            "take a model of this scale", tuple(sr.shape))
    require(tuple(hr.shape[1:3]) == tuple(degrade.scale * side for side in lr.shape[1:3]), "lr",
            f"be hr's sides over scale={degrade.scale}", "give the scale it was made with", tuple(lr.shape))
    lacking = {"lr_consistency"} | ({"ms_ssim"} if min(hr.shape[1:3]) < metrics.MS_SSIM_SIDE else set())
    blur_sigma = degrade.range_of("blur_sigma")[0] if degrade.is_textbook and "lr_consistency" in names else None
    values = _values(hr, sr, lr, tuple(name for name in METRICS if name in set(names) - lacking), degrade.scale,
                     blur_sigma)
    return {name: value.numpy() for name, value in values.items()}


def score(upscale: Callable[[np.ndarray], Any], batches: Iterable[Mapping[str, Any]],
          degrade: DegradeOptions | None = None, names: Collection[str] = tuple(METRICS)) -> list[Row]:
    """Score a model and bicubic on every patch.

    Args:
        upscale: lr float32 [B, h, w, 3] in [0, 1] -> sr [B, scale*h, scale*w, 3], float; it is rounded to 8 bit here.
        batches: Dicts of example_id, slide_id [B], lr, hr, as `pipelines.dataset.evaluation_dataset` gives them.
        degrade: How lr was made.
        names: Which metrics, of METRICS.

    Returns:
        For each patch a row of "bicubic" and one of "sr": example_id, slide_id, method, and a float per metric.

    Raises:
        ValueError: There is no patch, or `upscale` has another scale than `degrade`.
    """
    degrade = degrade or DegradeOptions()
    rows: list[Row] = []
    for batch in batches:
        lr, hr = np.asarray(batch["lr"]), np.asarray(batch["hr"])
        images = {BICUBIC: bicubic(lr, degrade.scale), SR: quantise(np.asarray(upscale(lr)))}
        values = {method: score_images(hr, image, lr, degrade, names) for method, image in images.items()}
        for i, (example_id, slide_id) in enumerate(zip(batch["example_id"], batch["slide_id"], strict=True)):
            rows += [{"example_id": text(example_id), "slide_id": text(slide_id), "method": method,
                      **{name: float(value[i]) for name, value in values[method].items()}} for method in METHODS]
    require(bool(rows), "data", "contain at least one patch", "name other slides or lower min_tissue", 0)
    return rows


def text(value: Any) -> str:
    """Return a string of a dataset, bytes or a tensor, as str."""
    value = value.numpy() if isinstance(value, tf.Tensor) else value
    return value.decode() if isinstance(value, bytes) else str(value)


def summarise(rows: Sequence[Row], resamples: int = 1000, seed: int = 0) -> Summary:
    """Return means and 95% bootstrap intervals of rows from `score`.

    Raises:
        ValueError: There are no rows, or a patch lacks one of its two methods.
    """
    slide_ids, values = by_patch(rows)
    slides = len(set(slide_ids))
    estimates = {method: {name: _estimate(slide_ids, column, resamples, seed) for name, column in columns.items()}
                 for method, columns in values.items()}
    if slides == 1:
        note = ("Mean over patches, with a 95% interval from resampling them: with a single slide it says nothing about"
                " other slides.")
    else:
        few = " With so few slides it is too narrow." if slides < FEW_SLIDES else ""
        note = f"Mean over slides of each slide's mean, with a 95% interval from resampling slides.{few}"
    return Summary(estimates, slides, len(slide_ids), (note, *_exclusions(values)))


def by_patch(rows: Sequence[Row]) -> tuple[np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """Return the slide of each patch [N], and the scores by method and metric, each [N] in the same order."""
    by_method = {method: {row["example_id"]: row for row in rows if row["method"] == method} for method in METHODS}
    require(bool(rows) and by_method[BICUBIC].keys() == by_method[SR].keys(), "rows",
            "contain each patch once as bicubic and once as sr", "take them from `score`", len(rows))
    ids = list(by_method[SR])
    names = [name for name in METRICS if name in rows[0]]
    values = {method: {name: np.array([found[i][name] for i in ids]) for name in names}
              for method, found in by_method.items()}
    with np.errstate(invalid="ignore"):  # the difference of infinite scores is NaN, as it should be
        values[DIFFERENCE] = {name: values[SR][name] - values[BICUBIC][name] for name in names}
    return np.array([by_method[SR][i]["slide_id"] for i in ids]), values


def finite_mean(values: np.ndarray) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def markdown_table(summary: Summary) -> str:
    """Return the summary as a Markdown table, the better method in bold, with its notes below."""
    names = list(summary.estimates[SR])
    lines = table("", [heading(name) for name in names], (
        (LABELS[method], *(_cell(summary, method, name) for name in names)) for method in (*METHODS, DIFFERENCE)))
    counts = f"{summary.patches} patches of {summary.slides} slide{'s' if summary.slides > 1 else ''}."
    return f"{lines}\n{' '.join((counts, *summary.notes))}\n"


def slide_table(rows: Sequence[Row]) -> str:
    """Return the means of each slide, bicubic → SR, as a Markdown table."""
    slide_ids, values = by_patch(rows)
    names = list(values[SR])

    def row(slide_id: str) -> list[str]:
        mine = slide_ids == slide_id
        rival, sr = ({name: finite_mean(values[method][name][mine]) for name in names} for method in METHODS)
        return [slide_id, str(mine.sum()), *(both(rival[name], sr[name], name) for name in names)]

    return table("slide", ["patches", *(heading(name) for name in names)], map(row, dict.fromkeys(slide_ids)))


def table(first: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with a column of names and columns of numbers."""
    lines = [f"| {first} |" if first else "| |", "| --- |" + " ---: |" * len(columns)]
    lines[0] += f" {' | '.join(columns)} |"
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def both(rival: float, sr: float, name: str) -> str:
    """Return a table's cell for a metric: bicubic → SR."""
    return " → ".join(f"{value:.{METRICS[name].digits}f}" for value in (rival, sr))


def heading(name: str) -> str:
    """Return the heading of a metric in a table, with an arrow to the better side."""
    return f"{METRICS[name].label} {'↑' if METRICS[name].higher_is_better else '↓'}"


def write_csv(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write rows to a CSV file, atomically: example_id, slide_id, method, and a column per metric."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
                     for row in rows)
    write_text(path, file.getvalue())


def pick(rows: Sequence[Row], metric: str, each: int = 2) -> dict[str, str]:
    """Return example id -> "best", "median" or "worst": `each` patches of every kind by SR's score, no patch twice."""
    ranked = sorted((row for row in rows if row["method"] == SR), key=lambda row: row[metric],
                    reverse=METRICS[metric].higher_is_better)
    middle = max(0, (len(ranked) - each) // 2)
    chosen: dict[str, str] = {}
    for label, part in (("best", ranked[:each]), ("median", ranked[middle:middle + each]), ("worst", ranked[-each:])):
        for row in part:
            chosen.setdefault(row["example_id"], label)
    return chosen


@tf.function(reduce_retracing=True, autograph=False)  # hundreds of small operations, which are slow one by one
def _values(hr: Any, sr: Any, lr: Any, names: tuple[str, ...], scale: int, blur_sigma: float | None
            ) -> dict[str, tf.Tensor]:
    values = {name: getattr(metrics, name)(hr, sr) for name in names}
    if blur_sigma is None:
        return values
    return values | {"lr_consistency": metrics.lr_consistency(lr, sr, scale, blur_sigma)}


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


def _exclusions(values: dict[str, dict[str, np.ndarray]]) -> list[str]:
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
