"""The prompts that a preference set is built on."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from posttrain.artifacts.hashing import digest_json
from posttrain.data.rows import Message, VerifiablePrompt

BYTES_PER_TOKEN = 4  # of English, roughly


@dataclass(frozen=True)
class Tokenization:
    """How one model sees a prompt: ``tokens`` counts those of the rendered conversation, ``context`` is its room."""

    tokens: Callable[[Sequence[Message]], int]
    context: int


def estimated() -> Tokenization:
    """For a model behind a server, which refuses itself what is too long for it."""
    return Tokenization(
        lambda turns: sum(len(turn["content"].encode()) for turn in turns) // BYTES_PER_TOKEN, sys.maxsize
    )


def select_prompts(
    prompts: Iterable[VerifiablePrompt], tokenizations: Sequence[Tokenization], *, max_tokens: int
) -> Iterator[tuple[VerifiablePrompt, str | None]]:
    """Each prompt, in order, with None if every model can take it, else why it is set aside.

    ``repeated`` (its conversation or id came before: new pairs on an old prompt help no more, spec §4.2),
    ``over_max_prompt_tokens`` and ``over_context`` (for at least one model; a model drawn for a prompt must be able to
    answer it).
    """
    conversations: set[str] = set()
    ids: set[str] = set()
    for prompt in prompts:
        conversation = digest_json([[message["role"], message["content"]] for message in prompt.messages])
        lengths = [tokenization.tokens(prompt.messages) for tokenization in tokenizations]
        if conversation in conversations or prompt.id in ids:
            yield prompt, "repeated"
        elif max(lengths) > max_tokens:
            yield prompt, "over_max_prompt_tokens"
        elif any(length >= t.context for length, t in zip(lengths, tokenizations, strict=True)):
            yield prompt, "over_context"
        else:
            conversations.add(conversation)
            ids.add(prompt.id)
            yield prompt, None
