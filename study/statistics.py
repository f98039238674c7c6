# SPDX-License-Identifier: Apache-2.0
"""Means, intervals and paired tests for a few slides and seeds.

A unit is one (slide, seed) pair; its value is the mean over the patches of that slide. Rows without a seed, such as
those of bicubic, have units with seed None. Slides and seeds are crossed: every run is scored on every slide. The units
of one slide share stain and tissue, those of one seed share a network, so four units of two slides and two seeds carry
less information than four independent values.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test

from pipelines.errors import require
from sr_keras.evaluation import METRICS
from sr_keras.evaluation.tables import Estimate
from study.results import Corruption, Curve, Row

RESAMPLES = 4000
SIGN_FLIPS = 10_000  # all 2^n flips are tried where there are no more than that: up to 13 pairs
Units = dict[tuple[str, int | None], float]


@dataclass(frozen=True)
class Paired:
    """A mean difference over `pairs` units, and the two-sided p of a difference of 0."""

    difference: Estimate
    p: float
    pairs: int


def units(rows: Sequence[Row], metric: str) -> Units:
    """Return the value of every (slide, seed) in these rows; missing and non-finite values are left out.

    Raises:
        ValueError: Two rows of one unit have different values, so they come from different cells.
    """
    found: Units = {}
    for row in rows:
        value = row.get(metric)
        if value is not None and np.isfinite(value):
            unit = (row["slide"], row.get("seed"))
            require(found.setdefault(unit, value) == value, "rows", "belong to one cell and its seeds",
                    "select a single method, q, fraction and variant", (unit, row.get("cell")))
    return found


def subtract(a: Units, b: Units) -> Units:
    """Return a - b over the units in both; a unit of b without a seed is used for every seed of its slide."""
    others = {unit: b.get(unit, b.get((unit[0], None))) for unit in a}
    return {unit: a[unit] - other for unit, other in others.items() if other is not None}


def falls(rows: Sequence[Row], curve: Curve, fraction: float, corruption: Corruption, metric: str) -> Units:
    """Return how much worse each unit is than at fraction 0: positive is worse for every metric."""
    clean, corrupted = (units(curve.rows(rows, one, corruption), metric) for one in (0.0, fraction))
    return subtract(clean, corrupted) if METRICS[metric].higher_is_better else subtract(corrupted, clean)


def estimate(values: Units, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return the mean of units and the 95% percentile interval of a crossed bootstrap.

    Not scipy.stats.bootstrap, which draws single values: here slides and seeds are drawn independently, and a unit
    counts as often as its slide times its seed was drawn. With one slide only seeds are drawn, with one seed only
    slides. With two or three slides or seeds the interval is too narrow, as with any bootstrap. If a unit's noise is
    shared with neither its slide nor its seed, the interval is too wide, by up to the root of 3.

    Args:
        values: By (slide, seed); pairs may be missing.
        resamples: Number of draws.
        seed: Seed of the draws.
    """
    if len(values) < 2:
        return Estimate(next(iter(values.values()), np.nan), np.nan, np.nan)
    grid, there = _grid(values)
    rng = np.random.default_rng(seed)
    slides, seeds = (rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float) for n in grid.shape)
    sums, counts = (np.einsum("rs,st,rt->r", slides, table, seeds) for table in (grid, there))
    means = sums[counts > 0] / counts[counts > 0]  # a draw may contain only pairs that are missing
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(grid.sum() / there.sum()), float(low), float(high))


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p of a sign-flip permutation test of mean 0.

    All 2^n flips are tried up to 13 pairs, and SIGN_FLIPS random ones above. The test treats pairs as independent, but
    pairs of one seed share a network and pairs of one slide share its tissue. So p is a lower bound: if all slides
    agree for every network, n seeds cannot give less than 2 / 2^n, however many slides there are. It says little about
    other slides.
    """
    values = np.asarray(differences, float)
    if len(values) < 2:
        return 1.0 if len(values) else np.nan
    return float(permutation_test((values, np.zeros_like(values)), lambda a, b, axis: np.abs(np.mean(a - b, axis=axis)),
                                  permutation_type="samples", alternative="greater", n_resamples=SIGN_FLIPS,
                                  rng=seed).pvalue)


def smallest_p(pairs: int) -> float:
    """Return the smallest p that `sign_flip_p` can give for so many pairs."""
    return min(1.0, 2 / 2**pairs) if 2**pairs <= SIGN_FLIPS else 1 / (SIGN_FLIPS + 1)


def compare(differences: Units) -> Paired:
    """Return mean, interval and p of differences by unit."""
    return Paired(estimate(differences), sign_flip_p(list(differences.values())), len(differences))


def paired(rows_a: Sequence[Row], rows_b: Sequence[Row], metric: str) -> Paired:
    """Compare two cells over the (slide, seed) pairs that both have: a - b with its interval and p.

    With 5 pairs or fewer p cannot get below 0.05, however large the difference (see `smallest_p`).

    Args:
        rows_a: Rows of one cell and its seeds.
        rows_b: Rows of another; rows without a seed are paired with every seed of their slide.
        metric: A column of the table.

    Returns:
        The comparison; NaN and 0 pairs if the cells have no unit in common.
    """
    return compare(subtract(units(rows_a, metric), units(rows_b, metric)))


def _grid(values: Units) -> tuple[np.ndarray, np.ndarray]:
    """Return values [slides, seeds], 0 where missing, and a mask of the same shape with 1 where there is a value."""
    slides, seeds = (list(dict.fromkeys(unit[axis] for unit in sorted(values, key=str))) for axis in (0, 1))
    grid, there = np.zeros((2, len(slides), len(seeds)))
    for (slide, seed), value in values.items():
        place = slides.index(slide), seeds.index(seed)
        grid[place], there[place] = value, 1
    return grid, there
