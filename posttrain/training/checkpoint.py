"""Checkpoints of a running stage: whole or absent, the last two kept, read back to the bit."""

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from posttrain.artifacts.atomic import writing
from posttrain.errors import PosttrainError

KEPT = 2


def save_checkpoint(
    folder: str | os.PathLike,
    step: int,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Writes ``step-00000120.pt`` beside the one before it and removes older ones.

    It holds weights, optimizer state, torch's random state, the CPU thread count and ``extra`` (plain values and
    tensors). Written under another name, fsynced, renamed: a kill or a full disk leaves the last good one alone.
    """
    folder = Path(folder)
    target = folder / f"step-{step:08d}.pt"
    state = {
        "step": step,
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "random_state": torch.get_rng_state(),
        "threads": torch.get_num_threads(),
        "extra": dict(extra or {}),
    }
    try:
        with writing(target) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as reason:  # torch's zip writer turns a full disk into a RuntimeError
        raise PosttrainError(
            f"{target}: the checkpoint could not be written: {reason}. The one before it is intact; "
            "free some space and run the same command again"
        ) from reason
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return target


def load_latest(
    folder: str | os.PathLike,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> tuple[int, dict[str, Any]] | None:
    """Restores the newest readable checkpoint in place; returns (step, extra), or None when there is none.

    A damaged file is passed over with a warning, for the one before it. The thread count is set as it was. Raises
    PosttrainError when the checkpoint is of another model.
    """
    for path in reversed(checkpoints(folder)):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as reason:
            warnings.warn(f"the checkpoint {path} is damaged ({reason}); the one before it is used", stacklevel=2)
            continue
        _restore(path, state, modules, optimizers)
        torch.set_rng_state(state["random_state"])
        torch.set_num_threads(state["threads"])
        return state["step"], state["extra"]
    return None


def checkpoints(folder: str | os.PathLike) -> list[Path]:
    """Oldest first."""
    return sorted(Path(folder).glob("step-*.pt"))


def _restore(path: Path, state: dict[str, Any], modules: Mapping, optimizers: Mapping) -> None:
    for kind, live in (("modules", modules), ("optimizers", optimizers)):
        if set(state[kind]) != set(live):
            raise PosttrainError(
                f"{path} holds the {kind} {sorted(state[kind])}, not {sorted(live)}: remove its folder"
            )
    try:
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
    except (RuntimeError, ValueError) as reason:
        raise PosttrainError(f"{path} is a checkpoint of another model: {reason}. Remove its folder") from reason
