"""Norms and gated MLPs of Llama-like decoders as one operation each: a third less is kept for the backward. On a CPU.

The operations and their order are those of the plain modules, so the bits are the same: `fuse` tries each kind of
module on random numbers and leaves it as it was when they are not.
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def fuse(backbone: nn.Module) -> dict[str, str]:
    """Gives the norms and MLPs of ``backbone`` fused forwards, in place. Returns which classes keep theirs, and why."""
    kept: dict[str, str] = {}
    checked: set[str] = set()
    for module in backbone.modules():
        fused, kind = _fused_forward(module), type(module).__name__
        if fused is None or kind in kept:
            continue
        if kind not in checked and not _same_bits(module, fused):
            kept[kind] = "the fused operation gives other bits"
            continue
        checked.add(kind)
        vars(module)["forward"] = MethodType(fused, module)
    return kept


def _fused_forward(module: nn.Module) -> Any:
    """Of modules that look as if it were theirs, whatever the family."""
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return _norm
    linears = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if all(type(linear) is nn.Linear and linear.bias is None for linear in linears) and hasattr(module, "act_fn"):
        return _mlp
    return None


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    """What x gets through the mean stays apart from the rest: the sum with the residual's gradient keeps its order."""
    if torch.is_autocast_enabled("cpu"):
        return type(module).forward(module, x)
    rms_inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    return _Scaled.apply(x, rms_inverse, module.weight)


def _mlp(module: Any, x: torch.Tensor) -> torch.Tensor:
    if torch.is_autocast_enabled("cpu"):
        return type(module).forward(module, x)
    return _GatedMLP.apply(x, module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight)


def _same_bits(module: nn.Module, fused: Any) -> bool:
    """Output and gradients of the plain module and of the fused operation, on 3 rows of 5 tokens."""
    weights = list(module.parameters())
    width = weights[0].shape[-1]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((3, 5, width), generator=generator).to(weights[0].device, weights[0].dtype)
    upstream = torch.randn((3, 5, width), generator=generator).to(x)
    found = []
    for forward in (module.forward, lambda x: fused(module, x)):
        leaf = x.clone().requires_grad_()
        out = forward(leaf)
        found.append([out, *torch.autograd.grad(out, [leaf, *weights], upstream)])
    return all(torch.equal(plain, other) for plain, other in zip(*found, strict=True))


class _Scaled(torch.autograd.Function):
    """x · r · weight, ``r`` one number a token. Keeps no product."""

    @staticmethod
    def forward(ctx, x, r, weight):
        ctx.save_for_backward(x, r, weight)
        return (x * r).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,), (x, r, weight) = grad_outputs, ctx.saved_tensors
        grad_weight = (x * r).mul_(grad).sum(tuple(range(x.ndim - 1)))
        grad_scaled = grad * weight
        grad_r = (grad_scaled * x).sum(-1, keepdim=True)
        return grad_scaled.mul_(r), grad_r, grad_weight


class _GatedMLP(torch.autograd.Function):
    """down(silu(gate(x)) · up(x)). Keeps x, gate(x) and up(x)."""

    @staticmethod
    def forward(ctx, x, gate_weight, up_weight, down_weight):
        gate, up = F.linear(x, gate_weight), F.linear(x, up_weight)
        ctx.save_for_backward(x, gate, up, gate_weight, up_weight, down_weight)
        return F.linear(F.silu(gate).mul_(up), down_weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,), (x, gate, up, gate_weight, up_weight, down_weight) = grad_outputs, ctx.saved_tensors
        x_ND, grad_ND, gate, up = (t.reshape(-1, t.shape[-1]) for t in (x, grad, gate, up))
        grad_inner = grad_ND @ down_weight
        activated = F.silu(gate)
        grad_up = grad_inner * activated
        grad_down_weight = grad_ND.T @ activated.mul_(up)
        del activated
        grad_gate = torch.ops.aten.silu_backward(grad_inner.mul_(up), gate)
        del grad_inner
        grad_up_weight = grad_up.T @ x_ND
        grad_x = grad_up @ up_weight
        del grad_up
        grad_gate_weight = grad_gate.T @ x_ND
        grad_x.add_(grad_gate @ gate_weight)
        return grad_x.view(x.shape), grad_gate_weight, grad_up_weight, grad_down_weight
