"""How far an aspect judge can be trusted: agreement with itself and with code, and what else moves its ratings."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

from posttrain.artifacts.shelf import Numbered
from posttrain.preferences.aspect_judge import Tally
from posttrain.preferences.judge import Judged


def judge_figures(judged: Numbered[Sequence[Judged]], tally: Tally, judge: str) -> dict[str, Any]:
    """Figures for the manifest; shares are of pairs of answers to one prompt, ties of the ratings left out.

    ``unreadable``: answers of the judge by what was wrong; ``missing_calls``: calls without a readable one.
    ``aspects``: mean, and share of N/A. ``by_position``: mean rating by the place shown: equal means no position bias.
    ``orders_agree``: with swapped orders, share of equal ratings and the mean difference. ``aspects_agree``: share of
    pairs that two aspects put in the same order. ``checks_agree``: share of pairs that rating and verifiers put in the
    same order. ``longer_wins``: share of pairs in which the longer answer (in tokens) is rated higher.
    ``self_preference``: mean rating of the judge's own answers less that of the others to the same prompts.
    """
    names = sorted({name for one in _answers(judged) for name in one.aspects})
    figures: dict[str, Any] = {
        "calls": tally.calls,
        "unreadable": dict(tally.unreadable),
        "missing_calls": tally.missing,
        "aspects": {name: _aspect(judged, name) for name in names},
        "by_position": {
            place: _mean(values.elements()) for place, values in sorted(tally.by_position.items()) if values
        },
        "orders_agree": _orders(judged),
        "longer_wins": _share(
            (one.candidate.tokens > other.candidate.tokens) == (one.rating > other.rating)
            for one, other in _rated_pairs(judged)
            if one.candidate.tokens != other.candidate.tokens and one.rating != other.rating
        ),
    }
    figures["aspects_agree"] = {f"{a}, {b}": _aspects_agree(judged, a, b) for a, b in combinations(names, 2)}
    figures["checks_agree"] = _share(
        (_checks(one) > _checks(other)) == (one.rating > other.rating)
        for one, other in _rated_pairs(judged)
        if one.verdicts and other.verdicts and _checks(one) != _checks(other) and one.rating != other.rating
    )
    own = array(
        "d",
        (
            one.rating - mean
            for row in judged
            for one in row
            if one.rating is not None and one.candidate.member.model == judge
            for mean in [_mean(o.rating for o in row if o.rating is not None and o.candidate.member.model != judge)]
            if mean is not None
        ),
    )
    figures["self_preference"] = {"answers": len(own), "difference": _mean(own)}
    return figures


def _answers(judged: Iterable[Sequence[Judged]]) -> Iterator[Judged]:
    return (one for row in judged for one in row)


def _rated_pairs(judged: Iterable[Sequence[Judged]]) -> Iterator[tuple[Any, Any]]:
    for row in judged:
        yield from combinations([one for one in row if one.rating is not None], 2)


def _checks(one: Judged) -> float:
    return sum(verdict.score for verdict in one.verdicts) / len(one.verdicts)


def _aspect(judged: Iterable[Sequence[Judged]], name: str) -> dict[str, Any]:
    values: Counter[int | None] = Counter()
    for one in _answers(judged):
        if name in one.aspects:
            values.update(one.aspects[name].ratings)
    rated = _mean(value for value in values.elements() if value is not None)
    return {"mean": rated, "not_applicable": _share(value is None for value in values.elements())}


def _orders(judged: Iterable[Sequence[Judged]]) -> dict[str, Any] | None:
    given = Counter(score.ratings for one in _answers(judged) for score in one.aspects.values())
    twice = {ratings: count for ratings, count in given.items() if len(ratings) == 2}
    if not twice:
        return None
    apart: Counter[int] = Counter()
    for (one, other), count in twice.items():
        if one is not None and other is not None:
            apart[abs(one - other)] += count
    equal = _share(difference == 0 for difference in apart.elements())
    return {"ratings": apart.total(), "equal": equal, "apart": _mean(apart.elements())}


def _aspects_agree(judged: Iterable[Sequence[Judged]], a: str, b: str) -> float | None:
    def same() -> Iterator[bool]:
        for row in judged:
            rated = [
                (of_a, of_b)
                for one in row
                if a in one.aspects and b in one.aspects
                if (of_a := one.aspects[a].rating) is not None and (of_b := one.aspects[b].rating) is not None
            ]
            for (a1, b1), (a2, b2) in combinations(rated, 2):
                if a1 != a2 and b1 != b2:
                    yield (a1 > a2) == (b1 > b2)

    return _share(same())


def _share(truths: Iterable[bool]) -> float | None:
    return _mean(map(float, truths))


def _mean(values: Iterable[float]) -> float | None:
    total, count = 0.0, 0
    for value in values:
        total, count = total + value, count + 1
    return round(total / count, 4) if count else None
