"""Attention of sequences in which several continuations of one stem stand behind each other, without what they hide."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

BRANCHES = "branches"  # the name of `branch_attention` among transformers' implementations
# Forward and backward of one more block cost as much as this many pairs of query and key under a bias: 6 heads of 32,
# one core of an AMD EPYC, fp32, torch 2.13. Larger heads make a pair dearer and a block not.
_PAIRS_A_BLOCK = 4096


@dataclass(frozen=True)
class Branches:
    """S sequences of ``tokens`` tokens: each a stem of ``stem_S`` tokens, then branches of ``lengths_S``, then padding.

    A token sees the stem and its own branch, each up to itself. Attention gives zeros at padding.
    """

    tokens: int
    stem_S: tuple[int, ...]
    lengths_S: tuple[tuple[int, ...], ...]

    @property
    def runs(self) -> list[tuple[int, bool]]:
        """What is causal in itself, in order: its tokens, and False for what is padding. They sum to S·T."""
        found = []
        for stem, (first, *others) in zip(self.stem_S, self.lengths_S, strict=True):
            found += [(length, True) for length in (stem + first, *others)]
            found.append((self.tokens - stem - first - sum(others), False))
        return found

    @property
    def pays(self) -> bool:
        """Whether block by block is faster than T² pairs under a bias."""
        runs = [length for length, real in self.runs if real]
        hidden = len(self.stem_S) * self.tokens**2 - sum(length**2 for length in runs)
        hidden -= sum(stem * sum(lengths[1:]) for stem, lengths in zip(self.stem_S, self.lengths_S, strict=True))
        return hidden >= _PAIRS_A_BLOCK * len(runs)


def reads_branches(backbone: nn.Module) -> bool:
    """Whether `BRANCHES` suits it: on a CPU, in fp32 or more, not under autocast, no activations made again."""
    weight = next(backbone.parameters())
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not getattr(backbone, "is_gradient_checkpointing", False)
    )


def branch_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    branches: Branches,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query [S, H, T, d], key and value with H heads or fewer; gives [S, T, H, d]."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    return _BranchAttention.apply(query, key, value, branches, scaling).transpose(1, 2), None


AttentionInterface.register(BRANCHES, branch_attention)


class _BranchAttention(torch.autograd.Function):
    """Torch's flash kernel for CPUs: once over each causal run, once from all other branches of a sequence to its stem.

    Two blocks of the same queries are merged exactly by their logsumexps. The kernel's backward takes the whole output
    and the whole logsumexp, so that there the blocks' gradients need only be added.
    """

    @staticmethod
    def forward(ctx, query, key, value, branches, scaling):
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        query, key, value = (_joined(x) for x in (query, key, value))
        out = _zeros_like(query)
        logsumexp = _zeros_like(query[..., 0]).to(torch.promote_types(query.dtype, torch.float32))
        for q, k, v, whole, total in _runs((query, key, value, out, logsumexp), branches):
            block, logsumexp_block = flash(q, k, v, 0.0, True, scale=scaling)
            whole.copy_(block)
            total.copy_(logsumexp_block)
        others = _others((query, out, logsumexp), branches)
        for (q, whole, total), (k, v) in zip(others, _stems((key, value), branches), strict=True):
            if q.shape[2]:
                to_stem, logsumexp_stem = flash(q, k, v, 0.0, False, scale=scaling)
                whole.lerp_(to_stem, torch.sigmoid(logsumexp_stem - total).unsqueeze(-1).to(whole.dtype))
                total.copy_(torch.logaddexp(total, logsumexp_stem))
        ctx.save_for_backward(query, key, value, out, logsumexp)
        ctx.branches, ctx.scaling = branches, scaling
        return _parted(out, branches)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, out, logsumexp = ctx.saved_tensors
        branches, scaling = ctx.branches, ctx.scaling
        grad_out = _joined(grad_outputs[0])
        grads = [_zeros_like(x) for x in (query, key, value)]
        for g, q, k, v, whole, total, *own in _runs((grad_out, query, key, value, out, logsumexp, *grads), branches):
            for grad, part in zip(own, flash(g, q, k, v, whole, total, 0.0, True, scale=scaling), strict=True):
                grad.copy_(part)
        others = _others((grad_out, query, out, logsumexp, grads[0]), branches)
        stems = _stems((key, value, grads[1], grads[2]), branches)
        for (g, q, whole, total, *own), (k, v, *at_stem) in zip(others, stems, strict=True):
            if q.shape[2]:
                more = flash(g, q, k, v, whole, total, 0.0, False, scale=scaling)
                for grad, part in zip((*own, *at_stem), more, strict=True):
                    grad += part
        return *(_parted(grad, branches) for grad in grads), None, None


def _joined(x: torch.Tensor) -> torch.Tensor:
    """[S, H, T, d] → [1, H, S·T, d], heads innermost but one."""
    S, H, T, d = x.shape
    return x.transpose(1, 2).reshape(1, S * T, H, d).transpose(1, 2)


def _parted(x: torch.Tensor, branches: Branches) -> torch.Tensor:
    """[1, H, S·T, d] → [S, H, T, d]."""
    _, H, _, d = x.shape
    return x.transpose(1, 2).view(len(branches.stem_S), branches.tokens, H, d).transpose(1, 2)


def _zeros_like(x: torch.Tensor) -> torch.Tensor:
    """Of [1, H, N, …], heads behind tokens in memory."""
    return x.new_zeros(x.transpose(1, 2).shape).transpose(1, 2)


def _split(tensors: Iterable[torch.Tensor], lengths: Sequence[int]) -> list[tuple[torch.Tensor, ...]]:
    return list(zip(*(x.split(lengths, 2) for x in tensors), strict=True))


def _runs(tensors: Iterable[torch.Tensor], branches: Branches) -> list[tuple[torch.Tensor, ...]]:
    """What is causal in itself, without padding."""
    lengths, real = zip(*branches.runs, strict=True)
    return list(compress(_split(tensors, lengths), real))


def _stems(tensors: Iterable[torch.Tensor], branches: Branches) -> list[tuple[torch.Tensor, ...]]:
    """Each sequence's stem."""
    return _split(tensors, [n for stem in branches.stem_S for n in (stem, branches.tokens - stem)])[0::2]


def _others(tensors: Iterable[torch.Tensor], branches: Branches) -> list[tuple[torch.Tensor, ...]]:
    """Each sequence's branches but the first."""
    lengths = []
    for stem, (first, *others) in zip(branches.stem_S, branches.lengths_S, strict=True):
        lengths += [stem + first, sum(others), branches.tokens - stem - first - sum(others)]
    return _split(tensors, lengths)[1::3]
