"""Two models on the same instances: differences with intervals, gains and losses, and which instances changed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import hypot
from pathlib import Path
from typing import Any

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.errors import PosttrainError
from posttrain.evaluation.run import SCORES, protocol_of, records_file
from posttrain.evaluation.scores import estimate_of, instance_scores, suite_average
from posttrain.evaluation.statistics import (
    Estimate,
    McNemar,
    Z,
    mcnemar,
    minimum_detectable,
    paired_difference,
)
from posttrain.evaluation.suites import TASKS, check_task_names


@dataclass(frozen=True)
class Scored:
    """One model's part of an evaluation: its task scores and its records."""

    label: str
    tasks: Mapping[str, Mapping[str, Any]]
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """A − B on one task (or, with ``task`` "average", over all of them).

    ``detectable``: the true difference that so many instances would show in four of five repetitions. ``left_out``:
    instances that both were asked and that are no part of one's score. ``changed``: (id, A's score, B's score).
    ``bootstrap`` and ``test`` are None where a task's score is no mean over instances.
    """

    task: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    n: int
    detectable: float
    bootstrap: tuple[float, float] | None = None
    test: McNemar | None = None
    same_protocol: bool = True
    left_out: int = 0
    changed: tuple[tuple[str, float, float], ...] = ()


def read_scored(reference: str) -> Scored:
    """``FOLDER`` of an evaluation of one model, or ``FOLDER:LABEL``. Raises PosttrainError for anything else."""
    place, _, label = (reference, "", "") if Path(reference).is_dir() else reference.rpartition(":")
    if not (Path(place) / SCORES).is_file():
        raise PosttrainError(f"{reference}: no {SCORES} there. Give the folder that `posttrain evaluate` printed.")
    models = json.loads((Path(place) / SCORES).read_text(encoding="utf-8"))["models"]
    if not label and len(models) == 1:
        label = next(iter(models))
    if label not in models:
        raise PosttrainError(f"{reference}: name one of its models as {place}:LABEL: {', '.join(models)}.")
    records = [row for _, row in read_jsonl(Path(place) / records_file(label))]
    return Scored(label, models[label]["tasks"], records)


def compare(a: Sequence[Scored], b: Sequence[Scored]) -> tuple[list[Compared], Compared | None, list[str]]:
    """Every task that both were scored on; their average; and the tasks that are no part of it.

    Several of one side are its runs on different seeds: an instance's score is its mean over them. Instances are
    weighed as in a task's score, tasks as in a suite's average, which is None without a whole component. The interval
    is normal with the cluster-robust standard error of the paired differences; the bootstrap resamples clusters.
    Raises PosttrainError where the two were asked different instances.
    """
    shown = {name: task for one in (*b, *a) for name, task in one.tasks.items()}
    scored = [{n for n in shown if all(_is_scored(one, n) for one in side)} for side in (a, b)]
    shared = [name for name in shown if name in scored[0] & scored[1]]
    check_task_names(shared)
    found = [one for name in shared if (one := _on_task(name, a, b))]
    within = {name: {"within": task["within"]} for name, task in shown.items() if "within" in task}
    average, parts = _average(found, within)
    return found, average, sorted((scored[0] | scored[1]) - parts)


def _is_scored(one: Scored, name: str) -> bool:
    return one.tasks.get(name, {}).get("status") == "scored"


def _on_task(name: str, a: Sequence[Scored], b: Sequence[Scored]) -> Compared | None:
    """None where no instance counts for both."""
    records = [[r for r in one.records if r["task"] == name] for one in (*a, *b)]
    first = {record["id"]: record for record in reversed(records[0])}
    asked = list(dict.fromkeys(record["id"] for record in records[0]))
    if any({record["id"] for record in own} != set(asked) for own in records):
        raise PosttrainError(
            f"{a[0].label} and {b[0].label} answered different instances of {name}; evaluate both alike."
        )
    protocol = protocol_of(TASKS[name], a[0].tasks[name]["format"])
    scores = [instance_scores(protocol, [r for r in own if r["outcome"] != "left out"]) for own in records]
    kept = [id for id in asked if all(id in own for own in scores)]
    if not kept:
        return None
    left, right = (
        [sum(own[id] for own in side) / len(side) for id in kept] for side in (scores[: len(a)], scores[len(a) :])
    )
    about: dict[str, Any] = {
        "same_protocol": len({one.tasks[name]["protocol_hash"] for one in (*a, *b)}) == 1,
        "left_out": len(asked) - len(kept),
        "changed": tuple((id, x, y) for id, x, y in zip(kept, left, right, strict=True) if x != y),
    }
    if TASKS[name].combine is not None:  # one figure for all instances: its difference has the two figures' intervals
        x, y = (_over_seeds([estimate_of(one.tasks[name]) for one in side]) for side in (a, b))
        difference = x.mean - y.mean
        low = difference - hypot(x.mean - x.low, y.high - y.mean)
        high = difference + hypot(x.high - x.mean, y.mean - y.low)
        detectable = minimum_detectable((high - low) / 2 / Z)
        return Compared(name, x.mean, y.mean, difference, low, high, len(kept), detectable, **about)
    groups = [first[id].get("group", "") for id in kept] if protocol.averaged == "groups" else []
    found = paired_difference(left, right, groups, [first[id].get("cluster", "") for id in kept])
    return Compared(
        name,
        _mean(left, groups),
        _mean(right, groups),
        found.mean,
        found.low,
        found.high,
        len(kept),
        minimum_detectable(max(found.high - found.mean, found.mean - found.low) / Z),
        (found.bootstrap_low, found.bootstrap_high),
        mcnemar([score == 1.0 for score in left], [score == 1.0 for score in right]),
        **about,
    )


def _over_seeds(runs: Sequence[Estimate]) -> Estimate:
    """All answered the same instances, so what these leave open no number of seeds makes less."""
    mean, low, high = (sum(bounds) / len(runs) for bounds in zip(*((r.mean, r.low, r.high) for r in runs), strict=True))
    return Estimate(mean, low, high, runs[0].n)


def _mean(scores: Sequence[float], groups: Sequence[str]) -> float:
    if not any(groups):
        return sum(scores) / len(scores)
    by_group: dict[str, list[float]] = {}
    for score, group in zip(scores, groups, strict=True):
        by_group.setdefault(group, []).append(score)
    return sum(sum(own) / len(own) for own in by_group.values()) / len(by_group)


def _average(found: Sequence[Compared], within: Mapping[str, Mapping[str, str]]) -> tuple[Compared | None, set[str]]:
    """And the tasks that it is of."""

    def over(figures: Mapping[str, tuple[float, float, float]]) -> Mapping[str, Any]:
        absent = {name: {"status": "not shared", **place} for name, place in within.items()}
        return suite_average(
            absent
            | {
                one.task: {
                    "status": "scored",
                    **asdict(Estimate(*figures[one.task], one.n)),
                    **within.get(one.task, {}),
                }
                for one in found
            }
        )

    total = over({one.task: (one.difference, one.low, one.high) for one in found})
    if total["mean"] is None:
        return None, set()
    # A part counts only in a whole component, which stands among the tasks by its outermost name.
    place = {one.task: within.get(one.task, {"within": one.task})["within"] for one in found}
    parts = {task for task, path in place.items() if path.split("/")[0] in total["tasks"]}
    drawn = over({one.task: (one.difference, *(one.bootstrap or (one.low, one.high))) for one in found})
    whole = Compared(
        "average",
        over({one.task: (one.a, one.a, one.a) for one in found})["mean"],
        over({one.task: (one.b, one.b, one.b) for one in found})["mean"],
        total["mean"],
        total["low"],
        total["high"],
        total["n"],
        minimum_detectable((total["high"] - total["low"]) / 2 / Z),
        (drawn["low"], drawn["high"]),
        same_protocol=all(one.same_protocol for one in found if one.task in parts),
    )
    return whole, parts
