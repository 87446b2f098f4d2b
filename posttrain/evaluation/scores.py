"""From records of single instances to the score of a task and of a suite."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from posttrain.artifacts.hashing import digest_json
from posttrain.evaluation.protocol import Protocol
from posttrain.evaluation.statistics import Estimate, average, mean_estimate

Record = Mapping[str, Any]


def task_score(protocol: Protocol, records: Sequence[Record]) -> dict[str, Any]:
    """One task's score with its interval and everything counted on the way.

    A verdict of ``error`` is the machine's fault, not the model's: the task is then "incomplete" and has no mean.
    """
    counts = {
        "n": len(records),
        "over_context": sum(r["finish_reason"] == "over context" for r in records),
        "cut_at_limit": sum(r["finish_reason"] == "length" for r in records),
        "timeouts": sum(r["outcome"] == "timeout" for r in records),
        "errors": sum(r["outcome"] == "error" for r in records),
        "response_tokens": sum(r["response_tokens"] for r in records),
    }
    about = {
        "protocol": protocol.name,
        "protocol_hash": protocol.hash,
        "format": protocol.format,
        "prompts_digest": digest_json([[r["id"], r["prompt"]] for r in records]),
    }
    if counts["errors"]:
        first = next(r["detail"] for r in records if r["outcome"] == "error")
        reason = f"{counts['errors']} of {len(records)} answers could not be verified: {' '.join(first.split())[:300]}"
        return {"status": "incomplete", "reason": reason, **about, **counts}
    return {"status": "scored", **about, **asdict(mean_estimate([r["score"] for r in records])), **counts}


def not_run(protocol: Protocol, reason: str) -> dict[str, Any]:
    return {"status": "not run", "reason": reason, "protocol": protocol.name, "protocol_hash": protocol.hash, "n": 0}


def suite_average(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Macro mean over the scored tasks, which it lists beside those that are missing from it.

    With nothing scored ``mean``, ``low`` and ``high`` are None.
    """
    scored = [name for name, task in tasks.items() if task["status"] == "scored"]
    missing = {name: task["status"] for name, task in tasks.items() if task["status"] != "scored"}
    estimate = average([estimate_of(tasks[name]) for name in scored]) if scored else None
    figures = asdict(estimate) if estimate else {"mean": None, "low": None, "high": None, "n": 0}
    return {**figures, "tasks": scored, "missing": missing}


def estimate_of(task: Mapping[str, Any]) -> Estimate:
    return Estimate(task["mean"], task["low"], task["high"], task["n"])


def scores_by_task(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """task → instance id → score, of instances that were verified."""
    found: dict[str, dict[str, float]] = {}
    for record in records:
        if record["outcome"] != "error":
            found.setdefault(record["task"], {})[record["id"]] = record["score"]
    return found
