"""Log-probabilities of the trained tokens, without ever holding the logits of a whole batch.

The head runs only on hidden rows whose NEXT token is trained (N of the B·T), in fp32. When their logits are few they
are kept, once; when they are many they are made chunk by chunk, and again in the backward.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from posttrain.errors import PosttrainError
from posttrain.models.backbone import full_precision, hidden_states, is_right_padded, packs
from posttrain.models.packed_rows import pack_rows, packed_hidden_states, reads_pairs
from posttrain.models.transfer import on_device
from posttrain.training.in_place import adds_in_place
from posttrain.training.sharding import in_forward

KEPT_LOGITS = 2**24  # logits of one chunk: 64 MiB in fp32


def response_logprobs(
    model: PreTrainedModel,
    input_ids_BT: torch.Tensor,
    attention_mask_BT: torch.Tensor | None,
    trained_BT: torch.Tensor,
    *,
    temperature: float = 1.0,
    chunk_logits: int = KEPT_LOGITS,
    pairs: bool = False,
) -> torch.Tensor:
    """``logp_BT[b, t]`` = log p(token t | tokens before t), fp32, where ``trained_BT``; 0 elsewhere and at t = 0.

    Logits are divided by ``temperature``. ``pairs``: rows i and i + B/2 may begin alike, which attention ``packed``
    reads once. Right or left padding. A batch with nothing trained gives zeros that still have a graph (every rank must
    run its backward). For a bf16 backbone wrap the call in `forward_precision`; the head stays fp32. A model sharded by
    `training.sharding.shard` is gathered meanwhile.
    """
    return in_forward(
        model, partial(_scored, model, input_ids_BT, attention_mask_BT, trained_BT, temperature, chunk_logits, pairs)
    )


def _scored(
    model: PreTrainedModel,
    input_ids_BT: torch.Tensor,
    attention_mask_BT: torch.Tensor | None,
    trained_BT: torch.Tensor,
    temperature: float,
    chunk_logits: int,
    pairs: bool,
) -> torch.Tensor:
    (B, T), slot_M = input_ids_BT.shape, None
    if attention_mask_BT is not None and packs(model.base_model) and is_right_padded(attention_mask_BT):
        rows = pack_rows(input_ids_BT, attention_mask_BT, pairs=pairs and reads_pairs(model.base_model))
        hidden_MD, slot_M = packed_hidden_states(model.base_model, rows), rows.slot_BT.flatten()
    else:
        hidden_MD = hidden_states(model.base_model, input_ids_BT, attention_mask_BT).flatten(0, 1)
    device = hidden_MD.device
    trained_BT = trained_BT.bool().clone()
    trained_BT[:, 0] = False
    target_N = trained_BT.flatten().nonzero().squeeze(-1)
    token_N = on_device(input_ids_BT.flatten().index_select(0, target_N.to(input_ids_BT.device)), device)
    before_N = target_N - 1 if slot_M is None else slot_M.to(target_N.device)[target_N - 1]
    target_N = on_device(target_N, device)
    hidden_ND = hidden_MD.index_select(0, on_device(before_N, device))

    logp_N = token_logprobs(hidden_ND, token_N, *output_head(model), temperature, chunk_logits)
    nothing = hidden_MD.sum() * 0 if target_N.numel() == 0 else 0
    return torch.zeros(B * T, dtype=logp_N.dtype, device=device).index_copy(0, target_N, logp_N).view(B, T) + nothing


def token_logprobs(
    hidden_ND: torch.Tensor,
    token_N: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk_logits: int = KEPT_LOGITS,
) -> torch.Tensor:
    """log softmax((hidden·Wᵀ + bias) / temperature) at ``token_N``, shape [N].

    At least fp32 (float64 inputs stay float64). More than ``chunk_logits`` logits are never held at once.
    """
    with full_precision(hidden_ND.device.type):
        dtype = torch.promote_types(hidden_ND.dtype, torch.float32)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        if temperature != 1.0:
            hidden_ND, bias_V = hidden_ND / temperature, None if bias_V is None else bias_V / temperature
        if hidden_ND.shape[0] * weight_VD.shape[0] <= chunk_logits:
            return _KeptHead.apply(hidden_ND, token_N, weight_VD, bias_V)
        rows = max(1, chunk_logits // weight_VD.shape[0])
        return _ChunkedHead.apply(hidden_ND, token_N, weight_VD, bias_V, rows)


class _KeptHead(torch.autograd.Function):
    """Linear, log-softmax and gather in ONE array of N·V numbers: logits become log-probabilities, later gradients.

    The bits are those of `F.linear` and `F.cross_entropy`, which hold three such arrays. Only one backward.
    """

    @staticmethod
    def forward(ctx, hidden_ND, token_N, weight_VD, bias_V):
        logp_NV = F.linear(hidden_ND, weight_VD, bias_V)
        for part in _parts(logp_NV):
            logp_NV[part] = logp_NV[part].log_softmax(-1)
        ctx.save_for_backward(hidden_ND, token_N, weight_VD)
        ctx.logp_NV, ctx.has_bias = logp_NV, bias_V is not None
        return logp_NV.gather(-1, token_N[:, None]).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad_logp_N,), (hidden_ND, token_N, weight_VD) = grad_outputs, ctx.saved_tensors
        grad_NV, ctx.logp_NV = ctx.logp_NV, None
        if grad_NV is None:
            raise RuntimeError("the log-probabilities of this forward were used up by a backward before")
        for part in _parts(grad_NV):
            at_token_CV = torch.zeros_like(grad_NV[part]).scatter_(-1, token_N[part, None], grad_logp_N[part, None])
            grad_NV[part] = torch._log_softmax_backward_data(at_token_CV, grad_NV[part], -1, grad_NV.dtype)
        with full_precision(hidden_ND.device.type):
            grad_hidden_ND = grad_NV @ weight_VD if ctx.needs_input_grad[0] else None
            grad_weight_VD = None
            if adds_in_place(weight_VD):
                weight_VD.grad.addmm_(grad_NV.T, hidden_ND)
            elif ctx.needs_input_grad[2]:
                grad_weight_VD = grad_NV.T @ hidden_ND
        return grad_hidden_ND, None, grad_weight_VD, grad_NV.sum(0) if ctx.has_bias else None


def _parts(array_NV: torch.Tensor) -> Iterator[slice]:
    """Rows, some 2^18 numbers at a time: a megabyte, which stays in a core's cache."""
    rows = max(1, 2**18 // array_NV.shape[1])
    return (slice(start, start + rows) for start in range(0, array_NV.shape[0], rows))


class _ChunkedHead(torch.autograd.Function):
    """The same in chunks of rows. The backward makes each chunk's logits again instead of keeping them."""

    @staticmethod
    def forward(ctx, hidden_ND, token_N, weight_VD, bias_V, rows):
        logp_N = hidden_ND.new_empty(hidden_ND.shape[0])
        for start in range(0, hidden_ND.shape[0], rows):
            part = slice(start, start + rows)
            logp_CV = F.linear(hidden_ND[part], weight_VD, bias_V).log_softmax(-1)
            logp_N[part] = logp_CV.gather(-1, token_N[part, None]).squeeze(-1)
        ctx.save_for_backward(hidden_ND, token_N, weight_VD, bias_V)
        ctx.rows = rows
        return logp_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad_logp_N,) = grad_outputs
        hidden_ND, token_N, weight_VD, bias_V = ctx.saved_tensors
        grad_hidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        in_place = adds_in_place(weight_VD)
        grad_weight_VD = weight_VD.grad if in_place else None
        if ctx.needs_input_grad[2] and not in_place:
            grad_weight_VD = torch.zeros_like(weight_VD)
        grad_bias_V = torch.zeros_like(bias_V) if bias_V is not None and ctx.needs_input_grad[3] else None
        with full_precision(hidden_ND.device.type):
            for start in range(0, hidden_ND.shape[0], ctx.rows):
                part = slice(start, start + ctx.rows)
                logp_CV = F.linear(hidden_ND[part], weight_VD, bias_V).log_softmax(-1)
                # d logp[token] / d logits = onehot − p
                grad_CV = logp_CV.exp() * -grad_logp_N[part, None]
                grad_CV.scatter_add_(-1, token_N[part, None], grad_logp_N[part, None])
                if grad_hidden_ND is not None:
                    grad_hidden_ND[part] = grad_CV @ weight_VD
                if grad_weight_VD is not None:
                    grad_weight_VD.addmm_(grad_CV.T, hidden_ND[part])
                if grad_bias_V is not None:
                    grad_bias_V += grad_CV.sum(0)
        return grad_hidden_ND, None, None if in_place else grad_weight_VD, grad_bias_V, None


def output_head(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of the model's output head. A head that does more than a linear map is refused, not ignored."""
    config = model.config.get_text_config()
    for name, neutral in {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}.items():
        if getattr(config, name, neutral) not in (None, neutral):
            raise PosttrainError(
                f"{type(model).__name__} changes its logits after the head ({name}={getattr(config, name)}); "
                "training/logprobs.py knows linear heads only"
            )
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise PosttrainError(f"{type(model).__name__} has no linear output head; use a causal language model")
    return head.weight, head.bias
