"""What a rollout batch teaches: the fixed targets of all passes over it, made once before the first update."""

from dataclasses import dataclass, replace

import torch

from posttrain.rl.advantages import gae, rewards_with_score, tulu3_advantages, tulu3_value_mask, whiten
from posttrain.rl.grpo import group_advantages, leave_one_out_advantages
from posttrain.rl.online_dpo import best_and_worst
from posttrain.rl.ppo import explained_variance
from posttrain.rl.rollouts import Rollout


@dataclass(frozen=True)
class Experience:
    """Tensors in the rollout's layout [B, T]. Weights are 1 on what trains, 0 elsewhere: rows are never dropped.

    ``ref_logp_BT`` is what the loss compares with: None in PPO and RLOO, whose KL is in the reward. The value tensors
    mean nothing where the algorithm has no value model. ``figures``: what is worth logging of them. ``pairs``: rows of
    the chosen and of the rejected samples in online DPO, which has weights on these alone, and reads ``ref_logp_BT``.
    """

    old_logp_BT: torch.Tensor
    ref_logp_BT: torch.Tensor | None
    advantages_BT: torch.Tensor
    policy_weights_BT: torch.Tensor
    old_values_BT: torch.Tensor
    returns_BT: torch.Tensor
    value_weights_BT: torch.Tensor
    figures: dict[str, float]
    pairs: tuple[torch.Tensor, torch.Tensor] | None = None


def ppo_experience(
    rollout: Rollout,
    scores_B: torch.Tensor,
    weights_B: torch.Tensor,
    old_logp_BT: torch.Tensor,
    ref_logp_BT: torch.Tensor | None,
    values_BT: torch.Tensor,
    *,
    tulu3: bool,
    max_response_tokens: int,
    beta: float,
    gamma: float,
    lam: float,
    whitened: bool,
) -> Experience:
    """KL in the reward, GAE, whitening over the batch. Samples of weight 0 are outside every mean and every loss.

    ``tulu3``: the score comes one slot past EOS, and that slot has a value to learn (`tulu3_advantages`).
    """
    trained_BT = rollout.response_BT & (weights_B > 0)[:, None]
    if tulu3:
        value_mask_BT = tulu3_value_mask(trained_BT, max_response_tokens)
        advantages_BT, returns_BT = tulu3_advantages(
            scores_B,
            old_logp_BT,
            ref_logp_BT,
            values_BT,
            trained_BT,
            max_response_tokens=max_response_tokens,
            beta=beta,
            gamma=gamma,
            lam=lam,
            whitened=whitened,
        )
    else:
        value_mask_BT = trained_BT
        rewards_BT = rewards_with_score(scores_B, old_logp_BT, ref_logp_BT, trained_BT, trained_BT, beta)
        advantages_BT, returns_BT = gae(rewards_BT, values_BT, trained_BT, gamma, lam)
        if whitened:
            advantages_BT = whiten(advantages_BT, trained_BT)
    return Experience(
        old_logp_BT=old_logp_BT,
        ref_logp_BT=None,
        advantages_BT=advantages_BT,
        policy_weights_BT=trained_BT.float(),
        old_values_BT=values_BT,
        returns_BT=returns_BT,
        value_weights_BT=value_mask_BT.float(),
        figures=reference_kl(old_logp_BT, ref_logp_BT, rollout.response_BT)
        | {"explained_variance": explained_variance(values_BT, returns_BT, value_mask_BT)},
    )


def grpo_experience(
    rollout: Rollout,
    scores_B: torch.Tensor,
    weights_B: torch.Tensor,
    old_logp_BT: torch.Tensor,
    ref_logp_BT: torch.Tensor | None,
    *,
    divide_by_std: bool,
    bessel: bool = False,
) -> Experience:
    """Every token of a response gets its sample's advantage within the group of its prompt. KL is in the loss."""
    advantages_B = group_advantages(scores_B, rollout.group_B, weights_B, divide_by_std, bessel)
    return _of_samples(rollout, advantages_B, weights_B, old_logp_BT, ref_logp_BT, kl_in_loss=True)


def rloo_experience(
    rollout: Rollout,
    scores_B: torch.Tensor,
    weights_B: torch.Tensor,
    old_logp_BT: torch.Tensor,
    ref_logp_BT: torch.Tensor | None,
    *,
    beta: float,
) -> Experience:
    """As GRPO, but against the mean of the other samples, on score − β·Σ(logp − ref_logp): KL is in the reward."""
    if ref_logp_BT is not None:
        scores_B = scores_B - beta * (old_logp_BT - ref_logp_BT).masked_fill(~rollout.response_BT, 0.0).sum(-1)
    advantages_B = leave_one_out_advantages(scores_B, rollout.group_B, weights_B)
    return _of_samples(rollout, advantages_B, weights_B, old_logp_BT, ref_logp_BT, kl_in_loss=False)


def _of_samples(
    rollout: Rollout,
    advantages_B: torch.Tensor,
    weights_B: torch.Tensor,
    old_logp_BT: torch.Tensor,
    ref_logp_BT: torch.Tensor | None,
    kl_in_loss: bool,
) -> Experience:
    trained_BT = rollout.response_BT & (weights_B > 0)[:, None]
    nothing_BT = torch.zeros_like(old_logp_BT)
    return Experience(
        old_logp_BT=old_logp_BT,
        ref_logp_BT=ref_logp_BT if kl_in_loss else None,
        advantages_BT=advantages_B[:, None] * trained_BT,
        policy_weights_BT=trained_BT.float(),
        old_values_BT=nothing_BT,
        returns_BT=nothing_BT,
        value_weights_BT=nothing_BT,
        figures=reference_kl(old_logp_BT, ref_logp_BT, rollout.response_BT),
    )


def pair_experience(
    rollout: Rollout,
    scores_B: torch.Tensor,
    weights_B: torch.Tensor,
    old_logp_BT: torch.Tensor,
    ref_logp_BT: torch.Tensor | None,
) -> Experience:
    """Online DPO: of each prompt the best against the worst sample."""
    pairs = best_and_worst(scores_B, rollout.group_B, weights_B)
    paired_B = torch.zeros_like(weights_B)
    paired_B[torch.cat(pairs)] = 1.0
    whole = _of_samples(rollout, torch.zeros_like(scores_B), paired_B, old_logp_BT, ref_logp_BT, kl_in_loss=True)
    return replace(whole, pairs=pairs, figures=whole.figures | {"pairs": float(len(pairs[0]))})


def reference_kl(
    logp_BT: torch.Tensor, ref_logp_BT: torch.Tensor | None, response_BT: torch.Tensor
) -> dict[str, float]:
    """k1 estimates of KL(policy ‖ reference): per response token and per sample. Empty without a reference."""
    if ref_logp_BT is None:
        return {}
    total = float((logp_BT - ref_logp_BT).masked_fill(~response_BT, 0.0).sum())
    return {"kl_token": total / max(int(response_BT.sum()), 1), "kl_sample": total / response_BT.shape[0]}


def minibatches(group_B: torch.Tensor, count: int, seed: int) -> list[list[int]]:
    """The rows in a seeded order of their groups, cut into ``count`` parts with as many groups, give or take one.

    A group stays whole, so that the learner reads its prompt once; a batch of fewer groups gives fewer parts.
    """
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(group_B.tolist()):
        rows.setdefault(group, []).append(row)
    groups = list(rows)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    return [[row for at in part for row in rows[groups[at]]] for part in order.tensor_split(min(count, len(groups)))]
