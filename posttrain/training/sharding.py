"""Data parallelism by FSDP2: the plan that spreads a model over ranks, and where a loss meets its denominator."""

from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from posttrain.errors import PosttrainError
from posttrain.models.heads import TokenScorer
from posttrain.models.ranks import world_size


def scaled_loss(loss_sum: torch.Tensor, denominator: int | float, world_size: int = 1) -> torch.Tensor:
    """``loss_sum`` of one micro-batch over the step's ONE denominator: the count over all ranks and micro-batches.

    Every rank knows the rows of the whole step, so it counts them without asking the others. Data parallelism averages
    gradients over ranks; the factor ``world_size`` undoes it, so that the gradient is Σ over ranks and micro-batches of
    loss_sum / denominator, however the rows were split. It is a factor on the loss, not FSDP2's divide factor, because
    gloo has no such operation.
    """
    if denominator <= 0:
        raise ValueError(f"the step's denominator is {denominator}: it trains nothing and should not have been planned")
    return loss_sum * (world_size / denominator)


def data_mesh(device: str, replicas: int = 1) -> DeviceMesh:
    """All ranks in one line (FSDP), or ``replicas`` groups that each hold the whole model (HSDP).

    Raises PosttrainError for replicas that do not divide the ranks.
    """
    ranks = world_size()
    if ranks % replicas:
        fitting = ", ".join(str(count) for count in range(1, ranks + 1) if ranks % count == 0)
        raise PosttrainError(f"replicas: {replicas} does not divide {ranks} ranks; take one of {fitting}")
    if replicas == 1:
        return init_device_mesh(device, (ranks,), mesh_dim_names=("shard",))
    shape = (replicas, ranks // replicas)
    return init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard"))


def shard(
    model: PreTrainedModel | TokenScorer, mesh: DeviceMesh, dtype: str = "float32", *, cpu_offload: bool = False
) -> None:
    """Spreads weights, gradients and so optimizer state over the ranks of ``mesh``, in place.

    One group per decoder layer, gathered in ``dtype`` for its forward and again for its backward; one for the input
    embedding; one for the final norm and the head, which stay whole between the two. Gradients are summed in fp32 and
    rotary angles stay fp32. Call `in_forward` for work that reads the head's weight without calling its module.
    """
    layers = MixedPrecisionPolicy(cast_forward_inputs=False)
    if dtype == "bfloat16":
        layers = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    causal = model.classifier if isinstance(model, TokenScorer) else model
    backbone = cast(Any, causal.base_model)
    where: dict[str, Any] = {"mesh": mesh, "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy()}
    for layer in backbone.layers:
        fully_shard(layer, mp_policy=layers, **where)
    head = causal.get_output_embeddings()
    if head is None or head.weight is not backbone.embed_tokens.weight:
        fully_shard(backbone.embed_tokens, **where)
    fully_shard(model, reshard_after_forward=False, **where)
    vars(model)["_work"] = MethodType(lambda _, work: work(), model)
    register_fsdp_forward_method(model, "_work")
    model.register_forward_hook(_reshard_without_graph)


def _reshard_without_graph(model: nn.Module, *_: Any) -> None:
    """No backward will come to shard the head again, and an optimizer must only ever see shards."""
    if not torch.is_grad_enabled():
        cast(FSDPModule, model).reshard()


def in_forward(model: nn.Module, work: Callable[[], torch.Tensor]) -> torch.Tensor:
    """``work()``; on a sharded model with its weights gathered as its own forward would have them."""
    if not isinstance(model, FSDPModule):
        return work()
    result = cast(Any, model)._work(work)
    _reshard_without_graph(model)
    return result


def summed_over_ranks(figures: Mapping[str, torch.Tensor | float]) -> Mapping[str, torch.Tensor | float]:
    """Each rank's part of every figure, added up; the same on all of them. No host waits for a device."""
    if world_size() == 1:
        return figures
    device = next((value.device for value in figures.values() if isinstance(value, torch.Tensor)), "cpu")
    parts = [torch.as_tensor(value, dtype=torch.float64, device=device) for value in figures.values()]
    total = torch.stack(parts)
    dist.all_reduce(total)
    return dict(zip(figures, total.unbind(), strict=True))


def largest_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The largest of what the ranks bring; ``value`` is overwritten by it."""
    if world_size() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def whole_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters by name, each gathered when its turn comes: every rank must go through them all."""
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        yield name, weight.full_tensor() if isinstance(weight, DTensor) else weight


def wait_for_ranks() -> None:
    """Until all have come here."""
    if world_size() > 1:
        dist.barrier()


def on_any_rank(flag: bool) -> bool:
    """Whether it holds anywhere: what all ranks must do together is decided by all."""
    return flag if world_size() == 1 else bool(summed_over_ranks({"flag": float(flag)})["flag"])
