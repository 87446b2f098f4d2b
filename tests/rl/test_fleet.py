"""GPUs of rollout actors: none is the learner's, and no more is asked of one than it has."""

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.errors import PosttrainError
from posttrain.rl import engines, fleet
from posttrain.rl.probe import learner_logprobs
from tests.rl.tiny import tiny_llama, tiny_tokenizer

NOTHING: Any = None


def test_actors_that_share_a_gpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(engines, "VllmSampler", lambda *_, memory, **__: memory)

    def memory(gpus: float) -> Any:
        return engines.build_engine("vllm", Path("policy"), "cuda", "bfloat16", positions=32, gpus=gpus)

    assert [memory(1.0), memory(4.0)] == [0.9, 0.9]
    assert memory(0.25) * 4 == memory(0.5) * 2 == 0.9
    assert memory(0.0) == 0.45, "the other half is the learner's"


@pytest.mark.parametrize(("gpus", "fitting"), [(2.0, 1), (1.0, 3), (0.6, 3), (0.5, 6), (0.1, 30)])
def test_actors_without_room_are_refused_before_ray_starts(monkeypatch, gpus, fitting):
    """Of four GPUs the learner keeps one."""
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)

    def started(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(fleet.Fleet, "_connect", started)
    settings: dict = {"staleness": 0, "first": 0, "steps": 1, "device": "cuda", "dtype": "float32"}

    def begin(actors: int) -> None:
        fleet.Fleet(NOTHING, NOTHING, NOTHING, [], actors=actors, gpus_per_actor=gpus, **settings)

    with pytest.raises(PosttrainError, match="gpus_per_actor"):
        begin(fitting + 1)
    with pytest.raises(InterruptedError):
        begin(fitting)


def test_an_actor_on_the_learners_gpu_refuses_to_draw(monkeypatch):
    monkeypatch.setattr(fleet, "gpu_names", lambda: ["own", "learner's"])
    with pytest.raises(PosttrainError, match="on the learner's own GPU"):
        fleet.RolloutActor(NOTHING, "cuda", "float32", "learner's").draw([], 0, {}, [])


def test_the_learners_scores_are_those_of_a_plain_forward():
    model = tiny_llama(tiny_tokenizer())
    sequences = [[3, 4, 5, 6], [7, 8]]
    for sequence, found in zip(sequences, learner_logprobs(model, sequences), strict=True):
        with torch.no_grad():
            logp_TV = model(torch.tensor([sequence])).logits[0].log_softmax(-1)
        expected = [0.0] + [logp_TV[t, token].item() for t, token in enumerate(sequence[1:])]
        assert found == pytest.approx(expected, abs=1e-5)
