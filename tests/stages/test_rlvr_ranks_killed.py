"""Two ranks under torchrun, one of them killed ten times at random: the bits of a run that nobody killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.stages.test_rlvr import TINY, as_before, curve, inputs, same  # noqa: F401 — fixtures
from tests.stages.test_rlvr_actors import processes

pytestmark = pytest.mark.long

KILLS = 10
STEPS = 60
LIMIT = 1800  # seconds that the killed run may take, restarts included


def started(inputs: Path, name: str) -> subprocess.Popen:  # noqa: F811
    """`posttrain run` of one RLVR stage on two ranks, which torchrun starts again when one is gone."""
    paths = {key: str(inputs / str(TINY[key])) for key in ("model", "value_model", "data")}
    stage = TINY | paths | {"steps": STEPS, "checkpoint_every": 1, "unchecked": "a test's words"}
    recipe = inputs / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump({"name": name, "stages": {"rlvr": stage}}))
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", str(2 * KILLS)]
    program = ["-m", "posttrain.cli", "run", str(recipe), "--runs", str(inputs / "runs" / name)]
    command = [sys.executable, "-m", *torchrun, *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RLVR_RUN": str(recipe)}  # by which its ranks are known
    return subprocess.Popen(command, env=environment, start_new_session=True)


def steps_done(inputs: Path, name: str) -> int:  # noqa: F811
    logs = (inputs / "runs" / name).rglob("metrics.jsonl")
    return max((log.read_bytes().count(b"\n") for log in logs), default=0)


def test_ten_kills_of_a_rank_change_no_bit(inputs):  # noqa: F811
    whole = started(inputs, "whole")
    assert whole.wait(LIMIT) == 0
    draw, ends, at = random.Random(3), time.monotonic() + LIMIT, []
    killed = started(inputs, "killed")
    try:
        while killed.poll() is None:
            assert time.monotonic() < ends, f"still running after {LIMIT} s and kills at steps {at}"
            time.sleep(draw.uniform(0.0, 0.3))
            done = steps_done(inputs, "killed")
            if len(at) == KILLS or done <= (at[-1] if at else 0) + draw.randint(0, 3):
                continue
            if len(ranks := processes("-u -m posttrain.cli run", f"RLVR_RUN={inputs / 'killed.yaml'}")) < 2:
                continue
            os.kill(draw.choice(ranks), signal.SIGKILL)
            at.append(done)
        assert killed.returncode == 0
    finally:
        if killed.poll() is None:
            os.killpg(killed.pid, signal.SIGKILL)
    assert len(at) == KILLS, f"the run ended before the last kill: {at}"
    (one,) = (inputs / "runs/whole").rglob("manifest.json")
    (other,) = (inputs / "runs/killed").rglob("manifest.json")
    assert same(one.parent, other.parent)
    expected, found = ([row | {"seconds": None} for row in curve(path.parent)] for path in (one, other))
    assert len(expected) == STEPS and found == expected
