"""Reward model: learns the choice, scores the last token, resumes to the bit."""

import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.models.heads import load_scorer
from posttrain.models.load import load_tokenizer
from posttrain.recipe.schema import RewardModel
from posttrain.stages import reward_model


@pytest.fixture
def settings(tiny_model, pairs):
    def build(**changes) -> RewardModel:
        base = dict(kind="reward_model", model=str(tiny_model), data=pairs, chat_template="tulu", learning_rate=3e-3)
        base |= dict(epochs=4, batch_size=6, micro_batch_tokens=300, max_tokens=96, checkpoint_every=3, dtype="float32")
        return RewardModel.model_validate(base | {"holdout": 0.2} | changes)

    return build


def test_it_learns_the_choice_and_judges_held_out_pairs(run_stage, settings):
    result, output, _ = run_stage(reward_model, settings(epochs=8))
    metrics = result["metrics"]
    assert metrics["holdout_pairs"] == 4 and metrics["holdout_accuracy"] == 1.0
    losses = [row["loss"] for _, row in read_jsonl(output / "metrics.jsonl")]
    assert losses[0] == pytest.approx(math.log(2), abs=0.3) and losses[-1] < 0.1

    tokenizer, scorer = load_tokenizer(output), load_scorer(output)
    theirs = AutoModelForSequenceClassification.from_pretrained(output).eval()
    scores = []
    for answer in ("yes!!", "no."):
        turns = [{"role": "user", "content": "question 77?"}, {"role": "assistant", "content": answer}]
        encoded: Any = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
        ids = encoded["input_ids"]
        assert ids[0, -1] == tokenizer.eos_token_id
        scores.append(float(scorer(ids)[0, -1].detach()))
        assert float(theirs(ids).logits[0, 0].detach()) == pytest.approx(scores[-1], abs=1e-5)
    assert scores[0] > scores[1] + 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kill_at", [2, 7])
def test_a_killed_run_ends_in_the_same_bits(run_stage, settings, dtype, kill_at):
    whole, straight, _ = run_stage(reward_model, settings(dtype=dtype), "straight")
    run_stage(reward_model, settings(dtype=dtype), "killed", kill_at=kill_at)
    torch.manual_seed(12345)  # nothing may hang on what another process had drawn
    resumed, output, _ = run_stage(reward_model, settings(dtype=dtype), "killed")
    assert (output / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert resumed == whole


def test_without_holdout_every_pair_is_trained_on(run_stage, settings):
    result, _, _ = run_stage(reward_model, settings(holdout=0.0, epochs=1))
    assert "holdout_accuracy" not in result["metrics"]
    assert result["metrics"]["trained_tokens"] == sum(4 + i % 5 + 3 + i % 3 for i in range(20))
