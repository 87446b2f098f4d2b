"""Work for processes that share a model by gloo, and the way to start them: fresh ones, nothing is forked midway."""

import contextlib
import errno
import json
import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from posttrain.data.batches import pad_batch, rank_micro_batches
from posttrain.data.tokenize import Tokenized
from posttrain.errors import PosttrainError
from posttrain.models.ranks import rank, world_size
from posttrain.recipe.schema import DPO, RLVR, SFT, RewardModel
from posttrain.stages import dpo, reward_model, rlvr, sft
from posttrain.stages.base import StageContext
from posttrain.training import loop
from posttrain.training.checkpoint import checkpoints, load_latest, save_checkpoint
from posttrain.training.logprobs import response_logprobs
from posttrain.training.losses import token_loss_sum
from posttrain.training.optimizer import build_adamw
from posttrain.training.sharding import data_mesh, scaled_loss, shard, wait_for_ranks

STAGES: dict[str, tuple[Any, Any]] = {
    "sft": (sft, SFT),
    "dpo": (dpo, DPO),
    "reward_model": (reward_model, RewardModel),
    "rlvr": (rlvr, RLVR),
}


def on_ranks(count: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work(*arguments)`` returns on rank 0 of ``count`` (with 1: right here, without torch.distributed)."""
    if count == 1:
        return work(*arguments)
    folder.mkdir(parents=True)
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload([__name__])
    processes = [start.Process(target=_on_rank, args=(folder, r, count, work, arguments)) for r in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    return torch.load(folder / "told.pt", weights_only=False)


def _on_rank(folder: Path, this: int, count: int, work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=this, world_size=count)
    told = work(*arguments)
    if this == 0:
        torch.save(told, folder / "told.pt")
    dist.destroy_process_group()


def whole_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """By parameter name, gathered."""
    found = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None, name
        found[name] = (grad.full_tensor() if isinstance(grad, DTensor) else grad).clone()
    return found


def token_mean_gradients(model: Any, rows: list[Tokenized], budget: int, replicas: int = 1) -> dict[str, torch.Tensor]:
    """Of the global token mean over ``rows`` in micro-batches of at most ``budget`` padded tokens per rank."""
    if world_size() > 1:
        shard(model, data_mesh("cpu", replicas))
    tokens = sum(int(row.trained[1:].sum()) for row in rows)
    for group in rank_micro_batches([len(row) for row in rows], budget, rank=rank(), ranks=world_size()):
        batch = pad_batch([rows[i] for i in group], pad_id=0)
        logp_BT = response_logprobs(model, batch.input_ids_BT, batch.attention_mask_BT, batch.trained_BT)
        scaled_loss(token_loss_sum(logp_BT, batch.trained_BT), tokens, world_size()).backward()
    return whole_gradients(model)


class LocalContext(StageContext):
    """References are paths."""

    def resolve(self, reference: str, prefer: str = "model") -> Path:
        return Path(reference)


class Stop(BaseException):
    """Ends a stage in the middle of a step."""


class Counting:
    """A progress that stops the stage at the ``stop_at``-th training step, on every rank.

    ``told``: what was said to be done, and what was.
    """

    def __init__(self, stop_at: int | None):
        self.stop_at, self.steps, self.training = stop_at, 0, False
        self.told: dict[str, list[int]] = {}

    def start(self, description, total, unit, done=0):
        self.training = description.startswith("training")
        self.now = self.told[description] = [total, done]

    def advance(self, amount=1, **shown):
        self.now[1] += amount
        self.steps += self.training
        if self.steps == self.stop_at:
            raise Stop

    def note(self, message): ...


def run_stage(kind: str, settings: dict, folder: Path, stop_at: int | None = None) -> dict[str, Any] | None:
    """The stage on every rank, with checkpoints and output in ``folder``; None when it was stopped."""
    stage, schema = STAGES[kind]
    output, checkpoints = folder / (f"scratch-{rank()}" if rank() else "output"), folder / "checkpoints"
    for path in (output, checkpoints):
        path.mkdir(parents=True, exist_ok=True)
    settings = schema.model_validate({"kind": kind, **settings})
    progress = Counting(stop_at)
    context = LocalContext("a", settings, {}, output, checkpoints, progress, 1, "cpu", {})
    with contextlib.suppress(Stop):
        return stage.run(context) | {"told": progress.told}
    return None


def first_gradients(kind: str, settings: dict, folder: Path) -> dict[str, torch.Tensor]:
    """The gradients of a stage's first step, before they are clipped."""
    found: dict[str, torch.Tensor] = {}

    class Catching(loop.TrainingLoop):
        def update(self, **_):
            found.update(whole_gradients(self.model))
            raise Stop

    stage = STAGES[kind][0]
    kept, stage.TrainingLoop = stage.TrainingLoop, Catching
    try:
        run_stage(kind, settings, folder)
    finally:
        stage.TrainingLoop = kept
    return found


def failing_save(model: Any, folder: Path, file_bytes: int) -> tuple[str, list[str]]:
    """A checkpoint at step 1, then one with room for ``file_bytes`` a file only: what is said, and what is left."""
    shard(model, data_mesh("cpu"))
    optimizer = build_adamw(model.parameters(), 1e-3)
    state: dict[str, Any] = dict(modules={"model": model}, optimizers={"model": optimizer})
    save_checkpoint(folder, 1, **state)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, limit[1]))
    said = ""
    try:
        save_checkpoint(folder, 2, **state)
    except PosttrainError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    wait_for_ranks()
    assert load_latest(folder, **state) == (1, {})
    return said, [path.name for path in checkpoints(folder)]


def damaged_saves(model: Any, folder: Path) -> tuple[list[Any], list[str]]:
    """What is read when one rank cannot read the newest of two, when none can, after its step is saved again, and when
    none can read the only one."""
    shard(model, data_mesh("cpu"))
    state: dict[str, Any] = dict(modules={"model": model}, optimizers={"model": build_adamw(model.parameters(), 1e-3)})
    for step in (1, 2):
        save_checkpoint(folder, step, **state)
    found: list[Any] = [_loaded_without_one_rank(folder, state)]
    save_checkpoint(folder, 2, **state)
    _damage(folder / "step-00000002")
    found.append(load_latest(folder, **state))
    save_checkpoint(folder, 2, **state)
    found.append(load_latest(folder, **state))
    left = [path.name for path in checkpoints(folder)]
    if rank() == 0:
        shutil.rmtree(folder / "step-00000001")
    _damage(folder / "step-00000002")
    try:
        load_latest(folder, **state)
    except PosttrainError as error:
        found.append(str(error))
    wait_for_ranks()
    return [*found, load_latest(folder, **state)], left


def _loaded_without_one_rank(folder: Path, state: Mapping[str, Any]) -> Any:
    load = torch.load

    def fails(*_, **__):
        torch.load = load
        raise OSError(errno.EIO, "Input/output error")

    if rank() == 1:
        torch.load = fails
    return load_latest(folder, **state)


def _damage(saved: Path) -> None:
    wait_for_ranks()
    for file in saved.glob("*.distcp") if rank() == 0 else ():
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
    wait_for_ranks()


def loading_another(model: Any, folder: Path) -> str:
    """What is said when ``model`` is not the checkpoint's."""
    shard(model, data_mesh("cpu"))
    try:
        load_latest(folder, modules={"model": model}, optimizers={"model": build_adamw(model.parameters(), 1e-3)})
    except PosttrainError as error:
        return str(error)
    return ""


def curve(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


os.environ.setdefault("OMP_NUM_THREADS", "1")
