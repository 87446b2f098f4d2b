"""What a judge is asked, and how its answer is read.

The four aspects of the Tülu 3 paper (§5.2.1, after UltraFeedback) in our own words. Texts are numbered from 1: where
they are shown and where ratings are asked for. N/A is no rating; what cannot be read is never a low rating.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.rows import Message

VERSION = 2  # raised when a rendered prompt changes: a rating is comparable only with those of the same wording
RATIONALE_LETTERS = 600

SYSTEM = (
    "You rate texts that answer an instruction. Each text stands for itself: neither its place in the list nor its "
    "length earns anything. Give each a short rationale first, then a whole number from 1 to 5, or N/A where the "
    "question does not apply to the text."
)


@dataclass(frozen=True)
class Aspect:
    question: str
    levels: tuple[str, str, str, str, str]
    not_applicable: str


ASPECTS: dict[str, Aspect] = {
    "helpfulness": Aspect(
        "How much does the text help the person who asked? Weigh whether it is right, whether it tells what they need, "
        "and whether it is clear and free of padding.",
        (
            "Wrong in what matters, or no use at all.",
            "Partly wrong, or leaves out most of what was needed.",
            "Right in the main, but thin, unclear or padded.",
            "Right and useful, with small gaps.",
            "Right, complete, clear, and no longer than it needs to be.",
        ),
        "the instruction asks for nothing",
    ),
    "instruction_following": Aspect(
        "Does the text do what the instruction says: its goal, and every restriction on form, length, style, content?",
        (
            "It does something else.",
            "It serves the goal or a restriction in part, and badly.",
            "It meets the goal and misses restrictions, or the other way round, or meets both with slips.",
            "It meets nearly all; a small slip.",
            "It meets the goal and every restriction.",
        ),
        "there is no instruction to follow",
    ),
    "honesty": Aspect(
        "Does the text sound as sure as it has reason to be? Hedges, admitted gaps and refusals count as doubt; plain "
        "statements count as certainty.",
        (
            "Certain, and wrong.",
            "Mostly certain, with serious errors; or doubtful without a reason.",
            "Says that it does not know, or states small errors with certainty.",
            "Right with needless doubt, or wrong only where it says that it is unsure.",
            "Right and certain, or marks exactly what is uncertain.",
        ),
        "the text claims nothing, as in creative writing",
    ),
    "truthfulness": Aspect(
        "Is the text free of made-up content: claims against the facts of the world, against the instruction or what "
        "it supplies, or against itself?",
        (
            "Made up throughout.",
            "Large parts are made up.",
            "Some of it is made up, in points that matter less.",
            "A trace, easily overlooked and harmless.",
            "Nothing is made up.",
        ),
        "the text claims nothing that could be true or false",
    ),
}


@dataclass(frozen=True)
class Rating:
    """One judge's word on one text. ``value`` 1 to 5; None: N/A."""

    value: int | None
    rationale: str


class Unreadable(Exception):
    """A judge's answer that does not rate every text once; the message says why."""


def judge_messages(prompt: Sequence[Message], texts: Sequence[str], aspects: Sequence[str]) -> tuple[Message, ...]:
    """The conversation that asks for the ratings of ``texts`` in the order given, texts before rubric."""
    blocks = ["# Instruction", _conversation(prompt)]
    for number, text in enumerate(texts, start=1):
        blocks += [f"# Text {number}", text]
    for name in aspects:
        aspect = ASPECTS[name]
        levels = "\n".join(f"{number}: {level}" for number, level in enumerate(aspect.levels, start=1))
        blocks += [f"# Question: {name}", f"{aspect.question}\n{levels}\nN/A: {aspect.not_applicable}."]
    ratings = ", ".join(f'"{name}": {{"rationale": "…", "rating": "1" to "5" or "N/A"}}' for name in aspects)
    entries = ",\n".join(f'"{key}": {{{ratings}}}' for key in _keys(len(texts)))
    blocks.append(f"# Answer\nJSON alone, an entry for each text:\n{{{entries}}}")
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n\n".join(blocks)})


def answer_schema(count: int, aspects: Sequence[str], letters: int = RATIONALE_LETTERS) -> dict[str, Any]:
    """The JSON schema of an answer about ``count`` texts, with rationales of so many letters at most.

    A key for each text, not a list: who is held to the schema rates every text exactly once.
    """
    rating = {
        "type": "object",
        "properties": {
            "rationale": {"type": "string", "maxLength": letters},
            "rating": {"type": "string", "enum": ["1", "2", "3", "4", "5", "N/A"]},
        },
        "required": ["rationale", "rating"],
        "additionalProperties": False,
    }
    entry = {
        "type": "object",
        "properties": dict.fromkeys(aspects, rating),
        "required": list(aspects),
        "additionalProperties": False,
    }
    keys = _keys(count)
    entries = dict.fromkeys(keys, entry)
    return {"type": "object", "properties": entries, "required": keys, "additionalProperties": False}


def read_ratings(answer: str, count: int, aspects: Sequence[str]) -> list[dict[str, Rating]]:
    """Per text in the order shown, its rating by aspect. Raises Unreadable unless every text is rated exactly once."""
    first, last = answer.find("{"), answer.rfind("}")
    try:
        found = json.loads(answer[first : last + 1], object_pairs_hook=_once, strict=False)  # line ends in rationales
    except (ValueError, RecursionError):
        raise Unreadable("no JSON object") from None
    keys = _keys(count)
    if not isinstance(found, Mapping) or set(found) != set(keys):
        raise Unreadable(f"ratings of {sorted(found)!r:.80}, not of the texts 1 to {count}")
    return [{name: _rating(key, found[key], name) for name in aspects} for key in keys]


def _keys(count: int) -> list[str]:
    return [f"text_{number}" for number in range(1, count + 1)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Unreadable("a text or an aspect is rated twice")
    return made


def _rating(key: str, entry: Any, name: str) -> Rating:
    found = entry.get(name) if isinstance(entry, Mapping) else None
    if not isinstance(found, Mapping) or found.get("rating") is None:
        raise Unreadable(f"{key} has no rating for {name}")
    value, rationale = found["rating"], found.get("rationale", "")
    if isinstance(value, str):
        value = None if value.strip().upper() == "N/A" else int(value) if value.strip() in tuple("12345") else value
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 5):
        raise Unreadable(f"{key}: {name} is {value!r:.40}, not 1 to 5 or N/A")
    return Rating(value, rationale if isinstance(rationale, str) else str(rationale))


def _conversation(prompt: Sequence[Message]) -> str:
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in prompt)
