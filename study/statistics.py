# SPDX-License-Identifier: Apache-2.0
"""Paired comparisons over slides: mean, bootstrap interval, sign-flip test, effect size, and Holm's correction.

The unit is the slide: one number for each slide and setting, the mean over its tiles. A difference of two settings is
taken slide by slide. The slides of one fold were scored by the same two networks and share their luck, so intervals are
somewhat too narrow and p too small; `folds_agreeing` says how many folds point the same way.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, permutation_test

SEED = 0
RESAMPLES = 9_999
FLIPS = 19_999  # all 2^n where there are no more


@dataclass(frozen=True)
class Compared:
    """Mean of differences with its 95% interval over slides; p of that mean being the threshold; effect size.

    `effect` is Cohen's d of the differences, mean / standard deviation: 0.2 is small, 0.5 medium, 0.8 large.
    """

    mean: float
    low: float
    high: float
    p: float
    effect: float
    slides: int


def compare(differences: Sequence[float], threshold: float = 0.0) -> Compared:
    """Return the comparison of differences, one a slide; NaN and p = 1 for fewer than two.

    The test flips the signs of differences - threshold (two-sided).
    """
    values = np.asarray(differences, float)
    if len(values) < 2:
        mean = float(values.mean()) if len(values) else np.nan
        return Compared(mean, mean, mean, 1.0, np.nan, len(values))
    p = permutation_test((values - threshold,), np.mean, permutation_type="samples", n_resamples=FLIPS,
                         vectorized=True, rng=SEED).pvalue
    mean, low, high = interval(values)
    spread = float(values.std(ddof=1))
    return Compared(mean, low, high, float(p), mean / spread if spread else np.nan, len(values))


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Return the mean of values, one a slide, and the bounds of its 95% interval: the percentile bootstrap's."""
    mean = float(np.mean(values))
    if np.ptp(values) == 0:
        return mean, mean, mean
    low, high = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=SEED).confidence_interval
    return mean, float(low), float(high)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p of a family of tests, corrected for their number.

    Source: Holm 1979: the k-th smallest of n is multiplied by n - k + 1, and none is smaller than one before it.
    """
    order = np.argsort(ps, kind="stable")
    factors = len(ps) - np.arange(len(ps))
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(ps, float)[order] * factors))
    return corrected.tolist()


def folds_agreeing(differences: Mapping[str, float], fold_of: Mapping[str, int]) -> tuple[int, int]:
    """Return in how many folds the mean difference has the sign of the whole, and the number of folds."""
    folds = {fold_of[slide] for slide in differences}
    means = [np.mean([value for slide, value in differences.items() if fold_of[slide] == fold]) for fold in folds]
    whole = np.sign(np.mean(list(differences.values()))) if differences else 0
    return int(sum(np.sign(mean) == whole for mean in means)), len(folds)
