"""The engine against plain full forwards and transformers' own generate."""

import dataclasses
import random
from collections.abc import Generator
from contextlib import nullcontext
from typing import Any, cast

import pytest
import torch
from scipy import stats
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from posttrain.errors import PosttrainError
from posttrain.inference import local
from posttrain.inference.cache import SlotCache
from posttrain.inference.local import LocalSampler
from posttrain.inference.protocols import Sample, SampleRequest, SamplingParameters

VOCABULARY = 61
STOP = 2


def requests(count: int, samples: int = 1, seed: int = 0, **sampling: Any) -> list[SampleRequest]:
    """Ragged prompts (1 to 20 tokens) with ragged limits (1 to 25 tokens)."""
    draw = random.Random(seed)
    made = []
    for prompt in range(count):
        ids = tuple(draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(1, 21)))
        for sample in range(samples):
            given: dict[str, Any] = {
                "max_tokens": draw.randrange(1, 26),
                "stop_token_ids": (STOP,),
                "seed": 7,
            } | sampling
            made.append(SampleRequest(f"p{prompt}", sample, ids, SamplingParameters(**given)))
    return made


def key(sample: Sample) -> tuple[str, int]:
    return sample.request.prompt_id, sample.request.sample_index


def by_key(samples) -> dict[tuple[str, int], Sample]:
    found = {}
    for sample in samples:
        assert key(sample) not in found, "answered twice"
        found[key(sample)] = sample
    return found


@torch.no_grad()
def full_forward_logprobs(model, prompt, answer, temperature=1.0) -> torch.Tensor:
    """One unpadded row, no cache."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(ids, use_cache=False).logits[0].float() / temperature
    logprobs = logits.log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0]
    return logprobs[len(prompt) - 1 :]


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("slots", [1, 5, 64])
@pytest.mark.parametrize("device", ["cpu", "any"])
def test_logprobs_equal_a_full_forward(tiny, key_heads, slots, device, monkeypatch):
    if device == "any":  # as on one that has no attention of its own here
        monkeypatch.setattr(local, "can_write_out", lambda model: False)
        monkeypatch.setattr(local, "attending", lambda config, enabled: nullcontext())
    model = tiny(key_heads)
    sampler = LocalSampler(model, pad_token_id=0, slots=slots)
    asked = requests(12, samples=2, temperature=0.7)
    answers = by_key(sampler.generate(asked))
    assert len(answers) == len(asked)
    for answer in answers.values():
        expected = full_forward_logprobs(model, answer.request.prompt_ids, answer.token_ids, temperature=0.7)
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-5, rtol=0)


def test_logprobs_equal_a_padded_learner_forward(model):
    """A right-padded batch with an attention mask, as a learner feeds it."""
    answers = list(LocalSampler(model, pad_token_id=0, slots=4).generate(requests(9)))
    longest = max(len(a.request.prompt_ids) + len(a.token_ids) for a in answers)
    ids, mask = torch.zeros(len(answers), longest, dtype=torch.long), torch.zeros(len(answers), longest)
    for row, answer in enumerate(answers):
        tokens = [*answer.request.prompt_ids, *answer.token_ids]
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
    with torch.no_grad():
        logprobs = model(ids, attention_mask=mask.long()).logits.float().log_softmax(-1)
    for row, answer in enumerate(answers):
        start = len(answer.request.prompt_ids)
        for i, (token, logprob) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
            assert abs(logprobs[row, start + i - 1, token].item() - logprob) < 1e-5


@pytest.mark.parametrize("slots", [1, 2, 7, 100])
@pytest.mark.parametrize("order", ["given", "reversed", "shuffled", "streamed"])
def test_samples_do_not_depend_on_slots_or_order(model, slots, order):
    asked = requests(15, samples=3)
    expected = {k: a.token_ids for k, a in by_key(LocalSampler(model, pad_token_id=0, slots=9).generate(asked)).items()}
    if order == "reversed":
        asked = asked[::-1]
    elif order == "shuffled":
        random.Random(3).shuffle(asked)
    elif order == "streamed":
        asked = (request for request in asked)
    answers = by_key(LocalSampler(model, pad_token_id=0, slots=slots).generate(asked))
    assert {k: a.token_ids for k, a in answers.items()} == expected


def test_each_answer_ends_at_its_stop_token_or_its_limit(model):
    answers = list(LocalSampler(model, pad_token_id=0, slots=6).generate(requests(60)))
    reasons = set()
    for answer in answers:
        reasons.add(answer.finish_reason)
        assert STOP not in answer.token_ids[:-1]
        assert len(answer.logprobs) == len(answer.token_ids)
        if answer.finish_reason == "stop":
            assert answer.token_ids[-1] == STOP
        else:
            assert answer.token_ids[-1] != STOP
            assert len(answer.token_ids) == answer.request.sampling.max_tokens
    assert reasons == {"stop", "length"}


def test_greedy_equals_transformers_generate(model):
    asked = requests(20, temperature=0.0, max_tokens=20)
    for answer in LocalSampler(model, pad_token_id=0, slots=8).generate(asked):
        prompt = torch.tensor([answer.request.prompt_ids])
        expected = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False, eos_token_id=STOP
        )
        assert list(answer.token_ids) == expected[0, prompt.shape[1] :].tolist()


def test_first_tokens_follow_the_softmax(model):
    """Chi-square over 8,000 independent draws, cells of at least five expected."""
    prompt, draws, temperature = (5, 9, 4), 8000, 1.3
    sampling = SamplingParameters(temperature=temperature, max_tokens=1, seed=11)
    asked = [SampleRequest("p", i, prompt, sampling) for i in range(draws)]
    counts = torch.zeros(VOCABULARY)
    for answer in LocalSampler(model, pad_token_id=0).generate(asked):
        counts[answer.token_ids[0]] += 1
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1) * draws
    large = expected >= 5
    observed = [*counts[large].tolist(), counts[~large].sum().item()]
    wanted = [*expected[large].tolist(), expected[~large].sum().item()]
    scaled = [w * draws / sum(wanted) for w in wanted]
    assert stats.chisquare(observed, scaled).pvalue > 1e-3


def test_samples_of_one_prompt_differ_and_repeat_exactly(model):
    asked = requests(1, samples=20, max_tokens=20)
    first = by_key(LocalSampler(model, pad_token_id=0).generate(asked))
    again = by_key(LocalSampler(model, pad_token_id=0).generate(asked))
    assert first == again
    assert len({answer.token_ids for answer in first.values()}) > 10
    other = [dataclasses.replace(r, sampling=dataclasses.replace(r.sampling, seed=8)) for r in asked]
    different = by_key(LocalSampler(model, pad_token_id=0).generate(other))
    assert any(first[k].token_ids != different[k].token_ids for k in first)


def test_only_allowed_tokens_are_drawn(model):
    allowed = (3, 8, 21)
    mixed = requests(6, allowed_token_ids=allowed) + [
        dataclasses.replace(r, prompt_id=r.prompt_id + "free") for r in requests(6)
    ]
    answers = list(LocalSampler(model, pad_token_id=0, slots=5).generate(mixed))
    restricted = [a for a in answers if a.request.sampling.allowed_token_ids]
    assert len(restricted) == 6 and {t for a in restricted for t in a.token_ids} <= set(allowed)
    assert not {t for a in answers if a not in restricted for t in a.token_ids} <= set(allowed)
    for answer in restricted:  # reported under the whole vocabulary, as a learner computes it
        expected = full_forward_logprobs(model, answer.request.prompt_ids, answer.token_ids)
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-5, rtol=0)


def test_answers_are_clipped_to_the_context(model):
    prompt = tuple(range(3, 23))
    sampling = SamplingParameters(max_tokens=1000)
    (answer,) = LocalSampler(model, pad_token_id=0, context_length=30).generate(
        [SampleRequest("long", 0, prompt, sampling)]
    )
    assert len(answer.token_ids) == 10 and answer.finish_reason == "length"


def test_a_prompt_that_fills_the_context_is_refused_before_anything_is_sampled(model):
    sampler = LocalSampler(model, pad_token_id=0, context_length=10)
    fits = SampleRequest("fits", 0, tuple(range(3, 12)), SamplingParameters(max_tokens=3))
    with pytest.raises(PosttrainError, match="'too long' has 10 tokens and the context holds 10"):
        sampler.generate([fits, dataclasses.replace(fits, prompt_id="too long", prompt_ids=tuple(range(3, 13)))])
    assert len(list(sampler.generate([fits]))) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt_ids": ()}, "holds no token"),
        ({"sampling": SamplingParameters(max_tokens=0)}, "max_tokens 0"),
        ({"sampling": SamplingParameters(temperature=-1.0)}, "temperature -1"),
        ({"sampling": SamplingParameters(top_p=0.0)}, "top_p 0"),
        ({"sampling": SamplingParameters(allowed_token_ids=())}, "allowed_token_ids is empty"),
        ({"sampling": SamplingParameters(stop_strings=("x",))}, "without a tokenizer"),
    ],
)
def test_unusable_requests_are_named(model, change, said):
    request = dataclasses.replace(SampleRequest("bad", 0, (3,), SamplingParameters()), **change)
    with pytest.raises(PosttrainError, match=said) as error:
        LocalSampler(model, pad_token_id=0).generate([request])
    assert "'bad'" in str(error.value)


def test_score_equals_a_full_forward(model):
    draw = random.Random(5)
    sequences = [[draw.randrange(VOCABULARY) for _ in range(length)] for length in (1, 7, 30, 2, 64, 7, 0)]
    for sequence, scores in zip(sequences, LocalSampler(model, pad_token_id=0).score(sequences), strict=True):
        assert len(scores) == len(sequence)
        if len(sequence) > 1:
            expected = full_forward_logprobs(model, sequence[:1], sequence[1:])
            torch.testing.assert_close(torch.tensor(scores[1:]), expected, atol=1e-5, rtol=0)
        assert scores[:1] == [0.0] * min(1, len(sequence))
    with pytest.raises(PosttrainError, match="sequence 0 has 65 tokens"):
        LocalSampler(model, pad_token_id=0).score([[3] * 65])


def test_updated_weights_are_the_ones_sampled(tiny):
    ours, theirs = tiny(seed=0), tiny(seed=1)
    sampler = LocalSampler(ours, pad_token_id=0)
    sampler.update_weights(theirs.named_parameters(), version=4)
    answers = by_key(sampler.generate(requests(5)))
    expected = by_key(LocalSampler(theirs, pad_token_id=0).generate(requests(5)))
    assert {k: a.token_ids for k, a in answers.items()} == {k: a.token_ids for k, a in expected.items()}
    assert {a.weight_version for a in answers.values()} == {4}
    with pytest.raises(PosttrainError, match="no tensor named model.norm.weigth; did you mean model.norm.weight"):
        sampler.update_weights([("model.norm.weigth", torch.zeros(32))], version=5)
    with pytest.raises(PosttrainError, match=r"shape \(31,\)"):
        sampler.update_weights([("model.norm.weight", torch.zeros(31))], version=5)
    assert sampler.weight_version == 4


def test_the_learner_is_left_as_it_was(model):
    """Gradients flow between two answers, and the module's mode and attention come back."""
    model.train()
    attention = model.config._attn_implementation
    try:
        answers = LocalSampler(model, pad_token_id=0, slots=3).generate(requests(6))
        next(answers)
        assert torch.is_grad_enabled()
        assert model.config._attn_implementation == attention
        list(answers)
        assert model.training
        loss = model(torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss
        loss.backward()
        assert model.lm_head.weight.grad.abs().sum() > 0
    finally:
        model.zero_grad()
        model.eval()


def test_an_abandoned_iterator_frees_the_engine(model):
    sampler = LocalSampler(model, pad_token_id=0, slots=2)
    answers = cast(Generator, sampler.generate(requests(6)))
    next(answers)
    with pytest.raises(RuntimeError, match="generating already"):
        next(sampler.generate(requests(1)))
    with pytest.raises(RuntimeError, match="weights change"):
        sampler.update_weights((), version=1)
    answers.close()
    assert len(list(sampler.generate(requests(4)))) == 4


def test_of_two_iterators_one_alone_generates(model):
    sampler = LocalSampler(model, pad_token_id=0, slots=2)
    first, second = sampler.generate(requests(6)), sampler.generate(requests(6))
    next(first)
    with pytest.raises(RuntimeError, match="generating already"):
        next(second)
    with pytest.raises(RuntimeError, match="weights change"):
        sampler.update_weights((), version=1)
    assert len(list(first)) == 5


def test_diverged_weights_are_reported(tiny):
    model = tiny(seed=2)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PosttrainError, match="not finite"):
        list(LocalSampler(model, pad_token_id=0).generate(requests(2)))


def test_models_the_engine_would_sample_wrongly_are_refused(model):
    window = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=16, max_position_embeddings=64,
    )  # fmt: skip
    with pytest.raises(PosttrainError, match="attends to 16 positions only"):
        LocalSampler(MistralForCausalLM(window), pad_token_id=0)
    LocalSampler(MistralForCausalLM(window), pad_token_id=0, context_length=16)


def test_each_prompt_is_prefilled_once_for_all_of_its_samples(model, monkeypatch):
    seen: list[int] = []
    original = LlamaForCausalLM.get_decoder(model).forward

    def spy(*args, **kwargs):
        if kwargs["input_ids"].shape[1] > 1:
            seen.append(len(kwargs["input_ids"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(model.get_decoder(), "forward", spy)
    prompts = [tuple(range(3 + i, 13 + i)) for i in range(6)]
    sampling = SamplingParameters(max_tokens=9)
    asked = [SampleRequest(str(i), j, ids, sampling) for i, ids in enumerate(prompts) for j in range(8)]
    # 5 slots: the 8 samples of a prompt never fit at once, so later ones copy from a slot that still holds it.
    assert len(list(LocalSampler(model, pad_token_id=0, slots=5).generate(asked))) == 48
    assert sum(seen) == len(prompts)


def few_shot(questions: int, shots: int = 80, seed: int = 3) -> list[tuple[int, ...]]:
    """Prompts of three beginnings, the third shorter than any that is shared, and one prompt that is a part of
    another."""
    draw = random.Random(seed)

    def some(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, VOCABULARY) for _ in range(count))

    beginnings = [some(shots), some(shots + 30), some(20)]
    prompts = [beginnings[i % 3] + some(draw.randrange(1, 15)) for i in range(questions)]
    return [*prompts, prompts[0][:-1], beginnings[0]]


@pytest.mark.parametrize("key_heads", [1, 4])
@pytest.mark.parametrize("slots", [1, 4, 64])
def test_sharing_beginnings_changes_no_answer_and_no_logprob_beyond_rounding(tiny, key_heads, slots):
    model = tiny(key_heads, positions=256)
    asked = [
        SampleRequest(f"p{i}", sample, ids, SamplingParameters(max_tokens=12, seed=7))
        for i, ids in enumerate(few_shot(20))
        for sample in range(2)
    ]
    alone = by_key(LocalSampler(model, pad_token_id=0, slots=slots).generate(asked))
    shared = by_key(LocalSampler(model, pad_token_id=0, slots=slots, share_prefixes=True).generate(asked))
    assert shared.keys() == alone.keys()
    for place, answer in shared.items():
        assert answer.token_ids == alone[place].token_ids
        expected = full_forward_logprobs(model, answer.request.prompt_ids, answer.token_ids)
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-5, rtol=0)


def test_scores_of_sequences_that_begin_alike_equal_a_full_forward(tiny):
    model = tiny(2, positions=256)
    sequences = [*few_shot(20), (5,), ()]
    found = LocalSampler(model, pad_token_id=0, share_prefixes=True).score(sequences)
    assert [len(scores) for scores in found] == [len(sequence) for sequence in sequences]
    for sequence, scores in zip(sequences, found, strict=True):
        if sequence:
            expected = full_forward_logprobs(model, sequence[:1], sequence[1:])
            torch.testing.assert_close(torch.tensor(scores[1:]), expected, atol=1e-5, rtol=0)


def test_a_common_beginning_is_computed_once(tiny, monkeypatch):
    model = tiny(2, positions=256)
    prompts = [(7,) * 100 + (8 + i, 9) for i in range(16)]
    asked = [SampleRequest(f"p{i}", 0, ids, SamplingParameters(max_tokens=1)) for i, ids in enumerate(prompts)]
    fed = []
    forward = model.get_decoder().forward

    def counting(*args, **kwargs):
        fed.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.get_decoder(), "forward", counting)
    list(LocalSampler(model, pad_token_id=0, slots=4, share_prefixes=True).generate(asked))
    assert sum(fed) <= 100 + 16 * 3
    fed.clear()
    LocalSampler(model, pad_token_id=0, share_prefixes=True).score(prompts)
    assert sum(fed) <= 100 + 16 * 3


def test_under_autocast_keys_are_kept_in_as_few_bytes_as_values(model, monkeypatch):
    kept = set()
    new_room = SlotCache._new_room
    monkeypatch.setattr(SlotCache, "_new_room", lambda cache, like: kept.add(like.dtype) or new_room(cache, like))
    with torch.autocast("cpu", torch.bfloat16):
        assert len(list(LocalSampler(model, pad_token_id=0).generate(requests(3)))) == 3
    assert kept == {torch.bfloat16}


def test_the_cache_is_held_within_its_bytes(tiny, monkeypatch):
    model = tiny(2, positions=256)
    asked = [SampleRequest(f"p{i}", 0, (7,) * (40 + i), SamplingParameters(max_tokens=10)) for i in range(30)]
    rows, resize = [], SlotCache._resize
    forward = model.get_decoder().forward
    monkeypatch.setattr(
        model.get_decoder(), "forward", lambda **given: rows.append(len(given["input_ids"])) or forward(**given)
    )
    config = model.config
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    allowed = 5 * (79 + 79 // 4 + 8) * position + 1  # the longest prompt has 69 tokens and 10 to come
    held = []
    monkeypatch.setattr(
        SlotCache, "_resize", lambda cache, room: resize(cache, room) or held.append(room * cache.slots * position)
    )
    answers = list(LocalSampler(model, pad_token_id=0, cache_bytes=lambda: allowed).generate(asked))
    assert len(answers) == 30 and max(rows) == 5
    assert allowed // 2 < max(held) <= allowed
