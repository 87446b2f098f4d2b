"""Arithmetic of a step against a count by hand, and the peaks of cards whose names begin alike."""

import pytest
import torch

from posttrain.training.flops import peak_flops, training_flops


def test_frozen_weights_cost_four_and_trained_ones_six_operations_a_token(tiny_llama):
    model = tiny_llama()
    embedding = model.get_input_embeddings().weight
    once = 2 * model.config.num_hidden_layers * model.config.hidden_size * 3 * 10**2
    whole = sum(p.numel() for p in model.parameters()) - embedding.numel()
    assert training_flops(model, [10]) == 6 * whole * 10 + once
    model.requires_grad_(False)
    trained = next(iter(model.base_model.layers)).mlp.down_proj.weight.requires_grad_(True)
    assert training_flops(model, [10]) == 4 * whole * 10 + 2 * trained.numel() * 10 + once


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 NVL", 835e12), ("GTX", None)],
)
def test_cards_have_the_peak_of_their_own_kind(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert peak_flops() == peak
