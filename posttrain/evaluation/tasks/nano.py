"""The four tasks of the nano world, on development items and on those of the disjoint unseen generator."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial

from posttrain.evaluation.protocol import Decoding, Instance, Protocol, Task, plain_question
from posttrain.nano.tasks import TASKS as KINDS
from posttrain.nano.tasks import Task as Kind
from posttrain.nano.tasks import items
from posttrain.nano.world import Item, Split

COUNT = 500  # per task; the finite kinds hold fewer
SEED = 0  # fixed: every recipe seed is judged on the same instances


def _protocol(kind: Kind, split: Split) -> Protocol:
    return Protocol(
        task=f"nano_{kind}" + ("_unseen" if split == "unseen" else ""),
        mode="nano",
        data=f"nano:{kind}",
        revision=f"seed {SEED}, {COUNT} drawn",
        split=split,
        format="chat",
        decoding=Decoding(max_tokens=160),
        verifier=None,
        verifier_mode="strict",
    )


def _plain(chat: Protocol) -> Protocol:
    # Not the line's end: some instructions ask for several lines.
    decoding = replace(chat.decoding, stop_strings=("\nQuestion:",))
    return replace(chat, mode="nano-plain", format="plain", decoding=decoding)


@cache
def _items(kind: Kind, split: Split) -> tuple[Item, ...]:
    """Drawn once a process: a finite kind searches long for prompts that are not there."""
    return tuple(items(kind, split, COUNT, SEED))


def _load(kind: Kind, split: Split, protocol: Protocol, _: Mapping[str, str], limit: int | None) -> list[Instance]:
    instances = []
    for item in _items(kind, split)[:limit]:
        verifiers = (item.verifier,) if isinstance(item.verifier, str) else item.verifier
        labels = (item.ground_truth,) if isinstance(item.ground_truth, str) else item.ground_truth
        chat = ({"role": "user", "content": item.prompt},)
        prompt = plain_question(item.prompt) if protocol.format == "plain" else chat
        instances.append(Instance(item.id, prompt, tuple(zip(verifiers, labels, strict=True)), item.answer))
    return instances


def _fields(kind: Kind, split: Split, _: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    return [(item.id, (item.prompt,)) for item in _items(kind, split)]


def _task(kind: Kind, split: Split) -> Task:
    chat = _protocol(kind, split)
    return Task(chat, _plain(chat), partial(_load, kind, split), partial(_fields, kind, split))


DEVELOPMENT = tuple(_task(kind, "development") for kind in KINDS)
UNSEEN = tuple(_task(kind, "unseen") for kind in KINDS)
