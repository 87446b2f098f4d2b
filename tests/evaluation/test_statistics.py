"""Intervals, averages and paired comparisons against scipy, closed forms and brute force."""

import itertools
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from posttrain.evaluation.statistics import Estimate, average, mcnemar, mean_estimate, paired_difference, standard_error


@pytest.mark.parametrize(("right", "n"), [(0, 20), (1, 20), (10, 20), (20, 20), (437, 1319), (1, 1)])
def test_right_or_wrong_scores_get_the_wilson_interval(right, n):
    estimate = mean_estimate([1.0] * right + [0.0] * (n - right))
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (estimate.mean, estimate.n) == (right / n, n)


def test_graded_scores_get_the_normal_interval():
    scores = np.random.default_rng(0).random(300)
    estimate = mean_estimate(scores)
    low, high = stats.norm.interval(0.95, loc=scores.mean(), scale=stats.sem(scores))
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_an_interval_holds_its_mean_and_stays_in_the_range_of_scores(scores):
    estimate = mean_estimate(scores)
    assert 0 <= estimate.low <= estimate.mean + 1e-12
    assert estimate.mean <= estimate.high + 1e-12 <= 1 + 1e-12


def test_an_empty_task_has_no_mean():
    with pytest.raises(ValueError, match="no scores"):
        mean_estimate([])


def test_nineteen_of_twenty_wilson_intervals_hold_the_truth():
    rng = np.random.default_rng(1)
    draws = rng.binomial(100, 0.3, size=4000)
    table = {k: mean_estimate([1.0] * k + [0.0] * (100 - k)) for k in set(draws.tolist())}
    covered = np.mean([table[k].low <= 0.3 <= table[k].high for k in draws.tolist()])
    assert 0.93 <= covered <= 0.97


def test_the_average_propagates_normal_errors():
    rng = np.random.default_rng(2)
    tasks = [rng.random(n) for n in (50, 200, 80)]
    got = average([mean_estimate(t) for t in tasks])
    error = sqrt(sum(stats.sem(t) ** 2 for t in tasks)) / 3
    assert got.mean == pytest.approx(np.mean([t.mean() for t in tasks]))
    assert (got.high - got.mean) / stats.norm.ppf(0.975) == pytest.approx(error, rel=1e-9)
    assert got.n == 330


def test_a_task_at_zero_percent_still_widens_the_average():
    nothing = mean_estimate([0.0] * 20)
    got = average([nothing, Estimate(0.5, 0.5, 0.5, 10)])
    assert got.low == pytest.approx(0.25)
    assert got.high == pytest.approx(0.25 + nothing.high / 2)


def test_the_paired_difference_has_the_standard_error_of_a_paired_t_test():
    rng = np.random.default_rng(3)
    a = (rng.random(400) < 0.6).astype(float)
    b = np.where(rng.random(400) < 0.8, a, 1 - a)
    got = paired_difference({"t": a}, {"t": b})
    error = (got.high - got.mean) / stats.norm.ppf(0.975)
    assert got.mean / error == pytest.approx(stats.ttest_rel(a, b).statistic, rel=1e-9)


def test_the_bootstrap_agrees_with_one_that_draws_instances():
    rng = np.random.default_rng(4)
    a = {"x": (rng.random(150) < 0.7).astype(float), "y": (rng.random(60) < 0.4).astype(float)}
    b = {"x": (rng.random(150) < 0.5).astype(float), "y": (rng.random(60) < 0.3).astype(float)}
    got = paired_difference(a, b, resamples=8000)
    brute = []
    for _ in range(8000):
        picks = {t: rng.integers(0, len(a[t]), len(a[t])) for t in a}
        brute.append(np.mean([(a[t][picks[t]] - b[t][picks[t]]).mean() for t in a]))
    assert (got.bootstrap_low, got.bootstrap_high) == pytest.approx(np.percentile(brute, [2.5, 97.5]), abs=0.01)
    assert (got.low, got.high) == pytest.approx((got.bootstrap_low, got.bootstrap_high), abs=0.015)


def test_a_macro_difference_weighs_tasks_not_instances():
    got = paired_difference({"big": [1.0] * 90, "small": [0.0] * 10}, {"big": [0.0] * 90, "small": [0.0] * 10})
    assert got.mean == pytest.approx(0.5)
    assert got.n == 100


def test_pairing_narrows_the_interval_of_models_that_agree():
    rng = np.random.default_rng(5)
    base = (rng.random(500) < 0.5).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:25]] = 1.0
    paired = paired_difference({"t": better}, {"t": base})
    shuffled = paired_difference({"t": better}, {"t": rng.permutation(base)})
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)
    assert paired.low > 0 > shuffled.low


@pytest.mark.parametrize("other", [{"t": [1.0]}, {"u": [1.0, 0.0]}, {}])
def test_scores_that_do_not_pair_are_refused(other):
    with pytest.raises(ValueError, match="paired"):
        paired_difference({"t": [1.0, 0.0]}, other)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 0), (9, 3), (4, 4), (120, 80)])
def test_mcnemar_is_the_exact_binomial_test_of_the_disagreements(only_a, only_b):
    a = [True] * only_a + [False] * only_b + [True, False] * 7
    b = [False] * only_a + [True] * only_b + [True, False] * 7
    got = mcnemar(a, b)
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert (got.only_a, got.only_b) == (only_a, only_b)
    assert got.p == pytest.approx(expected, abs=1e-12)


def test_mcnemar_against_every_assignment_of_eight_disagreements():
    splits = [sum(s) for s in itertools.product((0, 1), repeat=8)]
    extreme = sum(min(k, 8 - k) <= 1 for k in splits) / len(splits)
    assert mcnemar([True] * 7 + [False], [False] * 7 + [True]).p == pytest.approx(extreme)


def test_a_standard_error_needs_two_values():
    with pytest.raises(ValueError, match="two"):
        standard_error([0.5])


def test_models_that_agree_on_everything_differ_by_less_the_more_they_were_asked():
    widths = []
    for n in (1, 2, 20, 500):
        got = paired_difference({"t": [1.0] * n}, {"t": [1.0] * n})
        assert got.mean == 0
        assert got.low == -got.high
        widths.append(got.high)
    assert widths == sorted(widths, reverse=True)
    # One disagreement each way among n + 2: variance 2 / (n + 1), standard error its root over √(n + 2).
    assert widths[2] == pytest.approx(stats.norm.ppf(0.975) * sqrt(2 / 21 / 22))
    assert widths[3] < 0.006
