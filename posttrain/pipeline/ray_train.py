"""A recipe on the nodes of a Ray cluster: Ray Train starts the ranks, then all is as under torchrun.

Every node sees the same files: the recipe's, and ``runs``.
"""

import os
import socket
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.recipe.schema import Recipe

RESTARTS = 3  # of all ranks, after one of them died; each goes on from the last checkpoint


def run_on_ray(
    recipe: Recipe, *, workers: int, gpus: bool, runs: str | os.PathLike = "runs", until: str | None = None
) -> None:
    """Runs ``recipe`` on ``workers`` ranks of the cluster that RAY_ADDRESS names (without it: of this machine).

    A rank has one GPU with ``gpus``, else one core. Raises PosttrainError when Ray is missing, the cluster is too
    small, or the ranks failed more than `RESTARTS` times.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.backend import Backend
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as reason:
        raise PosttrainError(f"--ray-workers needs Ray: pip install 'posttrain[ray]' ({reason})") from reason

    class NoGroup(TorchConfig):
        """Ranks are told of each other in `_rank`; `pipeline.launch` makes and ends their groups, stage by stage."""

        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    ray.init(address=os.environ.get("RAY_ADDRESS"), configure_logging=False, ignore_reinit_error=True)
    what = "GPU" if gpus else "CPU"
    there = int(ray.cluster_resources().get(what, 0))
    if there < workers:
        raise PosttrainError(f"--ray-workers {workers}: the Ray cluster has {there} {what}s in all")
    runs = Path(runs).absolute()
    trainer = TorchTrainer(
        _rank,
        torch_config=NoGroup(),
        train_loop_config={"recipe": recipe, "runs": str(runs), "until": until, "folder": os.getcwd()},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker={what: 1}),
        run_config=RunConfig(storage_path=str(runs / ".ray"), failure_config=FailureConfig(max_failures=RESTARTS)),
    )
    try:
        trainer.fit()
    except TrainingFailedError as reason:
        raise PosttrainError(f"on Ray: {reason}. The same command goes on from the last checkpoint") from reason


def _rank(given: dict[str, Any]) -> None:
    """One of the processes: tells torch what torchrun would have told it."""
    from ray import train
    from ray.train.collective import broadcast_from_rank_zero
    from ray.util import get_node_ip_address

    from posttrain.pipeline.runner import run_recipe

    os.chdir(given["folder"])
    context = train.get_context()
    with socket.socket() as free:
        free.bind(("", 0))
        here = [get_node_ip_address(), free.getsockname()[1]]
    address, port = broadcast_from_rank_zero(here)
    os.environ |= {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": "0",  # of the devices that Ray lets a worker see: its own
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "MASTER_ADDR": str(address),
        "MASTER_PORT": str(port),
    }
    run_recipe(given["recipe"], runs=given["runs"], until=given["until"])
