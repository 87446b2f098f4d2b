"""Group advantages and the GRPO loss against loops over single numbers."""

import math
import statistics

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posttrain.rl.grpo import group_advantages, grpo_loss, kl_penalty, leave_one_out_advantages

samples = st.lists(
    st.tuples(st.sampled_from([10.0, 0.0, -10.0, 3.5]), st.integers(0, 3), st.sampled_from([0.0, 1.0])),
    min_size=1,
    max_size=14,
)


@given(samples, st.booleans(), st.booleans())
@settings(deadline=None)
def test_each_score_is_measured_against_its_own_group(rows, divide_by_std, bessel):
    scores, groups, weights = (torch.tensor(x) for x in zip(*rows, strict=True))
    found = group_advantages(scores.double(), groups, weights.double(), divide_by_std, bessel)
    for b, (score, group, weight) in enumerate(rows):
        others = [s for s, g, w in rows if g == group and w > 0]
        if weight == 0:
            assert found[b] == 0
            continue
        expected = score - statistics.fmean(others)
        if divide_by_std:
            spread = statistics.stdev(others) if bessel and len(others) > 1 else statistics.pstdev(others)
            expected /= spread + 1e-8
        torch.testing.assert_close(float(found[b]), expected, rtol=1e-6, atol=1e-6)


@given(samples)
@settings(deadline=None)
def test_group_advantages_in_float64_to_ten_digits(rows):
    scores, groups, weights = (torch.tensor(x) for x in zip(*rows, strict=True))
    found = group_advantages(scores.double(), groups, weights.double(), False)
    for b, (score, group, weight) in enumerate(rows):
        others = [s for s, g, w in rows if g == group and w > 0]
        expected = score - statistics.fmean(others) if weight else 0.0
        assert abs(float(found[b]) - expected) < 1e-10


@given(samples)
@settings(deadline=None)
def test_rloo_measures_each_score_against_the_others_of_its_group(rows):
    scores, groups, weights = (torch.tensor(x) for x in zip(*rows, strict=True))
    found = leave_one_out_advantages(scores.double(), groups, weights.double())
    for b, (score, group, weight) in enumerate(rows):
        others = [s for i, (s, g, w) in enumerate(rows) if g == group and w > 0 and i != b]
        expected = score - statistics.fmean(others) if weight > 0 and others else 0.0
        assert float(found[b]) == pytest.approx(expected, abs=1e-10)


@given(st.floats(-20, 20, width=32), st.integers(1, 64), st.booleans())
@example(score=float(torch.tensor(10 / 3)), size=8, divide_by_std=True)  # in float32: −0.960 for all of them
@settings(deadline=None)
def test_a_group_that_agrees_trains_nothing(score, size, divide_by_std):
    scores = torch.tensor([score] * size + [0.0])
    assert not group_advantages(scores, (scores == 0).long(), torch.ones(size + 1), divide_by_std).any()


@given(st.integers(0, 10**6), st.sampled_from(["k2", "k3"]))
@settings(deadline=None)
def test_grpo_loss_is_the_clip_higher_objective_plus_the_penalty(seed, estimator):
    generator = torch.Generator().manual_seed(seed)
    logp, old, ref, advantages = 0.4 * torch.randn(4, 3, 5, dtype=torch.float64, generator=generator)
    weights = torch.randint(0, 2, (3, 5), generator=generator).double()
    found, _ = grpo_loss(logp, old, ref, advantages, weights, 0.2, 0.272, 0.01, estimator)
    expected = 0.0
    for lp, o, r, a, w in zip(*(x.flatten().tolist() for x in (logp, old, ref, advantages, weights)), strict=True):
        ratio = math.exp(lp - o)
        difference = lp - r
        penalty = difference**2 / 2 if estimator == "k2" else math.exp(-difference) - 1 + difference
        expected += w * (-min(a * ratio, a * min(max(ratio, 0.8), 1.272)) + 0.01 * penalty)
    torch.testing.assert_close(float(found), expected, rtol=1e-10, atol=1e-10)


def test_without_a_reference_there_is_no_penalty():
    x = torch.randn(2, 3)
    with_beta, _ = grpo_loss(x, x, None, x, torch.ones(2, 3), 0.2, 0.2, 5.0, "k2")
    without, _ = grpo_loss(x, x, x, x, torch.ones(2, 3), 0.2, 0.2, 0.0, "k2")
    assert with_beta == without


def test_the_gradient_of_k2_is_that_of_the_kl_divergence_and_k3_s_is_not():
    """Exact expectation over a vocabulary of 6: E_π[∇ k2] = ∇ KL(π ‖ ref)."""
    generator = torch.Generator().manual_seed(0)
    logits, ref_logits = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    logits.requires_grad_()
    ref_logp = ref_logits.log_softmax(-1)
    logp = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad((logp.exp() * (logp - ref_logp)).sum(), logits, retain_graph=True)
    expected = {}
    for estimator in ("k2", "k3"):
        penalty = kl_penalty(logp, ref_logp, estimator)
        (expected[estimator],) = torch.autograd.grad((logp.exp().detach() * penalty).sum(), logits, retain_graph=True)
    torch.testing.assert_close(expected["k2"], exact, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(expected["k3"], exact)


def test_both_estimators_vanish_at_the_reference_only():
    x = torch.tensor([-3.0, -1.0])
    for estimator in ("k2", "k3"):
        assert not kl_penalty(x, x, estimator).any()
        assert (kl_penalty(x, x + 0.5, estimator) > 0).all()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(kl_penalty(x, x + 0.5, "k2"), kl_penalty(x, x + 0.5, "k3"))
