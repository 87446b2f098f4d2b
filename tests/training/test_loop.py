"""The loop around a loss: a step that is not finite, a SIGTERM, what is logged."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.errors import PosttrainError
from posttrain.training import loop as training_loop
from posttrain.training.checkpoint import CheckpointWriter, checkpoints
from posttrain.training.loop import TrainingLoop

SETTINGS = SimpleNamespace(
    optimizer="adamw",
    learning_rate=0.1,
    schedule="constant",
    warmup_fraction=0.0,
    weight_decay=0.0,
    clip_gradient_norm=1.0,
)
QUIET = SimpleNamespace(start=lambda *_, **__: None, advance=lambda *_, **__: None, note=lambda _: None)


def loop_of(folder, steps: int, checkpoint_every: int = 100, device: str = "cpu") -> TrainingLoop:
    torch.manual_seed(0)
    settings = SimpleNamespace(**vars(SETTINGS), checkpoint_every=checkpoint_every)
    plan = [[i, i + 100] for i in range(steps)]
    ids = [f"row {i}" for i in range(200)]
    return TrainingLoop(torch.nn.Linear(3, 2), plan, settings, device, ids=ids, checkpoints=folder, progress=QUIET)


def train(loop: TrainingLoop, *, bad: tuple[int, ...] = (), after=lambda rows: None) -> torch.Tensor:
    for rows in loop.steps("training"):
        x = torch.full((1, 3), float(rows[0] + 1))
        loss = loop.model(x).square().sum() * (float("nan") if rows[0] in bad else 1.0)
        loss.backward()
        loop.update(tokens=7, lengths=[4, 5], loss=loss.detach())
        after(rows)
    return torch.cat([p.detach().flatten() for p in loop.model.parameters()])


def test_a_step_that_is_not_finite_changes_nothing_but_the_log(tmp_path):
    loop = loop_of(tmp_path, 3)
    before = []
    train(loop, bad=(1,), after=lambda _: before.append(next(loop.model.parameters()).detach().clone()))
    assert torch.equal(before[0], before[1]) and not torch.equal(before[1], before[2])
    assert {int(state["step"]) for state in loop.optimizer.state.values()} == {2}
    rows = [row for _, row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["grad_norm"] is None for row in rows] == [row["loss"] is None for row in rows] == [False, True, False]
    kept = json.loads((tmp_path / "not-finite-00000002.json").read_text())
    assert kept == {"step": 2, "rows": ["row 1", "row 101"], "loss": None}


def test_three_in_a_row_stop_the_run_and_leave_the_last_good_checkpoint(tmp_path):
    loop = loop_of(tmp_path, 9, checkpoint_every=2)
    with pytest.raises(PosttrainError, match="step 6: the gradient is not finite, 3 steps in a row"):
        train(loop, bad=(3, 4, 5, 6))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002.pt", "step-00000004.pt"]
    with pytest.raises(PosttrainError, match="step 6: the gradient is not finite, 3 steps in a row"):
        train(loop_of(tmp_path, 9, checkpoint_every=2), bad=(3, 4, 5, 6))  # a restart has not forgotten the first


@pytest.mark.parametrize(("at", "skipped"), [(2, 0), (2, 2), (5, 0), (5, 5)])
def test_sigterm_ends_the_run_after_its_step_and_the_run_goes_on_from_there(tmp_path, at, skipped):
    class Ended(BaseException):
        pass

    def raise_ended(*_):
        raise Ended

    straight = loop_of(tmp_path / "straight", 6)
    trained = train(straight, bad=(skipped,))
    previous = signal.signal(signal.SIGTERM, raise_ended)
    try:
        with pytest.raises(Ended):
            train(
                loop_of(tmp_path / "ended", 6),
                bad=(skipped,),
                after=lambda rows: rows[0] == at and os.kill(os.getpid(), signal.SIGTERM),
            )
        assert signal.getsignal(signal.SIGTERM) is raise_ended
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert [path.name for path in checkpoints(tmp_path / "ended")] == [f"step-{at + 1:08d}.pt"]
    again = loop_of(tmp_path / "ended", 6)
    assert torch.equal(train(again, bad=(skipped,)), trained)
    assert again.metrics == straight.metrics and again.metrics["skipped_steps"] == 1 and again.metrics["loss"] > 0
    kept = [row["step"] for _, row in read_jsonl(tmp_path / "ended" / "metrics.jsonl")]
    assert kept == [1, 2, 3, 4, 5, 6]


def test_a_sigterm_in_a_step_that_is_saved_anyway_saves_it_once(tmp_path, monkeypatch):
    saved = []
    begin = CheckpointWriter.begin
    monkeypatch.setattr(
        CheckpointWriter, "begin", lambda *given, **named: saved.append(given[1]) or begin(*given, **named)
    )
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        asked = lambda rows: rows[0] == 3 and os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        train(loop_of(tmp_path, 6, checkpoint_every=2), after=asked)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert saved == [2, 4]


def test_memory_and_peak_are_those_of_the_device_that_computes_wherever_the_weights_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 2**30)
    monkeypatch.setattr(training_loop, "peak_flops", lambda: 1e12)
    monkeypatch.setattr(training_loop, "training_flops", lambda model, lengths: 1e9)
    train(loop_of(tmp_path, 2, device="cuda"))
    for _, row in read_jsonl(tmp_path / "metrics.jsonl"):
        assert row["memory_gib"] == 5 and row["mfu"] is not None
