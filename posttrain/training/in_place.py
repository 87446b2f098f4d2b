"""Gradients of large embeddings and heads, added where they are kept: no micro-batch makes a dense one of its own."""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

LARGE = 2**20  # numbers; below, two more passes over them cost nothing


def add_in_place(model: nn.Module) -> None:
    """From now on backward adds to the ``grad`` of a large embedding and output head, which must be there, directly.

    Sums over micro-batches are then in another order than autograd's, which changes last bits.
    """
    causal: Any = getattr(model, "classifier", model)
    if not isinstance(causal, PreTrainedModel):
        return
    embedding, head = causal.get_input_embeddings(), causal.get_output_embeddings()
    if type(embedding) is nn.Embedding and _large(embedding.weight) and embedding.max_norm is None:
        vars(embedding)["forward"] = MethodType(_embed, embedding)
    if type(head) is nn.Linear and _large(head.weight):
        vars(head.weight)["adds_in_place"] = True


def adds_in_place(weight: torch.Tensor) -> bool:
    """Whether a backward should add to ``weight.grad`` itself, and give autograd nothing."""
    return getattr(weight, "adds_in_place", False) and weight.grad is not None


def _large(weight: torch.Tensor) -> bool:
    return weight.requires_grad and weight.numel() >= LARGE


def _embed(embedding: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
    return _Embedding.apply(embedding.weight, ids, embedding.padding_idx)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, ids, padding_idx):
        ctx.save_for_backward(weight, ids)
        ctx.padding_idx = padding_idx
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,), (weight, ids) = grad_outputs, ctx.saved_tensors
        ids_N, grad_ND = ids.flatten(), grad.reshape(-1, grad.shape[-1])
        if ctx.padding_idx is not None:
            grad_ND = grad_ND.masked_fill((ids_N == ctx.padding_idx)[:, None], 0)
        if weight.grad is None:
            return torch.zeros_like(weight).index_add_(0, ids_N, grad_ND), None, None
        weight.grad.index_add_(0, ids_N, grad_ND)
        return None, None, None
