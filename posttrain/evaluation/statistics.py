"""Uncertainty of scores: intervals, averages over tasks, and paired comparison of two models.

Every interval is two-sided at 95 %. Scores lie in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb, sqrt

import numpy as np

Scores = Sequence[float] | np.ndarray
Z = 1.959963984540054  # the 97.5 % point of the normal distribution
POWER_Z = 0.8416212335729143  # its 80 % point


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval and the number of instances behind it."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of A − B on the same instances, its 95 % interval, and the interval that the bootstrap gives."""

    mean: float
    low: float
    high: float
    n: int
    bootstrap_low: float
    bootstrap_high: float


@dataclass(frozen=True)
class McNemar:
    """Instances that only A, or only B, got right, and the exact two-sided p of so uneven a split."""

    only_a: int
    only_b: int
    p: float


def mean_estimate(scores: Scores) -> Estimate:
    """Mean of independent scores with its interval: Wilson's for right-or-wrong scores, else normal, kept in [0, 1].

    Wilson, E. B. (1927): it stays honest at 0 % and 100 %, where the normal interval has no width.
    A single graded score says nothing of the spread, so its interval is [0, 1]. No score raises ValueError.
    """
    values = np.asarray(scores, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("no scores: an empty task has no mean")
    mean = float(values.mean())
    if np.all((values == 0) | (values == 1)):
        low, high = _wilson(mean, n)
        return Estimate(mean, low, high, n)
    if n == 1:
        return Estimate(mean, 0.0, 1.0, 1)
    half = Z * standard_error(values)
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), n)


def estimate(scores: Scores, groups: Sequence[str] = (), clusters: Sequence[str] = ()) -> Estimate:
    """Mean of scores that are no plain sample, with its interval.

    ``groups``: one per score; the mean is then over the means of groups, which are strata. ``clusters``: one per score;
    scores of one cluster (questions on one passage) move together, so the standard error sums over clusters (Liang and
    Zeger 1986). "" is a cluster of its own. Right-or-wrong scores get Wilson's interval at the number of independent
    scores that would have this standard error. Without either this is `mean_estimate`.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not any(groups) and not any(clusters):
        return mean_estimate(values)
    mean, error, independent = _weighted(values, groups, clusters)
    if independent < 2:
        return Estimate(mean, 0.0, 1.0, len(values))
    if np.all((values == 0) | (values == 1)):
        spread = mean * (1 - mean)
        effective = min(spread / error**2, len(values)) if error > 0 and spread > 0 else independent
        low, high = _wilson(mean, effective)
        return Estimate(mean, low, high, len(values))
    return Estimate(mean, max(0.0, mean - Z * error), min(1.0, mean + Z * error), len(values))


def _weighted(values: np.ndarray, groups: Sequence[str], clusters: Sequence[str]) -> tuple[float, float, int]:
    """Mean over groups (or over all), its cluster-robust standard error, and the number of clusters.

    Deviations are taken from the mean of the group; from the whole mean where a group has a single cluster, whose
    spread it cannot tell.
    """
    n = len(values)
    group_N, cluster_N = _numbered(n, groups, clusters)
    size_G = np.bincount(group_N)
    weight_N = 1 / (size_G[group_N] * len(size_G))
    mean = float((weight_N * values).sum())
    mean_G = np.bincount(group_N, values) / size_G
    lone = any(len(set(cluster_N[group_N == g])) < 2 for g in range(len(size_G)))
    centre_N = np.full(n, mean) if lone else mean_G[group_N]
    count = int(cluster_N.max()) + 1
    sum_C = np.bincount(cluster_N, weight_N * (values - centre_N))
    error = sqrt(float((sum_C**2).sum()) * count / max(1, count - 1))
    return mean, error, count


def _numbered(n: int, groups: Sequence[str], clusters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The number of each score's group, and of its cluster, from 0."""
    _, group_N = np.unique(np.asarray(groups if any(groups) else [""] * n), return_inverse=True)
    names = [cluster or f" {index}" for index, cluster in enumerate(clusters if any(clusters) else [""] * n)]
    _, cluster_N = np.unique(np.asarray(names), return_inverse=True)
    return group_N, cluster_N


def _wilson(mean: float, n: float) -> tuple[float, float]:
    centre = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
    return min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that ``k`` of ``samples`` answers, ``correct`` of them right, hold a right one (Chen et al. 2021):
    1 − C(n − c, k) / C(n, k). Fewer samples than ``k`` raise ValueError."""
    if samples < k:
        raise ValueError(f"pass@{k} needs {k} samples at least, not {samples}")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def minimum_detectable(standard_error: float) -> float:
    """The true difference that a two-sided test at 5 % finds in four of five repetitions: (1.960 + 0.842) · SE."""
    return (Z + POWER_Z) * standard_error


def standard_error(values: Scores) -> float:
    """Sample standard deviation (n − 1) over √n. Fewer than two values raise ValueError."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("a standard error needs two values")
    return float(values.std(ddof=1) / sqrt(len(values)))


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Unweighted mean over tasks. Its interval is propagated from theirs, each side from that side's half widths.

    low = m − √Σ(mᵢ − lᵢ)² / T (Zou and Donner 2008, "MOVER"). With normal intervals this is error propagation;
    unlike it, a task at 0 % keeps its Wilson uncertainty. ``n`` is the sum. No estimate raises ValueError.
    """
    if not estimates:
        raise ValueError("no tasks to average")
    count = len(estimates)
    mean = sum(e.mean for e in estimates) / count
    below = sqrt(sum((e.mean - e.low) ** 2 for e in estimates)) / count
    above = sqrt(sum((e.high - e.mean) ** 2 for e in estimates)) / count
    return Estimate(mean, mean - below, mean + above, sum(e.n for e in estimates))


def paired_difference(
    a: Scores,
    b: Scores,
    groups: Sequence[str] = (),
    clusters: Sequence[str] = (),
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """A − B over one task's instances, weighed as `estimate` weighs their scores; ``a[i]`` and ``b[i]`` are of one.

    The interval is normal, cut to [−1, 1], with the standard error of the differences; the bootstrap draws clusters
    within their groups. Where differences do not vary, the standard error would be 0 on any number of instances: it is
    then taken with one disagreement each way added (as in Bonett and Price 2012). Unequal lengths raise ValueError.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"{len(x)} and {len(y)} scores cannot be paired")
    d = x - y
    mean, error, independent = _weighted(d, groups, clusters)
    if error < 1e-12:
        error = standard_error([mean] * independent + [mean + 1.0, mean - 1.0])
    half = Z * error
    low, high = np.percentile(_resampled(d, groups, clusters, resamples, seed), [2.5, 97.5])
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), len(d), float(low), float(high))


def _resampled(
    values: np.ndarray, groups: Sequence[str], clusters: Sequence[str], resamples: int, seed: int
) -> np.ndarray:
    """Means over the means of groups, whose clusters are drawn with replacement."""
    rng = np.random.default_rng(seed)
    group_N, cluster_N = _numbered(len(values), groups, clusters)
    found = np.zeros(resamples)
    for group in range(int(group_N.max()) + 1):
        own = group_N == group
        _, number = np.unique(cluster_N[own], return_inverse=True)
        sums = np.column_stack([np.bincount(number, values[own]), np.bincount(number)])
        # Drawing how often each distinct cluster comes up is the same bootstrap, without n indices per resample.
        levels, counts = np.unique(sums, axis=0, return_counts=True)
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples) @ levels
        found += drawn[:, 0] / drawn[:, 1]
    return found / (int(group_N.max()) + 1)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """Exact test (McNemar 1947): of the instances that one model alone got right, is the split even?"""
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = Fraction(sum(comb(n, k) for k in range(fewer + 1)), 2**n)
    return McNemar(only_a, only_b, float(min(Fraction(1), 2 * tail)))
