"""The way from data to model as a picture: stages in rows, below what they were made from."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BOX, ROW, HEIGHT, GAP = 150, 74, 40, 14  # px: a box's width, the way from row to row, a box's height, between boxes


@dataclass(frozen=True)
class Box:
    """``x``, ``y``: its upper left corner. ``outside``: read from outside of the run."""

    name: str
    kind: str
    x: float
    y: float
    outside: bool

    @property
    def shown(self) -> str:
        return self.name if len(self.name) <= 20 else f"…{self.name[-19:]}"


@dataclass(frozen=True)
class Edge:
    """``path``: SVG, from the foot of ``upper`` to the head of ``lower``, past the boxes of the rows between."""

    upper: Box
    lower: Box
    path: str


@dataclass(frozen=True)
class Graph:
    boxes: Sequence[Box]
    edges: Sequence[Edge]
    width: float
    height: float


def graph(kinds: Mapping[str, str], inputs: Mapping[str, Sequence[str]], outside: Mapping[str, Sequence[str]]) -> Graph:
    """``kinds``: stage → kind, inputs before what uses them. ``inputs``, ``outside``: what each was made from.

    Every stage stands close above its first user. An edge that a longer way implies is left out.
    """
    strangers = dict.fromkeys(name for names in outside.values() for name in names)
    above: dict[str, set[str]] = {name: set() for name in strangers}
    edges: list[tuple[str, str]] = []
    depth = dict.fromkeys(strangers, 0)
    for stage in kinds:
        parents = [name for name in dict.fromkeys((*inputs.get(stage, ()), *outside.get(stage, ()))) if name in above]
        above[stage] = set(parents).union(*(above[name] for name in parents))
        edges += [(name, stage) for name in parents if not any(name in above[other] for other in parents)]
        depth[stage] = max((depth[name] + 1 for name in parents), default=0)
    for name in reversed(list(depth)):
        depth[name] = min((depth[user] - 1 for upper, user in edges if upper == name), default=depth[name])

    # An edge passes each row between its ends at a point of its own, so that it crosses no box.
    ways: list[list[Any]] = [[a, *((a, b, row) for row in range(depth[a] + 1, depth[b])), b] for a, b in edges]
    rows: list[list[Any]] = [[name for name in depth if depth[name] == row] for row in range(max(depth.values()) + 1)]
    for way in ways:
        for point in way[1:-1]:
            rows[point[2]].append(point)
    wide = {item: BOX if isinstance(item, str) else GAP for row in rows for item in row}
    width = max(sum(wide[item] + GAP for item in row) for row in rows) + GAP
    centre: dict[Any, float] = {}
    for row in rows:
        over = {item: [centre[a] for way in ways for a, b in itertools.pairwise(way) if b == item] for item in row}
        row.sort(key=lambda item: sum(over[item]) / len(over[item]) if over[item] else width / 2)
        x = (width - sum(wide[item] + GAP for item in row) + GAP) / 2
        for item in row:
            centre[item] = x + wide[item] / 2
            x += wide[item] + GAP
    boxes = {
        name: Box(name, kinds.get(name, "given"), centre[name] - BOX / 2, GAP + row * ROW, name in strangers)
        for name, row in depth.items()
    }
    drawn = [
        Edge(boxes[a], boxes[b], _path([centre[item] for item in way], depth[a]))
        for (a, b), way in zip(edges, ways, strict=True)
    ]
    return Graph(list(boxes.values()), drawn, width, len(rows) * ROW + GAP)


def _path(across: Sequence[float], row: int) -> str:
    """Through points of consecutive rows, upright past each row between the first and the last."""
    path = f"M{across[0]:g} {GAP + row * ROW + HEIGHT}"
    for number, (x, onward) in enumerate(itertools.pairwise(across), row + 1):
        y, bend = GAP + number * ROW, (ROW - HEIGHT) * 0.65
        path += f"C{x:g} {y - ROW + HEIGHT + bend:g} {onward:g} {y - bend:g} {onward:g} {y}V{y + HEIGHT}"
    return path[: path.rindex("V")]
