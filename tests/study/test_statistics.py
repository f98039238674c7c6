# SPDX-License-Identifier: Apache-2.0
"""p is that of an exhaustive count, intervals cover as often as they say, Holm's correction is that by hand."""
from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from study.statistics import compare, folds_agreeing, holm, interval


@pytest.mark.parametrize("threshold", [0.0, 0.7])
@pytest.mark.parametrize("count", [2, 5, 12])
def test_p_is_the_share_of_sign_flips_at_least_as_far_from_the_threshold(count, threshold):
    values = np.random.default_rng(count).normal(0.5, 1, count)
    sums = np.array([np.dot(signs, values - threshold) for signs in product((-1, 1), repeat=count)])
    observed = abs((values - threshold).sum())
    assert compare(values, threshold).p == pytest.approx(np.mean(np.abs(sums) >= observed - 1e-9))


def test_p_of_27_slides_is_near_that_of_the_t_test_for_normal_values():
    values = np.random.default_rng(3).normal(0.4, 1, 27)
    assert compare(values).p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def test_p_is_below_alpha_about_as_often_as_it_says_where_nothing_differs():
    rng = np.random.default_rng(0)
    found = [compare(rng.normal(0, 1, 8)).p for _ in range(200)]
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(0, 1, 12)) for _ in range(100)]
    assert 0.86 <= np.mean([low <= 0 <= high for _, low, high in found]) <= 0.99


def test_effect_is_the_mean_in_standard_deviations():
    values = [1.0, 2.0, 3.0]
    assert compare(values).effect == pytest.approx(2.0)  # by hand: mean 2, deviation 1
    assert compare(values).mean == 2


def test_equal_differences_have_no_interval_to_speak_of_and_none_no_answer():
    same = compare([0.5] * 27)
    assert (same.mean, same.low, same.high, same.slides) == (0.5, 0.5, 0.5, 27)
    assert same.p < 0.001
    assert compare([0.0] * 27).p == 1
    assert compare([]).p == compare([0.3]).p == 1
    assert np.isnan(compare([]).mean)


def test_comparison_is_the_same_every_time():
    values = np.random.default_rng(0).normal(size=27)
    assert compare(values) == compare(values)


def test_holm_multiplies_by_the_tests_left_and_never_falls():
    # By hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which is raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_tests_that_were_not_run_cost_the_others():
    assert holm([0.01])[0] < holm([0.01, 1.0, 1.0])[0] == pytest.approx(0.03)


def test_folds_agree_where_their_means_have_one_sign():
    folds = {"a": 0, "b": 0, "c": 1, "d": 2}
    assert folds_agreeing({"a": 1.0, "b": -0.5, "c": 0.2, "d": -0.1}, folds) == (2, 3)
    assert folds_agreeing({"a": -1.0, "c": -0.2}, folds) == (2, 2)
    assert folds_agreeing({}, folds) == (0, 0)
