"""Asks a model behind a chat endpoint: messages and text are all that it takes and gives."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.evaluation.asking import SILENT, Progress
from posttrain.evaluation.judging import judge_records
from posttrain.evaluation.protocol import Asked, Instance, NotRun, Protocol, Task
from posttrain.evaluation.render import before_stops
from posttrain.evaluation.run import (
    NO_JUDGES,
    NO_LIMITS,
    Answered,
    Limits,
    answer_record,
    records_file,
    scored,
)
from posttrain.evaluation.verify import verify
from posttrain.inference.openai import Server
from posttrain.inference.protocols import ChatAnswer, ChatFailure, ChatRequest, SamplingParameters

Ask = Callable[[Iterable[ChatRequest]], Iterator[ChatAnswer | ChatFailure]]
MOST_STOPS = 4  # strings that servers take; all of them end the text that is scored


def unaskable(protocol: Protocol, instance: Instance | None = None) -> str:
    """Why an endpoint cannot be asked this; "" where it can."""
    if protocol.answers != "text":
        return "needs log-probabilities"
    if protocol.format == "plain":
        return "needs a plain prompt"
    if protocol.prefill or (instance is not None and instance.prefill):
        return "needs answers that go on from a given beginning"
    return ""


def score_endpoint(
    model: str,
    ask: Ask,
    tasks: Sequence[Task],
    *,
    label: str,
    output: Path,
    hub_mirror: Mapping[str, str],
    limits: Limits = NO_LIMITS,
    device: str = "cpu",
    judges: Mapping[str, str | Server] = NO_JUDGES,
    judge_journals: Path,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """`score_model` for a model that ``ask`` answers for (it keeps the journal); ``model`` is its name there.

    Tasks that need token ids, log-probabilities or a prefill are not run. A request that the server refuses counts as
    wrong; one that got no answer leaves its task incomplete. ``limits.prompt_tokens`` does not hold: the server counts.
    """
    missing: dict[str, str] = {}
    questions: dict[str, tuple[str, Protocol, Instance, ChatRequest]] = {}
    for task in tasks:
        try:
            instances = task.load(task.chat, hub_mirror, limits.instances)
        except NotRun as reason:
            missing[task.name] = str(reason)
            continue
        if reason := next(filter(None, (unaskable(task.chat, instance) for instance in instances)), ""):
            missing[task.name] = f"{reason}, which a chat endpoint does not offer"
            continue
        for instance in instances:
            for request in _requests(task.chat, instance, limits):
                questions[f"{request.id} {request.sample_index}"] = (task.name, task.chat, instance, request)
    progress.start("answers", len(questions), "answers")
    found: dict[str, ChatAnswer | ChatFailure] = {}
    for one in ask(request for *_, request in questions.values()):
        found[f"{one.request.id} {one.request.sample_index}"] = one
        progress.advance()
    records = [_record(*questions[place], found[place]) for place in questions]
    asked: list[Asked] = [(protocol, instance) for _, protocol, instance, _ in questions.values()]
    verify(records, asked)
    judge_records(records, asked, judges, judge_journals, device=device)
    scores = scored(Answered(tasks, "chat", missing, asked, records), hub_mirror)
    write_jsonl(output / records_file(label), records)
    return {"model": model, "note": "asked over a chat endpoint, in the server's own template", **scores}


def _requests(protocol: Protocol, instance: Instance, limits: Limits) -> list[ChatRequest]:
    decoding = protocol.decoding
    assert not isinstance(instance.prompt, str), "chat protocols ask in messages"
    sampling = SamplingParameters(
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        max_tokens=limits.response_tokens or decoding.max_tokens,
        stop_strings=decoding.stop_strings[:MOST_STOPS],
    )
    id = f"{protocol.name}/{instance.id}"
    return [ChatRequest(id, tuple(instance.prompt), sampling, sample) for sample in range(protocol.samples)]


def _record(
    task: str, protocol: Protocol, instance: Instance, request: ChatRequest, found: ChatAnswer | ChatFailure
) -> dict[str, Any]:
    prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in request.messages)
    given: dict[str, Any] = {"task": task, "prompt": prompt, "sample": request.sample_index}
    if isinstance(found, ChatAnswer):
        return answer_record(
            protocol,
            instance,
            **given,
            response=before_stops(protocol, found.text),
            finish_reason=found.finish_reason,
            prompt_tokens=int(found.usage.get("prompt_tokens", 0)),
            response_tokens=int(found.usage.get("completion_tokens", 0)),
        )
    reason = "refused" if found.reason == "refused" else "no answer"
    record = answer_record(protocol, instance, **given, response="", finish_reason=reason)
    return record | {"detail": found.detail, "outcome": "wrong" if reason == "refused" else "error"}
