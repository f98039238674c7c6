# SPDX-License-Identifier: Apache-2.0
"""Intervals have the stated coverage, p is that of an exhaustive count, and few pairs are never significant."""
from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from study.statistics import Estimate, compare, estimate, paired, sign_flip_p, smallest_p, subtract, units


def rows_of(values, method="a", metric="ms_ssim"):
    """A row for every value of [slides, seeds]."""
    return [{"cell": method, "method": method, "slide": f"slide{i}", "seed": j, metric: value}
            for i, line in enumerate(np.atleast_2d(values)) for j, value in enumerate(line)]


def units_of(values):
    return units(rows_of(values), "ms_ssim")


def test_units_are_by_slide_and_seed_without_what_is_missing():
    rows = rows_of([[0.9, None], [np.nan, np.inf]])
    assert units(rows, "ms_ssim") == {("slide0", 0): 0.9}
    assert units(rows, "psnr") == {}


def test_units_of_two_cells_at_once_are_refused():
    with pytest.raises(ValueError, match="one cell"):
        units(rows_of([0.9]) + rows_of([0.8]), "ms_ssim")


def test_units_may_be_given_twice_when_they_agree():
    assert len(units_of([0.9])) == len(units(rows_of([0.9]) * 2, "ms_ssim")) == 1


def test_subtract_pairs_what_both_have():
    assert subtract({("s", 0): 3.0, ("s", 1): 5.0}, {("s", 1): 1.0, ("t", 0): 1.0}) == {("s", 1): 4.0}


def test_subtract_takes_what_has_no_seed_from_every_seed_of_its_slide():
    assert subtract({("s", 0): 3.0, ("s", 1): 5.0, ("t", 0): 9.0}, {("s", None): 1.0}) == {("s", 0): 2.0, ("s", 1): 4.0}


def test_mean_and_interval_of_two_slides_span_both():
    one = estimate(units_of([[1.0, 1.0], [3.0, 3.0]]))
    assert (one.mean, one.low, one.high) == (2.0, 1.0, 3.0)


def test_interval_is_that_of_every_draw_of_slides_and_seeds_by_hand():
    values = np.array([[1.0, 2.0, 4.0], [3.0, 7.0, 5.0], [2.0, 2.5, 9.0]])
    draws = np.array(np.meshgrid(*[range(3)] * 6)).reshape(6, -1).T  # all 729, equally likely
    means = [values[np.ix_(draw[:3], draw[3:])].mean() for draw in draws]
    one = estimate(units_of(values), resamples=40000)
    np.testing.assert_allclose((one.low, one.high), np.percentile(means, [2.5, 97.5]), atol=0.1)


def test_interval_of_one_slide_is_the_usual_bootstrap_over_seeds():
    values = np.random.default_rng(0).normal(size=20)
    expected = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1))
    one = estimate(units_of(values))
    np.testing.assert_allclose((one.low, one.high), expected.confidence_interval, atol=0.05)


def test_interval_widens_by_what_seeds_share():
    rng = np.random.default_rng(0)
    alone = rng.normal(size=(12, 12))
    shared = np.repeat(rng.normal(size=(1, 12)), 12, 0)
    width = [one.high - one.low for one in (estimate(units_of(alone)), estimate(units_of(shared)))]
    assert width[1] > 1.4 * width[0]


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        values = rng.normal(size=(12, 1)) + rng.normal(size=(1, 12)) + rng.normal(size=(12, 12))
        one = estimate(units_of(values), resamples=400)
        hits += one.low <= 0 <= one.high
    assert 0.88 <= hits / 200 <= 1


def test_interval_of_a_table_with_holes_holds_its_mean():
    values = units_of([[1.0, 2.0], [3.0, 4.0]])
    del values["slide0", 1]
    one = estimate(values)
    assert one.mean == pytest.approx(8 / 3)
    assert 1 <= one.low <= one.mean <= one.high <= 4


def test_one_value_has_no_interval_and_none_has_no_mean():
    np.testing.assert_equal(estimate(units_of([0.9])), Estimate(0.9, np.nan, np.nan))
    np.testing.assert_equal(estimate({}), Estimate(np.nan, np.nan, np.nan))


def test_interval_is_the_same_every_time():
    values = units_of(np.random.default_rng(0).normal(size=(3, 4)))
    assert estimate(values) == estimate(dict(reversed(values.items())))


@pytest.mark.parametrize("count", [2, 4, 6, 9, 13])
def test_p_is_the_share_of_sign_flips_at_least_as_far_from_0(count):
    values = np.random.default_rng(count).normal(0.5, 1, count)
    sums = [abs(np.dot(signs, values)) for signs in product((-1, 1), repeat=count)]
    assert sign_flip_p(values) == pytest.approx(np.mean(np.array(sums) >= abs(values.sum()) - 1e-9))


def test_p_of_many_pairs_is_about_that_of_the_exact_test():
    values = np.random.default_rng(0).normal(0.4, 1, 20)
    signs = 1 - 2 * (np.arange(2**20, dtype=np.int32)[:, np.newaxis] >> np.arange(20) & 1)
    exact = np.mean(np.abs(signs @ values) >= abs(values.sum()) - 1e-9)
    assert sign_flip_p(values) == pytest.approx(exact, abs=0.015)


def test_p_by_hand():
    assert sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip_p([1.0, 2.0, -3.0]) == 1.0
    assert sign_flip_p([0.1, 0.2, -0.3, 0.4]) == 10 / 16  # of 1..4 with signs, ten sums lie at 4 or further from 0
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert np.isnan(sign_flip_p([]))


@pytest.mark.parametrize("count", [1, 4, 6, 13, 40])
def test_p_of_a_clear_difference_is_the_smallest_there_is(count):
    assert sign_flip_p(np.linspace(1, 1.1, count)) == pytest.approx(smallest_p(count))
    assert smallest_p(count) == (2 / 2**count if count <= 13 else 1 / 10001)


def test_p_of_no_difference_is_small_as_rarely_as_it_says():
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_p(rng.normal(size=8)) for _ in range(600)])
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.025)


def test_p_is_too_small_where_slides_share_the_noise_of_a_seed():
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_p(np.repeat(rng.normal(size=6), 3)) for _ in range(100)])
    assert np.mean(p <= 0.05) > 0.1


def test_paired_finds_an_effect_far_below_what_slides_differ_by():
    rng = np.random.default_rng(0)
    slides = np.array([[0.7], [0.9]]) + rng.normal(0, 0.001, (2, 4))
    found = paired(rows_of(slides + 0.01, "a"), rows_of(slides, "b"), "ms_ssim")
    assert found.difference.mean == pytest.approx(0.01)
    assert 0.009 < found.difference.low <= found.difference.high < 0.011
    assert (found.pairs, found.p) == (8, 2 / 256)


def test_paired_does_not_call_noise_an_effect():
    rng = np.random.default_rng(3)
    a, b = (rows_of(0.8 + rng.normal(0, 0.01, (2, 4)), name) for name in "ab")
    found = paired(a, b, "ms_ssim")
    assert found.p > 0.05
    assert found.difference.low < 0 < found.difference.high


def test_two_slides_and_two_seeds_cannot_be_significant():
    assert paired(rows_of(np.full((2, 2), 9.0), "a"), rows_of(np.zeros((2, 2)), "b"), "ms_ssim").p == 0.125


def test_paired_without_a_common_pair_is_empty():
    found = paired(rows_of([0.9]), [], "ms_ssim")
    assert found.pairs == 0
    assert np.isnan([found.difference.mean, found.p]).all()
    assert compare({}).pairs == 0
