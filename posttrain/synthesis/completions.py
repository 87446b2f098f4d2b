"""Prompts answered anew where their answer is missing or weak, and what is dropped on the way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from posttrain.data.rows import Message
from posttrain.inference.protocols import ChatAnswer, ChatFailure, ChatRequest, SamplingParameters
from posttrain.synthesis.filters import reason_to_drop
from posttrain.verifiers.text import refuses
from posttrain.verifiers.verdict import Verdict

Ask = Callable[[Iterable[ChatRequest]], Iterator[ChatAnswer | ChatFailure]]
Verify = Callable[[Iterable[tuple[str, str, str]]], list[Verdict]]


@dataclass
class Item:
    """A prompt that wants an answer. ``checks``: (verifier, label). ``refusal``: wanted, unwanted, or None: either.

    ``origin``: ``kept`` (the original answer) or ``made``. ``reasons``: why each attempt was dropped. ``refused``:
    whether the first answer that could be judged refuses; None: none was, or nobody asked.
    """

    id: str
    messages: tuple[Message, ...]
    source: str
    checks: tuple[tuple[str, str], ...] = ()
    refusal: bool | None = False
    system: str | None = None
    answer: str | None = None
    origin: str = "kept"
    reasons: list[str] = field(default_factory=list)
    refused: bool | None = None


Refusals = Callable[[Sequence[tuple[Item, str]]], Sequence[bool | None]]  # None: the judge's answer cannot be read


def by_phrases(answers: Sequence[tuple[Item, str]]) -> list[bool | None]:
    """Refusals told by a list of phrases (`verifiers.text.refuses`)."""
    return [refuses(text) for _, text in answers]


def complete(
    items: Sequence[Item],
    ask: Ask,
    verify: Verify,
    sampling: SamplingParameters,
    attempts: int,
    refusals: Refusals = by_phrases,
) -> None:
    """Answers every item that has no answer, in at most ``attempts`` rounds; what still has none stays without."""
    for attempt in range(attempts):
        waiting = {one.id: one for one in items if one.answer is None}
        if not waiting:
            return
        requests = [ChatRequest(one.id, _asked(one), sampling, attempt) for one in waiting.values()]
        whole: list[tuple[Item, str]] = []
        for found in ask(requests):
            item = waiting[found.request.id]
            if isinstance(found, ChatFailure):
                item.reasons.append("missing")
            elif why := reason_to_drop(found.text, finished=found.finish_reason == "stop", refusal_wanted=None):
                item.reasons.append(why)
            else:
                whole.append((item, found.text))
        answered = _as_wanted(whole, refusals)
        verdicts = iter(verify([(name, text, truth) for item, text in answered for name, truth in item.checks]))
        for item, text in answered:
            outcomes = [next(verdicts).outcome for _ in item.checks]
            if any(outcome != "correct" for outcome in outcomes):
                item.reasons.append("not_checked" if "error" in outcomes else "fails_check")
            else:
                item.answer, item.origin = text, "made"


def _as_wanted(answers: Sequence[tuple[Item, str]], refusals: Refusals) -> list[tuple[Item, str]]:
    """The answers that refuse where a refusal is wanted, and nowhere else."""
    judged = [one for one in answers if one[0].refusal is not None]
    left = [one for one in answers if one[0].refusal is None]
    for (item, text), refused in zip(judged, refusals(judged), strict=True):
        if item.refused is None:
            item.refused = refused
        if refused is None:
            item.reasons.append("not_judged")
        elif refused != item.refusal:
            item.reasons.append("refusal" if refused else "no_refusal")
        else:
            left.append((item, text))
    return left


def _asked(item: Item) -> tuple[Message, ...]:
    return item.messages if item.system is None else ({"role": "system", "content": item.system}, *item.messages)


def best_of(scores: Sequence[float | None], passes: Sequence[bool | None], key: str, seed: int) -> int | None:
    """The best-scored answer that passes its checks (None: has none); among equals a random one by (seed, key)."""
    allowed = [i for i, score in enumerate(scores) if score is not None and passes[i] is not False]
    if not allowed:
        return None
    best = max(scores[i] or 0.0 for i in allowed)
    return Random(f"best/{seed}/{key}").choice([i for i in allowed if scores[i] == best])
