"""Prompt order, request keys, and the tensors made of samples."""

from collections import Counter

import pytest
import torch

from posttrain.rl.prompts import Prompt, admit_prompts
from posttrain.rl.seeds import derived_seed
from tests.rl.tiny import EchoSampler, plan_of, prompt_row, tiny_tokenizer

PROMPTS = [Prompt(prompt_row(i, "red"), tuple(range(3, 6 + i % 3))) for i in range(7)]
PLAN = plan_of(PROMPTS, seed=1, prompts_per_step=4, samples_per_prompt=3, max_response_tokens=5)


def collect(sampler=None, weight_version=3):
    return PLAN.draw(0, sampler or EchoSampler(), weight_version)


def test_every_epoch_visits_every_prompt_once_in_an_order_of_its_own():
    run = plan_of(PROMPTS, prompts_per_step=21).visits(0)
    epochs = [[v.prompt.row.id for v in run[i : i + 7]] for i in (0, 7, 14)]
    assert all(Counter(epoch) == Counter(p.row.id for p in PROMPTS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_depends_on_position_alone_so_a_run_may_stop_anywhere():
    whole = plan_of(PROMPTS, seed=5, prompts_per_step=40).visits(0)
    in_steps = plan_of(PROMPTS, seed=5, prompts_per_step=8)
    assert whole == [visit for step in range(5) for visit in in_steps.visits(step)]
    assert whole != plan_of(PROMPTS, seed=6, prompts_per_step=40).visits(0)


def test_unshuffled_prompts_are_visited_as_they_stand():
    assert [visit.prompt for visit in plan_of(PROMPTS, shuffled=False).visits(1)] == PROMPTS


def test_no_two_requests_of_a_run_share_their_key():
    requests = [request for step in range(15) for request in PLAN.requests(step)]
    assert len({(r.sampling.seed, r.prompt_id, r.sample_index) for r in requests}) == 60 * 3


def test_the_order_in_which_samples_finish_changes_nothing():
    forwards, backwards = collect(), collect(sampler=EchoSampler(backwards=True))
    for name in ("input_ids_BT", "response_BT", "sampler_logp_BT", "finished_B", "group_B"):
        assert torch.equal(getattr(forwards, name), getattr(backwards, name))
    assert forwards.rows == backwards.rows and forwards.responses == backwards.responses


def test_a_rollout_holds_prompt_then_response_and_one_free_column():
    rollout = collect()
    batch = PLAN.visits(0)
    samples = list(EchoSampler().generate(PLAN.requests(0)))
    assert rollout.input_ids_BT.shape == (12, max(rollout.lengths) + 1)
    assert rollout.group_B.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for b, sample in enumerate(samples):
        prompt, length = len(sample.request.prompt_ids), rollout.lengths[b]
        row = rollout.input_ids_BT[b].tolist()
        assert tuple(row[:length]) == sample.request.prompt_ids + sample.token_ids
        assert not any(row[length:])
        assert rollout.response_BT[b].nonzero().flatten().tolist() == list(range(prompt, length))
        torch.testing.assert_close(rollout.sampler_logp_BT[b, prompt:length], torch.tensor(sample.logprobs))
        assert rollout.finished_B[b] == (sample.token_ids[-1] == 1)
        assert rollout.rows[b] is batch[b // 3].prompt.row
    assert rollout.response_tokens == sum(len(s.token_ids) for s in samples)


def test_a_sampler_that_loses_a_request_is_noticed():
    class Forgetful(EchoSampler):
        def generate(self, requests):
            yield from list(super().generate(requests))[1:]

    with pytest.raises(RuntimeError, match="11 of 12"):
        collect(sampler=Forgetful())


def test_samples_of_other_weights_than_the_learner_s_are_noticed():
    with pytest.raises(RuntimeError, match=r"version \[3\].*stands at 4"):
        collect(weight_version=4)


@pytest.mark.parametrize(
    ("limits", "admitted", "reason"),
    [
        ({"max_prompt_tokens": 4, "context_length": 100}, ["p0"], "max_prompt_tokens (4)"),
        ({"max_prompt_tokens": 90, "context_length": 9}, ["p0"], "context (9)"),
        ({"max_prompt_tokens": 90, "context_length": 100}, ["p0", "p1"], None),
    ],
)
def test_long_prompts_are_set_aside_with_their_length_and_the_limit(limits, admitted, reason):
    rows = [prompt_row(0, "red"), prompt_row(1, "red red red")]
    found, set_aside = admit_prompts(rows, tiny_tokenizer(), max_response_tokens=5, **limits)
    assert [prompt.row.id for prompt in found] == admitted
    assert len(found) + len(set_aside) == 2
    if reason:
        assert set_aside[0]["id"] == "p1" and set_aside[0]["prompt_tokens"] == 6
        assert reason in set_aside[0]["reason"]


def test_seeds_are_stable_and_tell_parts_apart():
    assert derived_seed(1, "rollout", 2) == derived_seed(1, "rollout", 2) < 2**63
    assert len({derived_seed(1, 23), derived_seed(12, 3), derived_seed("1", "2", "3"), derived_seed(123)}) == 4
