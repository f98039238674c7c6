# SPDX-License-Identifier: Apache-2.0
"""Is the detail of SR true? Scores of a slide by its nuclei and by perceptual distances, beside bicubic, and maps.

    F1, count ratio       of the nuclei against those of HR, in patches with a nucleus in HR; others are named
    size, stain           Lin's concordance of area and haematoxylin of the nuclei that are in both pictures
    invented, lost        nuclei a square millimetre that HR lacks, or that SR lacks, in all patches
    ROC                   area under it: how well the trust map's LR error, in squares of 32 pixels, tells squares with
                          an invented (a lost) nucleus from others, and invented nuclei from true ones; 0.5 is chance

A slide whose detector does not agree with itself (see `sr_keras.evaluation.nuclei`) has no scores of nuclei.
"""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import stats

from pipelines.errors import require
from pipelines.files import write_text
from pipelines.pixels import quantise, to_uint8
from pipelines.shards import ShardSet
from pipelines.shards.records import damage_named, decode_number
from sr_keras import features as perceptual
from sr_keras.evaluation.nuclei import (
    FIT,
    Comparison,
    Nuclei,
    check_mpp,
    compare,
    concordance,
    counted_mm2,
    f1,
    find_nuclei,
    self_agreement,
    stain_level,
)
from sr_keras.evaluation.scored_patches import BICUBIC, METHODS, METRICS, SR, Metric, Row, score_images, text
from sr_keras.evaluation.tables import MOST_NAMED, by_slide, finite_mean, read_rows, table
from sr_keras.metrics import bicubic

NONE = Nuclei(np.empty((0, 2)), np.empty(0), np.empty(0))
SQUARE = 32  # pixels of SR: the smallest region that a trust map names


SCORES = {
    "psnr": METRICS["psnr"], "qilv": METRICS["qilv"], "f1": Metric("nuclei F1", True, 3),
    "count_ratio": Metric("count / HR", None, 2), "size": Metric("size", True, 2), "stain": Metric("stain", True, 2),
    "invented": Metric("invented / mm²", False, 0), "lost": Metric("lost / mm²", False, 0),
    "lpips_like": Metric("LPIPS-like", False, 3), "dists_like": Metric("DISTS-like", False, 3),
    "frechet": Metric("Fréchet", False, 0)}
TRUST = {"roc_invented": "invented nuclei", "roc_lost": "lost nuclei", "roc_nuclei": "invented from true nuclei"}
Errors = Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], list[np.ndarray]]


@dataclass
class Patch:
    """A patch: LR, HR and its nuclei, and by method the picture, its nuclei and how they compare with those of HR."""

    example_id: str
    lr: np.ndarray
    hr: np.ndarray
    pictures: dict[str, np.ndarray]
    truth: Nuclei = NONE
    nuclei: dict[str, Nuclei] = field(default_factory=dict)
    found: dict[str, Comparison] = field(default_factory=dict)


@dataclass
class SlideDetail:
    """A slide: its scores by method, agreement of the detector with itself, patches, those left out, and the best map.

    `picture` is the patch with most invented and lost nuclei of SR.
    """

    slide_id: str
    mpp: float
    check: float
    patches: int
    left_out: list[str]
    scores: dict[str, dict[str, float]]
    picture: Patch


def slide_mpp(shards: ShardSet) -> dict[str, float]:
    """Return the microns per pixel of each slide, from its first patch.

    Raises:
        ValueError: A slide has no resolution.
    """
    found = {}
    with damage_named(shards.shards):
        for shard in shards.shards:
            record = next(iter(tf.data.TFRecordDataset(os.fsencode(shard.path)).take(1)))
            found[shard.slide_id] = float(decode_number(record, "mpp"))
            check_mpp(found[shard.slide_id])
    return found


def score_detail(upscale: Callable[[np.ndarray], Any], batches: Iterable[Mapping[str, Any]], mpp: Mapping[str, float],
                 scale: int, lr_errors: Errors, extract: perceptual.Extract | None = None) -> list[SlideDetail]:
    """Score a model and bicubic on slides.

    Args:
        upscale: lr float32 [B, h, w, 3] -> sr, as for `sr_keras.evaluation.score`.
        batches: Slide by slide, as `pipelines.dataset.evaluation_dataset` gives them.
        mpp: Of HR, by slide.
        scale: SR side over LR side.
        lr_errors: Pairs of LR and SR of a slide, uint8 -> the LR error by squares of each, as the trust map has it.
        extract: For perceptual distances; None leaves them out.

    Raises:
        ValueError: There is no patch.
    """
    examples = ((text(slide_id), text(example_id), lr, hr) for batch in batches for slide_id, example_id, lr, hr in zip(
        batch["slide_id"], batch["example_id"], np.asarray(batch["lr"]), np.asarray(batch["hr"]), strict=True))
    slides = []
    for slide_id, group in groupby(examples, key=lambda example: example[0]):
        patches = [Patch(example_id, lr, hr, {
            BICUBIC: bicubic(lr[np.newaxis], scale)[0], SR: quantise(np.asarray(upscale(lr[np.newaxis])))[0]})
            for _, example_id, lr, hr in group]
        slides.append(_score_slide(slide_id, patches, mpp[slide_id], lr_errors, extract))
    require(bool(slides), "data", "contain at least one patch", "name other slides or lower min_tissue", 0)
    return slides


def _score_slide(slide_id: str, patches: list[Patch], mpp: float, lr_errors: Errors,
                 extract: perceptual.Extract | None) -> SlideDetail:
    pictures = [patch.hr for patch in patches]
    level, check = stain_level(pictures, mpp), self_agreement(pictures, mpp)
    for patch in patches:
        patch.truth = find_nuclei(patch.hr, mpp, level)
        for method, picture in patch.pictures.items():
            patch.nuclei[method] = find_nuclei(picture, mpp, level)
            patch.found[method] = compare(patch.truth, patch.nuclei[method], patch.hr.shape, mpp)
    left_out = [patch.example_id for patch in patches if not patch.found[SR].counts[:2].sum()]
    pixels = _pixel_scores(patches)
    scores = {method: pixels[method] | _nuclear_scores(patches, method, mpp) for method in METHODS}
    if extract:
        for method, more in _perceptual_scores(patches, extract).items():
            scores[method] |= more
    scores[SR] |= _trust_scores(patches, lr_errors)
    if not check >= FIT:  # NaN too: nothing was found
        for mine in scores.values():
            mine |= dict.fromkeys(("f1", "count_ratio", "size", "stain", "invented", "lost", *TRUST), np.nan)
    worst = max(patches, key=lambda patch: int(patch.found[SR].counts[1:].sum()))
    return SlideDetail(slide_id, mpp, check, len(patches), left_out, scores, worst)


def _pixel_scores(patches: Sequence[Patch]) -> dict[str, dict[str, float]]:
    """Return means by method, without the patches that one of them returns without error; see `tables`."""
    rows = []
    for patch, method in product(patches, METHODS):
        hr, sr, lr = (image[np.newaxis] for image in (patch.hr, patch.pictures[method], patch.lr))
        values = score_images(hr, sr, lr, names=("psnr", "qilv"))
        rows.append({"example_id": patch.example_id, "slide_id": "", "method": method,
                     **{name: float(value[0]) for name, value in values.items()}})
    return by_slide(rows)[""].means


def _nuclear_scores(patches: Sequence[Patch], method: str, mpp: float) -> dict[str, float]:
    """Return scores of all nuclei of a slide; invented ones count in patches without true ones too."""
    def agreement(name: str) -> float:
        return concordance(*(np.concatenate([getattr(patch.truth if i == 0 else patch.nuclei[method], name)[
            patch.found[method].same[:, i]] for patch in patches]) for i in (0, 1)))

    counts = np.array([patch.found[method].counts for patch in patches])
    same, lost, invented = judged = counts[counts[:, :2].any(1)].sum(0)
    area = sum(counted_mm2(patch.hr.shape, mpp) for patch in patches) or np.nan  # of patches below 4 microns
    return {"f1": f1(judged), "count_ratio": float((same + invented) / (same + lost)) if same + lost else np.nan,
            "size": agreement("areas"), "stain": agreement("stains"), "invented": float(counts[:, 2].sum() / area),
            "lost": float(counts[:, 1].sum() / area)}


def _perceptual_scores(patches: Sequence[Patch], extract: perceptual.Extract) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, list[float]]] = {method: {"lpips_like": [], "dists_like": []} for method in METHODS}
    clouds: dict[str, list[np.ndarray]] = {name: [] for name in ("hr", *METHODS)}
    for patch in patches:
        features = {name: extract(perceptual.middle(picture))
                    for name, picture in (("hr", patch.hr), *patch.pictures.items())}
        for name, cloud in clouds.items():
            cloud.append(perceptual.cells(features[name]))
        for method, found in values.items():
            for name, one in found.items():
                one.append(float(getattr(perceptual, name)(features["hr"], features[method])[0]))
    joined = {name: np.concatenate(cloud) for name, cloud in clouds.items()}
    return {method: {**{name: float(np.mean(one)) for name, one in values[method].items()},
                     "frechet": perceptual.frechet(joined["hr"], joined[method])} for method in METHODS}


def _trust_scores(patches: Sequence[Patch], lr_errors: Errors) -> dict[str, float]:
    """Return how well the LR error tells where SR is wrong, as areas under the ROC."""
    errors = lr_errors([(to_uint8(patch.lr), to_uint8(patch.pictures[SR])) for patch in patches])
    squares: dict[str, list[np.ndarray]] = {name: [] for name in ("all", "invented", "lost", "true")}
    for patch, error in zip(patches, errors, strict=True):
        found, side = patch.found[SR], patch.hr.shape[0] / len(error)
        times = max(1, round(SQUARE / side))
        error = np.pad(error, [(0, -length % times) for length in error.shape], mode="edge")
        rows, columns = (length // times for length in error.shape)
        error = np.sqrt(np.square(error).reshape(rows, times, columns, times).mean((1, 3)))
        squares["all"].append(error)
        for name, nuclei, which in (("invented", patch.nuclei[SR], found.invented), ("lost", patch.truth, found.lost),
                                    ("true", patch.truth, found.same[:, 0])):
            at = np.zeros(error.shape, int)
            np.add.at(at, tuple((nuclei.places[which] // (times * side)).astype(int).T), 1)
            squares[name].append(at)
    error, invented, lost, true = (np.concatenate([one.ravel() for one in squares[name]]) for name in squares)
    return {"roc_invented": area_under_roc(error[invented > 0], error[invented == 0]),
            "roc_lost": area_under_roc(error[lost > 0], error[lost == 0]),
            "roc_nuclei": area_under_roc(np.repeat(error, invented), np.repeat(error, true))}


def area_under_roc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the probability that a positive value is above a negative one; NaN if either is missing."""
    if not len(positive) or not len(negative):
        return float("nan")
    return float(stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def detail_rows(slides: Sequence[SlideDetail], model: str, lr: str) -> list[Row]:
    """Return a row for each slide and method, for a CSV file."""
    return [{"model": model, "lr": lr, "slide_id": slide.slide_id, "mpp": slide.mpp, "patches": slide.patches,
             "left_out": len(slide.left_out), "check": slide.check, "method": method,
             **{name: slide.scores[method].get(name, np.nan) for name in (*SCORES, *TRUST)}}
            for slide in slides for method in METHODS]


def read_detail(path: str | os.PathLike[str]) -> list[Row]:
    """Return the rows of a CSV file of `detail_rows`, scores as numbers; it raises what `read_scores` raises."""
    return read_rows(path, ("model", "lr", "slide_id", "method"),
                     ("mpp", "patches", "left_out", "check", *SCORES, *TRUST))


def means_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of means over slides: by kind of LR bicubic once, and each model; see `detail_rows`."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    first = {row["lr"]: row["model"] for row in reversed(rows)}
    for row in sorted(rows, key=lambda row: row["method"] != BICUBIC):
        if row["method"] == SR or row["model"] == first[row["lr"]]:
            groups.setdefault((row["lr"], BICUBIC if row["method"] == BICUBIC else row["model"]), []).append(row)
    names = [name for name in SCORES if any(np.isfinite(row[name]) for row in rows)]
    return table("LR", ["", *(SCORES[name].heading for name in names)], (
        (lr, who, *(_shown(name, finite_mean([row[name] for row in mine])) for name in names))
        for lr in dict.fromkeys(row["lr"] for row in rows) for (kind, who), mine in groups.items() if kind == lr))


def detail_page(rows: Sequence[Row], slides: Mapping[str, Sequence[SlideDetail]]) -> str:
    """Return the tables as Markdown: means over slides, slides, the detector's check, and the trust map."""
    names = [name for name in SCORES if any(np.isfinite(row[name]) for row in rows)]
    each = table("LR", ["slide", "", *(SCORES[name].heading for name in names)], (
        (row["lr"], row["slide_id"], row["method"], *(_shown(name, row[name]) for name in names)) for row in rows))
    checks: dict[str, float] = {}
    for slide in (slide for one in slides.values() for slide in one):
        checks[slide.slide_id] = min(checks.get(slide.slide_id, 1.0), np.nan_to_num(slide.check))
    unfit = [slide_id for slide_id, check in checks.items() if check < FIT]
    told = ", ".join(f"{slide_id} {check:.3f}" for slide_id, check in sorted(checks.items()))
    left_out = list(dict.fromkeys(name for one in slides.values() for slide in one for name in slide.left_out))
    lines = [f"The detector agrees with itself on HR, shifted by half a pixel and compressed, with an F1 of: {told}."]
    if unfit:
        lines.append(f"Below {FIT} or without any nucleus it is not fit to judge, so these have no scores of nuclei: "
                     f"{', '.join(unfit)}.")
    if left_out:
        lines.append(f"Patches without a nucleus in HR are left out of F1, count, size and stain ({len(left_out)}): "
                     f"{', '.join(left_out[:MOST_NAMED])}{', ...' if len(left_out) > MOST_NAMED else ''}.")
    trust = [f"{lr}: {', '.join(f'{label} {_roc(one, name)}' for name, label in TRUST.items())}"
             for lr, one in slides.items()]
    return (f"{means_table(rows)}\n{' '.join(lines)}\n\nArea under the ROC of the trust map's LR error, 0.5 is chance, "
            f"mean over slides: {'; '.join(trust)}.\n\n**By slide**\n\n{each}")


def write_detail_json(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write the means over slides for a model's facts: by kind of LR, then by score; `bicubic_` before bicubic's."""
    found: dict[str, dict[str, float]] = {}
    for lr in dict.fromkeys(row["lr"] for row in rows):
        for method, prefix in ((SR, ""), (BICUBIC, "bicubic_")):
            means = {name: finite_mean([row[name] for row in rows if (row["lr"], row["method"]) == (lr, method)])
                     for name in (*SCORES, *TRUST)}
            found.setdefault(lr, {}).update({f"{prefix}{name}": float(f"{value:.4g}") for name, value in means.items()
                                             if np.isfinite(value)})
    write_text(path, json.dumps(found, indent=1) + "\n")


def _roc(slides: Sequence[SlideDetail], name: str) -> str:
    mean = finite_mean([slide.scores[SR][name] for slide in slides])
    return f"{mean:.2f}" if np.isfinite(mean) else "unknown"


def _shown(name: str, value: float) -> str:
    return f"{value:.{SCORES[name].digits}f}" if np.isfinite(value) else ""
