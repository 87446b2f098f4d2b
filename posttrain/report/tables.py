"""The tables of a report, as plain data: tasks × models with intervals, averages, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.evaluation.scores import Record, scores_by_task, suite_average
from posttrain.evaluation.statistics import mcnemar, paired_difference


@dataclass(frozen=True)
class Evaluated:
    """One evaluation artifact: what its scores.json holds, and the records of each model by label."""

    scores: Mapping[str, Any]
    records: Mapping[str, Sequence[Record]]


def suites(evaluations: Sequence[Evaluated], compare: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """suite → ``{"tasks": {task: {label: …}}, "average": {label: …}, "compare": […], "limits", "notes"}``.

    Evaluations of one suite are joined, also the tasks of one label, over which its average is then taken. Raises
    PosttrainError if a label means different weights, if a task of it came out differently twice, if limits differ
    within a suite, or if ``compare`` names a label that no evaluation scores.
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
        for label, notes in suite["notes"].items():
            own_tasks = {task: by_label[label] for task, by_label in suite["tasks"].items() if label in by_label}
            suite["average"][label] = suite_average(own_tasks)
            suite["notes"][label] = "; ".join(filter(None, notes))
        pairs = [(a, b) for a, b in compare if (name, a) in records and (name, b) in records]
        suite["compare"] = [compared(a, b, suite["tasks"], records[name, a], records[name, b]) for a, b in pairs]
    for label in {label for pair in compare for label in pair} - set(weights):
        raise PosttrainError(
            f"report: compare names {label!r}, which no evaluation scores; there are {', '.join(weights)}."
        )
    return found


def compared(
    a: str, b: str, tasks: Mapping[str, Mapping[str, Any]], records_a: Sequence[Record], records_b: Sequence[Record]
) -> dict[str, Any]:
    """A − B on the same instances: macro over the tasks that both were scored on, and each task for itself.

    ``difference`` is None where they share none. ``missing`` lists tasks that only one of them was scored on. A task's
    ``same_protocol`` is False where the two were asked in different ways, as a base model is next to a chat model.
    """
    scores_a, scores_b = scores_by_task(records_a), scores_by_task(records_b)
    scored = {label: {t for t, by in tasks.items() if by.get(label, {}).get("status") == "scored"} for label in (a, b)}
    shared = [task for task in tasks if task in scored[a] & scored[b]]
    missing = sorted(scored[a] ^ scored[b])
    if not shared:
        return {
            "a": a,
            "b": b,
            "difference": None,
            "low": None,
            "high": None,
            "n": 0,
            "per_task": {},
            "missing": missing,
        }
    x, y = {}, {}
    for task in shared:
        if scores_a[task].keys() != scores_b[task].keys():
            raise PosttrainError(f"report: {a} and {b} answered different instances of {task}; evaluate them together.")
        x[task] = list(scores_a[task].values())
        y[task] = [scores_b[task][instance] for instance in scores_a[task]]
    per_task = {}
    for task in shared:
        test = mcnemar([score == 1.0 for score in x[task]], [score == 1.0 for score in y[task]])
        per_task[task] = {
            **_difference({task: x[task]}, {task: y[task]}),
            "mcnemar": asdict(test),
            "same_protocol": tasks[task][a]["protocol_hash"] == tasks[task][b]["protocol_hash"],
        }
    return {"a": a, "b": b, **_difference(x, y), "per_task": per_task, "missing": missing}


def _difference(x: Mapping[str, Sequence[float]], y: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    figures = asdict(paired_difference(x, y))
    return {"difference": figures.pop("mean"), **figures}
