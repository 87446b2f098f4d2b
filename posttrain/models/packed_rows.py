"""Rows of unlike length as one sequence without padding. Two that begin alike are read once up to where they part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from posttrain.models.transfer import on_device

PACKED = "packed"  # the name of `packed_attention` among transformers' implementations


@dataclass(frozen=True)
class Tree:
    """Where a row stands in a packed sequence: causal in [root, end). Of a pair the second row's own tokens stand
    before it, in [begin, root); they see themselves and the ``shared`` tokens from ``root`` on that they follow.
    """

    begin: int
    root: int
    shared: int
    end: int


@dataclass(frozen=True)
class PackedRows:
    """N tokens of B rows: ``slot_BT[b, t]`` is where token t of row b stands (0 past the row's end)."""

    input_ids_1N: torch.Tensor
    position_ids_1N: torch.Tensor
    slot_BT: torch.Tensor
    trees: tuple[Tree, ...]


def pack_rows(input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, *, pairs: bool = False) -> PackedRows:
    """Packs right-padded rows. ``pairs``: row i and row i + B/2 stand together, what they share at their begin once."""
    B, T = input_ids_BT.shape
    length_B = attention_mask_BT.sum(-1).tolist()
    ids_BT = input_ids_BT.cpu()
    slot_BT = torch.zeros((B, T), dtype=torch.long)
    trees, ids, positions, begin = [], [], [], 0
    for first in range(B // 2 if pairs else B):
        length, shared, own = length_B[first], 0, 0
        if pairs:
            second = first + B // 2
            both = min(length, length_B[second])
            shared = int((ids_BT[first, :both] == ids_BT[second, :both]).long().cumprod(0).sum())
            own = length_B[second] - shared
            ids.append(ids_BT[second, shared : shared + own])
            positions.append(torch.arange(shared, shared + own))
            slot_BT[second, :shared] = torch.arange(begin + own, begin + own + shared)
            slot_BT[second, shared : shared + own] = torch.arange(begin, begin + own)
        tree = Tree(begin, begin + own, shared, begin + own + length)
        ids.append(ids_BT[first, :length])
        positions.append(torch.arange(length))
        slot_BT[first, :length] = torch.arange(tree.root, tree.end)
        trees.append(tree)
        begin = tree.end
    if begin == 0:  # rows of padding alone still need a forward
        return PackedRows(ids_BT[:1, :1], torch.zeros((1, 1), dtype=torch.long), slot_BT, (Tree(0, 0, 0, 1),))
    return PackedRows(torch.cat(ids)[None], torch.cat(positions)[None], slot_BT, tuple(trees))


def reads_pairs(backbone: nn.Module) -> bool:
    """Whether its attention takes two rows that begin alike as one tree."""
    return getattr(backbone.config, "_attn_implementation", "") == PACKED


def packed_hidden_states(backbone: nn.Module, rows: PackedRows) -> torch.Tensor:
    """Last hidden states [N, D] of a ``backbone`` whose attention is `PACKED`, ``flex_attention`` or
    ``flash_attention_2``; the latter two know a row's begin by its position ids, and take no pairs.
    """
    device = next(backbone.parameters()).device
    layout: dict[str, Any] = {}
    implementation = getattr(backbone.config, "_attn_implementation", "")
    if implementation == PACKED:
        layout = {"trees": rows.trees}
    elif implementation == "flash_attention_2":
        lengths = [tree.end - tree.begin for tree in rows.trees]
        starts = on_device(torch.tensor([0, *lengths]).cumsum(0).to(torch.int32), device)
        layout = dict(cu_seq_lens_q=starts, cu_seq_lens_k=starts, max_length_q=max(lengths), max_length_k=max(lengths))
    output = backbone(
        input_ids=on_device(rows.input_ids_1N, device),
        attention_mask=None,
        position_ids=on_device(rows.position_ids_1N, device),
        use_cache=False,
        **layout,
    )
    return output.last_hidden_state[0]


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    trees: Sequence[Tree] = (),
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query [1, H, N, d], key and value with H or fewer heads; gives [1, N, H, d]. On a CPU.

    Each tree attends within itself by torch's flash kernel for CPUs, which skips what a causal query may not see.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    trees = trees or (Tree(0, 0, 0, query.shape[2]),)
    return _PackedAttention.apply(query, key, value, tuple(trees), scaling).transpose(1, 2), None


AttentionInterface.register(PACKED, packed_attention)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, trees, scaling):
        (_, H, N, d), logsumexps = query.shape, []
        out = query.new_empty(1, N, H, d).transpose(1, 2)
        for queries, keys, causal, bias in _blocks(trees, query):
            block, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query[:, :, queries], key[:, :, keys], value[:, :, keys], 0.0, causal, attn_mask=bias, scale=scaling
            )
            out[:, :, queries] = block
            logsumexps.append(logsumexp)
        ctx.save_for_backward(query, key, value, out, *logsumexps)
        ctx.trees, ctx.scaling = trees, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        query, key, value, out, *logsumexps = ctx.saved_tensors
        [grad_out] = grad_outputs
        grads = [torch.zeros_like(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value)]
        blocks = _blocks(ctx.trees, query)
        for (queries, keys, causal, bias), logsumexp in zip(blocks, logsumexps, strict=True):
            found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_out[:, :, queries],
                query[:, :, queries],
                key[:, :, keys],
                value[:, :, keys],
                out[:, :, queries],
                logsumexp,
                0.0,
                causal,
                attn_mask=bias,
                scale=ctx.scaling,
            )
            for grad, part, where in zip(grads, found, (queries, keys, keys), strict=True):
                grad[:, :, where] += part
        return *grads, None, None


def _blocks(trees: Sequence[Tree], query: torch.Tensor):
    """(queries, keys, whether causal, bias): what attends to what, each a run of the packed sequence."""
    for tree in trees:
        yield slice(tree.root, tree.end), slice(tree.root, tree.end), True, None
        own = tree.root - tree.begin
        if own:
            itself = torch.full((own, own), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
            bias = torch.cat([itself, itself.new_zeros(own, tree.shared)], 1)[None, None]
            yield slice(tree.begin, tree.root), slice(tree.begin, tree.root + tree.shared), False, bias
