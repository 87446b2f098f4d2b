"""A Llama small enough for a test of milliseconds, and a batch for it."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 61


@pytest.fixture
def tiny_llama():
    """tiny_llama(seed=0, dtype=torch.float32, **configuration): random weights large enough to matter."""

    def build(seed: int = 0, dtype: torch.dtype = torch.float32, **configuration) -> LlamaForCausalLM:
        settings = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.3,
        } | configuration
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig.from_dict(settings)).eval()
        torch.nn.Module.to(model, dtype)
        return model

    return build


@pytest.fixture
def ragged_rows():
    """Rows of unlike lengths: (token ids, trained marks) as lists."""
    generator = torch.Generator().manual_seed(7)
    rows = []
    for length in (5, 17, 9, 3, 12, 17, 8):
        ids = torch.randint(0, VOCABULARY, (length,), generator=generator)
        trained = torch.rand(length, generator=generator) < 0.6
        trained[0], trained[-1] = False, True
        rows.append((ids, trained))
    return rows
