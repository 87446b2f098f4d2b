"""RLVR with Ray actors: at staleness 0 nothing changes; above, batches are as old as told; kills lose nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.artifacts.jsonl import read_jsonl
from tests.stages.test_rlvr import Quiet, as_before, inputs, run, same  # noqa: F401 — fixtures

pytestmark = pytest.mark.long
pytest.importorskip("ray")

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
