"""The two ways to ask a model for text: `Sampler` (token ids) and `ChatEndpoint` (messages)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # journals and endpoints over the network need no torch
    import torch

FinishReason = Literal["stop", "length", "content_filter"]  # the last of hosted models alone


@dataclass(frozen=True)
class SamplingParameters:
    """How to draw tokens. ``temperature`` 0 is greedy. ``stop_token_ids`` end a completion and stay part of it."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    seed: int = 0


@dataclass(frozen=True)
class SampleRequest:
    """One completion of one prompt. Randomness is keyed by (seed, prompt_id, sample_index, position) alone."""

    prompt_id: str
    sample_index: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingParameters


@dataclass(frozen=True)
class Sample:
    """A finished completion. ``logprobs[i]``: the sampler's log-probability of ``token_ids[i]`` at its temperature."""

    request: SampleRequest
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    weight_version: int


class Sampler(Protocol):
    """Token ids in and out."""

    context_length: int

    def generate(self, requests: Iterable[SampleRequest]) -> Iterator[Sample]:
        """Yields each completion as it finishes, in any order. PosttrainError: a prompt too long for the context."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token given those before it; the first token of a sequence gets 0.0."""
        ...

    def update_weights(self, tensors: "Iterable[tuple[str, torch.Tensor]]", version: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class ChatRequest:
    """One answer wanted of a chat model. ``sample_index`` tells repeated requests apart.

    ``json_schema``: what the answer's text must be an instance of; a server that can holds the model to it.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    sample_index: int = 0
    json_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ChatAnswer:
    request: ChatRequest
    text: str
    finish_reason: FinishReason
    usage: Mapping[str, Any]


@dataclass(frozen=True)
class ChatFailure:
    """A request that stays without an answer.

    ``refused``: the server will never take it (too long, not allowed). ``gave_up``: every attempt failed.
    """

    request: ChatRequest
    reason: Literal["refused", "gave_up"]
    detail: str


class ChatEndpoint(Protocol):
    """Messages in, text out."""

    model: str

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[ChatAnswer | ChatFailure]: ...

    def close(self) -> None: ...
