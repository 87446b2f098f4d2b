"""Checkpoints of a running stage: whole or absent, the last two kept, read back to the bit.

A single process writes one file. Ranks write a folder together, each its own shards (torch.distributed.checkpoint).
Either is read by any number of ranks. DCP's index is a pickle: only a run's own folder is ever read.
"""

import os
import pickle
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from posttrain.artifacts.atomic import fsync_folder, writing
from posttrain.errors import PosttrainError
from posttrain.models.ranks import rank, world_size
from posttrain.training.optimizer import prepare_moments
from posttrain.training.sharding import on_any_rank, wait_for_ranks

KEPT = 2
EXTRA = "extra.pt"  # in a folder: the step and what is no module or optimizer
# In the RuntimeErrors that torch.load raises for a file that is cut short or overwritten.
TORN = ("PytorchStreamReader", "legacy .tar format", "corrupt")


def save_checkpoint(
    folder: str | os.PathLike,
    step: int,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Writes ``step-00000120.pt`` (of several ranks: a folder ``step-00000120``) and removes all but the last two.

    It holds weights, optimizer state, torch's random state, the CPU thread count and ``extra`` (plain values and
    tensors). Written under another name, fsynced, renamed: a kill or a full disk leaves the last good one alone.
    Ranks call it together and wait for each other.
    """
    writer = CheckpointWriter(folder)
    target = writer.begin(step, modules=modules, optimizers=optimizers, extra=extra, copy=False)
    writer.finish()
    return target


class CheckpointWriter:
    """Checkpoints as `save_checkpoint` writes them, by a thread, while training goes on.

    One is under way at a time. What goes wrong with it is raised by the next call. The state is copied before: it takes
    three times the weights' bytes of main memory until it is written.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._target = self.folder
        if rank() == 0:
            for left in [*self.folder.glob(".step-*.unfinished"), *self.folder.glob(".step-*.tmp")]:  # by a kill
                _remove(left)
        self._group: Any = None  # the ranks talk about a checkpoint beside what they say of the training

    def begin(
        self,
        step: int,
        *,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        extra: Mapping[str, Any] | None = None,
        copy: bool = True,
    ) -> Path:
        """Returns where it will stand. Without ``copy`` nothing may change the state before `finish`."""
        self.finish()
        rest = {
            "step": step,
            "random_state": torch.get_rng_state(),
            "threads": torch.get_num_threads(),
            "extra": _copied(dict(extra or {})),
        }
        self._target = target = self.folder / f"step-{step:08d}{'.pt' if world_size() == 1 else ''}"
        if world_size() > 1:
            state = _sharded_state(modules, optimizers)
            # What lies on a GPU, DCP copies itself.
            state = _copied(state, device="cpu") if copy else state
            self._pending = self._begin_together(target, rest, state)
            return target
        state = {
            "modules": {name: trained_state(module) for name, module in modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        }
        self._pending = self._pool.submit(self._write_alone, target, rest | (_copied(state) if copy else state))
        return target

    def finish(self) -> None:
        """Waits until the last one stands. Ranks call it together. Raises PosttrainError when it cannot be written."""
        if self._pending is None:
            return
        try:
            self._pending.result()
        except (OSError, RuntimeError, dcp.CheckpointException) as reason:  # zip and DCP writers wrap a full disk
            raise PosttrainError(
                f"{self._target}: the checkpoint could not be written: {reason}. The one before it is intact; "
                "free some space and run the same command again"
            ) from reason
        finally:
            self._pending = None
        wait_for_ranks()

    def rest(self) -> None:
        """Waits until nothing is written any more, whatever comes of it: for a run that ends by an error."""
        if self._pending is not None:
            wait([self._pending])

    def _write_alone(self, target: Path, state: Mapping[str, Any]) -> None:
        with writing(target) as file:
            torch.save(dict(state), file)
        self._rotate()

    def _begin_together(self, target: Path, rest: Mapping[str, Any], state: dict[str, Any]) -> "Future[None]":
        unfinished = target.with_name(f".{target.name}.unfinished")
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        if rank() == 0:
            unfinished.mkdir(parents=True)
        wait_for_ranks()
        saved = dcp.async_save(
            state,
            storage_writer=dcp.FileSystemWriter(unfinished, sync_files=True),
            process_group=cast(Any, self._group),
        )

        def put_in_place() -> None:
            cast(Future, saved).result()  # every rank's part is written: DCP has told them all
            if rank() == 0:
                with writing(unfinished / EXTRA) as file:
                    torch.save(dict(rest), file)
                unfinished.rename(target)
                fsync_folder(target.parent)
                self._rotate()

        return self._pool.submit(put_in_place)

    def _rotate(self) -> None:
        for old in checkpoints(self.folder)[:-KEPT]:
            _remove(old)


def _copied(value: Any, device: str | None = None) -> Any:
    """Its tensors (those on ``device``) copied, to main memory if they are this process's alone."""
    if isinstance(value, torch.Tensor):
        if device is not None and value.device.type != device:
            return value
        return value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: _copied(part, device) for name, part in value.items()}
    return [_copied(part, device) for part in value] if isinstance(value, list) else value


def _sharded_state(modules: Mapping, optimizers: Mapping) -> dict[str, Any]:
    """Keyed by parameter names, whatever the number of ranks; of a fresh AdamW zeros, as a place to read into."""
    return {
        name: {"module": trained_state(module), "optimizer": _optimizer_state(module, optimizers[name])}
        for name, module in modules.items()
    }


def _optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    prepare_moments(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {names[parameter]: dict(optimizer.state[parameter]) for parameter in parameters}


def load_latest(
    folder: str | os.PathLike,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> tuple[int, dict[str, Any]] | None:
    """Restores the newest readable checkpoint in place; returns (step, extra), or None when there is none.

    One that is damaged, as any rank sees it, is set aside (``damaged-step-…``) with a warning, for the one before it;
    anything else that ends the reading (no memory, a rank lost, Ctrl-C) is raised and leaves it alone. The thread count
    is set as it was. Raises PosttrainError when the checkpoint is of another model, and when the only one is damaged,
    as half of it may stand in the model by then.
    """
    damaged = None
    for path in reversed(checkpoints(folder)):
        state: dict[str, Any] = {}
        index: dcp.Metadata | None = None
        reason: BaseException | None = None
        try:
            state = torch.load(path / EXTRA if path.is_dir() else path, map_location="cpu", weights_only=True)
            if path.is_dir():
                index = dcp.FileSystemReader(path).read_metadata()
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = _damage(error)
        readable = not on_any_rank(reason is not None)
        if readable and index is not None:
            try:
                _restore_together(path, index, modules, optimizers)
            except dcp.CheckpointException as error:  # the same on every rank
                reason, readable = _damage(error), False
        if not readable:
            reason = reason or PosttrainError("another rank cannot read it")
            warnings.warn(f"the checkpoint {path} is damaged ({reason}); the one before it is used", stacklevel=2)
            damaged = _set_aside(path)
            continue
        if index is None:
            _restore(path, state, modules, optimizers)
            torch.set_num_threads(state["threads"])
        torch.set_rng_state(state["random_state"])
        return state["step"], state["extra"]
    if damaged:
        raise PosttrainError(
            f"{damaged}: the only checkpoint cannot be read. Run the same command again to begin at the first step"
        )
    return None


def _damage(error: BaseException) -> BaseException:
    """What tells that the file's own bytes cannot be read; raises what went wrong otherwise, on whichever rank."""
    failures = [of for of, _ in error.failures.values()] if isinstance(error, dcp.CheckpointException) else [error]
    for failure in failures:
        torn = isinstance(failure, RuntimeError) and any(words in str(failure) for words in TORN)
        if not torn and not isinstance(failure, OSError | EOFError | pickle.UnpicklingError):
            raise failure
    return failures[0]


def _set_aside(path: Path) -> Path:
    """Renames a checkpoint that cannot be read: its step will be written again, and it is no last good one."""
    aside = path.with_name(f"damaged-{path.name}")
    if rank() == 0:
        _remove(aside)
        path.rename(aside)
    return aside


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checkpoints(folder: str | os.PathLike) -> list[Path]:
    """Oldest first."""
    return sorted(Path(folder).glob("step-*"))


def _restore(path: Path, state: dict[str, Any], modules: Mapping, optimizers: Mapping) -> None:
    for kind, live in (("modules", modules), ("optimizers", optimizers)):
        if set(state[kind]) != set(live):
            raise PosttrainError(
                f"{path} holds the {kind} {sorted(state[kind])}, not {sorted(live)}: remove its folder"
            )
    try:
        for name, module in modules.items():
            live, saved = trained_state(module), state["modules"][name]
            if live.keys() != saved.keys():
                raise ValueError(f"they differ in {', '.join(sorted(live.keys() ^ saved.keys())[:3])}")
            module.load_state_dict({n: _spread_like(live[n], t) for n, t in saved.items()}, strict=False)
        for name, optimizer in optimizers.items():
            live = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            saved = state["optimizers"][name]
            for index, of_parameter in saved["state"].items():
                saved["state"][index] = {n: _spread_like(live[index], t) for n, t in of_parameter.items()}
            optimizer.load_state_dict(saved)
    except (RuntimeError, ValueError) as reason:
        raise PosttrainError(f"{path} is a checkpoint of another model: {reason}. Remove its folder") from reason


def trained_state(module: nn.Module) -> dict[str, Any]:
    """Its state without what is frozen: beside adapters the model is as it was read."""
    frozen = tuple(n for n, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad)
    return {name: tensor for name, tensor in module.state_dict().items() if not (frozen and name.startswith(frozen))}


def _spread_like(live: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a single process's tensor, where ``live`` is sharded."""
    if not isinstance(live, DTensor) or whole.shape != live.shape:
        return whole
    return distribute_tensor(whole.to(live.device), live.device_mesh, live.placements, src_data_rank=None)


def _restore_together(path: Path, index: dcp.Metadata, modules: Mapping, optimizers: Mapping) -> None:
    state, stored = _sharded_state(modules, optimizers), index.state_dict_metadata
    for module, live in state.items():
        for name, tensor in live["module"].items():
            size = getattr(stored.get(f"{module}.module.{name}"), "size", None)
            if size != tensor.shape:
                raise PosttrainError(
                    f"{path} is a checkpoint of another model: {name} is {size} there, {tensor.shape} here. "
                    "Remove its folder"
                )
    reader = dcp.FileSystemReader(path)
    dcp.load(state, storage_reader=reader, no_dist=world_size() == 1)  # into the live tensors, in place
