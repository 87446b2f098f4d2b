"""Puts a run's prompts to a sampler: in which order, and only what the journal does not hold."""

import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from posttrain.artifacts.hashing import digest_json
from posttrain.evaluation.protocol import Asked, Instance, Protocol
from posttrain.evaluation.render import Rendered
from posttrain.inference.journal import Journal, request_key
from posttrain.inference.protocols import Sampler, SampleRequest

WRITE_EVERY = (
    0.5  # seconds that an answer may wait for others to be written with: what a kill costs, beside those begun
)
SHORT = 128  # tokens; prompts of up to so many are asked together
SCORED_TOGETHER = 512  # choices


class Progress(typing.Protocol):
    """The part of a stage's progress that is used here."""

    def start(self, description: str, total: int, unit: str, done: int = 0) -> None: ...

    def advance(self, amount: int = 1, **shown: float) -> None: ...


class Silent:
    """Progress for nobody."""

    def start(self, description: str, total: int, unit: str, done: int = 0) -> None: ...

    def advance(self, amount: int = 1, **shown: float) -> None: ...


SILENT = Silent()


@dataclass(frozen=True)
class Question:
    """An instance as this model is asked it. ``request`` None: the prompt leaves no room, it counts as wrong.

    ``continuations``: the tokens of every choice, where their log-probabilities are wanted and not an answer.
    """

    task: str
    protocol: Protocol
    instance: Instance
    rendered: Rendered
    request: SampleRequest | None
    continuations: tuple[tuple[int, ...], ...] = ()

    @property
    def about(self) -> Asked:
        return self.protocol, self.instance

    @property
    def key(self) -> tuple[str, str]:
        return self.protocol.name, self.instance.id


@dataclass(frozen=True)
class Answer:
    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[float, ...] = ()  # of the choices


def draw(
    model: str, sampler: Sampler, requests: Sequence[SampleRequest], journal: Journal, progress: Progress = SILENT
) -> dict[tuple[str, int], Answer]:
    """(prompt id, sample) → answer; protocols that come down to the same request share one answer."""
    keys = [request_key(model, request) for request in requests]
    first: dict[str, SampleRequest] = {}
    for key, request in zip(keys, requests, strict=True):
        first.setdefault(key, request)
    wanted = {_place(request): key for key, request in first.items() if key not in journal}
    progress.start("answers", len(first), "answers", done=len(first) - len(wanted))
    finished: list[tuple[str, dict[str, typing.Any]]] = []
    try:
        written = monotonic()
        for together in segments(request for key, request in first.items() if key not in journal):
            for sample in sampler.generate(together):
                answer = {"token_ids": list(sample.token_ids), "finish_reason": sample.finish_reason}
                finished.append((wanted[_place(sample.request)], answer))
                progress.advance()
                if monotonic() - written > WRITE_EVERY:
                    journal.put_all(finished)
                    finished, written = [], monotonic()
    finally:
        journal.put_all(finished)
    answers = {}
    for key, request in zip(keys, requests, strict=True):
        stored = journal.get(key)
        assert stored is not None, f"the engine left {request.prompt_id} without an answer"
        answers[_place(request)] = Answer(tuple(stored["token_ids"]), stored["finish_reason"])
    return answers


def _place(request: SampleRequest) -> tuple[str, int]:
    return request.prompt_id, request.sample_index


def segments(requests: Iterable[SampleRequest]) -> Iterator[list[SampleRequest]]:
    """The longest prompts first, and with them those of half their length or more: all rows of an engine's batch
    attend over as many positions as its longest. Within a segment, prompts that begin alike are neighbours."""
    segment: list[SampleRequest] = []
    for request in sorted(requests, key=lambda request: -len(request.prompt_ids)):
        if segment and max(SHORT, 2 * len(request.prompt_ids)) < len(segment[0].prompt_ids):
            yield _in_order(segment)
            segment = []
        segment.append(request)
    if segment:
        yield _in_order(segment)


def _in_order(segment: list[SampleRequest]) -> list[SampleRequest]:
    return sorted(segment, key=lambda request: request.prompt_ids)


def weigh(
    model: str, sampler: Sampler, questions: Sequence[Question], journal: Journal, progress: Progress = SILENT
) -> dict[tuple[str, str], Answer]:
    """The log-probability of every choice after its prompt, summed over the choice's tokens."""
    keys = {
        question.key: [
            digest_json({"model": model, "prompt": question.rendered.token_ids, "continuation": choice})
            for choice in question.continuations
        ]
        for question in questions
    }
    wanted = {
        key: (question.rendered.token_ids, choice)
        for question in questions
        for key, choice in zip(keys[question.key], question.continuations, strict=True)
    }
    # Choices of one question side by side: they share its whole prompt. A block is written as a whole, so one that a
    # kill interrupts is scored anew in the same company, to the same last bits.
    ordered = sorted(wanted.items(), key=lambda item: item[1])
    blocks = [dict(ordered[i : i + SCORED_TOGETHER]) for i in range(0, len(ordered), SCORED_TOGETHER)]
    open_blocks = [block for block in blocks if not all(key in journal for key in block)]
    if wanted:
        progress.start("choices", len(wanted), "choices", done=len(wanted) - sum(map(len, open_blocks)))
    for block in open_blocks:
        scores = sampler.score([prompt + choice for prompt, choice in block.values()])
        journal.put_all(
            (key, {"logprob": sum(logprobs[len(prompt) :])})
            for (key, (prompt, _)), logprobs in zip(block.items(), scores, strict=True)
        )
        progress.advance(len(block))
    answers = {}
    for place, own in keys.items():
        stored = [journal.get(key) for key in own]
        answers[place] = Answer((), "stop", tuple(one["logprob"] for one in stored if one is not None))
    return answers
