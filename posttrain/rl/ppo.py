"""The losses of PPO. Every loss is a SUM over tokens; the caller divides by one denominator per optimizer step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

LOG_RATIO_BOUND = 20.0  # exp(20) ≈ 5e8: far beyond any clip range, far from an fp32 overflow


@dataclass(frozen=True)
class PolicyStatistics:
    """Sums over the weighted tokens of one micro-batch (``ratio_max``: the largest); nothing is synchronised here."""

    clipped: torch.Tensor  # tokens where the clipped objective is the one that counts
    approximate_kl: torch.Tensor  # Σ (ratio − 1 − log ratio), the k3 estimate of KL(old ‖ new)
    ratio_max: torch.Tensor


def clamped_log_ratio(logp: torch.Tensor, other_logp: torch.Tensor) -> torch.Tensor:
    return (logp - other_logp).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def policy_loss(
    logp_BT: torch.Tensor,
    old_logp_BT: torch.Tensor,
    advantages_BT: torch.Tensor,
    weights_BT: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[torch.Tensor, PolicyStatistics]:
    """Σ weight · max(−A·r, −A·clip(r, 1 − clip_low, 1 + clip_high)), r = exp(logp − old_logp).

    Schulman et al. 2017, equation 7, with separate bounds (DAPO's "clip higher"); PPO gives the same number twice.
    ``weights_BT`` is 0 outside the trained tokens; what the other tensors hold there does not matter.
    """
    trained_BT = weights_BT > 0
    logp_BT = torch.where(trained_BT, logp_BT, 0.0)
    old_logp_BT = torch.where(trained_BT, old_logp_BT, 0.0)
    log_ratio_BT = clamped_log_ratio(logp_BT, old_logp_BT)
    ratio_BT = log_ratio_BT.exp()
    unclipped_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss = (weights_BT * torch.where(trained_BT, torch.maximum(unclipped_BT, clipped_BT), 0.0)).sum()
    with torch.no_grad():
        statistics = PolicyStatistics(
            clipped=(weights_BT * (trained_BT & (clipped_BT > unclipped_BT))).sum(),
            approximate_kl=(weights_BT * (torch.expm1(log_ratio_BT) - log_ratio_BT)).sum(),
            ratio_max=torch.where(trained_BT, ratio_BT, 0.0).max(),
        )
    return loss, statistics


def value_loss(
    values_BT: torch.Tensor,
    old_values_BT: torch.Tensor,
    returns_BT: torch.Tensor,
    weights_BT: torch.Tensor,
    clip_range: float,
) -> torch.Tensor:
    """Σ weight · 0.5 · max((V − R)², (clip(V, V_old ± clip_range) − R)²), as published. 0 where the weight is 0."""
    trained_BT = weights_BT > 0
    clipped_BT = torch.clamp(values_BT, old_values_BT - clip_range, old_values_BT + clip_range)
    squared_BT = torch.maximum((values_BT - returns_BT).square(), (clipped_BT - returns_BT).square())
    return 0.5 * (weights_BT * torch.where(trained_BT, squared_BT, 0.0)).sum()


def explained_variance(values_BT: torch.Tensor, returns_BT: torch.Tensor, mask_BT: torch.Tensor) -> float:
    """1 − Var(R − V) / Var(R) over the masked entries; 0 where the returns do not vary."""
    returns, errors = returns_BT[mask_BT], (returns_BT - values_BT)[mask_BT]
    if len(returns) < 2:
        return 0.0
    variance = float(returns.var())
    return 1.0 - float(errors.var()) / variance if variance > 0 else 0.0


def loss_divisors(counts: Sequence[float], mean_of_means: bool) -> list[float]:
    """What each micro-batch's summed loss is divided by, given the trained tokens of each micro-batch of the step.

    The same global count for all; with ``mean_of_means`` (Tülu 3 as published) the mean over micro-batches of their
    token means, which depends on how the rows were split (the 8B run had two rows in each).
    """
    if mean_of_means:
        return [len(counts) * max(count, 1.0) for count in counts]
    return [max(sum(counts), 1.0)] * len(counts)
