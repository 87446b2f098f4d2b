"""A recipe under torchrun and on Ray: training on two processes, the rest on the first; the same model as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
COMMAND = ["posttrain.cli", "run", str(RECIPE), "--until", "sft", "--set", "scale=smoke"]


def run(*before: str, runs: Path, after: tuple[str, ...] = (), **environment: str) -> str:
    command = [sys.executable, "-m", *before, *COMMAND, "--runs", str(runs), *after]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, timeout=600
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stdout


@pytest.mark.long
def test_two_processes_of_torchrun_make_the_model_that_one_makes(tmp_path):
    run(runs=tmp_path / "one")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    said = run(*torchrun, runs=tmp_path / "two")
    assert said.count("sft (sft): runs") == 1, said  # one process speaks
    assert_same_model(tmp_path / "one", tmp_path / "two")


@pytest.fixture
def two_nodes(tmp_path_factory):
    """The address of a Ray cluster of two nodes of one core each, simulated on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(tmp_path_factory.getbasetemp() / "r"))  # short: sockets live there
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        try:
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.mark.long
def test_ray_train_on_two_nodes_makes_the_model_that_one_process_makes(tmp_path, two_nodes):
    run(runs=tmp_path / "one")
    run(runs=tmp_path / "two", after=("--ray-workers", "2"), RAY_ADDRESS=two_nodes)
    assert_same_model(tmp_path / "one", tmp_path / "two")


@pytest.mark.long
def test_a_ray_cluster_that_is_too_small_is_named(tmp_path, two_nodes):
    with pytest.raises(AssertionError, match="the Ray cluster has 2 CPUs in all"):
        run(runs=tmp_path, after=("--ray-workers", "3"), RAY_ADDRESS=two_nodes)


def assert_same_model(one: Path, two: Path) -> None:
    """What two ranks made, beside what one did."""
    weights = [load_file(next(runs.glob("*/sft/*/model.safetensors"))) for runs in (one, two)]
    expected, found = weights
    assert expected.keys() == found.keys()
    assert all((found[n] - expected[n]).norm() <= 2e-2 * expected[n].norm() for n in expected)
    [manifest] = two.glob("*/sft/*/manifest.json")
    assert json.loads(manifest.read_text())["hardware"]["ranks"] == 2
