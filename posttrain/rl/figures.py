"""What is logged of a rollout batch and of the updates on it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from posttrain.models.ranks import world_size
from posttrain.rl.ppo import PolicyStatistics
from posttrain.rl.rollouts import Rollout
from posttrain.training.sharding import largest_over_ranks, summed_over_ranks
from posttrain.verifiers.verdict import Outcome


def rollout_figures(rollout: Rollout, outcomes: Sequence[Outcome], scores_B: torch.Tensor) -> dict[str, Any]:
    """Means over the samples, except ``entropy``: nats per token, estimated by −logprob of the sampled tokens.

    ``correct_rate`` counts verified answers whether or not they ended; ``by_verifier`` names the verifiers of a row
    joined by ``+``. Samples whose verifier failed count in ``error_rate`` and ``response_tokens``, not in the scores.
    """
    judged = [b for b, outcome in enumerate(outcomes) if outcome != "error"]
    scores = scores_B.tolist()
    of_verifier: dict[str, list[int]] = defaultdict(list)
    for b in judged:
        of_verifier["+".join(verifier for verifier, _ in rollout.rows[b].checks)].append(b)
    tokens = rollout.response_tokens
    return {
        "score": _mean(scores[b] for b in judged),
        "correct_rate": _mean(outcomes[b] == "correct" for b in judged),
        "timeout_rate": _mean(outcome == "timeout" for outcome in outcomes),
        "error_rate": _mean(outcome == "error" for outcome in outcomes),
        "eos_rate": _mean(rollout.finished_B.tolist()),
        "response_tokens": tokens / len(rollout.rows),
        "entropy": -float(rollout.sampler_logp_BT.sum()) / max(tokens, 1),
        "by_verifier": {
            name: {
                "samples": len(rows),
                "score": _mean(scores[b] for b in rows),
                "correct_rate": _mean(outcomes[b] == "correct" for b in rows),
            }
            for name, rows in sorted(of_verifier.items())
        },
    }


_MEANS = {  # what is logged → what it is a mean over
    "policy_loss": "policy_tokens",
    "clip_fraction": "policy_tokens",
    "approximate_kl": "policy_tokens",
    "value_loss": "value_tokens",
    "logp_gap": "gap_tokens",
    "pair_loss": "pairs_learned",
}


class UpdateFigures:
    """Sums over all micro-batches of a step's passes, kept as tensors until `means`: no wait for a GPU in between."""

    def __init__(self):
        self._sums: dict[str, Any] = defaultdict(float)
        self._ratio_max: list[torch.Tensor] = []
        self._norms: dict[str, list[float]] = defaultdict(list)

    def policy(self, loss: torch.Tensor, statistics: PolicyStatistics, weights_BT: torch.Tensor) -> None:
        self._sums["policy_loss"] += loss.detach()
        self._sums["clip_fraction"] += statistics.clipped
        self._sums["approximate_kl"] += statistics.approximate_kl
        self._sums["policy_tokens"] += weights_BT.sum()
        self._ratio_max.append(statistics.ratio_max)

    def value(self, loss: torch.Tensor, weights_BT: torch.Tensor) -> None:
        self._sums["value_loss"] += loss.detach()
        self._sums["value_tokens"] += weights_BT.sum()

    def pairs(self, loss: torch.Tensor, count: int) -> None:
        self._sums["pair_loss"] += loss.detach()
        self._sums["pairs_learned"] += count

    def gap(self, logp_BT: torch.Tensor, sampler_logp_BT: torch.Tensor, response_BT: torch.Tensor) -> None:
        """|learner's − sampler's log-probability| of the response tokens, at the weights that sampled them."""
        self._sums["logp_gap"] += (logp_BT.detach() - sampler_logp_BT).abs().masked_fill(~response_BT, 0.0).sum()
        self._sums["gap_tokens"] += response_BT.sum()

    def gradient_norm(self, name: str, norm: float) -> None:
        self._norms[f"{name}_gradient_norm"].append(norm)

    def means(self) -> dict[str, float]:
        """Per-token means over all passes, ``ratio_max``, mean gradient norms. What was not learned is left out.

        Over the parts of all ranks, which ask together.
        """
        names = sorted(self._sums) if world_size() == 1 else sorted(_MEANS.keys() | _MEANS.values())
        self._sums = dict(summed_over_ranks({name: self._sums.get(name, 0.0) for name in names}))
        means = {
            name: float(self._sums[name]) / max(float(self._sums[tokens]), 1.0)
            for name, tokens in _MEANS.items()
            if name in self._sums and (world_size() == 1 or float(self._sums[tokens]) > 0)
        }
        if self._ratio_max:
            means["ratio_max"] = float(largest_over_ranks(torch.stack(self._ratio_max).max()))
        return means | {name: fmean(norms) for name, norms in self._norms.items()}


def first_and_last(curve: Sequence[Mapping[str, Any]], steps: int = 10) -> dict[str, float]:
    """Score, correct and EOS rate averaged over the first and over the last ``steps`` rows of a metrics log."""
    return {
        f"{name}_{end}": _mean(row[name] for row in rows)
        for name in ("score", "correct_rate", "eos_rate")
        for end, rows in (("first", curve[:steps]), ("last", curve[-steps:]))
    }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return fmean(values) if values else 0.0
