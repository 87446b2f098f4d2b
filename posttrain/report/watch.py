"""What a run is doing, read from its folder: the stages that stand or are being made, and their latest figures."""

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from posttrain.artifacts.lock import held
from posttrain.report.curves import FIRST, Curve, curves
from posttrain.report.published import artifacts_of

BLOCKS = "▁▂▃▄▅▆▇█"
SHOWN = 5  # figures of a stage
WIDE = 24  # characters of a sparkline


@dataclass(frozen=True)
class Watched:
    """One stage. ``state``: done, running, or stopped; ``seconds``: how long it took, or runs by now, None if stopped.

    ``step`` and ``curves``: of its metrics, 0 and none without.
    """

    name: str
    state: str
    seconds: float | None
    step: int
    curves: Sequence[Curve]

    @property
    def figures(self) -> list[str]:
        """Of a finished stage one line: how its figures began and ended. Of any other a line for each figure."""
        chief = [curve for curve in self.curves if curve.name in FIRST][:SHOWN]
        if self.state == "done":
            return ["  ".join(f"{curve.name} {curve.first:.3g} → {curve.last:.3g}" for curve in chief)]
        wide = max((len(curve.name) for curve in chief), default=0)
        return [f"{curve.name:{wide}} {sparkline(curve)} {curve.last:.4g}" for curve in chief] or [""]


def look(run: Path) -> list[Watched]:
    """Every stage under a run's folder, or behind its report, in the order in which they began."""
    found: list[tuple[float, Watched]] = []
    for folder in (path for path in run.iterdir() if path.is_dir()):
        for checkpoints in folder.glob(".checkpoints-*"):
            lock = folder / checkpoints.name.replace(".checkpoints", ".lock", 1)
            if held(lock):
                began = lock.stat().st_mtime
                found.append((began, _watched(folder.name, "running", time.time() - began, checkpoints)))
            elif checkpoints.is_dir():
                found.append((checkpoints.stat().st_mtime, _watched(folder.name, "stopped", None, checkpoints)))
    for stage, (folder, manifest) in artifacts_of(run).items():
        began = datetime.datetime.fromisoformat(manifest["started"]).timestamp()
        found.append((began, _watched(stage, "done", manifest["seconds"], folder)))
    return [watched for _, watched in sorted(found, key=lambda pair: pair[0])]


def table(stages: Sequence[Watched], height: int = 10**6) -> Table:
    """For a terminal of ``height`` lines: the first finished stages give way to those that run."""
    shown = Table(box=None, pad_edge=False, expand=True)
    for title in ("stage", "state", "time", "step", "figures"):
        side, rest = "right" if title in ("time", "step") else "left", 1 if title == "figures" else None
        shown.add_column(title, justify=side, ratio=rest, no_wrap=True, overflow="ellipsis")  # figures: what is left
    over = sum(len(stage.figures) for stage in stages) + 2 - height  # the head, and the line that the cursor is on
    left_out = 0
    while over > 0 and left_out < len(stages) and stages[left_out].state == "done":
        over -= 1 if left_out else 0  # the first makes room for the line that tells of them
        left_out += 1
    if left_out:
        shown.add_row(f"… {left_out} before", "done")
    for stage in stages[left_out:]:
        clock = "" if stage.seconds is None else str(datetime.timedelta(seconds=round(stage.seconds)))
        first, *others = stage.figures
        shown.add_row(stage.name, stage.state, clock, str(stage.step or ""), first)
        for line in others:
            shown.add_row("", "", "", "", line)
    return shown


def sparkline(curve: Curve) -> str:
    """The latest stretch of a curve, in blocks from its least value to its greatest."""
    values = [value for _, value in curve.points[-WIDE:]]
    low, high = min(values), max(values)
    return "".join(BLOCKS[round((value - low) / (high - low or 1) * (len(BLOCKS) - 1))] for value in values)


def _watched(name: str, state: str, seconds: float | None, folder: Path) -> Watched:
    found = curves(folder / "metrics.jsonl")
    step = int(max((curve.points[-1][0] for curve in found), default=0))
    return Watched(name, state, seconds, step, found)
