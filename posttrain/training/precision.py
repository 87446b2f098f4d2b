"""The dtype of the forward pass. Masters, optimizer state, heads and softmax stay fp32 whatever it is."""

from contextlib import AbstractContextManager, nullcontext

import torch


def forward_precision(device: str | torch.device, dtype: str) -> AbstractContextManager:
    """bf16 autocast for ``"bfloat16"``, nothing for ``"float32"``. Wrap the forward of each micro-batch in it."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
