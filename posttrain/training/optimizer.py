"""AdamW and the learning-rate schedules, as transformers defines them (the recipe's published runs used those)."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from posttrain.errors import PosttrainError
from posttrain.models.ranks import world_size

Schedule = Literal["linear", "constant", "cosine"]


def build_adamw(
    params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, *, eight_bit: bool = False
) -> torch.optim.Optimizer:
    """Fused AdamW, betas (0.9, 0.999), eps 1e-8. Vectors (norms, biases) are not decayed.

    ``eight_bit``: the moments of large tensors in 8 bits by blocks (bitsandbytes, arXiv 2110.02861); it is no fused
    one. Raises PosttrainError when bitsandbytes is missing or several ranks share the model.
    """
    trained = [p for p in params if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not eight_bit:
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True)
    if world_size() > 1:
        raise PosttrainError("optimizer: adamw_8bit works in a single process; ranks share the moments as it is")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as reason:
        raise PosttrainError(f"adamw_8bit needs bitsandbytes: pip install 'posttrain[quant]' ({reason})") from reason
    return AdamW8bit(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)


def prepare_moments(optimizer: torch.optim.Optimizer) -> None:
    """Zeros, as AdamW's first step would make them, of the parameters that have none yet."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in optimizer.state:
                moments = {moment: torch.zeros_like(parameter) for moment in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


def learning_rate_at(
    step: int, total_steps: int, base: float, schedule: Schedule = "linear", warmup_fraction: float = 0.0
) -> float:
    """Learning rate of optimizer step ``step`` (counted from 0) of ``total_steps``.

    Linear warm-up over ceil(total·fraction) steps, whose first step is at 0 as in transformers; then constant, or down
    to 0 at ``total_steps`` along a line or half a cosine.
    """
    warmup = math.ceil(total_steps * warmup_fraction)
    if step < warmup:
        return base * step / warmup
    if schedule == "constant":
        return base
    done = (step - warmup) / max(1, total_steps - warmup)
    return base * (1 - done) if schedule == "linear" else base * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For the next step, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(params: Iterable[nn.Parameter], maximum: float) -> torch.Tensor:
    """Scales the gradients to a joint L2 norm of at most ``maximum`` (0: no limit); returns the norm before.

    Of sharded gradients it is the norm over all ranks.
    """
    params = list(params)
    norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(params, maximum if maximum > 0 else math.inf, norm)
    return norm


def step_or_skip(optimizer: torch.optim.Optimizer, grad_norm: torch.Tensor) -> None:
    """One step, unless ``grad_norm`` is not finite: then nothing changes. Fused AdamW decides it on the device."""
    if isinstance(optimizer, torch.optim.AdamW):
        vars(optimizer)["found_inf"] = (~torch.isfinite(grad_norm)).float()  # read by torch's fused optimizers
        optimizer.step()
    elif torch.isfinite(grad_norm):
        optimizer.step()
