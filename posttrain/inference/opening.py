"""A saved model made ready to be asked, for rooms that do not handle models themselves."""

import os

import torch
from transformers import PreTrainedTokenizerFast

from posttrain.inference.local import LocalSampler
from posttrain.models.load import check_vocabulary, load_policy, load_tokenizer


def open_local(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    rope_positions: int | None = None,
    slots: int = 256,
    share_prefixes: bool = False,
    cache_bytes: int | None = None,
) -> tuple[LocalSampler, PreTrainedTokenizerFast]:
    """The local engine on the policy in ``path``, and its tokenizer as saved. A bad folder raises PosttrainError."""
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
        share_prefixes=share_prefixes,
        cache_bytes=cache_bytes,
    )
    return sampler, tokenizer
