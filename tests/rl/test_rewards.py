"""From verdicts to scores, case by case."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from posttrain.data.rows import VerifiablePrompt
from posttrain.rl.figures import rollout_figures
from posttrain.rl.prompts import Prompt
from posttrain.rl.rewards import (
    joint_outcome,
    sample_scores,
    shuffled,
    too_many_errors,
    verified_shares,
    verifier_errors,
    verify_rollout,
)
from posttrain.verifiers.pool import VerifierPool
from posttrain.verifiers.verdict import Outcome, Verdict
from tests.rl.tiny import WORDS, EchoSampler, plan_of, prompt_row, tiny_tokenizer

CORRECT, WRONG = Verdict("correct", 1.0), Verdict("wrong", 0.0)
TIMEOUT, ERROR = Verdict("timeout", 0.0), Verdict("error", 0.0)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([CORRECT], "correct"),
        ([CORRECT, CORRECT, CORRECT], "correct"),
        ([CORRECT, WRONG], "wrong"),
        ([TIMEOUT, CORRECT], "timeout"),
        ([WRONG, TIMEOUT], "timeout"),
        ([CORRECT, ERROR], "error"),
        ([ERROR, WRONG], "error"),
        ([Verdict("wrong", 0.9)], "wrong"),  # a part of the way is no correct answer
    ],
)
def test_a_row_with_several_checks_is_correct_only_if_all_are(verdicts, expected):
    assert joint_outcome(verdicts) == expected


@pytest.mark.parametrize(
    ("outcome", "finished", "score", "weight"),
    [
        ("correct", True, 10.0, 1.0),
        ("correct", False, -10.0, 1.0),  # replaced, not added
        ("wrong", True, 0.0, 1.0),
        ("wrong", False, -10.0, 1.0),
        ("timeout", True, 0.0, 1.0),
        ("timeout", False, -10.0, 1.0),
        ("error", True, 0.0, 0.0),
        ("error", False, -10.0, 0.0),
    ],
)
def test_score_and_weight_of_each_case(outcome, finished, score, weight):
    shares, ends = [float(outcome == "correct")], torch.tensor([finished])
    scores, weights = sample_scores([outcome], shares, torch.ones(1, 5, dtype=torch.bool), ends, 10.0, -10.0)
    assert scores.tolist() == [score] and weights.tolist() == [weight]


def test_a_short_answer_scores_as_one_that_did_not_end_and_truncated_ones_can_be_masked():
    """Three answers of 5, 2 and 5 tokens, EOS among them but in the last, which was cut."""
    response = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] * 5])
    right: list[Outcome] = ["correct"] * 3
    score = partial(sample_scores, right, [1.0] * 3, response, torch.tensor([True, True, False]), 10.0, -10.0)
    for least, expected in ((0, [10, 10, -10]), (1, [10, 10, -10]), (2, [10, -10, -10]), (5, [-10] * 3)):
        scores, weights = score(min_response_tokens=least)
        assert scores.tolist() == expected and weights.tolist() == [1, 1, 1]
    assert score(mask_truncated=True)[1].tolist() == [1, 1, 0]


def test_shuffling_keeps_the_scores_with_their_weights_and_depends_on_the_step():
    scores, weights = torch.arange(64.0), (torch.arange(64) % 3 > 0).float()
    first, first_weights = shuffled(scores, weights, 1, 0)
    again, _ = shuffled(scores, weights, 1, 0)
    other, _ = shuffled(scores, weights, 1, 1)
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first, scores)
    assert sorted(first.tolist()) == scores.tolist()
    assert torch.equal(first_weights, (first % 3 > 0).float())


class RecordingPool(VerifierPool):
    """Judges by the label alone, and remembers what it was asked."""

    asked: list[tuple[str, str, str]] = []

    def verify(self, items):
        self.asked = list(items)
        return [CORRECT if label == "yes" else WRONG for _, _, label in self.asked]


def rollout_of(rows, samples=2):
    plan = plan_of([Prompt(row, (3, 8, 4)) for row in rows], samples_per_prompt=samples)
    return plan.draw(0, EchoSampler(), 3)


def test_each_sample_is_asked_once_for_each_check_of_its_row():
    several = VerifiablePrompt("m", ({"role": "user", "content": "x"},), ("yes", "no", "yes"), ("a", "b", "c"), "toy")
    single = VerifiablePrompt("s", ({"role": "user", "content": "x"},), "yes", "a", "toy")
    rollout, pool = rollout_of([several, single]), RecordingPool()
    verdicts = verify_rollout(pool, rollout, tiny_tokenizer())
    expected = [
        (name, " ".join(WORDS[token - 5] for token in response if token >= 5), label)
        for row, response in zip(rollout.rows, rollout.responses, strict=True)
        for name, label in row.checks
    ]
    assert pool.asked == expected
    for row, found in zip(rollout.rows, verdicts, strict=True):
        assert found == ((CORRECT, WRONG, CORRECT) if row is several else (CORRECT,))


def test_weighted_verifiers_add_up_and_unweighted_ones_must_all_agree():
    row = VerifiablePrompt("m", ({"role": "user", "content": "x"},), ("1", "2"), ("a", "b"), "toy")
    rollout = rollout_of([row], samples=3)
    verdicts = [(CORRECT, WRONG), (CORRECT, CORRECT), (Verdict("wrong", 0.5), TIMEOUT)]
    assert verified_shares(rollout, verdicts, None) == [0.0, 1.0, 0.0]
    assert verified_shares(rollout, verdicts, {"a": 0.25}) == [0.25, 1.25, 0.125]
    assert verified_shares(rollout, verdicts, {"A": 0.25}) == [0.25, 1.25, 0.125]


def test_errors_over_their_bound_are_told_with_the_reason():
    broken = Verdict("error", 0.0, "no such file")
    errors = verifier_errors([(CORRECT,)] * 9 + [(broken,)])
    assert errors == [broken] and too_many_errors(errors, 10, bound=0.1) is None
    told = too_many_errors(errors, 10, bound=0.05)
    assert told == "1 of 10 verdicts are errors, over the bound of 5%: no such file"


def test_verifiers_read_the_text_with_the_spaces_that_the_tokens_have():
    tokenizer, pool = tiny_tokenizer(), RecordingPool()
    tokenizer.add_tokens(["."])
    tokenizer.clean_up_tokenization_spaces = True  # as published tokenizers have it; evaluation ignores it
    rollout = replace(rollout_of([prompt_row(0, "red")], samples=1), responses=((5, len(tokenizer) - 1),))
    verify_rollout(pool, rollout, tokenizer)
    assert [text for _, text, _ in pool.asked] == ["red ."]


def test_errors_are_counted_and_left_out_of_the_means():
    rollout = rollout_of([prompt_row(0, "red", "a"), prompt_row(1, "red", "b")])
    names = ["+".join(name for name, _ in row.checks) for row in rollout.rows]
    outcomes: list[Outcome] = ["correct", "error", "timeout", "wrong"]
    scores = torch.tensor([10.0, 99.0, 0.0, -10.0])
    figures = rollout_figures(rollout, outcomes, scores)
    assert figures["score"] == 0 and figures["correct_rate"] == pytest.approx(1 / 3)
    assert figures["error_rate"] == 0.25 and figures["timeout_rate"] == 0.25
    assert figures["by_verifier"][names[0]] == {"samples": 1, "score": 10.0, "correct_rate": 1.0}
    assert figures["by_verifier"][names[2]] == {"samples": 2, "score": -5.0, "correct_rate": 0.0}
    assert figures["response_tokens"] == sum(map(len, rollout.responses)) / 4
    tokens = [x for row, r in zip(rollout.sampler_logp_BT, rollout.response_BT, strict=True) for x in row[r].tolist()]
    assert figures["entropy"] == pytest.approx(-sum(tokens) / len(tokens))
