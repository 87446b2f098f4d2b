"""From draws to requests, and from answers to candidates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from posttrain.data.rows import VerifiablePrompt
from posttrain.inference.protocols import ChatAnswer, ChatRequest, SamplingParameters
from posttrain.preferences.judge import Candidate
from posttrain.preferences.pool import Draw

T = TypeVar("T")


def requests_to(
    model: str,
    prompts: Sequence[VerifiablePrompt],
    draws: Mapping[str, Sequence[Draw]],
    *,
    seed: int,
    top_p: float,
    max_tokens: int,
) -> list[ChatRequest]:
    """All that ``model`` is asked, in the order of the prompts; a request's id is its prompt's."""
    return [
        ChatRequest(
            prompt.id,
            prompt.messages,
            SamplingParameters(draw.member.temperature, top_p, max_tokens, seed=seed),
            draw.sample_index,
        )
        for prompt in prompts
        for draw in draws[prompt.id]
        if draw.member.model == model
    ]


def as_candidate(draw: Draw, answer: ChatAnswer) -> Candidate:
    finished = answer.finish_reason == "stop"
    return Candidate(draw.member, draw.sample_index, answer.text, finished, answer.usage["completion_tokens"])


def blocks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive runs of at most ``size`` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
