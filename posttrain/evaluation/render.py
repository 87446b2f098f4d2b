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
    text = render_chat(tokenizer, instance.prompt, generation_prompt=True) + protocol.prefill + instance.prefill
    return Rendered(text, tuple(tokenizer(text, add_special_tokens=False).input_ids))


def response_text(tokenizer: PreTrainedTokenizerBase, protocol: Protocol, token_ids: Sequence[int]) -> str:
    """The completion as text: no special tokens, cut before the first stop string.

    A plain answer follows ``Answer:`` after a space that is no part of it.
    """
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    text = before_stops(protocol, text)
    return text.strip() if protocol.format == "plain" else text


def before_stops(protocol: Protocol, text: str) -> str:
    """What stands before the first stop string."""
    for stop in protocol.decoding.stop_strings:
        text = text.split(stop, 1)[0]
    return text


def continuations(tokenizer: PreTrainedTokenizerBase, rendered: Rendered, choices: Sequence[str]) -> list[list[int]]:
    """The tokens that each choice adds to a prompt, tokenised together with it, as they would be in one text.

    A tokenizer that joins the choice's beginning with the prompt's end (their border is then no border of tokens)
    leaves the choice tokenised alone.
    """
    special = rendered.token_ids[: _leading(tokenizer, rendered)]
    prompt = list(rendered.token_ids[len(special) :])
    found = []
    for choice in choices:
        whole = list(tokenizer(rendered.text + choice, add_special_tokens=False).input_ids)
        joined = whole[: len(prompt)] == prompt and len(whole) > len(prompt)
        alone = whole[len(prompt) :] if joined else tokenizer(choice, add_special_tokens=False).input_ids
        found.append(list(alone))
    return found


def _leading(tokenizer: PreTrainedTokenizerBase, rendered: Rendered) -> int:
    """How many special tokens (a BOS) the tokenizer itself put before the text."""
    bare = tuple(tokenizer(rendered.text, add_special_tokens=False).input_ids)
    return len(rendered.token_ids) - len(bare) if rendered.token_ids[-len(bare) :] == bare else 0
