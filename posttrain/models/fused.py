"""Norms and gated MLPs of Llama-like decoders as one operation each: a third less is kept for the backward.

On a CPU they are those below, whose operations and their order are the plain modules', so the bits are the same. On a
GPU they are Liger's (arXiv 2410.10989), where it is installed. `fuse` tries each kind of module on random numbers and
leaves it as it was when the results differ.
"""

import copy
import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Forward = Callable[[Any, torch.Tensor], torch.Tensor]
GPU_TOLERANCE = 1e-5  # of Liger's results and gradients, relative L2 in fp32


def fuse(backbone: nn.Module, device: str) -> dict[str, str]:
    """Gives the norms and MLPs of ``backbone`` fused forwards, in place; it may still be on meta.

    Returns which classes keep their own, and why, and warns of them; on a GPU without Liger all do, without a word.
    """
    operations = (_norm, _mlp) if device == "cpu" else _liger()
    if operations is None:
        return {}
    kept: dict[str, str] = {}
    checked: set[str] = set()
    for module in backbone.modules():
        fused, kind = _fused_forward(module, *operations), type(module).__name__
        if fused is None or kind in kept:
            continue
        if kind not in checked:
            apart = _difference(module, fused, device)
            if apart > (0 if device == "cpu" else GPU_TOLERANCE):
                kept[kind] = f"the fused operation's result or gradient differs by {apart:.0e}"
                warnings.warn(f"{kind} keeps its own forward: {kept[kind]}", stacklevel=2)
                continue
            checked.add(kind)
        vars(module)["forward"] = MethodType(fused, module)
    return kept


def _fused_forward(module: nn.Module, norm: Forward, mlp: Forward) -> Forward | None:
    """Of modules that look as if it were theirs, whatever the family."""
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return norm
    linears = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if all(type(linear) is nn.Linear and linear.bias is None for linear in linears) and hasattr(module, "act_fn"):
        return mlp
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


def _liger() -> tuple[Forward, Forward] | None:
    try:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except ImportError:
        return None

    def norm(module: Any, x: torch.Tensor) -> torch.Tensor:
        return LigerRMSNormFunction.apply(x, module.weight, module.variance_epsilon, 0.0, "llama", False)

    def mlp(module: Any, x: torch.Tensor) -> torch.Tensor:
        return module.down_proj(LigerSiLUMulFunction.apply(module.gate_proj(x), module.up_proj(x)))

    return norm, mlp


def _difference(module: nn.Module, fused: Forward, device: str) -> float:
    """Largest relative L2 difference of output and gradients, of a module of this kind on 3 rows of 5 tokens."""
    probe = copy.deepcopy(module).to_empty(device=device)
    weights = list(probe.parameters())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in weights:
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5)
    x, upstream = (torch.randn((3, 5, weights[0].shape[-1]), generator=generator).to(weights[0]) for _ in range(2))
    found = []
    for forward in (probe.forward, lambda x: fused(probe, x)):
        leaf = x.clone().requires_grad_()
        out = forward(leaf)
        found.append([out, *torch.autograd.grad(out, [leaf, *weights], upstream)])
    return max(((plain - other).norm() / plain.norm()).item() for plain, other in zip(*found, strict=True))


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
