"""Asks one model everything: the union of all tasks' prompts through one engine, journalled, then verified."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from transformers import PreTrainedTokenizerBase

from posttrain.artifacts.hashing import digest_folder
from posttrain.artifacts.hub import looks_like_hub_id, resolve_commit
from posttrain.artifacts.jsonl import write_jsonl
from posttrain.data.chat import prepare_tokenizer
from posttrain.evaluation.asking import SILENT, Answer, Progress, Question, draw, weigh
from posttrain.evaluation.judging import judge_records
from posttrain.evaluation.protocol import Asked, Format, Instance, NotRun, Task
from posttrain.evaluation.protocol import Protocol as TaskProtocol
from posttrain.evaluation.render import continuations, render, response_text
from posttrain.evaluation.scores import not_run, suite_average, task_score
from posttrain.evaluation.sealed import run_folder
from posttrain.evaluation.verify import about, verify
from posttrain.inference.journal import Journal
from posttrain.inference.openai import Server
from posttrain.inference.opening import open_local
from posttrain.inference.protocols import Sampler, SampleRequest, SamplingParameters

SCORES = "scores.json"


@dataclass(frozen=True)
class Limits:
    """What a run restricts beyond its protocols; all of it is in the scores. None: the protocol's own."""

    instances: int | None = None  # per task
    prompt_tokens: int | None = None  # longer prompts count as wrong, "over context"
    response_tokens: int | None = None


NO_LIMITS = Limits()
NO_JUDGES: Mapping[str, str | Server] = {}


@dataclass(frozen=True)
class Answered:
    """What a model answered: scores wait for `verify` and for judges."""

    tasks: Sequence[Task]
    format: Format
    missing: Mapping[str, str]  # task → the data that it needs
    asked: Sequence[Asked]
    records: list[dict[str, Any]]


def protocol_of(task: Task, format: Format) -> TaskProtocol:
    """A base model is asked in the plain protocol."""
    return task.plain if format == "plain" else task.chat


def evaluate(
    model: str,
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    *,
    format: Format,
    journal: Path,
    hub_mirror: Mapping[str, str],
    limits: Limits = NO_LIMITS,
    progress: Progress = SILENT,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores by task with their average, and one record per answer in the order of tasks and instances; no judge.

    ``model`` identifies the weights: an answer that stands in ``journal`` for the same weights, prompt and sampling is
    not asked again, so a killed run goes on where it was.
    """
    given: dict[str, Any] = {"format": format, "journal": journal, "hub_mirror": hub_mirror}
    answered = answer(model, sampler, tokenizer, tasks, **given, limits=limits, progress=progress)
    verify(answered.records, answered.asked)
    return scored(answered, hub_mirror), answered.records


def answer(
    model: str,
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    *,
    format: Format,
    journal: Path,
    hub_mirror: Mapping[str, str],
    limits: Limits = NO_LIMITS,
    progress: Progress = SILENT,
) -> Answered:
    """Asks everything that ``journal`` does not hold, as one stream, and makes the records, not scored yet."""
    questions: list[Question] = []
    missing: dict[str, str] = {}
    for task in tasks:
        protocol = protocol_of(task, format)
        try:
            instances = task.load(protocol, hub_mirror, limits.instances)
        except NotRun as reason:
            missing[task.name] = str(reason)
            continue
        for instance in instances:
            questions += _questions(task.name, protocol, instance, sampler, tokenizer, limits)
    with Journal(journal) as answers:
        drawn = draw(model, sampler, [q.request for q in questions if q.request], answers, progress)
        weighed = weigh(model, sampler, [q for q in questions if q.continuations], answers, progress)
    records = []
    for question in questions:
        request, key = question.request, question.key
        found = Answer((), "over context")
        if question.continuations:
            found = weighed.get(key, found)
        elif request is not None:
            found = drawn[request.prompt_id, request.sample_index]
        records.append(_record(question, found, tokenizer))
    return Answered(tasks, format, missing, [question.about for question in questions], records)


def scored(answered: Answered, hub_mirror: Mapping[str, str]) -> dict[str, Any]:
    """``{"format", "tasks", "average"}`` of records whose checks and judgements are made."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for record in answered.records:
        by_task.setdefault(record["task"], []).append(record)
    scores = {}
    for task in answered.tasks:
        protocol = protocol_of(task, answered.format)
        if task.name in answered.missing:
            scores[task.name] = not_run(protocol, answered.missing[task.name])
        else:
            scores[task.name] = task_score(protocol, by_task.get(task.name, []), task.combine, hub_mirror)
            if looks_like_hub_id(protocol.data) and protocol.data not in hub_mirror:  # it was loaded: no question asked
                scores[task.name]["commit"] = resolve_commit(protocol.data, prefer="dataset")[1]
        if task.within:
            scores[task.name]["within"] = task.within
    return {"format": answered.format, "tasks": scores, "average": suite_average(scores)}


def _questions(
    name: str,
    protocol: TaskProtocol,
    instance: Instance,
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
) -> list[Question]:
    """One question per sample; a single one where choices are weighed."""
    rendered = render(tokenizer, protocol, instance)
    length, decoding = len(rendered.token_ids), protocol.decoding
    choices: tuple[tuple[int, ...], ...] = ()
    if protocol.answers != "text":
        choices = tuple(tuple(ids) for ids in continuations(tokenizer, rendered, instance.choices))
    needed = length + max(map(len, choices), default=1)
    if length == 0 or needed > sampler.context_length or length > (limits.prompt_tokens or length):
        return [Question(name, protocol, instance, rendered, None)] * protocol.samples
    letters = protocol.answers == "letters" and len({ids for ids in choices if len(ids) == 1}) == len(choices)
    if choices and not letters:
        return [Question(name, protocol, instance, rendered, None, choices)]
    eos = tokenizer.eos_token_id
    sampling = SamplingParameters(
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        max_tokens=1
        if letters
        else min(limits.response_tokens or decoding.max_tokens, sampler.context_length - length),
        stop_token_ids=() if eos is None else (eos,),
        stop_strings=decoding.stop_strings,
        allowed_token_ids=tuple(ids[0] for ids in choices) if letters else None,
    )
    id = f"{protocol.name}/{instance.id}"
    requests = [SampleRequest(id, sample, rendered.token_ids, sampling) for sample in range(protocol.samples)]
    return [Question(name, protocol, instance, rendered, request) for request in requests]


def _record(question: Question, found: Answer, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    protocol, instance = question.protocol, question.instance
    response, reason = response_text(tokenizer, protocol, found.token_ids), found.finish_reason
    if protocol.answers == "letters" and reason != "over context":
        reason = "stop"  # one token is all that was wanted
        if found.logprobs:
            response = instance.choices[found.logprobs.index(max(found.logprobs))]
    elif found.logprobs:
        response = json.dumps(found.logprobs)
    return answer_record(
        protocol,
        instance,
        task=question.task,
        prompt=question.rendered.text,
        response=response,
        finish_reason=reason,
        prompt_tokens=len(question.rendered.token_ids),
        response_tokens=len(found.token_ids),
        sample=question.request.sample_index if question.request else 0,
    )


def answer_record(
    protocol: TaskProtocol,
    instance: Instance,
    *,
    task: str,
    prompt: str,
    response: str,
    finish_reason: str,
    prompt_tokens: int = 0,
    response_tokens: int = 0,
    sample: int = 0,
) -> dict[str, Any]:
    """The record of one answer, not scored yet."""
    return {
        "task": task,
        "protocol": protocol.name,
        "id": instance.id,
        "prompt": prompt,
        "response": response,
        "outcome": "wrong",
        "score": 0.0,
        "detail": "",
        "finish_reason": finish_reason,
        "prompt_tokens": prompt_tokens,
        "response_tokens": response_tokens,
        **about(instance, protocol, sample),
    }


def records_file(label: str) -> str:
    """The name of a model's records; labels may hold spaces and slashes, file names may not."""
    return f"records-{quote(label, safe='')}.jsonl"


def journal_file(label: str) -> str:
    return f"journal-{quote(label, safe='')}.jsonl"


def identity(path: Path) -> str:
    """What tells a model's weights from others: the key of its artifact, or the digest of its files."""
    return path.name if run_folder(path) else digest_folder(path)


def score_model(
    path: Path,
    tasks: Sequence[Task],
    *,
    label: str,
    output: Path,
    journal: Path,
    hub_mirror: Mapping[str, str],
    limits: Limits = NO_LIMITS,
    chat_template: str | None = None,
    rope_positions: int | None = None,
    device: str = "cpu",
    judges: Mapping[str, str | Server] = NO_JUDGES,
    judge_journals: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Scores the model in ``path`` and writes ``records-LABEL.jsonl`` to ``output``.

    ``judges``: name of a judge → the model folder or server that plays it, or a JSONL file of recorded judgements; they
    are opened once the policy is gone. ``judge_journals``: where their answers stay (None: beside ``journal``).

    Returns ``{"model", "note", "format", "tasks", "average"}``. A model whose tokenizer has no chat template, when none
    is given, is asked in the plain form, and ``note`` says so. A bad model folder raises PosttrainError.
    """
    sampler, tokenizer = open_local(path, device=device, rope_positions=rope_positions, listed=True)
    format, notes = "chat", []
    if chat_template is None and tokenizer.chat_template is None:
        format = "plain"
        notes.append("asked in plain form, as its tokenizer has no chat template")
    else:
        prepare_tokenizer(tokenizer, chat_template)
    if rope_positions is not None:
        notes.append(f"loaded with {rope_positions:,} RoPE positions")
    model = identity(path)
    given: dict[str, Any] = {"format": format, "journal": journal, "hub_mirror": hub_mirror}
    answered = answer(model, sampler, tokenizer, tasks, **given, limits=limits, progress=progress)
    sampler.close()
    del sampler  # before judges take the memory
    verify(answered.records, answered.asked)
    judge_records(answered.records, answered.asked, judges, judge_journals or journal.parent, device=device)
    scores = scored(answered, hub_mirror)
    write_jsonl(output / records_file(label), answered.records)
    return {"model": model, "note": "; ".join(notes), **scores}
