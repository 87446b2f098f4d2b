"""How much arithmetic a training step needs, and what share of a GPU's peak it gets."""

from collections.abc import Sequence
from typing import Any

import torch

PEAKS = {  # dense bf16 FLOP/s, from NVIDIA's data sheets
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


def training_flops(model: Any, lengths: Sequence[int]) -> float:
    """Of one forward and backward over rows of ``lengths`` tokens, nothing made twice: 6N a token and causal attention.

    N counts every parameter but the input embedding, which is looked up; a tied head counts. What is frozen has no
    gradient of its own: 4 for 6. Attention takes
    6·layers·hidden·T² a row: two products of T²/2 pairs forward, twice that backward (Llama 3, arXiv 2407.21783, §3.2).
    """
    causal = getattr(model, "classifier", model)
    config, embedding = causal.config.get_text_config(), causal.get_input_embeddings().weight
    products = sum((6 if p.requires_grad else 4) * p.numel() for p in model.parameters())
    if not (config.tie_word_embeddings and causal.get_output_embeddings() is not None):
        products -= (6 if embedding.requires_grad else 4) * embedding.numel()
    per_square = 6 * config.num_hidden_layers * config.hidden_size
    return float(products) * sum(lengths) + per_square * sum(length**2 for length in lengths)


def peak_flops() -> float | None:
    """Of the current GPU in bf16, FLOP/s; None on a CPU and for cards that are not in the list."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for card, peak in PEAKS.items() if card in name), None)
