"""The curve of a training run: one JSON line per optimizer step, continued where a restart resumes.

Besides, if the environment asks: POSTTRAIN_TENSORBOARD names a folder, POSTTRAIN_WANDB a project.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.artifacts.jsonl import JsonlAppender, read_jsonl, write_jsonl
from posttrain.errors import PosttrainError


class MetricsLog:
    """Appends rows with a ``step``; opened after a kill, it first drops rows of steps that will be made again."""

    def __init__(self, path: str | os.PathLike, steps_done: int):
        path = Path(path)
        if path.exists():
            JsonlAppender(path).close()  # repairs a torn last line
            write_jsonl(path, [row for _, row in read_jsonl(path) if row["step"] <= steps_done])
        self.path = path
        self._file = JsonlAppender(path)
        self._followers: list[Callable[[int, dict[str, float]], None]] = []

    def follow(self, name: str) -> None:
        """From now on tensorboard and wandb are told too, as the run ``name``, if the environment asks for them."""
        self._followers = [
            open_run(where, name)
            for variable, open_run in (("POSTTRAIN_TENSORBOARD", _tensorboard), ("POSTTRAIN_WANDB", _wandb))
            if (where := os.environ.get(variable))
        ]

    def append(self, step: int, **figures: Any) -> None:
        self._file.append({"step": step, **figures})
        for follower in self._followers:
            follower(step, dict(_flat(figures)))

    def close(self) -> None:
        self._file.close()


def _flat(figures: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, float]]:
    """Figures in a figure become ``group/name``; those that are None are left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{group}{name}/")
        elif value is not None:
            yield group + name, value


def _tensorboard(folder: str, name: str) -> Callable[[int, dict[str, float]], None]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as reason:
        raise PosttrainError(f"POSTTRAIN_TENSORBOARD: pip install 'posttrain[tracking]' ({reason})") from reason
    writer = SummaryWriter(str(Path(folder) / name))

    def tell(step: int, figures: dict[str, float]) -> None:
        for figure, value in figures.items():
            writer.add_scalar(figure, value, step)
        writer.flush()

    return tell


def _wandb(project: str, name: str) -> Callable[[int, dict[str, float]], None]:
    try:
        import wandb
    except ImportError as reason:
        raise PosttrainError(f"POSTTRAIN_WANDB: pip install 'posttrain[tracking]' ({reason})") from reason
    run = wandb.init(project=project, name=name, reinit="finish_previous")
    return lambda step, figures: run.log(figures, step=step)
