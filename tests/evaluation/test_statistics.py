"""Intervals, averages and paired comparisons against scipy, closed forms and brute force."""

import itertools
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from posttrain.evaluation.compare import Scored, compare
from posttrain.evaluation.statistics import (
    Estimate,
    average,
    estimate,
    mcnemar,
    mean_estimate,
    minimum_detectable,
    paired_difference,
    pass_at_k,
    standard_error,
)


@pytest.mark.parametrize(("right", "n"), [(0, 20), (1, 20), (10, 20), (20, 20), (437, 1319), (1, 1)])
def test_right_or_wrong_scores_get_the_wilson_interval(right, n):
    found = mean_estimate([1.0] * right + [0.0] * (n - right))
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.mean, found.n) == (right / n, n)


def test_graded_scores_get_the_normal_interval():
    scores = np.random.default_rng(0).random(300)
    found = mean_estimate(scores)
    low, high = stats.norm.interval(0.95, loc=scores.mean(), scale=stats.sem(scores))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_an_interval_holds_its_mean_and_stays_in_the_range_of_scores(scores):
    found = mean_estimate(scores)
    assert 0 <= found.low <= found.mean + 1e-12
    assert found.mean <= found.high + 1e-12 <= 1 + 1e-12


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
    got = paired_difference(a, b)
    error = (got.high - got.mean) / stats.norm.ppf(0.975)
    assert got.mean / error == pytest.approx(stats.ttest_rel(a, b).statistic, rel=1e-9)


def test_the_bootstrap_agrees_with_one_that_draws_the_clusters_of_each_group():
    rng = np.random.default_rng(4)
    sizes = {"x": [5, 1, 1, 8, 2] * 30, "y": [3] * 20}  # clusters of each group
    groups = [name for name, own in sizes.items() for size in own for _ in range(size)]
    clusters = [f"{name}{i}" for name, own in sizes.items() for i, size in enumerate(own) for _ in range(size)]
    shift = {name: rng.choice([-1.0, 0.0, 0.0, 1.0]) for name in dict.fromkeys(clusters)}
    a = np.array([shift[name] > 0 or rng.random() < 0.5 for name in clusters], dtype=float)
    b = np.array([shift[name] < 0 or rng.random() < 0.4 for name in clusters], dtype=float)
    got = paired_difference(a, b, groups, clusters, resamples=8000)
    of: dict[str, dict[str, list[float]]] = {"x": {}, "y": {}}
    for group, cluster, d in zip(groups, clusters, a - b, strict=True):
        of[group].setdefault(cluster, []).append(d)
    brute = []
    for _ in range(4000):
        means = []
        for own in of.values():
            drawn = [list(own.values())[i] for i in rng.integers(0, len(own), len(own))]
            means.append(np.mean([d for each in drawn for d in each]))
        brute.append(np.mean(means))
    assert got.mean == pytest.approx(np.mean([np.mean([d for c in own.values() for d in c]) for own in of.values()]))
    assert (got.bootstrap_low, got.bootstrap_high) == pytest.approx(np.percentile(brute, [2.5, 97.5]), abs=0.015)
    assert (got.low, got.high) == pytest.approx((got.bootstrap_low, got.bootstrap_high), abs=0.03)


def test_pairing_narrows_the_interval_of_models_that_agree():
    rng = np.random.default_rng(5)
    base = (rng.random(500) < 0.5).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:25]] = 1.0
    paired = paired_difference(better, base)
    shuffled = paired_difference(better, rng.permutation(base))
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)
    assert paired.low > 0 > shuffled.low


@pytest.mark.parametrize("other", [[1.0], []])
def test_scores_that_do_not_pair_are_refused(other):
    with pytest.raises(ValueError, match="paired"):
        paired_difference([1.0, 0.0], other)


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
        got = paired_difference([1.0] * n, [1.0] * n)
        assert got.mean == 0
        assert got.low == -got.high
        widths.append(got.high)
    assert widths == sorted(widths, reverse=True)
    # One disagreement each way among n + 2: variance 2 / (n + 1), standard error its root over √(n + 2).
    assert widths[2] == pytest.approx(stats.norm.ppf(0.975) * sqrt(2 / 21 / 22))
    assert widths[3] < 0.006


def test_scores_in_strata_have_the_variance_of_their_strata():
    rng = np.random.default_rng(6)
    strata = {name: rng.random(n) + shift for name, n, shift in (("a", 40, 0.0), ("b", 90, 3.0), ("c", 25, -2.0))}
    values = np.concatenate(list(strata.values()))
    groups = [name for name, own in strata.items() for _ in own]
    got = estimate(values / 10 + 0.3, groups)
    assert got.mean == pytest.approx(np.mean([own.mean() for own in strata.values()]) / 10 + 0.3)
    error = sqrt(sum(stats.sem(own) ** 2 for own in strata.values())) / 3 / 10
    assert (got.high - got.mean) / stats.norm.ppf(0.975) == pytest.approx(error, rel=0.02)


def test_copies_of_a_score_in_one_cluster_tell_no_more_than_one():
    rng = np.random.default_rng(7)
    once = rng.random(60)
    copied = np.repeat(once, 5)
    got = estimate(copied, clusters=[str(i // 5) for i in range(300)])
    single = mean_estimate(once)
    assert (got.high - got.mean) == pytest.approx(single.high - single.mean, rel=1e-6)
    assert estimate(copied).high < got.high


def test_clustered_intervals_hold_the_truth_nineteen_times_of_twenty():
    rng = np.random.default_rng(8)
    names = [str(i // 8) for i in range(400)]
    held = plain = 0
    for _ in range(400):
        chance = np.repeat(np.clip(rng.normal(0.4, 0.2, 50), 0, 1), 8)
        scores = (rng.random(400) < chance).astype(float)
        truth = 0.4013  # the mean of the clipped normal
        one, other = estimate(scores, clusters=names), mean_estimate(scores)
        held += one.low <= truth <= one.high
        plain += other.low <= truth <= other.high
    assert 0.92 <= held / 400 <= 0.98
    assert plain < held


def test_without_groups_or_clusters_nothing_changes():
    scores = [1.0, 0.0, 1.0, 1.0]
    assert estimate(scores, ["", "", "", ""], []) == mean_estimate(scores)
    assert estimate([1.0, 1.0, 0.0], ["a", "b", "c"]).low > 0.0
    assert estimate([1.0], ["a"], ["x"]) == Estimate(1.0, 0.0, 1.0, 1)
    nothing = estimate([0.0] * 40, clusters=[str(i // 4) for i in range(40)])
    assert nothing.high == pytest.approx(mean_estimate([0.0] * 10).high)


@pytest.mark.parametrize(("n", "c", "k"), [(20, 3, 10), (20, 0, 10), (20, 20, 10), (5, 2, 1), (6, 5, 2)])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(n, c, k):
    draws = list(itertools.combinations(range(n), k)) if n < 10 else None
    product = 1 - np.prod([1 - k / i for i in range(n - c + 1, n + 1)]) if n - c >= k else 1.0  # as published
    assert pass_at_k(n, c, k) == pytest.approx(product, abs=1e-12)
    if draws:
        assert pass_at_k(n, c, k) == pytest.approx(np.mean([min(draw) < c for draw in draws]))


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="pass@10 needs 10"):
        pass_at_k(5, 1, 10)


def test_the_detectable_difference_is_found_four_times_of_five():
    rng = np.random.default_rng(9)
    effect = minimum_detectable(1.0)
    found = np.abs(rng.normal(effect, 1.0, 20000)) > stats.norm.ppf(0.975)
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def scored(label, tasks, records=()):
    whole = {"status": "scored", "mean": 0.5, "low": 0.46, "high": 0.54, "n": 4, "format": "chat", "protocol_hash": "x"}
    return Scored(label, {name: whole | more for name, more in tasks.items()}, list(records))


def test_seeds_do_not_narrow_a_figure_of_all_instances():
    records = [{"task": "alpaca_eval@paper", "id": str(i), "outcome": "scored", "score": i / 4} for i in range(4)]
    runs = [scored(str(seed), {"alpaca_eval@paper": {}}, records) for seed in range(4)]
    [one], _, _ = compare(runs[:1], runs[1:2])
    [four], _, _ = compare(runs, runs)
    assert four.high - four.low == pytest.approx(one.high - one.low)


def test_a_part_of_a_component_that_is_not_whole_is_named_as_outside_the_average():
    safety = {"xstest@paper": {"within": "safety"}, "harmbench@paper": {"within": "safety"}}
    records = [
        {"task": task, "id": str(i), "outcome": "scored", "score": float(i % 2)}
        for task in ("gsm8k@paper", *safety)
        for i in range(4)
    ]
    a = scored("a", {"gsm8k@paper": {}, **safety}, records)
    b = scored("b", {"gsm8k@paper": {}, "xstest@paper": {"within": "safety"}}, records)
    found, average, outside = compare([a], [b])
    assert {one.task for one in found} == {"gsm8k@paper", "xstest@paper"}
    assert average is not None and average.n == 4
    assert outside == ["harmbench@paper", "xstest@paper"]
