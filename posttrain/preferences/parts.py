"""A preference set's prompts out of parts: reused from SFT, not used there, with counts and without repetitions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from posttrain.artifacts.hashing import digest_json
from posttrain.artifacts.shelf import Shelf
from posttrain.data.rows import Conversation, Message, VerifiablePrompt


@dataclass(frozen=True)
class Part:
    """``change`` is made to each prompt that is taken (constraints, say)."""

    prompts: Iterable[VerifiablePrompt]
    take: Literal["all", "reused", "unused"] = "all"
    count: int | None = None
    change: Callable[[VerifiablePrompt], VerifiablePrompt] | None = None


@dataclass(frozen=True)
class Taken:
    """What one part gave. ``available``: rows that its ``take`` lets through; ``repeated``: those taken before."""

    available: int
    repeated: int
    used: int


def as_prompt(row: Conversation) -> VerifiablePrompt:
    """What comes before the last answer of an SFT row, without checks."""
    last = max(i for i, message in enumerate(row.messages) if message["role"] == "assistant")
    return VerifiablePrompt(row.id, row.messages[:last], (), (), row.source)


def fingerprint(messages: Sequence[Message]) -> str:
    """Equal for conversations that differ in white space and case alone."""
    return digest_json([[turn["role"], " ".join(turn["content"].lower().split())] for turn in messages])


def gather(
    parts: Sequence[Part], used_in_sft: set[str], seed: int, report: list[Taken], folder: Path | None = None
) -> Iterator[VerifiablePrompt]:
    """The prompts of all parts, in order, none twice; what each part gave is put into ``report`` once it is through.

    ``used_in_sft``: fingerprints. Of a part with more than its ``count``, those with the smallest hash of (seed, id):
    the same ones whatever the order of the rows. A part's prompts are on the disk meanwhile, in ``folder``.
    """
    taken: set[str] = set()
    ids: set[str] = set()
    for number, part in enumerate(parts):
        found = Shelf.of(_let_through(part, used_in_sft), folder)
        order: Sequence[int] = range(len(found))
        if part.count is not None:
            marks = [digest_json([seed, prompt.id]) for prompt in found]
            order = sorted(order, key=marks.__getitem__)
        used = repeated = 0
        for position in order:
            if part.count is not None and used == part.count:
                break
            prompt = found[position]
            made = part.change(prompt) if part.change else prompt
            mark = fingerprint(made.messages)
            if mark in taken:
                repeated += 1
                continue
            taken.add(mark)
            if made.id in ids:
                made = replace(made, id=f"{made.id}#{number}.{used}")
            ids.add(made.id)
            used += 1
            yield made
        report.append(Taken(len(found), repeated, used))


def _let_through(part: Part, used_in_sft: set[str]) -> Iterator[VerifiablePrompt]:
    for prompt in part.prompts:
        if prompt.messages and prompt.messages[-1]["role"] == "user":
            if part.take == "all" or (fingerprint(prompt.messages) in used_in_sft) == (part.take == "reused"):
                yield prompt
