"""DPO: starts at log 2, learns the preference, keeps its reference over a kill."""

import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.errors import PosttrainError
from posttrain.models.load import load_tokenizer
from posttrain.recipe.schema import DPO
from posttrain.stages import dpo


@pytest.fixture
def settings(tiny_model, pairs):
    def build(**changes) -> DPO:
        base = dict(kind="dpo", model=str(tiny_model), data=pairs, chat_template="tulu", learning_rate=1e-3, epochs=2)
        base |= dict(batch_size=6, micro_batch_tokens=300, max_tokens=96, checkpoint_every=3, dtype="float32")
        return DPO.model_validate(base | changes)

    return build


def curve(output, figure) -> list[float]:
    return [row[figure] for _, row in read_jsonl(output / "metrics.jsonl")]


@pytest.mark.parametrize("loss,beta", [("dpo_norm", 5.0), ("dpo", 0.5)])
def test_loss_starts_at_log_two_and_the_preference_is_learned(run_stage, settings, loss, beta):
    result, output, _ = run_stage(dpo, settings(loss=loss, beta=beta, epochs=6))
    losses = curve(output, "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are one
    assert losses[-1] < 0.1
    assert result["metrics"]["accuracy"] == 1.0
    assert result["rows"] == {"used": 20, "truncated": 0, "set_aside": 0}
    # "yes" + "!"·(0…4) and "no" + "."·(0…2), EOS each, over 20 pairs and 6 epochs
    tokens = sum(4 + i % 5 + 3 + i % 3 for i in range(20)) * 6
    assert result["metrics"]["trained_tokens"] == sum(curve(output, "trained_tokens")) == tokens


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kill_at", [2, 5])
def test_a_killed_run_ends_in_the_same_bits_against_the_initial_policy(run_stage, settings, tmp_path, dtype, kill_at):
    whole, straight, _ = run_stage(dpo, settings(dtype=dtype), "straight")
    run_stage(dpo, settings(dtype=dtype), "killed", kill_at=kill_at)
    reference = (tmp_path / "killed-checkpoints" / "reference.safetensors").read_bytes()
    resumed, output, progress = run_stage(dpo, settings(dtype=dtype), "killed")
    assert [task[0] for task in progress.started] == ["training killed"]  # no second reference pass
    assert (tmp_path / "killed-checkpoints" / "reference.safetensors").read_bytes() == reference
    assert (output / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert resumed == whole


@pytest.mark.parametrize("torn", [False, True])
def test_a_run_killed_in_the_reference_pass_goes_on_with_it(run_stage, settings, tmp_path, torn):
    _, straight, whole = run_stage(dpo, settings(), "straight")
    run_stage(dpo, settings(), "killed", kill_at=2, task="reference")
    (part,) = (tmp_path / "killed-checkpoints").glob("reference-*")
    kept = part.read_text()
    assert len(kept.splitlines()) == 2
    if torn:
        part.write_text(kept[:-20])
    _, output, progress = run_stage(dpo, settings(), "killed")
    (_, total, _, done), (_, all_pairs, _, before) = progress.started[0], whole.started[0]
    assert total == all_pairs == 20 and 0 == before < done < total
    assert (output / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert not part.exists()


def test_swapped_labels_teach_the_opposite(run_stage, settings):
    result, output, _ = run_stage(dpo, settings(swap_labels=1.0))
    assert result["metrics"]["swapped_pairs"] == 20
    _, straight, _ = run_stage(dpo, settings(), "straight")
    # one β: the first gradients are exact opposites, so after one step the implicit rewards are mirrored
    assert curve(output, "grad_norm")[0] == pytest.approx(curve(straight, "grad_norm")[0], rel=1e-5)
    half = [run_stage(dpo, settings(swap_labels=0.5), f"half{i}")[0]["metrics"]["swapped_pairs"] for i in range(2)]
    assert half[0] == half[1] and 0 < half[0] < 20


@pytest.mark.parametrize("loss,beta", [("simpo", 2.0), ("ipo", 0.5)])
def test_other_losses_learn_the_preference(run_stage, settings, loss, beta):
    _, output, _ = run_stage(dpo, settings(loss=loss, beta=beta, epochs=6))
    losses = curve(output, "loss")
    assert losses[-1] < losses[0]
    assert curve(output, "accuracy")[-1] == 1.0


def test_normalising_over_all_turns_counts_the_shared_ones(run_stage, settings, write_lines):
    shared = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "bcd"},
        {"role": "user", "content": "e"},
    ]
    sides = {
        side: [*shared, {"role": "assistant", "content": text}] for side, text in (("chosen", "f"), ("rejected", "gh"))
    }
    data = write_lines("turns.jsonl", [{"id": "m", "prompt": "a", "source": "s", **sides}])
    tokens = {
        over: run_stage(dpo, settings(data=data, normalise_over=over, epochs=1), over)[0]["metrics"]["trained_tokens"]
        for over in ("last_turn", "all_assistant_turns")
    }
    assert tokens == {"last_turn": 2 + 3, "all_assistant_turns": 2 + 3 + 2 * 4}


def test_the_reference_holds_the_initial_policys_means(run_stage, settings, tiny_model, tmp_path):
    run_stage(dpo, settings(), "killed", kill_at=1)
    cached = load_file(tmp_path / "killed-checkpoints" / "reference.safetensors")
    tokenizer, model = load_tokenizer(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    for i in (0, 7, 19):
        for side, answer in (("chosen", "yes" + "!" * (i % 5)), ("rejected", "no" + "." * (i % 3))):
            prompt = tokenizer(f"<|user|>\nquestion {i}?\n<|assistant|>\n")["input_ids"]
            response = tokenizer(answer)["input_ids"] + [tokenizer.eos_token_id]
            ids = torch.tensor([prompt + response])
            logp_V = model(ids).logits[0].log_softmax(-1)
            each = [float(logp_V[len(prompt) - 1 + k, token].detach()) for k, token in enumerate(response)]
            # the stage's model has one more embedding, <pad>: the mean row, which takes a little of the mass
            assert float(cached[side][i]) == pytest.approx(sum(each) / len(each), abs=0.02)


def test_pairs_that_do_not_fit_together_are_split_and_learn_the_same(run_stage, settings):
    whole, _, _ = run_stage(dpo, settings(), "whole")
    assert whole["metrics"].pop("split_pairs") == 0
    for budget, expected in ((44, 20), (82, 10)):  # the longer row of a pair has 39 to 44 tokens
        split, _, _ = run_stage(dpo, settings(micro_batch_tokens=budget), f"split-{budget}")
        assert split["metrics"].pop("split_pairs") == expected
        assert split["metrics"] == pytest.approx(whole["metrics"], rel=1e-4)
    with pytest.raises(PosttrainError, match="raise micro_batch_tokens"):
        run_stage(dpo, settings(micro_batch_tokens=43), "refused")


def test_a_pair_whose_reference_is_not_finite_costs_its_steps_and_no_more(run_stage, settings, monkeypatch):
    mean, spoiled = dpo.response_mean, []

    def first_is_bad(*arguments):
        logp_R = mean(*arguments)
        if not spoiled:
            spoiled.append(True)
            logp_R[0] = -math.inf
        return logp_R

    monkeypatch.setattr(dpo, "response_mean", first_is_bad)
    result, output, _ = run_stage(dpo, settings())
    assert result["metrics"]["skipped_steps"] == 2  # one in each epoch
    assert len(list(output.glob("not-finite-*.json"))) == 2
