"""What is wrong with a training stage's input is named, with the way out, and its last good checkpoint stands."""

import errno
import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.errors import PosttrainError
from posttrain.models.load import load_tokenizer, save_model
from posttrain.recipe.schema import DPO, SFT, RewardModel
from posttrain.stages import dpo, reward_model, sft
from posttrain.training.checkpoint import checkpoints
from tests.stages.conftest import turns

STAGES = {"sft": (sft, SFT), "dpo": (dpo, DPO), "reward_model": (reward_model, RewardModel)}


@pytest.fixture(params=STAGES)
def stage_and_settings(request, tiny_model, conversations, pairs):
    """A stage, and settings(**changes) for it."""
    stage, schema = STAGES[request.param]
    shared = dict(model=str(tiny_model), chat_template="tulu", learning_rate=1e-2, max_tokens=96, batch_size=5)
    shared |= dict(dtype="float32", micro_batch_tokens=192, checkpoint_every=1, unchecked="a test")
    data = conversations if request.param == "sft" else pairs
    return stage, lambda **changes: schema.model_validate({"kind": request.param, **shared, "data": data, **changes})


def test_a_tokenizer_of_another_model_is_refused(run_stage, stage_and_settings, tiny_model, tmp_path):
    stage, settings = stage_and_settings
    folder = shutil.copytree(tiny_model, tmp_path / "mixed")
    backend = Tokenizer(WordLevel({f"w{i}": i for i in range(300)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1", unk_token="w0").save_pretrained(folder)
    with pytest.raises(PosttrainError, match=r"300 tokens.*257 embeddings.*another model"):
        run_stage(stage, settings(model=str(folder)))


def test_rows_that_leave_nothing_to_learn_are_named(run_stage, stage_and_settings, write_lines):
    stage, settings = stage_and_settings
    question = turns("long " * 60)
    pair = {"prompt": "p", "chosen": [*question, *turns("", "a")[1:]], "rejected": [*question, *turns("", "b")[1:]]}
    row = {"messages": pair["chosen"]} if stage is sft else pair
    data = write_lines("masked.jsonl", [{"id": str(n), "source": "s", **row} for n in range(3)])
    with pytest.raises(PosttrainError, match="masked.jsonl: no row is left.*3 rows.*max_tokens 96"):
        run_stage(stage, settings(data=data))


def test_a_checkpoint_of_another_model_is_refused_and_stands(run_stage, stage_and_settings, tiny_model, tmp_path):
    stage, settings = stage_and_settings
    run_stage(stage, settings(), kill_at=2)
    kept = [path.read_bytes() for path in checkpoints(tmp_path / "a-checkpoints")]
    torch.manual_seed(1)
    shape = dict(hidden_size=16, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    config = LlamaConfig(vocab_size=257, num_key_value_heads=2, max_position_embeddings=128, **shape)
    save_model(LlamaForCausalLM(config), load_tokenizer(tiny_model), tmp_path / "other")
    with pytest.raises(PosttrainError, match="(?s)checkpoint of another model.*Remove its folder"):
        run_stage(stage, settings(model=str(tmp_path / "other")))
    assert kept and [path.read_bytes() for path in checkpoints(tmp_path / "a-checkpoints")] == kept


def test_a_disk_that_fills_up_in_a_save_is_named_and_the_run_goes_on_from_the_last(
    run_stage, stage_and_settings, tmp_path, monkeypatch
):
    stage, settings = stage_and_settings
    _, straight, _ = run_stage(stage, settings(), "straight")
    save, saves = torch.save, []

    def full(state, file):
        saves.append(1)
        if len(saves) < 2:
            return save(state, file)
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(PosttrainError, match="step-00000002.pt.*[Ff]ree"):
        run_stage(stage, settings())
    monkeypatch.undo()
    assert [path.name for path in checkpoints(tmp_path / "a-checkpoints")] == ["step-00000001.pt"]
    _, output, _ = run_stage(stage, settings())
    assert (output / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
