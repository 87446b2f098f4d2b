"""What an evaluation task is, exactly: a frozen, hashed protocol, and the instances that it yields."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

from posttrain.artifacts.hashing import digest_json
from posttrain.data.rows import Message

Format = Literal["chat", "plain"]


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn; temperature 0 is greedy. A completion also ends at the model's own end-of-text token."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a score, apart from the model.

    ``data`` is a hub id, or ``nano:TASK``; ``revision`` pins it. ``shots`` examples come before the question, taken
    from ``shots_from``. ``prefill`` is text that the model's answer is made to begin with. ``extractor`` is raised
    when the way from response to answer changes. ``verifier`` None: each instance names its own.
    """

    task: str
    mode: str
    data: str
    revision: str
    split: str
    format: Format
    decoding: Decoding
    verifier: str | None
    verifier_mode: Literal["tulu3", "strict"]
    metric: Literal["accuracy"] = "accuracy"
    shots: int = 0
    shots_from: str = ""
    prefill: str = ""
    extractor: int = 1

    @property
    def name(self) -> str:
        return f"{self.task}@{self.mode}"

    @cached_property
    def hash(self) -> str:
        """sha256 of all fields; two results compare only where it is equal."""
        return digest_json(asdict(self))


@dataclass(frozen=True)
class Instance:
    """One question. ``prompt``: messages for a chat protocol, text for a plain one. ``checks``: (verifier, label) pairs
    that must all hold. ``gold``: a right answer, for people and for oracle tests; "" where none is published."""

    id: str
    prompt: tuple[Message, ...] | str
    checks: tuple[tuple[str, str], ...]
    gold: str = ""


@dataclass(frozen=True)
class Task:
    """A task in its chat protocol and, for models that know no chat, its plain one.

    ``load(protocol, hub_mirror, limit)`` returns the first instances; it raises `NotRun` where the data is missing.
    ``fields(hub_mirror)`` gives (id, texts) of every instance for the decontamination index.
    """

    chat: Protocol
    plain: Protocol
    load: Callable[[Protocol, Mapping[str, str], int | None], list[Instance]]
    fields: Callable[[Mapping[str, str]], list[tuple[str, tuple[str, ...]]]]

    @property
    def name(self) -> str:
        return self.chat.name


class NotRun(Exception):
    """A task's data is missing or gated. The message says which set it needs; the score is "not run", never a mean."""


def plain_question(question: str) -> str:
    """The raw text in which a base model is asked: it was trained on such pairs, not on turns."""
    return f"Question: {question}\nAnswer:"
