"""Advantages: generalised advantage estimation and whitening, in our layout and in Tülu 3's conventions.

Layout of this room: rows are right-padded ``[prompt, response]``; entry ``[b, t]`` of a token quantity belongs to
token t; the value of token t is the estimate for the state *before* it (the scorer's output at t − 1). A rollout's
tensors are one column wider than its longest row, so that every row has a slot one past its last token.

"As published" means the program that trained Tülu 3: open-instruct's ``ppo_vllm_thread_ray_gtrl.py`` of November 2024.
"""

import torch

WHITEN_EPSILON = 1e-8  # added to the variance, as published


def gae(
    rewards_BT: torch.Tensor, values_BT: torch.Tensor, mask_BT: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns of rows whose masked entries are one contiguous span each.

    A_t = δ_t + γλ·A_{t+1} with δ_t = r_t + γ·V_{t+1} − V_t (Schulman et al. 2016, equation 16); V is 0 past the end of
    a span: an episode ends there, whether by EOS or by truncation. Outside the mask both results are 0, whatever
    rewards and values hold there. No gradient flows.
    """
    with torch.no_grad():
        rewards_BT = rewards_BT.masked_fill(~mask_BT, 0.0)
        values_BT = values_BT.masked_fill(~mask_BT, 0.0)
        next_values_BT = torch.cat([values_BT[:, 1:], torch.zeros_like(values_BT[:, :1])], dim=1)
        deltas_BT = (rewards_BT + gamma * next_values_BT - values_BT).masked_fill(~mask_BT, 0.0)
        advantages_TB = deltas_BT.t().contiguous()  # the scan then walks contiguous memory
        masked_columns = mask_BT.any(dim=0).nonzero()
        if len(masked_columns):
            first, last = int(masked_columns[0]), int(masked_columns[-1])
            for t in range(last - 1, first - 1, -1):
                advantages_TB[t].add_(advantages_TB[t + 1], alpha=gamma * lam)
        # Left of a span the scan has carried the row's tail into its prompt.
        advantages_BT = advantages_TB.t().contiguous().masked_fill(~mask_BT, 0.0)
        return advantages_BT, advantages_BT + values_BT


def whiten(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scales the masked entries to mean 0 and unit variance; 0 outside the mask.

    One mean and one Bessel-corrected variance over all masked entries, as published. A single entry has no variance and
    counts as variance 0, which only shifts it.
    """
    count = mask.sum()
    mean = x.masked_fill(~mask, 0.0).sum() / count.clamp(min=1)
    centred = (x - mean).masked_fill(~mask, 0.0)
    variance = centred.square().sum() / (count - 1).clamp(min=1)
    return centred * torch.rsqrt(variance + WHITEN_EPSILON)


def tulu3_value_mask(response_BT: torch.Tensor, max_response_tokens: int) -> torch.Tensor:
    """The response tokens and the slot one past each row's last: where Tülu 3 has values and returns (its ``p1``).

    A response that fills all ``max_response_tokens`` has no such slot: as published, its score is on its last token.
    ``response_BT`` must leave a free column to the right of every row.
    """
    shorter_B1 = response_BT.sum(dim=1, keepdim=True) < max_response_tokens
    one_later_BT = torch.cat([torch.zeros_like(response_BT[:, :1]), response_BT[:, :-1]], dim=1)
    return response_BT | (one_later_BT & shorter_B1)


def tulu3_advantages(
    scores_B: torch.Tensor,
    logp_BT: torch.Tensor,
    ref_logp_BT: torch.Tensor | None,
    values_BT: torch.Tensor,
    response_BT: torch.Tensor,
    *,
    max_response_tokens: int,
    beta: float,
    gamma: float,
    lam: float,
    whitened: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages on the response tokens and returns on ``tulu3_value_mask``, as published.

    Per-token reward −β·(logp − ref_logp); the score comes one index past EOS (on the last token of a response that is
    cut at ``max_response_tokens``); GAE runs over that slot too; advantages are whitened, mean shifted, over the
    response tokens alone; rewards are not whitened. ``values_BT`` must hold the scorer's output after EOS in that slot.
    """
    value_mask_BT = tulu3_value_mask(response_BT, max_response_tokens)
    rewards_BT = rewards_with_score(scores_B, logp_BT, ref_logp_BT, response_BT, value_mask_BT, beta)
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, value_mask_BT, gamma, lam)
    if whitened:
        advantages_BT = whiten(advantages_BT, response_BT)
    return advantages_BT.masked_fill(~response_BT, 0.0), returns_BT


def rewards_with_score(
    scores_B: torch.Tensor,
    logp_BT: torch.Tensor,
    ref_logp_BT: torch.Tensor | None,
    response_BT: torch.Tensor,
    slots_BT: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """−β·(logp − ref_logp) on every response token (the k1 estimate) plus each row's score on its last slot.

    ``slots_BT`` is ``response_BT`` itself, or ``tulu3_value_mask``. ``ref_logp_BT`` None stands for β = 0. A row
    without a slot gets no reward.
    """
    if ref_logp_BT is None:
        rewards_BT = torch.zeros_like(logp_BT)
    else:
        rewards_BT = (-beta * (logp_BT - ref_logp_BT)).masked_fill(~response_BT, 0.0)
    width = slots_BT.shape[1]
    columns_T = torch.arange(width, device=slots_BT.device)
    last_B = torch.where(slots_BT, columns_T, -1).amax(dim=1)
    return rewards_BT + (columns_T == last_B[:, None]) * scores_B.to(rewards_BT.dtype)[:, None]
