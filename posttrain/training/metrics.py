"""The curve of a training run: one JSON line per optimizer step, continued where a restart resumes."""

import os
from pathlib import Path
from typing import Any

from posttrain.artifacts.jsonl import JsonlAppender, read_jsonl, write_jsonl


class MetricsLog:
    """Appends rows with a ``step``; opened after a kill, it first drops rows of steps that will be made again."""

    def __init__(self, path: str | os.PathLike, steps_done: int):
        path = Path(path)
        if path.exists():
            JsonlAppender(path).close()  # repairs a torn last line
            write_jsonl(path, [row for _, row in read_jsonl(path) if row["step"] <= steps_done])
        self.path = path
        self._file = JsonlAppender(path)

    def append(self, step: int, **figures: Any) -> None:
        self._file.append({"step": step, **figures})

    def close(self) -> None:
        self._file.close()
