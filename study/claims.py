# SPDX-License-Identifier: Apache-2.0
"""Claims that were written down before the run, in claims.yaml, and their answers.

A claim says that one setting is better than another by more than `by` times the effect that counts, in every metric of
`effects`. With a negative `by` it says that it is not worse by more than that. Settings are called by their names in
the grid. The answer for a metric is

    held        the mean difference over slides is above the threshold, p < alpha after Holm's correction
    failed      it is below the threshold, p < alpha after Holm's correction
    undecided   neither: the slides do not tell
    not run     a setting lacks a finite score on a slide: without the slides on which it fails it would look better

The family of the correction is all claims in all metrics, those that were not run as p = 1.
"""
from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import msgspec

from pipelines.errors import require
from pipelines.files import Finite, Positive, read_text
from sr_keras.evaluation.scored_patches import METRICS
from study.folds import Slide
from study.results import SCORES, Row, by_slide
from study.statistics import Compared, compare, folds_agreeing, holm

HELD, FAILED, UNDECIDED, NOT_RUN = "held", "failed", "undecided", "not run"
REMEDY = "correct it"
JUDGED = tuple(name for name in SCORES if name in METRICS)


class Claim(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`better` is better than `than` by more than `by` times the effect that counts; `claim` is this in words."""

    claim: str
    better: str
    than: str
    by: Finite


class Claims(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The claims, the effect that counts by metric, and the level of significance of the family."""

    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    effects: Annotated[dict[str, Positive], msgspec.Meta(min_length=1)]
    claims: list[Claim]


@dataclass(frozen=True)
class Answer:
    """The answer to a claim in one metric. Differences are positive where the claimed setting is better."""

    claim: Claim
    metric: str
    effect: float
    compared: Compared
    corrected: float
    agreeing: tuple[int, int]
    answer: str

    @property
    def threshold(self) -> float:
        """What the difference must be above."""
        return self.claim.by * self.effect


def read_claims(path: Path, settings: Collection[str]) -> Claims:
    """Return the claims.

    Args:
        path: The file.
        settings: Names that the claims may call.

    Raises:
        ValueError: The file is damaged, a claim names an unknown cell, or a metric is unknown.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`claims` must be a YAML file; check the spelling. Received: claims={str(path)!r}")
    try:
        claims = msgspec.yaml.decode(read_text(path, REMEDY), type=Claims)
    except ValueError as error:
        raise ValueError(f"`claims` must be a YAML file of claims; {REMEDY}. "
                         f"Received: {path}: {' '.join(str(error).split())}") from error
    unknown = [one for claim in claims.claims for one in (claim.better, claim.than) if one not in settings]
    require(not unknown, "claims", "name cells of the grid", "correct them, or add the cells to the grid",
            f"{path}: {', '.join(dict.fromkeys(unknown))}")
    wrong = [name for name in claims.effects if name not in JUDGED]
    require(not wrong, "claims", f"give effects of {', '.join(JUDGED)}", REMEDY, f"{path}: {', '.join(wrong)}")
    return claims


def answer(claims: Claims, rows: Sequence[Row], slides: dict[str, Slide]) -> list[Answer]:
    """Return the answer to every claim in every metric, in the order of the file."""
    folds = {name: slide.fold for name, slide in slides.items()}
    found = []
    for claim, (metric, effect) in product(claims.claims, claims.effects.items()):
        differences = signed(rows, claim.better, claim.than, metric)
        if differences.keys() != slides.keys():
            differences = {}
        compared = compare(list(differences.values()), claim.by * effect)
        found.append((claim, metric, effect, compared, folds_agreeing(differences, folds)))
    corrected = holm([compared.p for _, _, _, compared, _ in found])
    return [Answer(claim, metric, effect, compared, p, agreeing, _word(compared, claim.by * effect, p, claims.alpha))
            for (claim, metric, effect, compared, agreeing), p in zip(found, corrected, strict=True)]


def signed(rows: Sequence[Row], better: str, than: str, metric: str) -> dict[str, float]:
    """Return slide -> how much better one setting is than another: positive is better, whatever the metric."""
    one, other = (by_slide(rows, setting, metric) for setting in (better, than))
    sign = 1 if METRICS[metric].higher_is_better else -1
    return {slide: sign * (one[slide] - other[slide]) for slide in one if slide in other}


def _word(compared: Compared, threshold: float, p: float, alpha: float) -> str:
    if not compared.slides:
        return NOT_RUN
    return UNDECIDED if p >= alpha else HELD if compared.mean > threshold else FAILED
