"""Answers with their ratings, and the rules judge: verifiers rate answers to prompts that carry their own checks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from posttrain.data.rows import VerifiablePrompt
from posttrain.preferences.pool import Member
from posttrain.verifiers.verdict import Verdict

BLOCK = 256  # prompts whose answers are verified together


@dataclass(frozen=True)
class Candidate:
    """One answer to a prompt. ``finished``: it ended by itself, not at its token limit."""

    member: Member
    sample_index: int
    text: str
    finished: bool
    tokens: int
    request: str | None = None  # key in the journal, where that is kept


@dataclass(frozen=True)
class AspectScore:
    """One aspect of one answer: the mean of ``ratings`` (one per order; None: N/A), and the journal keys behind it."""

    rating: float | None
    ratings: tuple[int | None, ...]
    rationales: tuple[str, ...]
    requests: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """A candidate with its rating, higher is better; None: it could not be judged (and is in no pair).

    ``verdicts``: of the prompt's own checks. ``aspects``: of an aspect judge, whose name is ``judge``.
    """

    candidate: Candidate
    rating: float | None
    verdicts: tuple[Verdict, ...]
    aspects: Mapping[str, AspectScore] = field(default_factory=dict)
    judge: str | None = None


class Verifiers(Protocol):
    """The part of a verifier pool that the judge needs."""

    def verify(self, items: Iterable[tuple[str, str, str]]) -> list[Verdict]: ...


def judge_by_rules(
    answered: Iterable[tuple[VerifiablePrompt, Sequence[Candidate]]], verifiers: Verifiers
) -> Iterator[tuple[Judged, ...]]:
    """Rates every candidate of every prompt, in order, by the prompt's own checks."""
    rows = iter(answered)
    while block := list(islice(rows, BLOCK)):
        items = [
            (verifier, candidate.text, label)
            for prompt, candidates in block
            for candidate in candidates
            for verifier, label in prompt.checks
        ]
        verdicts = iter(verifiers.verify(items))
        for prompt, candidates in block:
            made = []
            for candidate in candidates:
                found = tuple(next(verdicts) for _ in prompt.checks)
                made.append(Judged(candidate, rate(found, candidate.finished), found))
            yield tuple(made)


def rate(verdicts: Sequence[Verdict], finished: bool) -> float | None:
    """Mean of the checks' scores, less 1 for an answer that ran into its token limit; in [-1, 1].

    Ending counts as much as being right: a finished wrong answer and an endless right one tie, and make no pair. RLVR
    holds the same view (its reward without EOS replaces the verifier's). None if a verifier failed (outcome
    ``error``): a missing rating is never a low one.
    """
    if any(verdict.outcome == "error" for verdict in verdicts):
        return None
    score = sum(verdict.score for verdict in verdicts) / len(verdicts) if verdicts else 0.0
    return score - (0.0 if finished else 1.0)
