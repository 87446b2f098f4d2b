"""Sources become one clean set: read, decontaminate, drop duplicates, take the amounts asked for, shuffle, write.

Writes data.jsonl (published layout), mixture.json (what came from where and what was left out, with reasons),
decontamination.json (every source against every evaluation) and, if there are any, rejected.jsonl (bad rows).
"""

from collections.abc import Mapping
from typing import Any

from posttrain.artifacts.atomic import write_json
from posttrain.data.content import user_turns
from posttrain.data.mixing import keyed_order, requested, select, with_unique_ids, without_duplicates
from posttrain.data.readers import write_rows
from posttrain.data.rejects import Rejects
from posttrain.data.rows import Row
from posttrain.data.sources import find_source
from posttrain.decontamination.index import EvaluationIndex, EvaluationItem
from posttrain.decontamination.profiles import PROFILES
from posttrain.decontamination.report import decide, find_overlaps
from posttrain.errors import PosttrainError
from posttrain.evaluation import suites
from posttrain.stages.base import StageContext

VERSION = 1


def run(context: StageContext) -> dict[str, Any]:
    settings, progress = context.settings, context.progress
    check = settings.decontamination
    if check:
        evaluations, not_run = evaluation_items(check.suites, context.hub_mirror)
        index = EvaluationIndex(evaluations, PROFILES[check.profile])
        if not_run:
            progress.note(f"not checked against {', '.join(not_run)}: their data is not there")
    rejects = Rejects(context.output / "rejected.jsonl")
    seen: set[str] = set()
    mixed: list[Row] = []
    parts, reports = [], []

    for part in settings.sources:
        amount = {"fraction": part.fraction, "count": part.count, "repeat": part.repeat}
        local = context.resolve(part.data) if part.data.startswith("stage:") else part.data
        source = find_source(
            local, hub_mirror=context.hub_mirror, revision=part.revision, split=part.split, name=part.data
        )
        rejected_before = rejects.count
        rows = list(source.rows(settings.rows, rejects=rejects, limit=part.limit))

        decision = None
        clean = rows
        if check:
            progress.start(f"checking {part.data} against the evaluations", len(rows), "rows")
            report = find_overlaps(
                ((row.id, user_turns(row)) for row in rows),
                index,
                item_threshold=check.item_threshold,
                set_threshold=check.set_threshold,
                on_row=progress.advance,
            )
            decision = decide(report, check.on_contamination)
            clean = [row for number, row in enumerate(rows) if number not in decision.dropped]
            reports.append(
                {"source": part.data}
                | report.as_json()
                | {
                    "decision": {"action": decision.action, "reason": decision.reason},
                    "dropped_ids": [rows[number].id for number in sorted(decision.dropped)],
                }
            )
            if decision.dropped:
                progress.note(f"{part.data}: {len(decision.dropped)} of {len(rows)} rows left out, {decision.reason}")

        fresh = without_duplicates(clean, seen)
        used = select(fresh, **amount, seed=context.seed, source=part.data)
        wanted = requested(len(fresh), **amount)
        if len(used) < wanted:
            progress.note(f"{part.data}: {wanted} rows were asked for, {len(used)} are there")
        mixed += used
        parts.append(
            {
                "source": part.data,
                "provenance": source.provenance,
                "limit": part.limit,
                **amount,
                "read": len(rows) + rejects.count - rejected_before,
                "removed": {
                    "rejected": rejects.count - rejected_before,
                    "contaminated": len(rows) - len(clean),
                    "duplicate": len(clean) - len(fresh),
                },
                "decontamination": decision.reason if decision else "not checked: the recipe sets none",
                "available": len(fresh),
                "requested": wanted,
                "used": len(used),
            }
        )

    if not mixed:
        left_out = "; ".join(f"{part['source']}: read {part['read']}, removed {part['removed']}" for part in parts)
        raise PosttrainError(f"mixture {context.name}: no row is left to train on ({left_out}).")
    unique = list(with_unique_ids(mixed))
    renamed = sum(row.id != before.id for row, before in zip(unique, mixed, strict=True))
    if settings.shuffle:
        unique = [unique[position] for position in keyed_order((row.id for row in unique), context.seed, "shuffle")]
    count = write_rows(context.output / "data.jsonl", unique)
    if check:
        write_json(context.output / "decontamination.json", {"not_run": not_run, "sources": reports})
    manifest = {
        "rows": count,
        "kind": settings.rows,
        "seed": context.seed,
        "shuffled": settings.shuffle,
        "ids_made_unique": renamed,
        "sources": parts,
        "rejected_reasons": dict(sorted(rejects.reasons.items())),
        "decontamination": check and check.model_dump(mode="json") | {"not_run": not_run},
    }
    write_json(context.output / "mixture.json", manifest)
    removed = {reason: sum(part["removed"][reason] for part in parts) for reason in parts[0]["removed"]}
    return {"rows": {"data": count, **removed}, "metrics": {}}


def evaluation_items(
    names: tuple[suites.Suite, ...], hub_mirror: Mapping[str, str]
) -> tuple[dict[str, list[EvaluationItem]], list[str]]:
    """The prompts of the suites' tasks by ``SUITE/TASK``, and those tasks whose data is not there."""
    items: dict[str, list[EvaluationItem]] = {}
    for name in names:
        for task, prompts in suites.prompts(name, hub_mirror).items():
            items[f"{name}/{task}"] = [EvaluationItem(id, fields) for id, fields in prompts]
    every = [f"{name}/{task.name}" for name in names for task in suites.SUITES[name]]
    return items, [task for task in every if task not in items]
