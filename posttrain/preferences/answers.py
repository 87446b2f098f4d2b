"""From draws to requests, and from answers to candidates."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from posttrain.data.rows import VerifiablePrompt
from posttrain.inference.protocols import ChatAnswer, ChatRequest, SamplingParameters
from posttrain.preferences.judge import Candidate
from posttrain.preferences.pool import Draw


def requests_to(
    model: str,
    prompts: Iterable[VerifiablePrompt],
    draw: Callable[[str], Sequence[Draw]],
    *,
    seed: int,
    top_p: float,
    max_tokens: int,
) -> Iterator[ChatRequest]:
    """All that ``model`` is asked, in the order of the prompts; a request's id is its prompt's. ``draw``: who answers
    the prompt of an id."""
    return (
        ChatRequest(
            prompt.id,
            prompt.messages,
            SamplingParameters(one.member.temperature, top_p, max_tokens, seed=seed),
            one.sample_index,
        )
        for prompt in prompts
        for one in draw(prompt.id)
        if one.member.model == model
    )


def as_candidate(draw: Draw, answer: ChatAnswer, request: str | None = None) -> Candidate:
    """``request``: the answer's key, where its journal is kept."""
    finished = answer.finish_reason == "stop"
    tokens = answer.usage["completion_tokens"]
    return Candidate(draw.member, draw.sample_index, answer.text, finished, tokens, request)
