"""The aspect judge: a chat model rates all answers to a prompt, aspect by aspect, in orders drawn beforehand."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from posttrain.artifacts.shelf import Numbered, Shelf
from posttrain.data.rows import VerifiablePrompt
from posttrain.inference.journal import request_key
from posttrain.inference.protocols import ChatAnswer, ChatFailure, ChatRequest, SamplingParameters
from posttrain.preferences.aspects import (
    ASPECTS,
    RATIONALE_LETTERS,
    Rating,
    Unreadable,
    answer_schema,
    judge_messages,
    read_ratings,
)
from posttrain.preferences.judge import AspectScore, Candidate, Judged

LETTERS_PER_TOKEN = 2  # at the least, of prose
TOKENS_PER_RATING = 40  # keys, marks and the number

Answered = Numbered[tuple[VerifiablePrompt, Sequence[Candidate]]]
Asker = Callable[[Iterable[ChatRequest]], Iterator[ChatAnswer | ChatFailure]]


@dataclass(frozen=True)
class JudgeOptions:
    """``single_call``: all aspects in one request. ``swap``: each order also reversed, ratings averaged.

    ``attempts``: how often an answer that cannot be read is asked again, each time by another seed; then its ratings
    are missing. ``max_tokens`` None: room for every rationale at its full length.
    """

    aspects: tuple[str, ...] = tuple(ASPECTS)
    single_call: bool = False
    swap: bool = False
    attempts: int = 3
    temperature: float = 0.1
    max_tokens: int | None = None
    rationale_letters: int = RATIONALE_LETTERS
    seed: int = 0

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """The aspects that each call asks for."""
        return [self.aspects] if self.single_call else [(aspect,) for aspect in self.aspects]


@dataclass(frozen=True)
class Call:
    """One question to the judge: ``order[k]`` is the index of the candidate shown as text k + 1."""

    prompt: int  # index into the answered prompts
    aspects: tuple[str, ...]
    order: tuple[int, ...]
    swapped: bool = False

    def name(self, prompt_id: str) -> str:
        return f"{prompt_id}/{'+'.join(self.aspects)}{'/swapped' if self.swapped else ''}"


@dataclass
class Tally:
    """What the judge's answers were like."""

    calls: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)  # answers, by why
    missing: int = 0  # calls without one readable answer
    by_position: dict[int, Counter[int]] = field(default_factory=dict)  # ratings by the place shown, from 1


def calls(answered: Answered, options: JudgeOptions) -> Iterator[Call]:
    """All questions, in the order of the prompts. Orders hang on (seed, prompt id, aspect) alone.

    Answers that are blank are not shown; a prompt with fewer than two others is not judged.
    """
    for index, (prompt, candidates) in enumerate(answered):
        shown = [place for place, candidate in enumerate(candidates) if candidate.text.strip()]
        if len(shown) < 2:
            continue
        for group in options.groups:
            order = list(shown)
            Random(f"judge/{options.seed}/{prompt.id}/{'+'.join(group)}").shuffle(order)
            yield Call(index, group, tuple(order))
            if options.swap:
                yield Call(index, group, tuple(reversed(order)), swapped=True)


def judge_by_aspects(
    answered: Answered, ask: Asker, model: str, options: JudgeOptions, folder: Path | None = None
) -> tuple[Shelf[tuple[Judged, ...]], Tally]:
    """Rates every candidate; ``ask`` answers judge requests through the journal, in any order.

    A candidate's rating is the mean of its aspects' ratings, each the mean over the orders; aspects that are N/A or
    missing stand aside; None if none is left. Ratings are on the disk, in ``folder``.
    """
    tally = Tally()
    groups, orders = options.groups, (False, True) if options.swap else (False,)
    # By call: the candidates in the order shown, their ratings, the journal key.
    read: Shelf[tuple[tuple[int, ...], list[dict[str, Rating]], str]] = Shelf(folder)

    def place_of(prompt: int, group: tuple[str, ...], swapped: bool) -> int:
        return (prompt * len(groups) + groups.index(group)) * len(orders) + swapped

    open_calls: Iterable[Call] = calls(answered, options)
    lost: list[Call] = []
    for attempt in range(options.attempts):
        asked: dict[str, Call] = {}
        again: list[Call] = []
        for one in ask(_requests(open_calls, answered, options, attempt, asked)):
            call = asked.pop(one.request.id)
            if attempt == 0:
                tally.calls += 1
            try:
                ratings = _read(one, call)
            except Unreadable as fault:
                tally.unreadable[str(fault).partition(" (")[0][:60]] += 1
                refused = isinstance(one, ChatFailure) and one.reason == "refused"  # as it would be again
                (lost if refused else again).append(call)
                continue
            for place, by_aspect in enumerate(ratings, start=1):
                values = (rating.value for rating in by_aspect.values() if rating.value is not None)
                tally.by_position.setdefault(place, Counter()).update(values)
            key = request_key(model, one.request)
            read.put(place_of(call.prompt, call.aspects, call.swapped), (call.order, ratings, key))
        open_calls = sorted(again, key=lambda call: (call.prompt, call.aspects, call.swapped))
        if not again:
            break
    tally.missing = len(lost) + len(list(open_calls))

    def judged(index: int, candidates: Sequence[Candidate]) -> Iterator[Judged]:
        found: dict[tuple[str, int], list[Rating]] = {}  # by aspect and candidate
        keys: dict[str, list[str]] = {}
        for group in groups:
            for swapped in orders:
                if (told := read.get(place_of(index, group, swapped))) is None:
                    continue
                for candidate, by_aspect in zip(told[0], told[1], strict=True):
                    for aspect, rating in by_aspect.items():
                        found.setdefault((aspect, candidate), []).append(rating)
                for aspect in group:
                    keys.setdefault(aspect, []).append(told[2])
        for place, candidate in enumerate(candidates):
            scores = {a: _score(found.get((a, place), []), keys.get(a, [])) for a in options.aspects}
            yield Judged(candidate, _mean([s.rating for s in scores.values()]), (), scores, model)

    rows = (tuple(judged(index, candidates)) for index, (_, candidates) in enumerate(answered))
    return Shelf.of(rows, folder), tally


def judge_request(
    call: Call, prompt: VerifiablePrompt, candidates: Sequence[Candidate], options: JudgeOptions, attempt: int = 0
) -> ChatRequest:
    """The request of one call; ``attempt`` counts from 0 and changes the random numbers alone."""
    texts = [candidates[place].text for place in call.order]
    ratings = len(texts) * len(call.aspects)
    limit = options.max_tokens or ratings * (options.rationale_letters // LETTERS_PER_TOKEN + TOKENS_PER_RATING)
    return ChatRequest(
        call.name(prompt.id),
        judge_messages(prompt.messages, texts, call.aspects),
        SamplingParameters(options.temperature, 1.0, limit, seed=options.seed),
        attempt,
        answer_schema(len(texts), call.aspects, options.rationale_letters),
    )


def _requests(
    open_calls: Iterable[Call], answered: Answered, options: JudgeOptions, attempt: int, asked: dict[str, Call]
) -> Iterator[ChatRequest]:
    for call in open_calls:
        prompt, candidates = answered[call.prompt]
        request = judge_request(call, prompt, candidates, options, attempt)
        asked[request.id] = call
        yield request


def _read(one: ChatAnswer | ChatFailure, call: Call) -> list[dict[str, Rating]]:
    if isinstance(one, ChatFailure):
        raise Unreadable(f"no answer: {one.reason} ({one.detail})")
    try:
        return read_ratings(one.text, len(call.order), call.aspects)
    except Unreadable:
        if one.finish_reason == "length":
            raise Unreadable("cut at max_tokens") from None
        raise


def _score(ratings: Sequence[Rating], keys: Sequence[str]) -> AspectScore:
    values = tuple(rating.value for rating in ratings)
    return AspectScore(_mean(values), values, tuple(rating.rationale for rating in ratings), tuple(sorted(keys)))


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
