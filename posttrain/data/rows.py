"""The three kinds of row that every stage reads or writes, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, str]
"""One turn: ``{"role": "system" | "user" | "assistant", "content": text}``."""


@dataclass(frozen=True)
class Conversation:
    """One SFT row. Published columns: id, messages, source."""

    id: str
    messages: tuple[Message, ...]
    source: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PreferencePair:
    """One preference row. ``chosen`` and ``rejected`` are whole conversations that share all but the last turn."""

    id: str
    prompt: str
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    source: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VerifiablePrompt:
    """One RLVR row: ``messages`` end with a user turn; ``checks`` pairs each verifier's name with its label.

    The published columns ``dataset`` and ``ground_truth`` hold one string each, or parallel lists.
    """

    id: str
    messages: tuple[Message, ...]
    ground_truth: str | tuple[str, ...]
    verifier: str | tuple[str, ...]
    source: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checks(self) -> tuple[tuple[str, str], ...]:
        verifiers = (self.verifier,) if isinstance(self.verifier, str) else self.verifier
        labels = (self.ground_truth,) if isinstance(self.ground_truth, str) else self.ground_truth
        return tuple(zip(verifiers, labels, strict=True))


Row = Conversation | PreferencePair | VerifiablePrompt
