"""RLVR with Ray actors: at staleness 0 nothing changes; above, batches are as old as told; kills lose nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.errors import PosttrainError
from posttrain.rl import fleet
from posttrain.stages import rlvr
from tests.stages.test_rlvr import WINDOWED, Quiet, as_before, inputs, run, same, windowed  # noqa: F401 — fixtures

pytestmark = pytest.mark.long
ray = pytest.importorskip("ray")

KINDS = ["ray::RolloutActor", "posttrain.verifiers.worker", "learner"]
KILLS = 10  # of each kind
STEPS = 700  # enough for the last kill to find it at work
LIMIT = 1800  # seconds that the whole run may take, kills and restarts included


@pytest.fixture(scope="module", autouse=True)
def ray_folder(tmp_path_factory):
    """Short: sockets live there."""
    folder = str(tmp_path_factory.getbasetemp() / "r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield folder


def rows(folder: Path) -> list[dict]:
    return [row for _, row in read_jsonl(folder / "metrics.jsonl")]


def test_an_actor_at_staleness_0_gives_the_bits_of_the_synchronous_run(inputs):  # noqa: F811
    alone, _ = run(inputs, "alone")
    beside, _ = run(inputs, "beside", rollout_actors=1)
    assert same(alone, beside)
    assert [row["staleness"] for row in rows(beside)] == [0.0] * 4


def test_batches_are_as_old_as_told_and_two_actors_share_them(inputs):  # noqa: F811
    settings = {"staleness": 1, "steps": 5}
    one, first = run(inputs, "one", rollout_actors=1, **settings)
    two, _ = run(inputs, "two", rollout_actors=2, **settings)
    assert [row["staleness"] for row in rows(one)] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert all(row["logp_gap"] < 1e-5 for row in rows(one) + rows(two))  # at the weights that drew
    assert rows(one)[0]["policy_drift"] < 1e-5 < rows(one)[1]["policy_drift"]
    published, _ = run(inputs, "published", rollout_actors=1, mode="tulu3", **settings)
    assert rows(published)[0]["policy_drift"] < 1e-5 < rows(published)[1]["policy_drift"]
    tokens = [row["response_tokens"] for row in rows(one)]
    assert sum(tokens) * 32 * 2 == pytest.approx(first["metrics"]["trained_tokens"])
    assert tokens == [row["response_tokens"] for row in rows(two)], "who draws a sample does not change it"


def test_a_wait_says_what_it_waits_for(inputs, monkeypatch):  # noqa: F811
    monkeypatch.setattr("posttrain.rl.fleet.PATIENCE", 0.05)
    progress = Quiet()
    run(inputs, "waits", progress, steps=1, rollout_actors=1)
    assert any(
        "waiting for rollout actors 0 (process starting) to draw their part of step 1" in n for n in progress.notes
    )


def test_an_engine_that_cannot_be_built_says_so_itself(inputs, windowed, monkeypatch):  # noqa: F811
    def without_vllm(*_, **__):
        raise PosttrainError("vLLM is not installed")

    monkeypatch.setattr(rlvr, "build_engine", without_vllm)
    with pytest.raises(PosttrainError, match="^vLLM is not installed$"):
        run(inputs, "unbuilt", **WINDOWED, rollout_actors=1)
    assert not ray.is_initialized()


def test_an_own_cluster_leaves_the_learner_its_gpu(monkeypatch):
    """Two pretended: Ray only counts them."""

    def build():
        raise PosttrainError(f"sees {os.environ['CUDA_VISIBLE_DEVICES']}")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr(fleet, "gpu_names", lambda: ["one", "other"])
    monkeypatch.setattr(fleet.Fleet, "learned", lambda self, version: None)
    settings: dict = {"staleness": 0, "first": 0, "steps": 1, "device": "cuda", "dtype": "float32"}
    nothing: Any = None
    beside = fleet.Fleet(build, nothing, nothing, [], actors=1, gpus_per_actor=1.0, **settings)
    try:
        with pytest.raises(PosttrainError, match="^sees 7$"):
            beside._get(beside.actors[0].draw.remote([], 0, {}, []), "the actor")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"
    finally:
        beside.close()
    assert not ray.is_initialized()


def test_a_fleet_that_cannot_start_leaves_no_ray_behind(monkeypatch):
    def fails(self, version):
        raise ZeroDivisionError

    monkeypatch.setattr(fleet.Fleet, "learned", fails)
    nothing: Any = None
    settings: dict = {"staleness": 0, "first": 0, "steps": 1, "device": "cpu", "dtype": "float32"}
    with pytest.raises(ZeroDivisionError):
        fleet.Fleet(nothing, nothing, nothing, [], actors=1, **settings)
    assert not ray.is_initialized()


DRIVER = f"""
import sys, torch
from pathlib import Path
from tests.stages.test_rlvr import Quiet, run
torch.set_num_threads(1)
run(Path(sys.argv[1]), "killed", Quiet(), steps={STEPS}, prompts_per_step=8, rollout_actors=2, staleness=1)
"""


def test_ten_kills_of_each_kind_of_process_lose_no_rollout_and_repeat_none(inputs, ray_folder):  # noqa: F811
    """Rollout actors, verifier workers and the learner itself, at random; the learner is started again each time."""
    draw, ends = random.Random(5), time.monotonic() + LIMIT
    command = [sys.executable, "-c", DRIVER, str(inputs)]
    environment = os.environ | {"RLVR_KILLED_IN": str(inputs)}  # by which its children are known
    learner = subprocess.Popen(command, env=environment)
    killed: list[str] = []
    order = draw.sample(KINDS * KILLS, len(KINDS) * KILLS)
    try:
        while learner.poll() is None:
            assert time.monotonic() < ends, f"still running after {LIMIT} s and kills of {killed}"
            time.sleep(draw.uniform(0.5, 2.5))
            if len(killed) == len(order):
                continue
            kind = order[len(killed)]
            if kind == "learner":
                learner.kill()
                learner.wait()
                learner = subprocess.Popen(command, env=environment)
            elif not (found := processes(kind, f"RAY_TMPDIR={ray_folder}" if "ray" in kind else str(inputs))):
                continue  # not started yet
            else:
                os.kill(draw.choice(found), signal.SIGKILL)
            killed.append(kind)
        assert learner.returncode == 0
    finally:
        learner.kill()
    assert killed == order, "the run ended before the last kill"
    found = rows(inputs / "killed" / "output")
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    tokens = sum(row["response_tokens"] for row in found) * 32 * 2
    assert found[-1]["trained_tokens"] == pytest.approx(tokens)
    assert all(row["staleness"] <= 1 for row in found)


def processes(name: str, mark: str) -> list[int]:
    """Those whose command line holds ``name`` and whose environment holds ``mark``: ours, not somebody else's."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if name in command and mark in (entry / "environ").read_bytes().decode(errors="replace"):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, NotADirectoryError, PermissionError):
            continue
    return found
