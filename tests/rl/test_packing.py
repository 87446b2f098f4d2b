"""Prompts read once for all their samples: the same log-probabilities, values and gradients as row by row."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.inference.protocols import Sample, SampleRequest, SamplingParameters
from posttrain.models.backbone import hidden_states
from posttrain.models.branches import Branches
from posttrain.models.heads import TokenScorer
from posttrain.rl.forward import parts, policy_logprobs, seen_in, state_values
from posttrain.rl.packing import CHECKED_FAMILIES, obstacle, pack, pairs_worth_a_token
from posttrain.rl.rollouts import Rollout, pad_samples
from tests.rl.tiny import prompt_row

ALWAYS = 1e9  # pairs_per_token at which sharing a prompt always pays
TEMPERATURE = 0.7


def tiny_model(family: str = "llama", **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=13,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        **{"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1, "sliding_window": None}
        | options,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    return in_doubles(model)


def in_doubles(model: Any) -> Any:
    """``model`` in float64 throughout: transformers' RMS norms round to float32 on the way, whatever they are given."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            exact = torch.nn.RMSNorm(module.weight.shape, module.variance_epsilon)
            model.set_submodule(name, exact)
    return model.double()


@pytest.fixture(scope="module")
def llama():
    return tiny_model()


@pytest.fixture(scope="module")
def scorer(llama):
    return in_doubles(TokenScorer.from_policy(llama))


def blocks_pay(pays: bool):
    """Branches of any length are read block by block, or none are."""
    return patch.object(Branches, "pays", pays)


def make_rollout(groups: list[tuple[int, list[int]]], seed: int = 0) -> Rollout:
    """Of every prompt its length, and the lengths of its responses, all of random tokens."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 13, (count,), generator=generator).tolist())

    samples, group = [], []
    for number, (prompt_length, responses) in enumerate(groups):
        prompt = tokens(prompt_length)
        for index, length in enumerate(responses):
            request = SampleRequest(f"p{number}", index, prompt, SamplingParameters(max_tokens=16, seed=number))
            samples.append(Sample(request, tokens(length), (-1.0,) * length, "stop", 0))
            group.append(number)
    rollout = pad_samples([prompt_row(0, "red")] * len(samples), samples, 1, 0)
    return replace(rollout, group_B=torch.tensor(group))


def weights_like(rollout: Rollout) -> torch.Tensor:
    shape = rollout.input_ids_BT.shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def row_by_row(model, scorer, rollout: Rollout, rows, weights_BT):
    """Log-probabilities, values and the gradients of their weighted sums by transformers alone, one row at a time."""
    logp_BT, values_BT = torch.zeros_like(weights_BT), torch.zeros_like(weights_BT)
    loss = 0
    for b in rows:
        length = rollout.lengths[b]
        start = length - len(rollout.responses[b])
        ids = rollout.input_ids_BT[b : b + 1, :length]
        logp = (model(ids).logits[0] / TEMPERATURE).log_softmax(-1)
        chosen = logp[torch.arange(start - 1, length - 1), ids[0, start:]]
        scores = scorer.score(scorer.backbone(ids).last_hidden_state)[0, start - 1 :, 0]
        loss = loss + (chosen * weights_BT[b, start:length]).sum() + (scores * weights_BT[b, start : length + 1]).sum()
        logp_BT[b, start:length], values_BT[b, start : length + 1] = chosen.detach(), scores.detach()
    return logp_BT, values_BT, gradients(model, scorer, loss)


def in_parts(model, scorer, rollout: Rollout, split, weights_BT):
    """The same by the learner. Values count from the first response token to one past the last, Tülu 3's slot."""
    logp_BT, values_BT = torch.zeros_like(weights_BT), torch.zeros_like(weights_BT)
    response_BT = rollout.response_BT
    slots_BT = response_BT | torch.cat([torch.zeros_like(response_BT[:, :1]), response_BT[:, :-1]], dim=1)
    loss = 0
    for part in split:
        logp_bT = policy_logprobs(model, rollout, part, TEMPERATURE)
        values_bT = state_values(scorer, rollout, part)
        assert logp_bT.shape == values_bT.shape == (len(part.rows_b), part.length + 1)
        values_bT = values_bT * part.of(slots_BT)
        loss = loss + ((logp_bT + values_bT) * part.of(weights_BT)).sum()
        logp_BT[part.rows_b, : part.length + 1] = logp_bT.detach()
        values_BT[part.rows_b, : part.length + 1] = values_bT.detach()
    return logp_BT, values_BT, gradients(model, scorer, loss)


def gradients(model, scorer, loss) -> list[torch.Tensor]:
    parameters = [p for m in (model, scorer) for p in m.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    assert any(bool(g.any()) for g in found)
    return list(found)


def assert_same(model, scorer, rollout: Rollout, rows, split) -> None:
    weights_BT = weights_like(rollout)
    expected = row_by_row(model, scorer, rollout, rows, weights_BT)
    found = in_parts(model, scorer, rollout, split, weights_BT)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


prompts_and_responses = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 8), min_size=1, max_size=4)), min_size=1, max_size=4
)


@pytest.mark.parametrize("pays", [True, False])
@given(prompts_and_responses, st.integers(17, 90), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_packed_rows_are_what_each_row_is_alone(llama, scorer, pays, groups, budget, random):
    """Any groups, any lengths, any budget, rows in any order and some of them missing, as in a minibatch.

    By blocks and under a bias.
    """
    rollout = make_rollout(groups)
    rows = random.sample(range(len(rollout.lengths)), random.randint(1, len(rollout.lengths)))
    with blocks_pay(pays):
        assert_same(llama, scorer, rollout, rows, parts(rollout, rows, budget, ALWAYS))


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("family", sorted(CHECKED_FAMILIES))
def test_every_family_that_is_packed_gives_the_same(family, pays):
    """Of grouped queries, as tiny_model is: two query heads to a key head."""
    model = tiny_model(family)
    rollout = make_rollout([(5, [3, 7, 1]), (8, [2]), (4, [6, 6])])
    split = parts(rollout, range(6), 60, ALWAYS)
    assert obstacle(model) is None and any(part.packing for part in split)
    with blocks_pay(pays):
        assert_same(model, in_doubles(TokenScorer.from_policy(model)), rollout, range(6), split)


@given(
    st.sampled_from(["llama", "qwen2"]),
    st.sampled_from([1, 2, 4]),
    st.lists(
        st.tuples(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=4)), min_size=1, max_size=3
    ),
)
@settings(deadline=None, max_examples=40)
def test_blocks_and_bias_give_the_same_states_and_gradients_in_float32(family, key_heads, groups):
    """Of real tokens. At padding the blocks' states are finite."""
    model = tiny_model(family, num_key_value_heads=key_heads).float()
    rollout = make_rollout(groups)
    numbers = iter(range(len(rollout.lengths)))
    packing = pack(rollout, [[next(numbers) for _ in responses] for _, responses in groups])
    real_ST1 = packing.segment_ST[..., None] >= 0
    weights_STD = real_ST1 * torch.randn(*packing.input_ids_ST.shape, 16, generator=torch.Generator().manual_seed(5))
    found = []
    for mask in (packing.branches, packing.attention_bias(torch.float32)):
        states_STD = hidden_states(model.base_model, packing.input_ids_ST, mask, packing.position_ids_ST)
        leaves = list(model.base_model.parameters())
        assert bool(states_STD.isfinite().all())
        found.append([(states_STD * real_ST1).detach(), *torch.autograd.grad((states_STD * weights_STD).sum(), leaves)])
    for by_blocks, under_bias in zip(*found, strict=True):
        assert (by_blocks - under_bias).norm() <= 1e-5 * under_bias.norm()


def test_blocks_are_for_processors_in_full_precision_where_they_hide_enough():
    model = tiny_model().float()
    long, short = make_rollout([(20, [60] * 6)]), make_rollout([(20, [3] * 6)])
    assert isinstance(seen_in(pack(long, [range(6)]), model), Branches)
    assert isinstance(seen_in(pack(short, [range(6)]), model), torch.Tensor)
    assert isinstance(seen_in(pack(long, [range(6)]), model.bfloat16()), torch.Tensor)
    model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert isinstance(seen_in(pack(long, [range(6)]), model), torch.Tensor)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert isinstance(seen_in(pack(long, [range(6)]), model), torch.Tensor)


def test_a_pass_by_blocks_leaves_the_model_its_attention(llama):
    rollout = make_rollout([(4, [3, 3])])
    packing = pack(rollout, [[0, 1]])
    hidden_states(llama.base_model, packing.input_ids_ST, packing.branches, packing.position_ids_ST)
    assert llama.config._attn_implementation == "sdpa" and obstacle(llama) is None


@given(prompts_and_responses, st.integers(17, 90), st.sampled_from([0.0, 20.0, ALWAYS]), st.randoms())
@settings(deadline=None, max_examples=60)
def test_parts_hold_every_row_once_within_the_budget_of_packed_tokens(groups, budget, worth, random):
    rollout = make_rollout(groups)
    rows = list(range(len(rollout.lengths)))
    random.shuffle(rows)
    split = parts(rollout, rows, budget, worth)
    assert sorted(row for part in split for row in part.rows_b.tolist()) == sorted(rows)
    for part in split:
        assert part.length == max(rollout.lengths[row] for row in part.rows_b.tolist())
        padded = len(part.rows_b) * part.length if part.packing is None else part.packing.input_ids_ST.numel()
        assert padded <= budget


def test_a_prompt_is_read_once_and_its_rows_stay_together():
    rollout = make_rollout([(10, [3, 4, 2, 5]), (10, [1, 1, 1, 1])])
    (part,) = parts(rollout, [6, 0, 4, 1, 7, 3, 2, 5], 1000, ALWAYS)
    assert part.packing is not None
    real = part.packing.segment_ST >= 0
    assert real.sum(1).tolist() == [10 + 4, 10 + 14]
    assert part.packing.input_ids_ST.shape == (2, 24)
    siblings = [rollout.group_B[part.rows_b[i]].item() for i in range(8)]
    assert siblings == [1] * 4 + [0] * 4


def test_rows_without_a_sibling_go_the_plain_way():
    rollout = make_rollout([(4, [3, 3]), (5, [2, 2])])
    assert all(part.packing is None for part in parts(rollout, [0, 2], 100, ALWAYS))
    assert all(part.packing is None for part in parts(rollout, range(4), 100))


def test_long_responses_are_not_packed_behind_a_short_prompt():
    """12 tokens saved against 2·(12·100 + 100²) more pairs of query and key, 2 per token saved by the exchange rate."""
    rollout = make_rollout([(12, [100, 100])])
    saved, more = 12, 212**2 - 2 * 112**2 / 2
    assert parts(rollout, [0, 1], 1000, more / saved * 0.99)[0].packing is None
    assert parts(rollout, [0, 1], 1000, more / saved * 1.01)[0].packing is not None


@pytest.mark.parametrize(
    "family,options,why",
    [
        ("mistral", {"sliding_window": 8}, "sliding_window 8"),
        ("gemma2", {"sliding_window": 8}, "model_type gemma2"),
    ],
)
def test_models_that_cannot_be_packed_are_named_and_go_the_plain_way(llama, family, options, why):
    model = tiny_model(family, **options)
    assert why in str(obstacle(model))
    assert pairs_worth_a_token([llama]) > 0 and pairs_worth_a_token([llama, model]) == 0
    assert pairs_worth_a_token([TokenScorer.from_policy(llama), llama]) == 2 * 16 + 1.5 * 24


def test_layers_and_attention_that_take_no_mask_are_named():
    mixed = tiny_model("qwen3", layer_types=["full_attention", "sliding_attention"], use_sliding_window=True)
    assert "sliding_attention" in str(obstacle(mixed)) or "sliding_window" in str(obstacle(mixed))
    eager = tiny_model()
    eager.set_attn_implementation("eager")
    assert "eager" in str(obstacle(eager))


def test_a_packed_pass_stays_finite_in_bfloat16_with_padding(llama):
    rollout = make_rollout([(9, [8, 8, 8]), (2, [1, 1])])
    (part,) = parts(rollout, range(5), 1000, ALWAYS)
    model = tiny_model().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp_bT = policy_logprobs(model, rollout, part, 1.0)
    logp_bT.sum().backward()
    assert bool(logp_bT.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
