"""From rated answers to one pair per prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from posttrain.data.rows import PreferencePair, VerifiablePrompt
from posttrain.preferences.judge import Judged


@dataclass(frozen=True)
class Pairing:
    """Indices of the chosen and the rejected candidate, or the ``reason`` why the prompt makes no pair."""

    chosen: int | None
    rejected: int | None
    reason: str | None = None


def choose_pair(prompt_id: str, seed: int, judged: Sequence[Judged]) -> Pairing:
    """Chosen: the best rating (of several, a random one). Rejected: a random one of those rated strictly lower.

    The Tülu 3 paper's rule (§5.2.1: chosen the best mean, rejected a random lower one); the published code also took
    equals. Random by (seed, prompt id) alone. Answers without a rating, and blank ones, which no reader of the
    published layout takes, stand aside. Reasons: ``too_few_rated``, ``all_equal``, ``same_text`` (every lower answer
    reads like the chosen one and differs only in how it ended).
    """
    rated = {i: one.rating for i, one in enumerate(judged) if one.rating is not None and one.candidate.text.strip()}
    if len(rated) < 2:
        return Pairing(None, None, "too_few_rated")
    random = Random(f"binarize/{seed}/{prompt_id}")
    best = max(rated.values())
    lower = [i for i, rating in rated.items() if rating < best]
    if not lower:
        return Pairing(None, None, "all_equal")
    chosen = random.choice([i for i, rating in rated.items() if rating == best])
    lower = [i for i in lower if judged[i].candidate.text != judged[chosen].candidate.text]
    if not lower:
        return Pairing(None, None, "same_text")
    return Pairing(chosen, random.choice(lower))


def preference_pair(prompt: VerifiablePrompt, judged: Sequence[Judged], pairing: Pairing) -> PreferencePair:
    """The row in the published layout; ratings and models of both sides and all candidates ride in ``extra``."""
    assert pairing.chosen is not None and pairing.rejected is not None
    chosen, rejected = judged[pairing.chosen], judged[pairing.rejected]
    text = next(message["content"] for message in prompt.messages if message["role"] == "user")
    extra = {
        "chosen_rating": chosen.rating,
        "rejected_rating": rejected.rating,
        "chosen_model": chosen.candidate.member.model,
        "rejected_model": rejected.candidate.member.model,
        "candidates": [candidate_record(one) for one in judged],
    }
    return PreferencePair(
        prompt.id, text, _conversation(prompt, chosen), _conversation(prompt, rejected), prompt.source, extra
    )


def prompt_record(prompt: VerifiablePrompt, judged: Sequence[Judged], pairing: Pairing) -> dict[str, Any]:
    """A line of candidates.jsonl: everything known of one prompt, whether it made a pair or not."""
    return {
        "id": prompt.id,
        "messages": [dict(message) for message in prompt.messages],
        "source": prompt.source,
        "chosen": pairing.chosen,
        "rejected": pairing.rejected,
        "reason": pairing.reason,
        "candidates": [candidate_record(one) for one in judged],
    }


def candidate_record(judged: Judged) -> dict[str, Any]:
    """One answer with its origin, rating and the verdict of each check."""
    candidate = judged.candidate
    return {
        "model": candidate.member.model,
        "temperature": candidate.member.temperature,
        "on_policy": candidate.member.on_policy,
        "sample_index": candidate.sample_index,
        "text": candidate.text,
        "finished": candidate.finished,
        "tokens": candidate.tokens,
        "rating": judged.rating,
        "scores": [verdict.score for verdict in judged.verdicts],
        "outcomes": [verdict.outcome for verdict in judged.verdicts],
    }


def _conversation(prompt: VerifiablePrompt, judged: Judged) -> tuple[dict[str, str], ...]:
    return (*map(dict, prompt.messages), {"role": "assistant", "content": judged.candidate.text})
