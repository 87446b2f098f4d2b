"""The written-out decode step against transformers' own modules: the same bits, or it is not taken."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from posttrain.inference import local
from posttrain.inference.decoder import can_write_out
from posttrain.inference.local import LocalSampler
from tests.inference.test_local import by_key, requests

FAMILIES: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "llama, scaled rotary angles": (
        LlamaConfig,
        LlamaForCausalLM,
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None, "head_dim": 16}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
}


def model_of(family: str):
    config, kind, more = FAMILIES[family]
    torch.manual_seed(0)
    shape: dict[str, Any] = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    shape |= dict(num_key_value_heads=2, max_position_embeddings=64, vocab_size=61, initializer_range=0.25)
    return kind(config(**shape, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more)).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bits_are_those_of_transformers_modules(family, monkeypatch):
    model = model_of(family)
    assert can_write_out(model)
    asked = requests(12, samples=2)
    written_out = by_key(LocalSampler(model, pad_token_id=0, slots=5).generate(asked))
    monkeypatch.setattr(local, "can_write_out", lambda _: False)
    theirs = by_key(LocalSampler(model, pad_token_id=0, slots=5).generate(asked))
    assert written_out == theirs  # token ids and log-probabilities, without tolerance


def test_what_is_not_of_that_shape_is_left_to_transformers():
    assert not can_write_out(model_of("llama").to(torch.bfloat16))
    hooked = model_of("llama")
    hooked.model.layers[1].register_forward_hook(lambda *_: None)
    assert not can_write_out(hooked)
    replaced = model_of("llama")
    replaced.model.layers[0].self_attn.q_proj = nn.Sequential(nn.Linear(32, 32))  # as adapters do
    assert not can_write_out(replaced)
    growing = model_of("llama")
    growing.config.rope_parameters["rope_type"] = "dynamic"
    assert not can_write_out(growing)
    gelu = model_of("llama")
    gelu.config.hidden_act = "gelu"
    assert not can_write_out(gelu)
