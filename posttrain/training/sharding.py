"""The one place where a loss meets its denominator and the number of data-parallel ranks."""

import torch
import torch.distributed as dist


def world_size() -> int:
    """Data-parallel ranks; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_count(count: int, device: str | torch.device = "cpu") -> int:
    """``count`` (tokens, pairs…) summed over all ranks: the denominator of one optimizer step."""
    if world_size() == 1:
        return count
    total = torch.tensor(count, dtype=torch.int64, device=device)
    dist.all_reduce(total)
    return int(total)


def scaled_loss(loss_sum: torch.Tensor, denominator: int | float, world_size: int = 1) -> torch.Tensor:
    """``loss_sum`` of one micro-batch over the step's ONE denominator.

    Data parallelism averages gradients over ranks; the factor ``world_size`` undoes it, so that the gradient is
    Σ over ranks and micro-batches of loss_sum / denominator, however the rows were split. It is a factor on the loss,
    not FSDP2's divide factor, because gloo has no such operation.
    """
    if denominator <= 0:
        raise ValueError(f"the step's denominator is {denominator}: it trains nothing and should not have been planned")
    return loss_sum * (world_size / denominator)
