"""The vLLM adapter against full forwards of transformers: `make test-vllm`, in an environment of its own."""

import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.errors import PosttrainError
from posttrain.inference.protocols import Sample, SampleRequest, SamplingParameters
from posttrain.inference.vllm import VllmSampler
from posttrain.rl.engines import EveryRank
from tests.inference.test_local import by_key, full_forward_logprobs, requests
from tests.training.rank_work import on_ranks

pytest.importorskip("vllm", reason="run by `make test-vllm`")
pytestmark = pytest.mark.long
BOUND = 1e-4  # mean |Δlogp| in fp32


def made(seed: int = 0) -> LlamaForCausalLM:
    """Heads of 32: vLLM's attention on a CPU has no narrower ones."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.25,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return made()


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sampler(folder):
    os.environ["HF_HUB_OFFLINE"] = "1"
    sampler = VllmSampler(folder, context_length=64)
    yield sampler
    sampler.close()


def gap(model, samples) -> float:
    differences = [
        abs(theirs - ours)
        for sample in samples
        for theirs, ours in zip(
            sample.logprobs,
            full_forward_logprobs(
                model, sample.request.prompt_ids, sample.token_ids, sample.request.sampling.temperature
            ).tolist(),
            strict=True,
        )
    ]
    return sum(differences) / len(differences)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_sampled_from(sampler, model, temperature):
    samples = list(sampler.generate(requests(12, samples=2, temperature=temperature)))
    assert len(by_key(samples)) == 24
    assert gap(model, samples) < BOUND


def test_each_answer_ends_at_its_stop_token_or_its_limit(sampler):
    for sample in sampler.generate(requests(20, samples=2)):
        limit = sample.request.sampling.max_tokens
        stops = [token == 2 for token in sample.token_ids]
        assert not any(stops[:-1])
        assert sample.finish_reason == ("stop" if stops[-1] else "length")
        assert stops[-1] or len(sample.token_ids) == limit


def test_samples_of_one_prompt_differ_and_the_same_request_repeats(sampler):
    wanted = requests(3, samples=4, max_tokens=20, stop_token_ids=())
    first, again = by_key(sampler.generate(wanted)), by_key(sampler.generate(list(reversed(wanted))))
    assert {key: sample.token_ids for key, sample in first.items()} == {k: s.token_ids for k, s in again.items()}
    assert len({sample.token_ids for sample in first.values()}) == 12


def test_only_allowed_tokens_are_drawn_and_greedy_is_the_most_likely(sampler, model):
    allowed = (5, 7, 11)
    for sample in sampler.generate(requests(4, allowed_token_ids=allowed)):
        assert set(sample.token_ids) <= set(allowed)
    [greedy] = sampler.generate([SampleRequest("g", 0, (3, 4, 5), SamplingParameters(temperature=0.0, max_tokens=5))])
    ids = [3, 4, 5]
    for token in greedy.token_ids:
        assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_score_equals_a_full_forward(sampler, model):
    sequences = [[3, 4, 5, 6, 7], [9, 8], [30] * 12]
    for sequence, scored in zip(sequences, sampler.score(sequences), strict=True):
        assert scored[0] == 0.0
        expected = full_forward_logprobs(model, sequence[:1], sequence[1:])
        assert scored[1:] == pytest.approx(expected.tolist(), abs=BOUND)


def test_new_weights_are_the_ones_sampled_and_no_cached_prefix_survives(sampler, model):
    wanted = requests(8, samples=4, max_tokens=10)  # n samples share the cached prompt
    list(sampler.generate(wanted))
    other = made(seed=1)
    sampler.update_weights(other.named_parameters(), 7)
    samples = list(sampler.generate(wanted))
    assert {sample.weight_version for sample in samples} == {7}
    assert gap(other, samples) < BOUND < gap(model, samples)
    sampler.update_weights(model.named_parameters(), 8)
    assert gap(model, list(sampler.generate(wanted))) < BOUND


def test_weights_are_taken_one_by_one(sampler, model):
    """Of a model that is gathered for it, no more than about a layer is ever whole."""
    alive: list[weakref.ref] = []
    most = 0

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal most
        for name, weight in model.named_parameters():
            whole = weight.detach().clone()
            alive.append(weakref.ref(whole))
            yield name, whole
            del whole
            most = max(most, sum(one() is not None for one in alive))

    sampler.update_weights(gathered(), 9)
    assert len(alive) == 21 and most <= 10
    assert gap(model, list(sampler.generate(requests(4)))) < BOUND


def test_a_sleeping_engine_wants_all_its_weights(sampler, monkeypatch):
    monkeypatch.setattr(sampler, "_asleep", True)
    with pytest.raises(RuntimeError, match="weights are gone"):
        sampler.update_weights((), 10)


def drawn_by_ranks(folder: Path) -> tuple[list[Sample], list[int]]:
    """What engines in all ranks drew together, and which device of its machine each rank's stands on."""
    this = dist.get_rank()
    os.environ |= {"HF_HUB_OFFLINE": "1", "RANK": str(this), "LOCAL_RANK": str(this)}
    places = [-1, -1]
    samples: list[Sample] = []
    for _ in range(2):  # a later stage makes engines anew
        own = VllmSampler(folder, context_length=64)
        samples += EveryRank(own).generate(requests(3, samples=2, seed=len(samples)))
        dist.all_gather_object(places, own._engine.collective_rpc(lambda worker: worker.local_rank)[0])
        own.close()
        del own
        gc.collect()
        dist.barrier()  # the learner's ranks go on
    return samples, places


def test_each_rank_has_an_engine_on_a_device_of_its_own(folder, model, tmp_path):
    samples, places = on_ranks(2, tmp_path / "ranks", drawn_by_ranks, folder)
    assert places == [0, 1]
    assert len(samples) == 12
    for drawn in (samples[:6], samples[6:]):
        assert by_key(drawn).keys() == {(r.prompt_id, r.sample_index) for r in requests(3, 2)}
        assert gap(model, drawn) < BOUND


def test_a_prompt_without_room_is_refused_by_name(sampler):
    with pytest.raises(PosttrainError, match="prompt 'long' has 64 tokens"):
        list(sampler.generate([SampleRequest("long", 0, (3,) * 64, SamplingParameters(max_tokens=4))]))
