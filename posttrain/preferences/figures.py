"""What a preference set looks like in numbers: yield, ratings by model, and the biases that DPO would learn."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from posttrain.artifacts.shelf import Numbered
from posttrain.preferences.binarize import Pairing
from posttrain.preferences.judge import Candidate, Judged


def preference_figures(judged: Numbered[Sequence[Judged]], pairings: Sequence[Pairing]) -> dict[str, Any]:
    """Figures for the manifest.

    ``no_pair``: prompts without a pair, by reason. ``unrated``: answers whose verifier failed. ``unfinished``: share of
    answers cut at their limit. ``ratings``: mean by model. ``chosen_longer``: share of pairs whose chosen answer has
    more tokens (equal ones count half). ``chosen_on_policy``, ``rejected_on_policy``: share of pairs.
    """

    def answers() -> Iterator[Judged]:
        return (one for candidates in judged for one in candidates)

    def pairs() -> Iterator[tuple[Candidate, Candidate]]:
        for candidates, pairing in zip(judged, pairings, strict=True):
            if pairing.chosen is not None and pairing.rejected is not None:
                yield candidates[pairing.chosen].candidate, candidates[pairing.rejected].candidate

    ratings: dict[str, array[float]] = {}
    for one in answers():
        if one.rating is not None:
            ratings.setdefault(one.candidate.member.model, array("d")).append(one.rating)
    return {
        "no_pair": dict(Counter(pairing.reason for pairing in pairings if pairing.reason)),
        "unrated": sum(one.rating is None for one in answers()),
        "unfinished": _mean(float(not one.candidate.finished) for one in answers()),
        "ratings": {model: _mean(values) for model, values in ratings.items()},
        "chosen_longer": _mean(
            1.0 if c.tokens > r.tokens else 0.5 if c.tokens == r.tokens else 0.0 for c, r in pairs()
        ),
        "chosen_on_policy": _mean(float(chosen.member.on_policy) for chosen, _ in pairs()),
        "rejected_on_policy": _mean(float(rejected.member.on_policy) for _, rejected in pairs()),
    }


def _mean(values: Iterable[float]) -> float:
    total, count = 0.0, 0
    for value in values:
        total, count = total + value, count + 1
    return round(total / count, 4) if count else 0.0
