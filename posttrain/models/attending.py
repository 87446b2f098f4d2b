"""Another attention implementation for a block of code."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedConfig


@contextmanager
def attending(config: PreTrainedConfig, implementation: str) -> Iterator[None]:
    """Attention layers under ``config`` use ``implementation``, one that transformers knows, inside this block."""
    usual = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = usual
