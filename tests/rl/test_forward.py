"""The learner's forwards over a rollout against row-by-row transformers, and experience against its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.inference.local import LocalSampler
from posttrain.models.heads import TokenScorer
from posttrain.rl.advantages import tulu3_value_mask
from posttrain.rl.experience import grpo_experience, minibatches, ppo_experience, rloo_experience
from posttrain.rl.forward import over_rollout, parts, policy_logprobs, state_values
from posttrain.rl.prompts import Prompt
from tests.rl.tiny import EchoSampler, plan_of, prompt_row, tiny_llama, tiny_tokenizer

PROMPTS = [Prompt(prompt_row(i, "red"), (3, 8) + (5,) * (i % 4) + (4,)) for i in range(6)]


def rollout_of(sampler, temperature=1.0, samples=2):
    plan = plan_of(PROMPTS, temperature=temperature, samples_per_prompt=samples)
    return plan.draw(0, sampler, sampler.weight_version)


@pytest.fixture(scope="module")
def llama():
    return tiny_llama(tiny_tokenizer())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_each_row_alone(llama, temperature):
    rollout = rollout_of(EchoSampler())
    found = over_rollout(
        lambda part: policy_logprobs(llama, rollout, part, temperature), rollout, parts(rollout, range(12), 30)
    )
    for b, length in enumerate(rollout.lengths):
        ids = rollout.input_ids_BT[b : b + 1, :length]
        with torch.no_grad():
            logp = (llama(ids).logits[0].double() / temperature).log_softmax(-1)
        for t in range(rollout.input_ids_BT.shape[1]):
            expected = float(logp[t - 1, ids[0, t]]) if rollout.response_BT[b, t] else 0.0
            assert float(found[b, t]) == pytest.approx(expected, abs=2e-6)


def test_values_are_the_scores_one_token_earlier_and_reach_past_eos(llama):
    rollout, scorer = rollout_of(EchoSampler()), TokenScorer.from_policy(llama)
    found = over_rollout(lambda part: state_values(scorer, rollout, part), rollout, parts(rollout, range(12), 30))
    for b, length in enumerate(rollout.lengths):
        with torch.no_grad():
            scores = scorer(rollout.input_ids_BT[b : b + 1, :length])[0]
        torch.testing.assert_close(found[b, 1 : length + 1], scores, rtol=0, atol=2e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_and_learner_agree_within_the_bound(llama, temperature):
    rollout = rollout_of(LocalSampler(llama, pad_token_id=0, slots=5), temperature, samples=4)
    found = over_rollout(
        lambda part: policy_logprobs(llama, rollout, part, temperature), rollout, parts(rollout, range(24), 64)
    )
    assert float((found - rollout.sampler_logp_BT).abs().max()) < 1e-5


@given(st.integers(12, 80), st.permutations(range(12)))
@settings(deadline=None, max_examples=30)
def test_parts_hold_every_row_once_within_the_budget(budget, order):
    rollout = rollout_of(EchoSampler())
    found = parts(rollout, order, budget)
    assert sorted(row for part in found for row in part.rows_b.tolist()) == list(range(12))
    for part in found:
        assert part.length == max(rollout.lengths[row] for row in part.rows_b.tolist())
        assert part.length * len(part.rows_b) <= budget


@pytest.mark.parametrize("tulu3", [False, True])
def test_rows_of_weight_zero_change_nothing_for_the_others(tulu3):
    rollout = rollout_of(EchoSampler())
    generator = torch.Generator().manual_seed(0)
    logp, ref, values = torch.randn(3, *rollout.response_BT.shape, generator=generator)
    weights = torch.ones(12)
    weights[[2, 7]] = 0
    made = []
    for spoiled in (0.0, 1e6):
        scores = torch.arange(12.0)
        scores[[2, 7]] = spoiled
        made.append(
            ppo_experience(
                rollout,
                scores,
                weights,
                logp,
                ref,
                values + (weights == 0)[:, None] * spoiled,
                tulu3=tulu3,
                max_response_tokens=6,
                beta=0.05,
                gamma=1.0,
                lam=0.95,
                whitened=True,
            )
        )
    for name in ("advantages_BT", "returns_BT", "policy_weights_BT", "value_weights_BT"):
        assert torch.equal(getattr(made[0], name), getattr(made[1], name))
        assert not getattr(made[0], name)[[2, 7]].any()
    kept = made[0].advantages_BT[rollout.response_BT & (weights > 0)[:, None]]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-5) and float(kept.std()) == pytest.approx(1, abs=1e-3)
    slots = tulu3_value_mask(rollout.response_BT, 6) if tulu3 else rollout.response_BT
    assert torch.equal(made[0].value_weights_BT > 0, slots & (weights > 0)[:, None])


def test_grpo_gives_every_token_its_sample_s_advantage():
    rollout = rollout_of(EchoSampler())
    scores = torch.tensor([10.0, 0] * 6)
    nothing = torch.zeros_like(rollout.sampler_logp_BT)
    made = grpo_experience(rollout, scores, torch.ones(12), nothing, None, divide_by_std=False)
    expected = torch.tensor([5.0, -5] * 6)[:, None] * rollout.response_BT
    assert torch.equal(made.advantages_BT, expected)


def test_rloo_has_the_kl_of_the_whole_response_in_its_score():
    rollout = rollout_of(EchoSampler())
    scores, old = torch.tensor([10.0, 0] * 6), torch.full_like(rollout.sampler_logp_BT, -1.0)
    reference = old - torch.arange(12.0)[:, None] / 10  # logp − reference: b/10 a token
    made = rloo_experience(rollout, scores, torch.ones(12), old, reference, beta=0.5)
    lengths = rollout.response_BT.sum(-1)
    whole = scores - 0.5 * torch.arange(12.0) / 10 * lengths
    for b in range(12):
        expected = float(whole[b] - whole[b ^ 1])  # two samples a prompt: against the other one
        assert made.advantages_BT[b][rollout.response_BT[b]].tolist() == pytest.approx(
            [expected] * int(lengths[b]), abs=1e-5
        )
    assert made.ref_logp_BT is None and not made.advantages_BT[~rollout.response_BT].any()


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**62))
@settings(deadline=None)
def test_minibatches_are_a_seeded_partition_of_whole_groups(groups, samples, count, seed):
    group_B = torch.arange(groups * samples) // samples
    found = minibatches(group_B, count, seed)
    assert found == minibatches(group_B, count, seed)
    assert sorted(row for part in found for row in part) == list(range(groups * samples))
    held = [[group_B[row].item() for row in part] for part in found]
    assert all(part.count(group) == samples for part in held for group in part)
    sizes = [len(set(part)) for part in held]
    assert len(found) == min(count, groups) and max(sizes) - min(sizes) <= 1
