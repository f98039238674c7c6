"""What can be said of a few slides and seeds: means, their intervals, and paired tests.

A unit is one (slide, seed) pair. Its value is a mean over the patches of the slide, as the table of results holds it;
rows that were made without a seed, as bicubic's, have units of seed None. Slides and seeds are crossed: every run is
scored on every slide. So the units of one slide share its stain and tissue, those of one seed share a network, and four
units of two slides and two seeds are worth less than four of anything drawn one by one.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import require

if TYPE_CHECKING:
    from study.results import Row

RESAMPLES = 4000
FLIPS = 10000
EXACT = 16  # pairs up to which every flip is tried
Units = dict[tuple[str, int | None], float]


@dataclass(frozen=True)
class Estimate:
    """A mean and the bounds of its 95% interval; NaN where there is no value, or but one and so no interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """A mean difference over `pairs` units, and the two-sided p of there being none."""

    difference: Estimate
    p: float
    pairs: int


def units(rows: Sequence[Row], metric: str) -> Units:
    """Return the value of every (slide, seed) of these rows; what is missing or not finite is left out.

    Raises:
        ValueError: Two rows give one unit two values: they come from different cells.
    """
    found: Units = {}
    for row in rows:
        value = row.get(metric)
        if value is not None and np.isfinite(value):
            unit = (row["slide"], row.get("seed"))
            require(found.setdefault(unit, value) == value, "rows", "be those of one cell, seeds apart",
                    "select a single method, q, fraction and variant", (unit, row.get("cell")))
    return found


def less(a: Units, b: Units) -> Units:
    """Return a - b over the units both have; what has no seed in b is taken from every seed of its slide in a."""
    others = {unit: b.get(unit, b.get((unit[0], None))) for unit in a}
    return {unit: a[unit] - other for unit, other in others.items() if other is not None}


def estimate(values: Units, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return the mean of units, with the 95% percentile interval of a crossed bootstrap.

    Slides and seeds are drawn with replacement, each on their own, and a unit counts as often as its slide times its
    seed was drawn. A factor of a single level is not drawn: with one slide the interval speaks of other seeds alone,
    with one seed of other slides alone. With two or three levels it is too narrow, as any bootstrap then is: of two
    slides half of all draws hold one of them twice, and never a third. Where a unit's noise is all its own, shared by
    neither slide nor seed, it errs to the other side, by up to the root of 3.

    Args:
        values: By (slide, seed); pairs may be missing.
        resamples: How many draws.
        seed: Of the draws; the same values give the same interval.
    """
    if len(values) < 2:
        return Estimate(next(iter(values.values()), np.nan), np.nan, np.nan)
    grid, there = _grid(values)
    rng = np.random.default_rng(seed)
    slides, seeds = (rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float) for n in grid.shape)
    sums, counts = (np.einsum("rs,st,rt->r", slides, table, seeds) for table in (grid, there))
    means = sums[counts > 0] / counts[counts > 0]  # of missing pairs a draw may hold nothing else
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(grid.sum() / there.sum()), float(low), float(high))


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p of a sign-flip permutation test of mean 0.

    p is the share of sign flips whose mean is at least as far from 0 as the one found. All 2^n flips are tried up to 16
    pairs; from 17 on 10000 random ones, and the one found counts among them.

    The flips treat pairs as independent, which those of one seed, scored by one network, and those of one slide are
    not. So p is a lower bound: where the slides agree on every network, n seeds cannot give more than 2 / 2^n, however
    many slides there are. And it says little about other slides.
    """
    values = np.asarray(differences, float)
    if not len(values):
        return np.nan
    if len(values) <= EXACT:
        signs = 1 - 2 * (np.arange(2 ** len(values))[:, np.newaxis] >> np.arange(len(values)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], size=(FLIPS, len(values)))
        signs = np.concatenate([np.ones((1, len(values)), int), signs])
    # Flips that tie with what was found count, whatever the rounding of their sums.
    return float(np.mean(np.abs(signs @ values) >= abs(values.sum()) - 1e-9 * np.abs(values).sum()))


def smallest_p(pairs: int) -> float:
    """Return the smallest p that `sign_flip_p` can reach: 2 / 2^n up to 16 pairs, 1 / 10001 from there on."""
    return min(1.0, 2 / 2 ** pairs) if pairs <= EXACT else 1 / (FLIPS + 1)


def compare(differences: Units) -> Paired:
    """Return what differences by unit amount to."""
    return Paired(estimate(differences), sign_flip_p(list(differences.values())), len(differences))


def paired(rows_a: Sequence[Row], rows_b: Sequence[Row], metric: str) -> Paired:
    """Compare two cells over the (slide, seed) pairs both have: a - b, its crossed interval, and a sign-flip p.

    The smallest p that n pairs can reach is 2 / 2^n, when all differences have one sign: 0.125 of 4 pairs, 0.031 of 6,
    0.0078 of 8. With 5 pairs or fewer nothing can pass 0.05, however large it is.

    Args:
        rows_a: Of one cell and its seeds.
        rows_b: Of another; rows without a seed pair with every seed of their slide.
        metric: A column of the table.

    Returns:
        The comparison; NaN and 0 pairs where they have no unit in common.
    """
    return compare(less(units(rows_a, metric), units(rows_b, metric)))


def _grid(values: Units) -> tuple[np.ndarray, np.ndarray]:
    """Return values [slides, seeds], 0 where there is none, and 1 where there is one."""
    slides, seeds = (list(dict.fromkeys(unit[axis] for unit in sorted(values, key=str))) for axis in (0, 1))
    grid, there = np.zeros((2, len(slides), len(seeds)))
    for (slide, seed), value in values.items():
        place = slides.index(slide), seeds.index(seed)
        grid[place], there[place] = value, 1
    return grid, there
