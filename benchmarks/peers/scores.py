# SPDX-License-Identifier: Apache-2.0
"""Score what the methods made, by the project's own measures: a row for each slide, kind of LR and method.

    pixels        psnr, ms_ssim, qilv, rrmse: means over the patches of a slide
    nuclei        nuclei_f1: agreement with the nuclei of HR, which are summed over the patches of a slide
    perceptual    lpips_like, dists_like: means over patches; takes most of the time

Each measure of each kind is kept in WORK/scores/MEASURE-KIND.csv, and is not made again.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from benchmarks.peers.methods import METHODS, SCALE, Method
from benchmarks.peers.patches import KINDS, read
from pipelines.config import DegradeOptions
from pipelines.errors import require
from pipelines.pixels import to_float
from sr_keras.evaluation.scored_patches import score_images
from sr_keras.evaluation.tables import GAIN_METRICS, finite_mean

BATCH = 4  # bounds the memory
# Microns per pixel of HR. Two are not known: their nuclei have the sizes of 20x and of 40x.
MPP = {"acute-appendicitis": 0.5, "arachnoid-cyst": 0.263, "erosion": 0.25, "granular-cell-tumor": 0.25,
       "keloid-scar": 0.504}
Pictures = Sequence[np.ndarray]  # uint8 [H, W, 3] each
Row = dict[str, Any]


class Key(TypedDict):
    """The columns that the tables of all measures have."""

    slide: str
    lr: str
    method: str


class Slide(NamedTuple):
    """The patches of a slide, and what each method made of them."""

    name: str
    lr: Pictures
    hr: Pictures
    sr: Mapping[str, Pictures]


def score(work: Path, measure: str, kind: str, methods: Sequence[Method] = METHODS) -> list[Row]:
    """Return a row for each slide and method.

    Raises:
        FileNotFoundError: A method has not made its SR yet.
        ValueError: Its patches are not those of HR.
        UserError: The measure needs a package that is not installed.
    """
    lr, hr = (read(work / plane / f"{kind}.npz") for plane in ("lr", "hr"))
    made = {method.name: read(work / "sr" / method.name / f"{kind}.npz") for method in methods}
    for name, sr in made.items():
        require(sr.keys() == hr.keys(), "sr", "have the patches of hr", f"remove {work / 'sr' / name} and run again",
                f"{name}, {kind}")
    rows = []
    for name in sorted({example.rpartition("/")[0] for example in hr}):
        examples = [example for example in hr if example.rpartition("/")[0] == name]
        slide = Slide(name, [lr[example] for example in examples], [hr[example] for example in examples],
                      {method: [sr[example] for example in examples] for method, sr in made.items()})
        rows += [{"slide": name, "lr": kind, "method": method, "patches": len(examples), **values}
                 for method, values in MEASURES[measure](slide).items()]
    return rows


def of_pixels(slide: Slide) -> dict[str, dict[str, float]]:
    """Return the means of GAIN_METRICS, by method, without the patches that one of them returns without error."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in GAIN_METRICS}  # [patches of each batch] of each method
    for pictures in slide.sr.values():
        batches = [score_images(hr, sr, lr, DegradeOptions(SCALE), GAIN_METRICS)
                   for hr, sr, lr in _batches(slide.hr, pictures, slide.lr)]
        for name, values in found.items():
            values.append(np.concatenate([batch[name] for batch in batches]))
    means = {name: [finite_mean(one) for one in np.where(np.isfinite(values).all(0), values, np.nan)]
             for name, values in found.items()}
    return {method: {name: means[name][i] for name in means} for i, method in enumerate(slide.sr)}


def of_nuclei(slide: Slide) -> dict[str, dict[str, float]]:
    """Return the F1 of the nuclei, by method; NaN if the detector is not fit to judge the slide, or mpp is unknown."""
    from sr_keras.evaluation.nuclei import FIT, compare, f1, find_nuclei, self_agreement, stain_level

    hr, mpp = [to_float(one) for one in slide.hr], MPP.get(slide.name)
    if mpp is None or not self_agreement(hr, mpp) >= FIT:
        return {method: {"nuclei_f1": float("nan")} for method in slide.sr}
    level = stain_level(hr, mpp)
    truth = [find_nuclei(one, mpp, level) for one in hr]
    return {method: {"nuclei_f1": f1(sum((
        compare(nuclei, find_nuclei(to_float(one), mpp, level), one.shape, mpp).counts
        for nuclei, one in zip(truth, pictures, strict=True)), np.zeros(3, int)))}
        for method, pictures in slide.sr.items()}


def of_features(slide: Slide) -> dict[str, dict[str, float]]:
    """Return the means of the perceptual distances, by method."""
    from sr_keras.features import dists_like, extractor, lpips_like

    extract = extractor()
    values: dict[str, dict[str, list[float]]] = {method: {"lpips_like": [], "dists_like": []} for method in slide.sr}
    for hr, *made in _batches(slide.hr, *slide.sr.values()):
        truth = extract(hr)
        for found, sr in zip(values.values(), made, strict=True):
            features = extract(sr)
            found["lpips_like"] += lpips_like(truth, features).tolist()
            found["dists_like"] += dists_like(truth, features).tolist()
    return {method: {name: float(np.mean(some)) for name, some in found.items()} for method, found in values.items()}


MEASURES: dict[str, Callable[[Slide], dict[str, dict[str, float]]]] = {
    "pixels": of_pixels, "nuclei": of_nuclei, "perceptual": of_features}


def joined(tables: Mapping[tuple[str, str], Sequence[Row]]) -> list[Row]:
    """Return the rows of all measures of a slide, kind and method as one row; NaN for what was not measured.

    Args:
        tables: Rows by measure and kind.
    """
    rows: dict[tuple[str, ...], Row] = {}
    for row in (row for rows_of_one in tables.values() for row in rows_of_one):
        rows.setdefault((row["slide"], row["lr"], row["method"]), {}).update(row)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    order = {method.name: i for i, method in enumerate(METHODS)}
    return [{name: row.get(name, float("nan")) for name in names} for row in sorted(rows.values(), key=lambda row: (
        KINDS.index(row["lr"]), row["slide"], order[row["method"]]))]


def _batches(*planes: Pictures) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(planes[0]), BATCH):
        yield [to_float(np.stack(plane[start:start + BATCH])) for plane in planes]
