"""What every training stage does around its loss: resume, schedule, clip, step, log, checkpoint."""

import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from posttrain.artifacts.atomic import write_bytes
from posttrain.errors import PosttrainError
from posttrain.training.checkpoint import load_latest, save_checkpoint
from posttrain.training.metrics import MetricsLog
from posttrain.training.optimizer import (
    Schedule,
    build_adamw,
    clip_gradients,
    learning_rate_at,
    set_learning_rate,
)


class OptimizerSettings(Protocol):
    """What the loop needs of a recipe's block."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def warmup_fraction(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip_gradient_norm(self) -> float: ...
    @property
    def checkpoint_every(self) -> int: ...


class Progress(Protocol):
    """The part of a stage's progress that the loop tells."""

    def start(self, description: str, total: int, unit: str, done: int = 0) -> None: ...
    def advance(self, amount: int = 1, **shown: float) -> None: ...


class TrainingLoop:
    """Drives ``model`` through ``plan`` (the rows of each optimizer step), from the last checkpoint if there is one.

    Iterate over `steps`; in each, run backward on losses already divided by the step's denominator, then call `update`
    once. A killed run that is started again with the same arguments ends in bit-identical weights.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Sequence[Sequence[int]],
        settings: OptimizerSettings,
        *,
        checkpoints: str | os.PathLike,
        progress: Progress,
    ):
        self.model, self.plan, self.settings, self.progress = model, plan, settings, progress
        self.checkpoints = Path(checkpoints)
        self.optimizer = build_adamw(model.parameters(), settings.learning_rate, settings.weight_decay)
        resumed = load_latest(self.checkpoints, modules={"model": model}, optimizers={"model": self.optimizer})
        self.step = resumed[0] if resumed else 0  # optimizer steps done
        if resumed and resumed[1]["planned_steps"] != len(plan):
            raise PosttrainError(
                f"{self.checkpoints} is of a run of {resumed[1]['planned_steps']} steps, this one has {len(plan)}; "
                "remove the folder"
            )
        self.log = MetricsLog(self.checkpoints / "metrics.jsonl", self.step)
        self.last: dict[str, Any] = {}

    def steps(self, description: str) -> Iterator[Sequence[int]]:
        """Yields the rows of every step still to be made."""
        self.progress.start(description, len(self.plan), "steps", done=self.step)
        self._clock = time.perf_counter()
        while self.step < len(self.plan):
            yield self.plan[self.step]
        self.log.close()

    def update(self, *, tokens: int, loss: torch.Tensor | float, **figures: float) -> None:
        """One optimizer step on the gradients as they stand. ``tokens``: trained in it; the rest is only logged."""
        settings, total = self.settings, len(self.plan)
        lr = learning_rate_at(self.step, total, settings.learning_rate, settings.schedule, settings.warmup_fraction)
        set_learning_rate(self.optimizer, lr)
        grad_norm = float(clip_gradients(self.model.parameters(), settings.clip_gradient_norm))
        if not math.isfinite(grad_norm):
            raise PosttrainError(
                f"step {self.step + 1}: the gradient is not finite (loss {float(loss)}). Lower the learning rate; "
                f"the last good checkpoint is in {self.checkpoints}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        self.last = {"loss": float(loss), **{name: float(value) for name, value in figures.items()}}
        self.log.append(
            self.step,
            **self.last,
            learning_rate=lr,
            grad_norm=grad_norm,
            trained_tokens=tokens,
            tokens_per_second=round(tokens / seconds, 1),
        )
        if self.step % settings.checkpoint_every == 0 and self.step < total:
            save_checkpoint(
                self.checkpoints,
                self.step,
                modules={"model": self.model},
                optimizers={"model": self.optimizer},
                extra={"planned_steps": total},
            )
        self.progress.advance(1, **self.last)

    def write_metrics(self, folder: str | os.PathLike) -> None:
        """Puts the whole curve beside the model, as ``metrics.jsonl``."""
        write_bytes(Path(folder) / "metrics.jsonl", self.log.path.read_bytes())
