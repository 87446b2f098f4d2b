"""Scores the answers of a finished evaluation again, without a model: new extractor or judge, same answers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.artifacts.atomic import write_json
from posttrain.artifacts.jsonl import read_jsonl, write_jsonl
from posttrain.errors import PosttrainError
from posttrain.evaluation.judging import judge_records
from posttrain.evaluation.protocol import UNANSWERED, Instance, NotRun, Protocol
from posttrain.evaluation.run import SCORES, Answered, protocol_of, records_file, scored
from posttrain.evaluation.suites import TASKS
from posttrain.evaluation.verify import verify
from posttrain.inference.openai import Server


def rescore(
    folder: Path, hub_mirror: Mapping[str, str], judges: Mapping[str, str | Server], output: Path
) -> dict[str, Any]:
    """Reads ``scores.json`` and the records in ``folder``, judges every answer anew, and writes both to ``output``.

    Raises PosttrainError if the task's rows are not the ones that were asked: an answer is scored against its own
    question alone.
    """
    old = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    new: dict[str, Any] = {**old, "rescored": True, "models": {}}
    output.mkdir(parents=True, exist_ok=True)
    for label, model in old["models"].items():
        records = [row for _, row in read_jsonl(folder / records_file(label))]
        tasks = [TASKS[name] for name in model["tasks"]]
        asked: dict[str, dict[str, tuple[Protocol, Instance]]] = {}
        missing = {}
        for task in tasks:
            protocol = protocol_of(task, model["format"])
            try:
                instances = task.load(protocol, hub_mirror, old["limits"]["instances"])
            except NotRun as reason:
                missing[task.name] = str(reason)
                continue
            asked[task.name] = {instance.id: (protocol, instance) for instance in instances}
        records = [record for record in records if record["task"] not in missing]
        places = [_place(asked, record, folder) for record in records]
        fresh = [_blank(record) for record in records]
        verify(fresh, places)
        judge_records(fresh, places, judges, output)
        answered = Answered(tasks, model["format"], missing, (), fresh)
        new["models"][label] = {"model": model["model"], "note": model["note"], **scored(answered, hub_mirror)}
        write_jsonl(output / records_file(label), fresh)
    write_json(output / SCORES, new)
    return new


def _place(
    asked: Mapping[str, Mapping[str, tuple[Protocol, Instance]]], record: Mapping[str, Any], folder: Path
) -> tuple[Protocol, Instance]:
    found = asked[record["task"]].get(record["id"])
    question = found and (found[1].prompt if isinstance(found[1].prompt, str) else found[1].prompt[-1]["content"])
    if found is None or str(question).strip() not in record["prompt"]:
        raise PosttrainError(
            f"{folder}: the rows of {record['task']} are not those that were asked ({record['id']} differs); "
            "name the same data under --mirror, or evaluate again."
        )
    return found


def _blank(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its scores, in its own order of fields."""
    dropped = {"judgement", "other_length"}
    kept = {name: value for name, value in record.items() if name not in dropped}
    if record["finish_reason"] in UNANSWERED:
        return kept
    return kept | {"outcome": "wrong", "score": 0.0, "detail": ""}
