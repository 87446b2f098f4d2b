"""What a preference set looks like in numbers: yield, ratings by model, and the biases that DPO would learn."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from posttrain.preferences.binarize import Pairing
from posttrain.preferences.judge import Judged


def preference_figures(judged: Sequence[Sequence[Judged]], pairings: Sequence[Pairing]) -> dict[str, Any]:
    """Figures for the manifest.

    ``no_pair``: prompts without a pair, by reason. ``unrated``: answers whose verifier failed. ``unfinished``: share of
    answers cut at their limit. ``ratings``: mean by model. ``chosen_longer``: share of pairs whose chosen answer has
    more tokens (equal ones count half). ``chosen_on_policy``, ``rejected_on_policy``: share of pairs.
    """
    answers = [one for candidates in judged for one in candidates]
    ratings: dict[str, list[float]] = {}
    for one in answers:
        if one.rating is not None:
            ratings.setdefault(one.candidate.member.model, []).append(one.rating)
    pairs = [
        (candidates[pairing.chosen].candidate, candidates[pairing.rejected].candidate)
        for candidates, pairing in zip(judged, pairings, strict=True)
        if pairing.chosen is not None and pairing.rejected is not None
    ]
    longer = [1.0 if c.tokens > r.tokens else 0.5 if c.tokens == r.tokens else 0.0 for c, r in pairs]
    return {
        "no_pair": dict(Counter(pairing.reason for pairing in pairings if pairing.reason)),
        "unrated": sum(one.rating is None for one in answers),
        "unfinished": _mean([float(not one.candidate.finished) for one in answers]),
        "ratings": {model: _mean(values) for model, values in ratings.items()},
        "chosen_longer": _mean(longer),
        "chosen_on_policy": _mean([float(chosen.member.on_policy) for chosen, _ in pairs]),
        "rejected_on_policy": _mean([float(rejected.member.on_policy) for _, rejected in pairs]),
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0
