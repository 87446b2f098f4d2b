"""PPO's losses against loops over single numbers, and their gradients against any split."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.rl.ppo import explained_variance, loss_divisors, policy_loss, value_loss

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def case(seed, rows=4, width=7, scale=0.4):
    generator = torch.Generator().manual_seed(seed)
    a, b, c, d = scale * torch.randn(4, rows, width, dtype=torch.float64, generator=generator)
    weights = torch.randint(0, 2, (rows, width), generator=generator).double()
    return a, b, c, d, weights


@given(st.integers(0, 10**6), st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.sampled_from([0.1, 1.0, 30.0]))
@settings(deadline=None)
def test_policy_loss_is_the_clipped_objective_token_by_token(seed, low, high, scale):
    logp, old, advantages, _, weights = case(seed, scale=scale)
    loss, statistics = policy_loss(logp, old, advantages, weights, low, high)
    total = clipped_tokens = kl = 0.0
    largest = 0.0
    for lp, o, a, w in zip(*(x.flatten().tolist() for x in (logp, old, advantages, weights)), strict=True):
        if w == 0:
            continue
        log_ratio = min(max(lp - o, -20.0), 20.0)
        ratio = math.exp(log_ratio)
        plain, clipped = a * ratio, a * min(max(ratio, 1 - low), 1 + high)
        total += w * -min(plain, clipped)
        clipped_tokens += w * (clipped < plain)
        kl += w * (ratio - 1 - log_ratio)
        largest = max(largest, ratio)
    torch.testing.assert_close(float(loss), total, **TOLERANCE)
    assert float(statistics.clipped) == clipped_tokens
    torch.testing.assert_close(float(statistics.approximate_kl), kl, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(float(statistics.ratio_max), largest, **TOLERANCE)


@given(st.integers(0, 10**6), st.floats(0.01, 1.0))
@settings(deadline=None)
def test_value_loss_takes_the_worse_of_clipped_and_unclipped(seed, clip):
    values, old, returns, _, weights = case(seed)
    found = value_loss(values, old, returns, weights, clip)
    expected = 0.0
    for v, o, r, w in zip(*(x.flatten().tolist() for x in (values, old, returns, weights)), strict=True):
        clipped = min(max(v, o - clip), o + clip)
        expected += w * 0.5 * max((v - r) ** 2, (clipped - r) ** 2)
    torch.testing.assert_close(float(found), expected, **TOLERANCE)


def test_the_first_gradient_is_that_of_the_plain_policy_gradient():
    logp, _, advantages, _, weights = case(0)
    logp.requires_grad_()
    loss, _ = policy_loss(logp, logp.detach(), advantages, weights, 0.2, 0.2)
    (gradient,) = torch.autograd.grad(loss, logp)
    torch.testing.assert_close(gradient, -advantages * weights, **TOLERANCE)


def test_what_stands_at_weight_zero_reaches_neither_loss_nor_gradient():
    logp, old, advantages, returns, weights = case(1)
    weights[0] = 0
    dirty = [x.clone() for x in (logp, old, advantages)]
    for x in dirty:
        x[0] = 1e30
    for tensors in ((logp, old, advantages), dirty):
        tensors[0].requires_grad_()
    clean_loss, _ = policy_loss(logp, old, advantages, weights, 0.2, 0.2)
    dirty_loss, _ = policy_loss(dirty[0], dirty[1], dirty[2], weights, 0.2, 0.2)
    assert clean_loss == dirty_loss
    (gradient,) = torch.autograd.grad(dirty_loss, dirty[0])
    assert (gradient[0] == 0).all() and gradient.isfinite().all()


@pytest.mark.parametrize("distance", [1e3, -1e3])
def test_a_huge_log_ratio_gives_finite_numbers(distance):
    logp = torch.full((1, 3), distance, requires_grad=True)
    loss, statistics = policy_loss(logp, torch.zeros(1, 3), -torch.ones(1, 3), torch.ones(1, 3), 0.2, 0.2)
    (gradient,) = torch.autograd.grad(loss, logp)
    assert loss.isfinite() and gradient.isfinite().all() and statistics.ratio_max.isfinite()


@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=8, max_size=8))
@settings(deadline=None)
def test_gradient_is_the_same_for_any_micro_batch_split(seed, assignment):
    logp, old, advantages, returns, weights = case(seed, rows=8)
    groups = [[b for b in range(8) if assignment[b] == g] for g in range(4)]
    groups = [g for g in groups if g]

    def gradients(split):
        p, v = logp.clone().requires_grad_(), old.clone().requires_grad_()
        for rows, divisor in zip(
            split, loss_divisors([float(weights[g].sum()) for g in split], mean_of_means=False), strict=True
        ):
            loss, _ = policy_loss(p[rows], old[rows], advantages[rows], weights[rows], 0.2, 0.2)
            loss = loss + value_loss(v[rows], logp[rows], returns[rows], weights[rows], 0.2)
            (loss / divisor).backward()
        return p.grad, v.grad

    for whole, parts in zip(gradients([list(range(8))]), gradients(groups), strict=True):
        torch.testing.assert_close(parts, whole, **TOLERANCE)


def test_mean_of_means_weighs_micro_batches_alike_and_tokens_not():
    losses, counts = [6.0, 8.0], [3.0, 1.0]
    published = sum(x / d for x, d in zip(losses, loss_divisors(counts, mean_of_means=True), strict=True))
    assert published == (6 / 3 + 8 / 1) / 2
    clean = sum(x / d for x, d in zip(losses, loss_divisors(counts, mean_of_means=False), strict=True))
    assert clean == 14 / 4


@pytest.mark.parametrize("mean_of_means", [False, True])
def test_micro_batches_with_nothing_to_train_divide_by_something(mean_of_means):
    assert all(d > 0 for d in loss_divisors([0.0, 0.0], mean_of_means))


def test_explained_variance_is_one_for_a_perfect_and_zero_for_a_constant_critic():
    returns = torch.tensor([[1.0, 2.0, 4.0, 100.0]])
    mask = torch.tensor([[True, True, True, False]])
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.full_like(returns, 2.0), returns, mask) == pytest.approx(0)
    assert explained_variance(returns, torch.ones_like(returns), mask) == 0
