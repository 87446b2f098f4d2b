"""GAE, whitening and Tülu 3's conventions against loops over single numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.rl.advantages import gae, rewards_with_score, tulu3_advantages, tulu3_value_mask, whiten

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


@st.composite
def ragged_rows(draw, min_response=0):
    """(prompt length, response length) of each row, with one free column to the right of the longest."""
    rows = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(min_response, 6)), min_size=1, max_size=5))
    return rows, max(p + r for p, r in rows) + 1


def span_mask(rows, width):
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for b, (prompt, response) in enumerate(rows):
        mask[b, prompt : prompt + response] = True
    return mask


def random_tensor(shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(ragged_rows(), st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_gae_is_the_discounted_sum_of_temporal_differences(layout, seed, gamma, lam):
    rows, width = layout
    mask = span_mask(rows, width)
    rewards, values = random_tensor((2, len(rows), width), seed)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for b, (prompt, response) in enumerate(rows):
        end = prompt + response
        for t in range(width):
            if not prompt <= t < end:
                assert advantages[b, t] == 0 and returns[b, t] == 0
                continue
            # Written as the explicit double sum of the paper's equation 16, not as a recursion.
            expected = 0.0
            for k in range(t, end):
                following = float(values[b, k + 1]) if k + 1 < end else 0.0
                delta = float(rewards[b, k]) + gamma * following - float(values[b, k])
                expected += (gamma * lam) ** (k - t) * delta
            torch.testing.assert_close(float(advantages[b, t]), expected, **TOLERANCE)
            torch.testing.assert_close(float(returns[b, t]), expected + float(values[b, t]), **TOLERANCE)


@given(ragged_rows(min_response=1), st.integers(0, 10**6))
@settings(deadline=None)
def test_undiscounted_gae_with_lambda_one_returns_the_reward_to_go(layout, seed):
    rows, width = layout
    mask = span_mask(rows, width)
    rewards, values = random_tensor((2, len(rows), width), seed)
    _, returns = gae(rewards, values, mask, 1.0, 1.0)
    reward_to_go = (rewards * mask).flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(returns, reward_to_go, **TOLERANCE)


def test_gae_ignores_what_stands_outside_the_mask():
    mask = span_mask([(2, 3), (1, 2)], 6)
    rewards, values = random_tensor((2, 2, 6), 0)
    clean = gae(rewards, values, mask, 0.9, 0.8)
    dirty = gae(rewards.masked_fill(~mask, math.nan), values.masked_fill(~mask, math.inf), mask, 0.9, 0.8)
    for expected, found in zip(clean, dirty, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@given(ragged_rows(), st.integers(0, 10**6))
@settings(deadline=None)
def test_whitening_uses_one_bessel_corrected_variance_over_all_masked_entries(layout, seed):
    rows, width = layout
    mask = span_mask(rows, width)
    x = 3 * random_tensor((len(rows), width), seed) + 5
    found = whiten(x, mask)
    kept = [float(v) for v, m in zip(x.flatten(), mask.flatten(), strict=True) if m]
    mean = sum(kept) / max(len(kept), 1)
    variance = sum((v - mean) ** 2 for v in kept) / max(len(kept) - 1, 1)
    expected = [(v - mean) / math.sqrt(variance + 1e-8) for v in kept]
    torch.testing.assert_close(found[mask].tolist(), expected, rtol=1e-9, atol=1e-10)
    assert (found[~mask] == 0).all()


def test_the_score_falls_on_the_last_slot_and_kl_on_every_response_token():
    response = span_mask([(2, 3), (1, 1), (3, 0)], 7)
    logp, ref = random_tensor((2, 3, 7), 1)
    rewards = rewards_with_score(torch.tensor([10.0, -10.0, 10.0]), logp, ref, response, response, 0.05)
    expected = torch.where(response, -0.05 * (logp - ref), 0.0)
    expected[0, 4] += 10
    expected[1, 1] -= 10  # the third row has no response: no slot, no reward
    torch.testing.assert_close(rewards, expected, **TOLERANCE)


# --- Tülu 3 ---------------------------------------------------------------------------------------------------------


def published_tulu3(lengths, eos, limit, scores, logp, ref, values, beta, gamma, lam):
    """One row at a time, in the published layout: responses alone, all ``limit`` columns, pads at log-probability 1.

    ``logp[b][i]``: of response token i. ``values[b][i]``: score at context index ctx − 1 + i, for i = 0 … length.
    """
    invalid = 1.0
    all_advantages, all_returns = [], []
    for b, length in enumerate(lengths):
        sequence_length = length - 1  # index of the last token: the first pad, minus one
        p1 = sequence_length + 1
        lp = [logp[b][i] if i <= sequence_length else invalid for i in range(limit)]
        rlp = [ref[b][i] if i <= sequence_length else invalid for i in range(limit)]
        v = [values[b][i] if i <= p1 else 0.0 for i in range(limit)]
        rewards = [-beta * (x - y) for x, y in zip(lp, rlp, strict=True)]
        rewards[p1 if p1 < limit else limit - 1] += scores[b] if eos[b] else -10.0
        advantages, running = [0.0] * limit, 0.0
        for t in range(limit - 1, -1, -1):
            following = v[t + 1] if t < limit - 1 else 0.0
            running = rewards[t] + gamma * following - v[t] + gamma * lam * running
            advantages[t] = running
        all_returns.append([a + x for a, x in zip(advantages, v, strict=True)])
        all_advantages.append(advantages)
    kept = [all_advantages[b][i] for b, length in enumerate(lengths) for i in range(length)]
    mean = sum(kept) / len(kept)
    variance = sum((a - mean) ** 2 for a in kept) / (len(kept) - 1)
    whitened = [
        [(a - mean) / math.sqrt(variance + 1e-8) if i < lengths[b] else 0.0 for i, a in enumerate(row)]
        for b, row in enumerate(all_advantages)
    ]
    return whitened, all_returns


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=2, max_size=5),
    st.integers(0, 10**6),
    st.floats(0, 0.5),
    st.floats(0.5, 1),
    st.floats(0.5, 1),
)
@settings(deadline=None)
def test_tulu3_mode_is_the_published_computation_row_by_row(rows, seed, beta, gamma, lam):
    limit = 6  # a response of 6 tokens is cut: it has no slot past its end and did not end
    width = max(p + r for p, r in rows) + 1
    response = span_mask(rows, width)
    logp, ref, values = random_tensor((3, len(rows), width), seed)
    lengths = [r for _, r in rows]
    eos = [length < limit for length in lengths]
    raw_scores = [10.0 * (b % 2) for b in range(len(rows))]
    scores = torch.tensor([s if e else -10.0 for s, e in zip(raw_scores, eos, strict=True)], dtype=torch.float64)
    advantages, returns = tulu3_advantages(
        scores, logp, ref, values, response, max_response_tokens=limit, beta=beta, gamma=gamma, lam=lam
    )

    def response_only(x):
        return [[float(x[b, p + i]) for i in range(min(r + 1, limit))] for b, (p, r) in enumerate(rows)]

    expected_advantages, expected_returns = published_tulu3(
        lengths,
        eos,
        limit,
        raw_scores,
        response_only(logp),
        response_only(ref),
        response_only(values),
        beta,
        gamma,
        lam,
    )
    for b, (p, r) in enumerate(rows):
        slots = min(r + 1, limit)
        found = advantages[b, p : p + r].tolist()
        torch.testing.assert_close(found, expected_advantages[b][:r], rtol=1e-9, atol=1e-10)
        found = returns[b, p : p + slots].tolist()
        torch.testing.assert_close(found, expected_returns[b][:slots], **TOLERANCE)
        assert not any(expected_returns[b][slots:])  # what we do not hold is 0 there
    assert (advantages[~response] == 0).all()


def test_tulu3_values_reach_one_slot_past_eos_but_not_past_the_limit():
    response = span_mask([(1, 2), (2, 4), (1, 0)], 8)
    found = tulu3_value_mask(response, 4)
    expected = response.clone()
    expected[0, 3] = True
    assert torch.equal(found, expected)


def test_the_two_modes_differ_where_the_paper_s_code_is_one_slot_late():
    response = span_mask([(1, 3), (1, 2)], 6)
    logp, ref, values = random_tensor((3, 2, 6), 3)
    scores = torch.tensor([10.0, 0.0], dtype=torch.float64)
    published, _ = tulu3_advantages(
        scores, logp, ref, values, response, max_response_tokens=9, beta=0.1, gamma=1.0, lam=0.95
    )
    rewards = rewards_with_score(scores, logp, ref, response, response, 0.1)
    clean = whiten(gae(rewards, values, response, 1.0, 0.95)[0], response)
    assert not torch.allclose(published, clean)


@pytest.mark.parametrize("width", [1, 300])
def test_gae_of_an_empty_mask_is_zero(width):
    mask = torch.zeros(2, width, dtype=torch.bool)
    advantages, returns = gae(torch.ones(2, width), torch.ones(2, width), mask, 1.0, 0.95)
    assert not advantages.any() and not returns.any()
