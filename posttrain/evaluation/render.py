"""A prompt to the token: what the model is shown of an instance, and what its answer reads as."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from posttrain.data.tokenize import render as render_chat
from posttrain.evaluation.protocol import Instance, Protocol


@dataclass(frozen=True)
class Rendered:
    text: str
    token_ids: tuple[int, ...]


def render(tokenizer: PreTrainedTokenizerBase, protocol: Protocol, instance: Instance) -> Rendered:
    """Chat: the template's own text, tokenised as it stands, so a BOS is there only if the template writes one.

    Plain: the text as the tokenizer begins any text (with its BOS, if it adds one), never with an end-of-text token.
    The prefill is tokenised together with what it follows.
    """
    if isinstance(instance.prompt, str):
        token_ids = tokenizer(instance.prompt).input_ids
        if token_ids and token_ids[-1] == tokenizer.eos_token_id:
            token_ids = token_ids[:-1]
        return Rendered(instance.prompt, tuple(token_ids))
    text = render_chat(tokenizer, instance.prompt, generation_prompt=True) + protocol.prefill
    return Rendered(text, tuple(tokenizer(text, add_special_tokens=False).input_ids))


def response_text(tokenizer: PreTrainedTokenizerBase, protocol: Protocol, token_ids: Sequence[int]) -> str:
    """The completion as text: no special tokens, cut before the first stop string.

    A plain answer follows ``Answer:`` after a space that is no part of it.
    """
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    for stop in protocol.decoding.stop_strings:
        text = text.split(stop, 1)[0]
    return text.strip() if protocol.format == "plain" else text
