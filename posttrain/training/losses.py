"""Losses of SFT, DPO and its family, and the reward model: pure functions of tensors, in whatever dtype they come.

Each returns a SUM over its rows, or one loss per pair; `training.sharding.scaled_loss` divides by the step's count.
"""

import torch
import torch.nn.functional as F


def token_loss_sum(logp_BT: torch.Tensor, trained_BT: torch.Tensor) -> torch.Tensor:
    """−Σ logp over trained tokens. Over all trained tokens of the step: the global token mean (`token`); over its
    sequences: the undivided sum of the Tülu 3 release (`sum_tulu3`, arXiv 2411.15124 §4.3, `--reduce_loss sum`).
    """
    return -(logp_BT * trained_BT).sum()


def sequence_mean_loss_sum(logp_BT: torch.Tensor, trained_BT: torch.Tensor) -> torch.Tensor:
    """−Σ over sequences of the mean logp of their trained tokens; over the step's sequences: `mean_of_means`.

    What averaging over micro-batches of one sequence comes to: long answers weigh less per token. Kept for comparison.
    """
    return -response_mean(logp_BT, trained_BT).sum()


def response_sum(logp_BT: torch.Tensor, trained_BT: torch.Tensor) -> torch.Tensor:
    """log p(response) per row, [B]."""
    return (logp_BT * trained_BT).sum(-1)


def response_mean(logp_BT: torch.Tensor, trained_BT: torch.Tensor) -> torch.Tensor:
    """Mean logp per trained token of each row, [B]; 0 for a row without any."""
    return response_sum(logp_BT, trained_BT) / trained_BT.sum(-1).clamp(min=1)


def dpo_loss(
    policy_chosen_P: torch.Tensor,
    policy_rejected_P: torch.Tensor,
    reference_chosen_P: torch.Tensor,
    reference_rejected_P: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """−log σ(β[(π_c − ref_c) − (π_r − ref_r)]) per pair, [P].

    With log-probabilities summed over the response: DPO (arXiv 2305.18290, eq. 7). With their mean: length-normalised
    DPO (arXiv 2411.15124, eq. 6; `dpo_norm`).
    """
    margin_P = (policy_chosen_P - reference_chosen_P) - (policy_rejected_P - reference_rejected_P)
    return -F.logsigmoid(beta * margin_P)


def simpo_loss(
    mean_chosen_P: torch.Tensor, mean_rejected_P: torch.Tensor, beta: float, gamma_beta_ratio: float = 0.3
) -> torch.Tensor:
    """−log σ(β(π_c − π_r) − γ) per pair on mean log-probabilities, without a reference (arXiv 2405.14734, eq. 6)."""
    return -F.logsigmoid(beta * (mean_chosen_P - mean_rejected_P - gamma_beta_ratio))


def ipo_loss(
    policy_chosen_P: torch.Tensor,
    policy_rejected_P: torch.Tensor,
    reference_chosen_P: torch.Tensor,
    reference_rejected_P: torch.Tensor,
    tau: float,
) -> torch.Tensor:
    """(h − 1/(2τ))² per pair, h the difference of summed log-ratios (arXiv 2310.12036, eq. 17)."""
    h_P = (policy_chosen_P - reference_chosen_P) - (policy_rejected_P - reference_rejected_P)
    return (h_P - 1 / (2 * tau)).square()


def bradley_terry_loss(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> torch.Tensor:
    """−log σ(r_c − r_r) per pair, [P] (arXiv 2203.02155, eq. 1)."""
    return -F.logsigmoid(chosen_P - rejected_P)
