"""The tables of a report, as plain data: tasks × models with intervals, averages, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.evaluation.compare import Compared, Scored, compare
from posttrain.evaluation.scores import Record, suite_average


@dataclass(frozen=True)
class Evaluated:
    """One evaluation artifact: what its scores.json holds, and the records of each model by label."""

    scores: Mapping[str, Any]
    records: Mapping[str, Sequence[Record]]


def suites(evaluations: Sequence[Evaluated], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """suite → ``{"tasks": {task: {label: …}}, "average": {label: …}, "compare": […], "limits", "notes"}``.

    Evaluations of one suite are joined, also the tasks of one label, over which its average is then taken. Raises
    PosttrainError if a label means different weights, if a task of it came out differently twice, if limits differ
    within a suite, or if ``pairs`` names a label that no evaluation scores.
    """
    found: dict[str, Any] = {}
    weights: dict[str, str] = {}
    records: dict[tuple[str, str], list[Record]] = {}
    for evaluated in evaluations:
        scores = evaluated.scores
        suite = found.setdefault(scores["suite"], {"tasks": {}, "average": {}, "limits": scores["limits"], "notes": {}})
        if suite["limits"] != scores["limits"]:
            raise PosttrainError(
                f"report: evaluations of the {scores['suite']} suite ran under different limits ({suite['limits']} and "
                f"{scores['limits']}); give them the same, or each its own report."
            )
        for label, model in scores["models"].items():
            if weights.setdefault(label, model["model"]) != model["model"]:
                raise PosttrainError(
                    f"report: the label {label!r} names two different models; give each its own label."
                )
            if model["note"] not in (notes := suite["notes"].setdefault(label, [])):
                notes.append(model["note"])
            new = {task for task in model["tasks"] if label not in suite["tasks"].get(task, {})}
            for task, score in model["tasks"].items():
                if suite["tasks"].setdefault(task, {}).setdefault(label, score) != score:
                    raise PosttrainError(
                        f"report: two evaluations score {label!r} differently on {task}; leave one out."
                    )
            own = [record for record in evaluated.records[label] if record["task"] in new]
            records.setdefault((scores["suite"], label), []).extend(own)
    for name, suite in found.items():
        scored: dict[str, Scored] = {}
        for label, notes in suite["notes"].items():
            own_tasks = {task: by_label[label] for task, by_label in suite["tasks"].items() if label in by_label}
            scored[label] = Scored(label, own_tasks, records[name, label])
            suite["average"][label] = suite_average(own_tasks)
            suite["notes"][label] = "; ".join(filter(None, notes))
        suite["compare"] = [compared(scored[a], scored[b]) for a, b in pairs if a in scored and b in scored]
    for label in {label for pair in pairs for label in pair} - set(weights):
        raise PosttrainError(
            f"report: compare names {label!r}, which no evaluation scores; there are {', '.join(weights)}."
        )
    return found


def compared(a: Scored, b: Scored) -> dict[str, Any]:
    """A − B on the same instances: over the tasks that both were scored on, and each task for itself.

    ``difference`` is None where they share too little. ``missing`` lists tasks that are no part of it. A task's
    ``same_protocol`` is False where the two were asked in different ways, as a base model is next to a chat model.
    """
    found, average, missing = compare([a], [b])
    whole = _figures(average) if average else {"difference": None, "low": None, "high": None, "n": 0}
    per_task = {
        one.task: {
            **_figures(one),
            "mcnemar": asdict(one.test) if one.test else None,
            "same_protocol": one.same_protocol,
            "left_out": one.left_out,
        }
        for one in found
    }
    return {"a": a.label, "b": b.label, **whole, "per_task": per_task, "missing": missing}


def _figures(one: Compared) -> dict[str, Any]:
    low, high = one.bootstrap or (None, None)
    interval = {"difference": one.difference, "low": one.low, "high": one.high, "n": one.n}
    return interval | {"bootstrap_low": low, "bootstrap_high": high}
