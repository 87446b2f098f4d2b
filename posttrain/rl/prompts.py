"""Which prompts may be rolled out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.data.rows import VerifiablePrompt
from posttrain.data.tokenize import tokenize_prompt


@dataclass(frozen=True)
class Prompt:
    """One row with its rendered prompt, generation header included."""

    row: VerifiablePrompt
    token_ids: tuple[int, ...]


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
