"""From records of single instances to the score of a task and of a suite."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from posttrain.artifacts.hashing import digest_json
from posttrain.evaluation.protocol import NotRun, Protocol
from posttrain.evaluation.statistics import Estimate, average, estimate, pass_at_k

Record = Mapping[str, Any]


def task_score(
    protocol: Protocol,
    records: Sequence[Record],
    combine: Callable[[Sequence[Record], Mapping[str, str]], dict[str, Any]] | None = None,
    hub_mirror: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One task's score with its interval and everything counted on the way.

    A verdict of ``error`` is the machine's fault, not the model's: the task is then "incomplete" and has no mean. A
    record whose outcome is "not judged" leaves the task without one too; one that is "left out" is counted and no part
    of the mean. ``combine``: the figures of a task that is no mean over its instances.
    """
    counts = {
        "n": len({r["id"] for r in records}),
        "over_context": sum(r["finish_reason"] == "over context" for r in records),
        "cut_at_limit": sum(r["finish_reason"] == "length" for r in records),
        "timeouts": sum(r["outcome"] == "timeout" for r in records),
        "errors": sum(r["outcome"] == "error" for r in records),
        "response_tokens": sum(r["response_tokens"] for r in records),
    }
    if protocol.judge:
        counts["unreadable_judgements"] = sum("unreadable" in r.get("judgement", {}) for r in records)
        counts["left_out"] = sum(r["outcome"] == "left out" for r in records)
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
    if waiting := [r for r in records if r["outcome"] == "not judged"]:
        return {"status": "not judged", "reason": waiting[0]["detail"], **about, **counts}
    kept = [r for r in records if r["outcome"] != "left out"]
    if not kept:
        return {"status": "incomplete", "reason": "no answer could be judged", **about, **counts}
    if combine is None:
        return {"status": "scored", **about, **asdict(_estimate(protocol, kept)), **counts}
    try:
        return {"status": "scored", **about, **combine(kept, hub_mirror or {}), **counts}
    except NotRun as reason:
        raw = sum(r["score"] for r in kept) / len(kept)
        return {"status": "not run", "reason": f"{reason}; raw win rate {raw:.4f}", **about, **counts}


def _estimate(protocol: Protocol, records: Sequence[Record]) -> Estimate:
    by_id = instance_scores(protocol, records)
    first = {record["id"]: record for record in reversed(records)}
    groups = [first[id].get("group", "") for id in by_id] if protocol.averaged == "groups" else []
    return estimate(list(by_id.values()), groups, [first[id].get("cluster", "") for id in by_id])


def instance_scores(protocol: Protocol, records: Sequence[Record]) -> dict[str, float]:
    """Instance id → score: of its only answer, or pass@k of its samples."""
    scores: dict[str, list[float]] = {}
    for record in records:
        scores.setdefault(record["id"], []).append(record["score"])
    if protocol.metric != "pass@k":
        return {id: sum(own) / len(own) for id, own in scores.items()}
    return {id: pass_at_k(len(own), sum(score == 1.0 for score in own), protocol.k) for id, own in scores.items()}


def not_run(protocol: Protocol, reason: str) -> dict[str, Any]:
    return {"status": "not run", "reason": reason, "protocol": protocol.name, "protocol_hash": protocol.hash, "n": 0}


def suite_average(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Macro mean over the scored tasks, which it lists beside those that are missing from it.

    A task may be ``within`` a component, "safety" or "safety/wildjailbreak"; a component counts
    as one task, and only if all of its parts are scored. With nothing scored ``mean``, ``low`` and
    ``high`` are None.
    """
    found: dict[str, Estimate | None] = {
        name: estimate_of(task) if task["status"] == "scored" else None for name, task in tasks.items()
    }
    missing = {name: task["status"] for name, task in tasks.items() if task["status"] != "scored"}
    place = {name: task["within"] for name, task in tasks.items() if "within" in task}
    components: dict[str, Any] = {}
    while place:  # the deepest first
        deepest = max(place.values(), key=lambda path: path.count("/"))
        parts = [name for name, path in place.items() if path == deepest]
        values = [found.pop(name) for name in parts]
        known = [value for value in values if value is not None]
        whole = average(known) if len(known) == len(values) else None
        found[deepest] = whole
        components[deepest] = {**(asdict(whole) if whole else {"mean": None}), "parts": parts}
        place = {name: path for name, path in place.items() if path != deepest}
        if "/" in deepest:
            place[deepest] = deepest.rpartition("/")[0]
    scored = [name for name, value in found.items() if value is not None]
    total = average([value for value in found.values() if value is not None]) if scored else None
    figures = asdict(total) if total else {"mean": None, "low": None, "high": None, "n": 0}
    return {**figures, "tasks": scored, "missing": missing, **({"components": components} if components else {})}


def estimate_of(task: Mapping[str, Any]) -> Estimate:
    return Estimate(task["mean"], task["low"], task["high"], task["n"])
