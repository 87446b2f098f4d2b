"""RLVR by two processes that share policy, reference and value model: the same step as one process takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.errors import PosttrainError
from posttrain.stages import rlvr_inputs
from tests.stages.test_rlvr import TINY, as_before, inputs  # noqa: F401 — fixtures
from tests.training.rank_work import on_ranks, run_stage

ALGORITHMS = {
    "ppo": {"minibatches": 2, "reward_model": "scorer"},
    "grpo": {"value_model": None, "epochs": 1},
    "online_dpo": {"value_model": None, "epochs": 1, "beta": 0.5, "minibatches": 2},
    "fresh_head": {"algorithm": "ppo", "value_model": "policy", "epochs": 1},
    "tulu3": {"algorithm": "ppo", "mode": "tulu3", "epochs": 1},
}


def settings(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        **TINY,
        "algorithm": name,
        "unchecked": "a test's words",
        "steps": 1,
        **ALGORITHMS[name],
        **more,
    }
    for reference in ("model", "value_model", "reward_model", "data", "heldout"):
        if found.get(reference):
            found[reference] = str(folder / found[reference])
    return found


def weights(folder: Path) -> torch.Tensor:
    files = sorted(folder.rglob("*.safetensors"))
    return torch.cat([tensor.flatten() for path in files for _, tensor in sorted(load_file(path).items())])


def curve(folder: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(folder / "output" / "metrics.jsonl")]


@pytest.mark.long
@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_ranks_take_the_step_of_one(tmp_path, inputs, name):  # noqa: F811
    given = settings(
        inputs,
        name,
        activation_checkpointing=name == "ppo",
        # Online DPO's first minibatch is one part: only one rank learns it.
        micro_batch_tokens=256 if name == "online_dpo" else 64,
        heldout="heldout.jsonl",
        heldout_prompts=4,
        heldout_every=1,
    )
    for count in (1, 2):
        on_ranks(count, tmp_path / f"store-{count}", run_stage, "rlvr", given, tmp_path / str(count))
    (one,), (two,) = curve(tmp_path / "1"), curve(tmp_path / "2")
    assert one.keys() == two.keys()
    for figure, value in one.items():
        if isinstance(value, float):  # all but times
            assert two[figure] == pytest.approx(value, rel=1e-4, abs=1e-5), figure
    start = weights(inputs / "policy")
    moved = (weights(tmp_path / "1" / "output") - weights(tmp_path / "2" / "output")).abs()
    assert len(moved) >= len(start)
    # Adam's first step is lr·g/(|g| + 1e-8): where g is near 0 the last bits of its sum decide.
    assert float(moved.quantile(0.99)) < 1e-5 and float(moved.mean()) < 1e-6


@pytest.mark.long
def test_two_ranks_go_on_from_their_checkpoint(tmp_path, inputs):  # noqa: F811
    given = settings(inputs, "ppo", checkpoint_every=1)
    on_ranks(2, tmp_path / "a", run_stage, "rlvr", given | {"schedule": "constant"}, tmp_path / "killed")
    further = given | {"steps": 2, "schedule": "constant"}
    on_ranks(2, tmp_path / "b", run_stage, "rlvr", further, tmp_path / "killed")
    on_ranks(2, tmp_path / "c", run_stage, "rlvr", further, tmp_path / "whole")
    assert [row["step"] for row in curve(tmp_path / "killed")] == [1, 2]
    assert torch.equal(weights(tmp_path / "killed" / "output"), weights(tmp_path / "whole" / "output"))


def test_what_ranks_do_not_do_is_refused(monkeypatch, tmp_path, inputs):  # noqa: F811
    monkeypatch.setattr(rlvr_inputs, "world_size", lambda: 2)
    with pytest.raises(PosttrainError, match="rollout_actors need a learner of one process"):
        run_stage("rlvr", settings(inputs, "ppo", rollout_actors=1), tmp_path / "actors")
    with pytest.raises(PosttrainError, match="random works in a single process"):
        run_stage("rlvr", settings(inputs, "ppo", value_initialisation="random"), tmp_path / "random")
