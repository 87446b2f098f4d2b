"""What a stage logged at its steps, as curves that a page can draw."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.artifacts.jsonl import read_jsonl

POINTS = 240  # a curve of more steps is drawn by the least and the greatest value of half as many stretches
WIDTH, HEIGHT = 300.0, 96.0
# First what tells whether a stage went well; everything else stands behind "more".
FIRST = (
    *("loss", "accuracy", "margin", "reward_chosen", "reward_rejected", "score", "correct_rate", "kl_sample"),
    *("response_tokens", "entropy", "eos_rate", "explained_variance", "heldout"),
)


@dataclass(frozen=True)
class Curve:
    """``points``: (step, value). ``path``: their SVG path in a box of WIDTH × HEIGHT, the least value at its foot."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def first(self) -> float:
        return self.points[0][1]

    @property
    def last(self) -> float:
        return self.points[-1][1]

    @property
    def low(self) -> float:
        return min(value for _, value in self.points)

    @property
    def high(self) -> float:
        return max(value for _, value in self.points)

    @property
    def chief(self) -> bool:
        """Whether it is among the curves that are shown at once."""
        return self.name.split(".")[0] in FIRST or (self.name.startswith("by_") and self.name.endswith("correct_rate"))

    @property
    def path(self) -> str:
        left, right, low = self.points[0][0], self.points[-1][0], self.low
        across, up = WIDTH / (right - left or 1), HEIGHT / (self.high - low or 1)
        return "M" + "L".join(f"{(x - left) * across:.1f},{HEIGHT - (y - low) * up:.1f}" for x, y in self.drawn)

    @property
    def drawn(self) -> Sequence[tuple[float, float]]:
        """At most `POINTS` of its points and its ends, among them every least and greatest: no spike is lost."""
        if len(self.points) <= POINTS:
            return self.points
        edges = [len(self.points) * part // (POINTS // 2) for part in range(POINTS // 2 + 1)]
        kept = {0, len(self.points) - 1}
        for begin, end in itertools.pairwise(edges):
            kept |= {of(range(begin, end), key=lambda at: self.points[at][1]) for of in (min, max)}
        return [self.points[at] for at in sorted(kept)]


def curves(metrics: Path) -> list[Curve]:
    """Every figure of a metrics.jsonl at all of its steps, nested names joined by dots; chief ones first, [] for no
    file."""
    if not metrics.is_file():
        return []
    found: dict[str, list[tuple[float, float]]] = {}
    for _, row in read_jsonl(
        metrics, on_bad=lambda *_: None
    ):  # the last line of a stage that is being made may be torn
        for name, value in _numbers(row):
            found.setdefault(name, []).append((row["step"], value))
    made = [Curve(name, tuple(points)) for name, points in found.items() if len(points) > 1]
    order = {name: rank for rank, name in enumerate(FIRST)}
    return sorted(made, key=lambda curve: (not curve.chief, order.get(curve.name.split(".")[0], len(order))))


def _numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and value == value and name != "step":
            yield f"{prefix}{name}", float(value)
