"""What an evaluation task is, exactly: a frozen, hashed protocol, and the instances that it yields."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

from posttrain.artifacts.hashing import digest_json
from posttrain.data.rows import Message

Format = Literal["chat", "plain"]
Metric = Literal["accuracy", "mean", "mc2", "pass@k", "judged", "lc_win_rate"]
ADDED = ("prompt", "answers", "samples", "k", "averaged", "judge", "judged", "unreadable")


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

    ``prompt``: the pieces of text around a question, by name. ``answers``: text, the likeliest of letters (one token
    each), or the log-probability of every choice. ``samples`` answers are drawn per instance; ``pass@k`` needs ``k`` of
    them to hold a right one. ``averaged``: over instances, or over the means of their groups. ``judge``: who decides
    what no program can, by name and hash of its prompt; ``judged`` what it is asked, and ``unreadable`` the score
    of an answer of its that cannot be read (None: the instance is left out).
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
    metric: Metric = "accuracy"
    shots: int = 0
    shots_from: str = ""
    prefill: str = ""
    extractor: int = 1
    prompt: tuple[tuple[str, str], ...] = ()
    answers: Literal["text", "letters", "log-probabilities"] = "text"
    samples: int = 1
    k: int = 1
    averaged: Literal["instances", "groups"] = "instances"
    judge: str = ""
    judged: str = ""
    unreadable: float | None = None

    @property
    def name(self) -> str:
        return f"{self.task}@{self.mode}"

    @cached_property
    def hash(self) -> str:
        """sha256 of all fields; two results compare only where it is equal.

        A field of `ADDED` counts only where it is not at its default, so that adding one changes no hash.
        """
        resting = {f.name for f in fields(self) if f.name in ADDED and getattr(self, f.name) == f.default}
        return digest_json({name: value for name, value in asdict(self).items() if name not in resting})

    def text(self, piece: str) -> str:
        """The piece of ``prompt`` of that name; "" where the protocol has none."""
        return dict(self.prompt).get(piece, "")


def difference(a: Protocol, b: Protocol) -> list[tuple[str, Any, Any]]:
    """(field, value in ``a``, value in ``b``) wherever two protocols differ, decoding and pieces of prompt singly."""

    def flat(protocol: Protocol) -> dict[str, Any]:
        given = {f.name: getattr(protocol, f.name) for f in fields(protocol) if f.name not in ("decoding", "prompt")}
        decoding = {f"decoding.{name}": value for name, value in asdict(protocol.decoding).items()}
        return given | decoding | {f"prompt.{name}": text for name, text in protocol.prompt}

    x, y = flat(a), flat(b)
    return [(name, x.get(name), y.get(name)) for name in dict.fromkeys([*x, *y]) if x.get(name) != y.get(name)]


@dataclass(frozen=True)
class Instance:
    """One question. ``prompt``: messages for a chat protocol, text for a plain one. ``checks``: (verifier, label) pairs
    that must all hold. ``gold``: a right answer, for people and for oracle tests; "" where none is published.

    ``group``: its subject or category; ``cluster``: what it shares with others (a passage), so that they are no
    independent draws. ``prefill``: as the protocol's, for this instance alone. ``before``: text that the response goes
    on from, and that is judged with it. ``choices``: the continuations of a letter or log-probability protocol.
    ``told``: what a judge is told, by name. ``extract``: the answer in a response, which is what the checks get.
    """

    id: str
    prompt: tuple[Message, ...] | str
    checks: tuple[tuple[str, str], ...]
    gold: str = ""
    group: str = ""
    cluster: str = ""
    prefill: str = ""
    before: str = ""
    choices: tuple[str, ...] = ()
    told: tuple[tuple[str, str], ...] = ()
    extract: Callable[[str], str] = str


@dataclass(frozen=True)
class Task:
    """A task in its chat protocol and, for models that know no chat, its plain one.

    ``combine(records, hub_mirror)``: the task's figures where they are no mean over instances.
    ``also``: hub ids of sets that it reads beside the protocol's own.
    ``within``: the component of a suite's average that it is a part of ("safety", "safety/wildjailbreak").
    ``load(protocol, hub_mirror, limit)`` returns the first instances; it raises `NotRun` where the data is missing.
    ``fields(hub_mirror)`` gives (id, texts) of every instance for the decontamination index.
    """

    chat: Protocol
    plain: Protocol
    load: Callable[[Protocol, Mapping[str, str], int | None], list[Instance]]
    fields: Callable[[Mapping[str, str]], list[tuple[str, tuple[str, ...]]]]
    within: str = ""
    also: tuple[str, ...] = ()
    combine: Callable[[Sequence[Mapping[str, Any]], Mapping[str, str]], dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        return self.chat.name


Asked = tuple[Protocol, Instance]
# Finish reasons of records without an answer: nothing to verify or judge. The last is no fault of the model.
UNANSWERED = ("over context", "refused", "no answer")


class NotRun(Exception):
    """A task's data is missing or gated. The message says which set it needs; the score is "not run", never a mean."""


def plain_question(question: str) -> str:
    """The raw text in which a base model is asked: it was trained on such pairs, not on turns."""
    return f"Question: {question}\nAnswer:"
