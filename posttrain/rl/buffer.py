"""Which prompts may be rolled out, and in which order: a pure function of the seed and the position reached."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.data.batches import epoch_order
from posttrain.data.rows import VerifiablePrompt
from posttrain.data.tokenize import tokenize_prompt


@dataclass(frozen=True)
class Prompt:
    """One row with its rendered prompt, generation header included."""

    row: VerifiablePrompt
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Visit:
    """The ``number``-th prompt that the run rolls out, counted from 0 over all epochs; no two visits share a number."""

    number: int
    prompt: Prompt


def admit_prompts(
    rows: Iterable[VerifiablePrompt],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_tokens: int,
    max_response_tokens: int,
    context_length: int,
) -> tuple[list[Prompt], list[dict[str, Any]]]:
    """The prompts that fit, and a record {id, prompt_tokens, reason} of each one set aside.

    A prompt must leave room for a whole response: one cut by the context would earn the no-EOS reward for no fault.
    """
    limit = min(max_prompt_tokens, context_length - max_response_tokens)
    reason = (
        f"longer than max_prompt_tokens ({max_prompt_tokens})"
        if limit == max_prompt_tokens
        else f"with max_response_tokens ({max_response_tokens}) longer than the context ({context_length})"
    )
    admitted: list[Prompt] = []
    set_aside: list[dict[str, Any]] = []
    for row in rows:
        token_ids = tuple(tokenize_prompt(tokenizer, row.messages))
        if len(token_ids) > limit:
            set_aside.append({"id": row.id, "prompt_tokens": len(token_ids), "reason": reason})
        else:
            admitted.append(Prompt(row, token_ids))
    return admitted, set_aside


def visits(prompts: Sequence[Prompt], seed: int, position: int, count: int) -> list[Visit]:
    """Visits ``position`` … ``position + count − 1``; the prompts are shuffled anew each epoch (paper §6.2)."""
    chosen = []
    for number in range(position, position + count):
        epoch, place = divmod(number, len(prompts))
        chosen.append(Visit(number, prompts[_order(len(prompts), seed, epoch)[place]]))
    return chosen


@lru_cache(maxsize=2)  # a step asks for the same epoch again and again, at a border for two
def _order(count: int, seed: int, epoch: int) -> list[int]:
    return epoch_order(count, seed, epoch)
