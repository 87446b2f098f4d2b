"""GRPO: advantages relative to the other samples of the same prompt, and a loss without a value model."""

from typing import Literal

import torch

from posttrain.rl.ppo import PolicyStatistics, clamped_log_ratio, policy_loss

STD_EPSILON = 1e-8  # open-instruct: (s − μ) / (σ + 1e-8)


def group_advantages(
    scores_B: torch.Tensor, group_B: torch.Tensor, weights_B: torch.Tensor, divide_by_std: bool, bessel: bool = False
) -> torch.Tensor:
    """score − mean of its group, divided by the group's standard deviation + 1e-8 if asked.

    The deviation is the population's; with ``bessel`` the sample's, as in the program of Tülu 3.1.
    ``group_B`` numbers the prompt of each sample; members of a group need not be neighbours. Samples of weight 0 (an
    infrastructure error) count in no mean and get 0. A group that all scored the same gets 0: it trains nothing, and
    its tokens stay in the denominator. That is asked of the scores, as the mean of equal numbers can be an ulp off, and
    an ulp divided by a "deviation" of an ulp is 1.
    """
    counted_B = weights_B > 0
    groups = int(group_B.max()) + 1 if len(group_B) else 0
    scores_B = torch.where(counted_B, scores_B, 0.0)

    def group_mean(x_B: torch.Tensor, but: int = 0) -> torch.Tensor:
        """Σ / (n − but)."""
        sums_G = torch.zeros(groups, dtype=x_B.dtype, device=x_B.device).index_add_(0, group_B, x_B)
        counts_G = torch.zeros_like(sums_G).index_add_(0, group_B, counted_B.to(x_B.dtype))
        return (sums_G / (counts_G - but).clamp(min=1))[group_B]

    def highest(x_B: torch.Tensor) -> torch.Tensor:
        counted = torch.where(counted_B, x_B, float("-inf"))
        return x_B.new_full((groups,), float("-inf")).scatter_reduce(0, group_B, counted, "amax")[group_B]

    differ_B = counted_B & (highest(scores_B) > -highest(-scores_B))
    centred_B = torch.where(differ_B, scores_B - group_mean(scores_B), 0.0)
    if not divide_by_std:
        return centred_B
    return centred_B / (group_mean(centred_B.square(), int(bessel)).sqrt() + STD_EPSILON)


def leave_one_out_advantages(scores_B: torch.Tensor, group_B: torch.Tensor, weights_B: torch.Tensor) -> torch.Tensor:
    """score − mean of the OTHER samples of its group: RLOO (Ahmadian et al. 2024, arXiv 2402.14740, equation 8).

    Samples of weight 0 count in no mean and get 0, as does one that is alone in its group.
    """
    counted_B = (weights_B > 0).to(scores_B.dtype)
    sizes_B = torch.zeros(int(group_B.max()) + 1, dtype=scores_B.dtype, device=scores_B.device)
    sizes_B = sizes_B.index_add_(0, group_B, counted_B)[group_B]
    centred_B = group_advantages(scores_B, group_B, weights_B, divide_by_std=False)
    # s − (n·μ − s)/(n − 1) = (s − μ)·n/(n − 1)
    return torch.where(sizes_B > 1, centred_B * sizes_B / (sizes_B - 1).clamp(min=1), 0.0)


def kl_penalty(logp_BT: torch.Tensor, ref_logp_BT: torch.Tensor, estimator: Literal["k2", "k3"]) -> torch.Tensor:
    """Per-token penalty whose gradient pulls the policy to the reference.

    ``k2`` = Δ²/2 with Δ = logp − ref_logp: its gradient is that of the reverse KL. ``k3`` = exp(−Δ) − 1 + Δ: an
    unbiased value with a biased gradient, as in Tülu 3.1's GRPO.
    """
    difference_BT = clamped_log_ratio(logp_BT, ref_logp_BT)
    if estimator == "k2":
        return 0.5 * difference_BT.square()
    return torch.expm1(-difference_BT) + difference_BT


def grpo_loss(
    logp_BT: torch.Tensor,
    old_logp_BT: torch.Tensor,
    ref_logp_BT: torch.Tensor | None,
    advantages_BT: torch.Tensor,
    weights_BT: torch.Tensor,
    clip_low: float,
    clip_high: float,
    beta: float,
    estimator: Literal["k2", "k3"],
) -> tuple[torch.Tensor, PolicyStatistics]:
    """The DAPO-clipped policy loss plus β · KL penalty, summed over tokens. ``ref_logp_BT`` None stands for β = 0."""
    loss, statistics = policy_loss(logp_BT, old_logp_BT, advantages_BT, weights_BT, clip_low, clip_high)
    if ref_logp_BT is not None:
        trained_BT = weights_BT > 0
        penalty_BT = kl_penalty(
            torch.where(trained_BT, logp_BT, 0.0), torch.where(trained_BT, ref_logp_BT, 0.0), estimator
        )
        loss = loss + beta * (weights_BT * penalty_BT).sum()
    return loss, statistics
