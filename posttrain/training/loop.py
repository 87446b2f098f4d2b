"""What every training stage does around its loss: resume, schedule, clip, step, log, checkpoint."""

import math
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from posttrain.artifacts.atomic import write_bytes, write_json
from posttrain.errors import PosttrainError
from posttrain.models.ranks import rank, world_size
from posttrain.training.checkpoint import CheckpointWriter, load_latest
from posttrain.training.flops import peak_flops, training_flops
from posttrain.training.in_place import add_in_place
from posttrain.training.interrupt import deferred_sigterm
from posttrain.training.metrics import MetricsLog
from posttrain.training.optimizer import (
    Schedule,
    build_adamw,
    clip_gradients,
    learning_rate_at,
    prepare_moments,
    set_learning_rate,
    step_or_skip,
)
from posttrain.training.sharding import on_any_rank, summed_over_ranks

SKIPPED_BEFORE_STOP = 3  # steps in a row whose gradient is not finite


class OptimizerSettings(Protocol):
    """What the loop needs of a recipe's block."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def optimizer(self) -> Literal["adamw", "adamw_8bit"]: ...
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
    def note(self, message: str) -> None: ...


@dataclass(frozen=True)
class _Step:
    """One optimizer step whose figures are still on the device."""

    rows: Sequence[int]
    learning_rate: float
    tokens: int
    lengths: Sequence[int]
    seconds: float
    grad_norm: torch.Tensor
    figures: Mapping[str, torch.Tensor | float]


def finite(value: float) -> float | None:
    """As JSON can hold it."""
    return value if math.isfinite(value) else None


def _peak_memory(device: torch.device) -> int:
    """Bytes: of a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
        device: str,
        *,
        ids: Sequence[str],
        checkpoints: str | os.PathLike,
        progress: Progress,
    ):
        """``device``: of the arithmetic; the weights may rest elsewhere (``cpu_offload``)."""
        self.model, self.plan, self.settings, self.progress = model, plan, settings, progress
        self.ids = ids  # of the rows that the plan numbers
        self.checkpoints = Path(checkpoints)
        self.optimizer = build_adamw(
            model.parameters(),
            settings.learning_rate,
            settings.weight_decay,
            eight_bit=settings.optimizer == "adamw_8bit",
        )
        resumed = load_latest(self.checkpoints, modules={"model": model}, optimizers={"model": self.optimizer})
        self._writer = CheckpointWriter(self.checkpoints)
        self.step = self._saved = resumed[0] if resumed else 0  # optimizer steps done
        if resumed and resumed[1]["planned_steps"] != len(plan):
            raise PosttrainError(
                f"{self.checkpoints} is of a run of {resumed[1]['planned_steps']} steps, this one has {len(plan)}; "
                "remove the folder"
            )
        self.log = MetricsLog(self.checkpoints / "metrics.jsonl", self.step) if rank() == 0 else None
        kept = resumed[1] if resumed else {"last": {}, "skipped": 0, "in_a_row": 0}
        self.last: dict[str, Any] = kept["last"]  # figures of the last step that was made
        self.skipped: int = kept["skipped"]  # steps whose gradient was not finite
        self._in_a_row: int = kept["in_a_row"]
        self._pending: _Step | None = None
        self._device = torch.device(device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)  # another stage of this process may have had more
        # In main memory gradients that come and go between activations leave it full of holes, a quarter of the peak.
        self._keeps_gradients = world_size() == 1 and self._device.type != "cuda"
        self._rows_before = [0, *accumulate(len(rows) for rows in plan)]  # by steps done
        self._peak = peak_flops() if self._device.type == "cuda" else None

    def steps(self, description: str) -> Iterator[Sequence[int]]:
        """Yields the rows of every step still to be made. SIGTERM ends the run after the step, with a checkpoint."""
        self.progress.start(description, len(self.plan), "steps", done=self.step)
        if self._keeps_gradients:
            for parameter in self.model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            prepare_moments(self.optimizer)
            add_in_place(self.model)
        self._clock = time.perf_counter()
        if self.log:
            self.log.follow(description.removeprefix("training "))
        try:
            with deferred_sigterm() as sigterm:
                while self.step < len(self.plan):
                    yield self.plan[self.step]
                    if on_any_rank(sigterm.asked):
                        self._save()
                        self._writer.finish()
                        sigterm.pass_on()
            self._settle()
            self._writer.finish()
        finally:
            self._writer.rest()
        if self.log:
            self.log.close()

    def update(
        self, *, tokens: int, loss: torch.Tensor | float, lengths: Sequence[int], **figures: torch.Tensor | float
    ) -> None:
        """One optimizer step on the gradients as they stand. ``tokens``: trained in it; ``lengths``: of all its rows.

        ``loss`` and the other figures are only logged: each rank gives its part, a sum over its rows by the step's
        denominator. A step whose gradient is not finite is skipped on the device. The host looks at a step's figures
        one step later, so that a GPU never waits for it.
        """
        settings, total = self.settings, len(self.plan)
        lr = learning_rate_at(self.step, total, settings.learning_rate, settings.schedule, settings.warmup_fraction)
        set_learning_rate(self.optimizer, lr)
        grad_norm = clip_gradients(self.model.parameters(), settings.clip_gradient_norm)
        step_or_skip(self.optimizer, grad_norm)
        self.optimizer.zero_grad(set_to_none=not self._keeps_gradients)
        self._settle()
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        whole = summed_over_ranks({"loss": loss, **figures})
        self._pending = _Step(self.plan[self.step], lr, tokens, lengths, seconds, grad_norm, whole)
        self.step += 1
        if self.step % settings.checkpoint_every == 0 and self.step < total:
            self._save()

    def _settle(self) -> None:
        """Logs the step before, now that the device is done with it."""
        step, self._pending = self._pending, None
        if step is None:
            return
        grad_norm = float(step.grad_norm)
        figures = {name: finite(float(value)) for name, value in step.figures.items()}
        if self.log:
            self.log.append(
                self.step,
                **figures,
                learning_rate=step.learning_rate,
                grad_norm=finite(grad_norm),
                trained_tokens=step.tokens,
                tokens_per_second=round(step.tokens / step.seconds, 1),
                input_tokens_per_second=round(sum(step.lengths) / step.seconds, 1),
                rows_seen=self._rows_before[self.step],
                memory_gib=round(_peak_memory(self._device) / 2**30, 3),
                mfu=self._mfu(step),
            )
        if math.isfinite(grad_norm):
            self._in_a_row, self.last = 0, figures
            self.progress.advance(1, **{name: value for name, value in figures.items() if value is not None})
            return
        self.skipped += 1
        self._in_a_row += 1
        bad = self.checkpoints / f"not-finite-{self.step:08d}.json"
        if self.log:
            write_json(bad, {"step": self.step, "rows": [self.ids[row] for row in step.rows], **figures})
        self.progress.note(f"step {self.step} is skipped: its gradient is not finite; its rows are in {bad}")
        if self._in_a_row == SKIPPED_BEFORE_STOP:
            raise PosttrainError(
                f"step {self.step}: the gradient is not finite, {self._in_a_row} steps in a row. Lower the learning "
                f"rate. {bad.parent} holds the rows of these steps (not-finite-*.json) and the last good checkpoint"
            )
        self.progress.advance(1)

    def _mfu(self, step: _Step) -> float | None:
        """The share of the GPUs' peak that the step's arithmetic took; None where the peak is unknown."""
        if self._peak is None:
            return None
        return round(training_flops(self.model, step.lengths) / step.seconds / self._peak / world_size(), 4)

    def _save(self) -> None:
        self._settle()
        if self._saved == self.step:
            return
        self._saved = self.step
        self._writer.begin(
            self.step,
            modules={"model": self.model},
            optimizers={"model": self.optimizer},
            extra={
                "planned_steps": len(self.plan),
                "last": self.last,
                "skipped": self.skipped,
                "in_a_row": self._in_a_row,
            },
        )

    def write_metrics(self, folder: str | os.PathLike) -> None:
        """Puts the whole curve beside the model, as ``metrics.jsonl``, and the rows of each skipped step."""
        if self.log is None:
            return
        for path in (self.log.path, *sorted(self.checkpoints.glob("not-finite-*.json"))):
            write_bytes(Path(folder) / path.name, path.read_bytes())

    @property
    def metrics(self) -> dict[str, Any]:
        """For the manifest: steps, those skipped, the last step's figures."""
        return {"steps": len(self.plan), "skipped_steps": self.skipped, **self.last}
