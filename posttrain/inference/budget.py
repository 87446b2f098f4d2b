"""What requests cost: tokens and money, counted as they come in, and a limit that is never passed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.inference.protocols import ChatRequest

TOKENS_PER_MESSAGE = 16  # role, separators and template, more than any known template takes


class BudgetReached(PosttrainError):
    """The next request might cost more than is left."""


@dataclass(frozen=True)
class Price:
    """Money per million tokens, in one currency throughout. ``cached``: prompt tokens read from the server's cache."""

    prompt: float = 0.0
    completion: float = 0.0
    cached: float | None = None

    def of(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
        cached = self.prompt if self.cached is None else self.cached
        fresh = (prompt_tokens - cached_tokens) * self.prompt
        return (fresh + cached_tokens * cached + completion_tokens * self.completion) / 1e6

    def most(self, request: ChatRequest) -> float:
        """The most that one request can cost: a byte is a token at most, and the answer runs to its limit."""
        return self.of(most_prompt_tokens(request), request.sampling.max_tokens)


def most_prompt_tokens(request: ChatRequest) -> int:
    texts = [m["content"] for m in request.messages]
    if request.json_schema is not None:  # servers put it before the model as a message
        texts.append(json.dumps(dict(request.json_schema)))
    return sum(len(text.encode()) + TOKENS_PER_MESSAGE for text in texts)


@dataclass
class Budget:
    """Money spent and promised, over all endpoints that share it; ``limit`` None: only counted.

    What an attempt may cost at most is reserved before it is sent and settled when its answer is there, so that the
    limit holds whatever the answers' lengths are. An attempt that ended without an answer (time-out, broken
    connection) may have been billed: it is charged at its most, under ``presumed``, and the next is reserved anew.
    """

    limit: float | None = None
    spent: float = 0.0
    presumed: float = 0.0
    reserved: float = 0.0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def reserve(self, amount: float) -> bool:
        """Takes ``amount`` out of what is left; False where it does not cover it."""
        with self._lock:
            if self.limit is not None and amount and self.taken + amount > self.limit:
                return False
            self.reserved += amount
            return True

    def settle(self, reserved: float, spent: float, *, presumed: float = 0.0) -> None:
        with self._lock:
            self.reserved -= reserved
            self.spent += spent
            self.presumed += presumed

    @property
    def taken(self) -> float:
        return self.spent + self.presumed + self.reserved

    def reached(self, model: str) -> BudgetReached:
        return BudgetReached(
            f"{model}: the budget of {self.limit:g} does not cover another request ({self.spent:.4g} spent, "
            f"{self.presumed:.4g} presumed for attempts without an answer). All answers so far are in the journal: "
            "raise the budget and run the command again"
        )


@dataclass
class Account:
    """What one endpoint was asked. Tokens as the server counted them (``estimated``: answers without its count)."""

    answers: int = 0
    attempts: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    cost: float = 0.0

    def fail(self, kind: str) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def add(self, usage: Mapping[str, Any]) -> None:
        self.answers += 1
        self.prompt_tokens += usage["prompt_tokens"]
        self.cached_tokens += usage.get("cached_tokens", 0)
        self.completion_tokens += usage["completion_tokens"]
        self.estimated += bool(usage.get("estimated"))
        self.cost += usage.get("cost", 0.0)
