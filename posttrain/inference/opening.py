"""A saved model made ready to be asked, for rooms that do not handle models themselves."""

import os
from functools import partial

import torch
from transformers import PreTrainedTokenizerFast

from posttrain.inference.local import LocalSampler
from posttrain.models.load import check_vocabulary, load_policy, load_tokenizer

_CPU_CACHE_BYTES = 2 * 2**30


def open_local(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    rope_positions: int | None = None,
    slots: int = 256,
    listed: bool = False,
) -> tuple[LocalSampler, PreTrainedTokenizerFast]:
    """The local engine on the policy in ``path``, and its tokenizer as saved. A bad folder raises PosttrainError.

    ``listed``: requests will come in whole lists. What they begin with in common is computed once, and their keys and
    values keep within 2 GiB, or half of what is free on a GPU.
    """
    tokenizer = load_tokenizer(path)
    policy = load_policy(path, dtype=dtype, device=device, rope_positions=rope_positions)
    check_vocabulary(policy, tokenizer, path)
    # The engine's padding is never attended to, so any id serves where the tokenizer has none of its own.
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    sampler = LocalSampler(
        policy,
        pad_token_id=pad_token_id,
        slots=slots,
        tokenizer=tokenizer,
        share_prefixes=listed,
        cache_bytes=partial(cache_bytes, policy.device) if listed else None,
    )
    return sampler, tokenizer


def cache_bytes(device: torch.device) -> int:
    """What keys and values may take there: half of a GPU's memory that no tensor holds now."""
    if device.type != "cuda":
        return _CPU_CACHE_BYTES
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + kept) // 2
