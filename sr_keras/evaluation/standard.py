"""Score a model on the whole list of LR kinds, beside bicubic: gains, and the files that show them.

    standard.md     the compact table, gain in PSNR by slide, and the scores themselves
    standard.csv    a row per kind of LR and slide
    standard.json   all of it, for programs: model, data, and by kind of LR gains and scores
    standard.png    gain over sharpness, JPEG quality and noise

What is random in an LR (the noise, where JPEG's grid lies) follows from (seed, example id): the same call gives the
same numbers, and two models meet the same LR.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipelines.config import DegradeOptions
from pipelines.files import write_text
from pipelines.shards import ShardSet
from pipelines.shards.records import damage_named
from sr_keras.evaluation.conditions import Condition, standard_conditions
from sr_keras.evaluation.gain_curves import picture_of_curves
from sr_keras.evaluation.gains import (
    GAIN_METRICS,
    Gain,
    gain_of,
    gain_table,
    score_table,
    slide_gain_table,
    standard_rows,
    write_gains_csv,
    write_gains_json,
)
from sr_keras.evaluation.measure import score
from sr_keras.evaluation.patches import limit_of, lr_dataset, pairs_of, share_out

PER_SLIDE = 25  # patches of a slide for each kind of LR: a model of 1.1 M multiply-adds takes ten minutes on two cores
READING = ("Gain of SR over bicubic, the mean over slides of each slide's mean: SR is better above 0, in RRMSE below. "
           "A slide is below bicubic when its gain in PSNR is negative. Sigmas are in HR pixels.")


def score_standard(upscale: Callable[[np.ndarray], Any], sets: Sequence[ShardSet], scale: int,
                   per_slide: int | None = PER_SLIDE, seed: int = 0) -> list[Gain]:
    """Return the gain on every kind of LR of the standard list and of the curves.

    Args:
        upscale: lr float32 [B, h, w, 3] -> sr.
        sets: The patches, each set of one size; see `patches.find_sets`. Real LR is scored where some of them have it.
        scale: Of the model.
        per_slide: Patches of each slide; None for all.
        seed: Of what is random in LR.

    Raises:
        ValueError: Pairs are of another scale than the model.
    """
    real, made = share_out([pairs_of(one, scale) for one in sets if one.pairs.shards]), share_out(sets)
    conditions = standard_conditions(scale, real=bool(real))
    with tqdm(desc="scoring", unit="patch", total=sum(
            limit_of(one, per_slide) or one.count for condition in conditions
            for one in (real if condition.is_real else made))) as bar:
        return [gain_of(condition, score(
            upscale, _batches(real if condition.is_real else made, condition, scale, per_slide, seed, bar),
            DegradeOptions(scale), GAIN_METRICS)) for condition in conditions]


def write_standard(gains: Sequence[Gain], paths: Sequence[Path], title: str, about: Mapping[str, Any]) -> str:
    """Write the four files, and return the compact table.

    Args:
        gains: From `score_standard`.
        paths: Of the page, the CSV, the JSON and the picture.
        title: What the table shall say of the model and the data, before anything else.
        about: The same for programs.
    """
    rows = standard_rows(gains)
    table = gain_table(rows)
    page, rows_file, programs, picture = paths
    write_text(page, f"{title}\n\n{table}\n{READING}\n\n**Gain in PSNR by slide**\n\n{slide_gain_table(rows)}\n"
                     f"**Scores, bicubic → SR, means over slides**\n\n{score_table(rows)}")
    write_gains_csv(gains, rows_file)
    write_gains_json(gains, programs, about)
    picture_of_curves(gains, picture)
    return table


def _batches(sets: Sequence[ShardSet], condition: Condition, scale: int, per_slide: int | None, seed: int,
             bar: tqdm) -> Iterator[dict[str, Any]]:
    for one in sets:
        dataset = lr_dataset(one, condition, scale, limit_of(one, per_slide), seed)
        with damage_named(one.paths):
            for batch in dataset.as_numpy_iterator():
                yield batch
                bar.update(len(batch["lr"]))
