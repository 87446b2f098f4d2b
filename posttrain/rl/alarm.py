"""Over-optimisation: the training reward goes up while the model gets worse at what it is not rewarded for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

DEVIATIONS = 2.0  # standard errors of the paired difference that count as a fall


@dataclass(frozen=True)
class Look:
    """One look at held-out prompts. ``reward`` and ``kl`` (nats a sample): training means since the look before.

    They are None at the first look, before any training.
    """

    step: int
    reward: float | None
    kl: float | None
    scores: tuple[float | None, ...]  # one for each held-out prompt, always the same; None: could not be judged

    @property
    def mean(self) -> float:
        """Over the prompts that could be judged, of which there is one at least."""
        return fmean(score for score in self.scores if score is not None)


class OveroptimisationAlarm:
    """Compares each look with the best one so far. ``state``: what `state` gave before a restart."""

    def __init__(self, kl_bound: float | None = None, state: Mapping[str, Any] | None = None):
        self.kl_bound = kl_bound
        self.looks: list[Look] = []
        self.best: Look | None = None
        self.reasons: list[str] = []
        self._since: list[tuple[float, float]] = []
        self._untrained: float | None = None  # reward of the first batch, drawn by the weights of the first look
        if state is not None:
            for look in state["looks"]:
                self.observe(Look(**look))
            self.reasons, self._since = list(state["reasons"]), list(state["since"])
            self._untrained = state["untrained"]

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        looks = [asdict(look) for look in self.looks]
        return {"looks": looks, "reasons": self.reasons, "since": self._since, "untrained": self._untrained}

    def record(self, reward: float, kl: float) -> None:
        """One training step's mean reward and KL (nats a sample)."""
        if self._untrained is None:
            self._untrained = reward
        self._since.append((reward, kl))

    def look(self, step: int, scores: Sequence[float | None]) -> str | None:
        """Observes the held-out scores at ``step`` with the training means since the look before."""
        reward = kl = None
        if self._since:
            reward, kl = (fmean(column) for column in zip(*self._since, strict=True))
        self._since = []
        return self.observe(Look(step, reward, kl, tuple(scores)))

    def observe(self, look: Look) -> str | None:
        """The reason to be alarmed, or None. The best look is beaten by a higher mean on the prompts judged in both."""
        self.looks.append(look)
        if self.best is None or paired_difference(look.scores, self.best.scores)[0] > 0:
            self.best = look
        reason = self._reason(look, self.best)
        if reason is not None:
            self.reasons.append(f"step {look.step}: {reason}")
        return reason

    def _reason(self, look: Look, best: Look) -> str | None:
        if look.kl is not None and self.kl_bound is not None and look.kl > self.kl_bound:
            return f"KL to the reference is {look.kl:.2f} nats a sample, over the bound {self.kl_bound:g}"
        before = self._untrained if best.reward is None else best.reward
        if before is None or look.reward is None or look.reward <= before:
            return None
        difference, error = paired_difference(look.scores, best.scores)
        if difference < -DEVIATIONS * error:
            right, before_right = map(fmean, zip(*judged_in_both(look.scores, best.scores), strict=True))
            return (
                f"the reward rose from {before:.2f} to {look.reward:.2f} since step {best.step}, and held-out "
                f"prompts answered right fell from {before_right:.1%} to {right:.1%}"
            )
        return None


def paired_difference(a: Sequence[float | None], b: Sequence[float | None]) -> tuple[float, float]:
    """Mean of a − b over the prompts that could be judged in both, and its standard error, infinite for one prompt."""
    differences = [x - y for x, y in judged_in_both(a, b)]
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    return fmean(differences) if differences else 0.0, error


def judged_in_both(a: Sequence[float | None], b: Sequence[float | None]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
