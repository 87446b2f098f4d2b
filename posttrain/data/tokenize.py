"""Conversations as token ids, with a mark on every token that is learned.

A conversation is rendered and tokenised once, as the published code does. Where each assistant turn begins and ends in
that text is read off the renderings of its prefixes: a template for which a prefix renders to other text than it has
inside the whole (because it trims or merges across turns) is refused. Text borders become token borders by the fast
tokenizer's offsets.
"""

import os.path
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from posttrain.data.rejects import BadRow
from posttrain.data.rows import Message
from posttrain.errors import PosttrainError

TrainOn = Literal["all_assistant_turns", "last_turn"]

_SPACES = " \u0120\u2581"  # a space as plain text, in byte-level BPE (Ġ) and in SentencePiece (▁)


@dataclass(frozen=True, eq=False)
class Tokenized:
    """``input_ids`` int32 and ``trained`` bool, both of length T: ``trained[i]`` says that token i is to be learned.

    ``cut`` counts the tokens that truncation removed from the end.
    """

    id: str
    input_ids: np.ndarray
    trained: np.ndarray
    cut: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


def tokenize_conversation(
    tokenizer: PreTrainedTokenizerBase,
    id: str,
    messages: Sequence[Message],
    *,
    max_tokens: int,
    train_on: TrainOn = "all_assistant_turns",
) -> Tokenized:
    """Token ids of the rendered conversation; content and EOS of the assistant turns are trained, their headers not.

    A token that straddles header and content is not trained. More than ``max_tokens`` tokens are cut from the end.
    Raises BadRow if there is no assistant turn, or truncation would leave nothing to train; PosttrainError if the
    template merges or trims across turns or does not end assistant turns with EOS.
    """
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise BadRow("no assistant turn, so there is nothing to learn", id)
    if train_on == "last_turn":
        turns = turns[-1:]
    text = render(tokenizer, messages)
    spans = [_trained_span(tokenizer, messages, turn, text) for turn in turns]
    encoding = _encode(tokenizer, text)
    ids = encoding.ids
    begins = [begin for begin, _ in encoding.offsets]
    trained = np.zeros(len(ids), dtype=bool)
    for border, border_after in spans:
        begin, end = (_first_token(begins, place, text, ids, tokenizer) for place in (border, border_after))
        if ids[end - 1] != tokenizer.eos_token_id:
            raise PosttrainError(
                f"{id}: the tokenizer {tokenizer.name_or_path} does not read its EOS text {tokenizer.eos_token!r} as "
                f"one token there, so a model could not learn to stop. Make {tokenizer.eos_token!r} a special token."
            )
        trained[begin:end] = True
    if not trained[:max_tokens].any():
        found = f"its first is token {trained.argmax() + 1}"
        raise BadRow(f"no trained token is left within max_tokens {max_tokens}", id, found=found)
    cut = max(0, len(ids) - max_tokens)
    return Tokenized(id, np.array(ids[:max_tokens], dtype=np.int32), trained[:max_tokens], cut)


def tokenize_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of the conversation so far and the header of the assistant turn that is to come."""
    text = render(tokenizer, messages, generation_prompt=True)
    return list(_encode(tokenizer, text).ids)


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
    """The conversation as text by the tokenizer's chat template."""
    # As a batch of one: a conversation that has no turn yet is taken only so.
    conversations = [[dict(message) for message in messages]]
    [text] = tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=generation_prompt)
    return str(text)


def _trained_span(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], turn: int, text: str
) -> tuple[int, int]:
    """[begin, end) of an assistant turn's content and EOS in ``text``, the rendering of all messages."""
    before = list(messages[:turn])
    if turn and before[-1]["role"] == "assistant":
        # No prompt for generation follows an assistant turn: the header is what two other contents have before them.
        others = (render(tokenizer, [*before, {"role": "assistant", "content": content}]) for content in "AB")
        header = os.path.commonprefix(list(others))
    else:
        header = render(tokenizer, before, generation_prompt=True)
    through = text if turn == len(messages) - 1 else render(tokenizer, messages[: turn + 1])
    if not (text.startswith(through) and through.startswith(header)):
        raise PosttrainError(
            f"the chat template of {tokenizer.name_or_path} renders turn {turn + 1} of {len(messages)} to other text "
            "alone than inside the whole conversation: it trims or merges across turns, so what is trained cannot be "
            "told from what is not. Name another template in the recipe (chat_template: tulu)."
        )
    eos = tokenizer.eos_token
    end = through.rfind(eos, len(header))
    if end < 0:
        raise PosttrainError(
            f"the chat template of {tokenizer.name_or_path} does not end assistant turns with the EOS token {eos!r}, "
            "so a model could not learn to stop. Name another template in the recipe (chat_template: tulu)."
        )
    return len(header), end + len(eos)


def _first_token(begins: Sequence[int], border: int, text: str, ids: list[int], tokenizer) -> int:
    """Number of the first token that begins at or after ``border``, given where each token begins in ``text``.

    Offsets leave out the spaces at a token's edges. Before the border that can hide a straddling token only where the
    border follows a space, as after the header ``Assistant: ``; there the token's own spaces are counted.
    """
    first = bisect_left(begins, border)
    while border and text[border - 1] == " " and first < len(ids):
        token = tokenizer.convert_ids_to_tokens(ids[first])
        if begins[first] - (len(token) - len(token.lstrip(_SPACES))) >= border:
            break
        first += 1
    return first


def _encode(tokenizer: PreTrainedTokenizerBase, text: str):
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None or backend.padding is not None:  # left behind by another's call
        backend.no_truncation()
        backend.no_padding()
    return backend.encode(text, add_special_tokens=False)
