"""Ranks change nothing but who computes: gradients, curves, checkpoints and models are those of one process."""

import json

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from posttrain.data.tokenize import Tokenized
from posttrain.errors import PosttrainError
from posttrain.training import sharding
from posttrain.training.build import policy_on_meta
from posttrain.training.checkpoint import checkpoints
from posttrain.training.memory import parameter_count, state_bytes
from posttrain.training.sharding import data_mesh, shard
from tests.stages.conftest import conversations, pairs, tiny_model, write_lines  # noqa: F401 — fixtures
from tests.training.rank_work import (
    curve,
    damaged_saves,
    failing_save,
    first_gradients,
    loading_another,
    on_ranks,
    run_stage,
    token_mean_gradients,
)


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative L2 over all tensors together."""
    assert a.keys() == b.keys()
    apart = sum(float((a[name] - b[name]).double().square().sum()) for name in a)
    return (apart / sum(float(b[name].double().square().sum()) for name in b)) ** 0.5


@pytest.mark.parametrize("dtype,bound", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_gradient_is_the_same_for_any_ranks_and_micro_batches(tmp_path, tiny_llama, ragged_rows, dtype, bound):
    rows = [Tokenized("r", ids.numpy(), trained.numpy()) for ids, trained in ragged_rows]
    expected = token_mean_gradients(tiny_llama(dtype=dtype), rows, budget=17 * len(rows))
    for ranks, budget in ((1, 17), (1, 40), (2, 17), (2, 1000)):
        found = on_ranks(
            ranks, tmp_path / f"{ranks}-{budget}", token_mean_gradients, tiny_llama(dtype=dtype), rows, budget
        )
        assert difference(found, expected) < bound, (ranks, budget)
    on_replicas = on_ranks(2, tmp_path / "hsdp", token_mean_gradients, tiny_llama(dtype=dtype), rows, 17, 2)
    assert difference(on_replicas, expected) < bound
    one_row = [rows[0]]  # the other rank has nothing to train, and takes part all the same
    expected = token_mean_gradients(tiny_llama(dtype=dtype, tie_word_embeddings=True), one_row, 17)
    tied = tiny_llama(dtype=dtype, tie_word_embeddings=True)
    assert difference(on_ranks(2, tmp_path / "one", token_mean_gradients, tied, one_row, 17), expected) < bound


@pytest.fixture
def settings(tiny_model, conversations, pairs):  # noqa: F811
    """Settings of a stage by kind. The budget splits some pairs of DPO."""
    shared = dict(model=str(tiny_model), chat_template="tulu", learning_rate=1e-2, epochs=2, max_tokens=96)
    shared |= dict(checkpoint_every=2, dtype="float32", batch_size=5, unchecked="a test")
    return {
        "sft": {**shared, "data": conversations, "micro_batch_tokens": 96},
        "dpo": {**shared, "data": pairs, "micro_batch_tokens": 76, "learning_rate": 1e-3},
        "reward_model": {**shared, "data": pairs, "micro_batch_tokens": 120, "holdout": 0.1},
    }


@pytest.mark.parametrize("kind", ["sft", "dpo", "reward_model"])
def test_a_stages_first_gradient_is_the_same_on_two_ranks(tmp_path, settings, kind):
    one = first_gradients(kind, settings[kind], tmp_path / "one")
    two = on_ranks(2, tmp_path / "ranks", first_gradients, kind, settings[kind], tmp_path / "two")
    assert difference(two, one) < 1e-5


@pytest.mark.parametrize("kind,before,after", [("sft", 2, 1), ("sft", 1, 2), ("dpo", 2, 1), ("reward_model", 1, 2)])
def test_a_run_stopped_on_some_ranks_goes_on_along_the_same_curve_on_others(tmp_path, settings, kind, before, after):
    straight = run_stage(kind, settings[kind], tmp_path / "straight")
    assert straight is not None
    folder = tmp_path / "stopped"
    assert on_ranks(before, tmp_path / "before", run_stage, kind, settings[kind], folder, 3) is None
    assert [path.is_dir() for path in checkpoints(folder / "checkpoints")] == [before == 2]
    resumed = on_ranks(after, tmp_path / "after", run_stage, kind, settings[kind], folder)
    assert resumed["metrics"] == pytest.approx(straight["metrics"], rel=1e-3, abs=1e-4)
    expected, found = curve(tmp_path / "straight" / "output"), curve(folder / "output")
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-3)
    transformers_class = AutoModelForSequenceClassification if kind == "reward_model" else AutoModelForCausalLM
    models = [transformers_class.from_pretrained(at / "output").state_dict() for at in (folder, tmp_path / "straight")]
    assert difference(*models) < 1e-3
    assert json.loads((folder / "output" / "config.json").read_text())["architectures"] == [
        type(transformers_class.from_pretrained(folder / "output")).__name__
    ]


def test_each_rank_tells_its_own_share_of_the_references_progress(tmp_path, settings):
    alone = settings["dpo"] | {"epochs": 1}
    said = on_ranks(2, tmp_path / "ranks", run_stage, "dpo", alone, tmp_path / "dpo")["told"]
    total, done = said["reference log-probabilities"]
    assert 0 < total == done < said["training a"][0] * alone["batch_size"]


def test_a_full_disk_and_another_model_are_named_and_leave_the_last_checkpoint(tmp_path, tiny_llama):
    folder = tmp_path / "checkpoints"
    said, left = on_ranks(2, tmp_path / "save", failing_save, tiny_llama(), folder, 4096)
    assert "step-00000002: the checkpoint could not be written" in said and left == ["step-00000001"]
    said = on_ranks(2, tmp_path / "load", loading_another, tiny_llama(intermediate_size=64), folder)
    assert "is a checkpoint of another model" in said


def test_ranks_set_a_damaged_checkpoint_aside_and_write_its_step_again(tmp_path, tiny_llama):
    found, left = on_ranks(2, tmp_path / "work", damaged_saves, tiny_llama(), tmp_path / "checkpoints")
    assert found[:3] == [(1, {}), (1, {}), (2, {})] and left == ["step-00000001", "step-00000002"]
    assert "damaged-step-00000002: the only checkpoint" in found[3] and found[4] is None


@pytest.mark.parametrize(("ranks", "replicas"), [(8, 3), (2, 4)])
def test_replicas_that_do_not_divide_the_ranks_are_refused(monkeypatch, ranks, replicas):
    monkeypatch.setattr(sharding, "world_size", lambda: ranks)
    with pytest.raises(PosttrainError, match=f"replicas: {replicas} does not divide {ranks} ranks"):
        sharding.data_mesh("cpu", replicas)


@pytest.mark.parametrize("option", [{"replicas": 2}, {"cpu_offload": True}])
def test_options_of_several_ranks_are_refused_in_one_process(tmp_path, settings, option):
    with pytest.raises(PosttrainError, match="are for several ranks"):
        run_stage("sft", settings["sft"] | option, tmp_path)


SHAPES = {  # Llama 3.1 (arXiv 2407.21783, table 3), and how many ranks share it
    "70B": (dict(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64), 64, 70.55e9),
    "405B": (
        dict(hidden_size=16384, intermediate_size=53248, num_hidden_layers=126, num_attention_heads=128),
        256,
        405.85e9,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_bytes_per_rank_are_as_planned(name):
    shape, ranks, parameters = SHAPES[name]
    config = LlamaConfig(vocab_size=128256, num_key_value_heads=8, tie_word_embeddings=False, **shape)
    assert parameter_count(config) == pytest.approx(parameters, rel=1e-3)
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        model = policy_on_meta(config)
        assert sum(p.numel() for p in model.parameters()) == parameter_count(config)
        shard(model, data_mesh("cpu"), "bfloat16")
        local = [torch.nn.Parameter(p.to_local()) for p in model.parameters()]  # type: ignore
        for p in local:
            p.grad = torch.zeros_like(p)
        optimizer = torch.optim.AdamW(local, foreach=False)
        optimizer.step()
        moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    finally:
        dist.destroy_process_group()

    def held(tensors) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    planned = state_bytes(config, ranks)
    assert held(local) == pytest.approx(planned.weights, rel=0.05)
    assert held([p.grad for p in local]) == pytest.approx(planned.gradients, rel=0.05)
    assert held(moments) == pytest.approx(planned.optimizer, rel=0.05)
    assert planned.total == pytest.approx(16 * parameters / ranks, rel=0.01)
