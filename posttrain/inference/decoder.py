"""One new token of every running row through a Llama-like decoder, written out for a CPU.

Of a step of few rows transformers' own modules spend most on Python. The operations and their order are the same here,
and so are the bits.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding, linear, silu
from transformers import PreTrainedModel

from posttrain.inference.cache import SlotCache

# Decoders of this very shape: norm, rotary attention, residual, norm, gated MLP, residual.
FAMILIES = ("LlamaModel", "MistralModel", "Qwen2Model")
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
_LENGTH_DEPENDENT = ("dynamic", "longrope")  # rotary angles that change as a text grows


class WrittenOutDecoder:
    """A decode step on the weights of ``model`` as they are now: for one use, not to be kept over an update.

    ``positions``: how many there may be. fp32 on a CPU alone, and only where `can_write_out`.
    """

    def __init__(self, model: PreTrainedModel, positions: int):
        backbone: Any = model.get_decoder()
        self._embedding = backbone.embed_tokens.weight
        self._layers = [_weights(layer) for layer in backbone.layers]
        self._norm = _norm(backbone.norm)
        attention = backbone.layers[0].self_attn
        self._dimension, self._scaling = attention.head_dim, attention.scaling
        self._key_heads = model.config.num_key_value_heads
        with torch.no_grad():
            cos_1LD, sin_1LD = backbone.rotary_emb(self._embedding, torch.arange(positions)[None])
        # q·cos + (−q2, q1)·sin is q·cos + (q2, q1)·(−sin, sin), to the bit.
        first_1LD, second_1LD = sin_1LD.chunk(2, -1)
        self._cos_LD, self._sin_LD = cos_1LD[0], torch.cat([-first_1LD, second_1LD], -1)[0]

    @torch.no_grad()
    def step(
        self, token_B: torch.Tensor, position_B: torch.Tensor, mask_BL: torch.Tensor, cache: SlotCache
    ) -> torch.Tensor:
        """Last hidden states [B, D]. Keys and values of the tokens go to ``cache``; ``mask_BL`` is additive."""
        rows = len(token_B)
        heads, grouped = (rows, -1, self._dimension), (rows, self._key_heads, -1, self._dimension)
        cos_B1D, sin_B1D, mask_B11L = (
            self._cos_LD[position_B][:, None],
            self._sin_LD[position_B][:, None],
            mask_BL[:, None, None],
        )
        hidden_BD = embedding(token_B, self._embedding)
        for number, (norm, query, key, value, output, mlp_norm, gate, up, down) in enumerate(self._layers):
            normed_BD = _normed(hidden_BD, *norm)
            query_BHD = _rotated(linear(normed_BD, *query).view(heads), cos_B1D, sin_B1D)
            key_BHD = _rotated(linear(normed_BD, *key).view(heads), cos_B1D, sin_B1D)
            value_BHD = linear(normed_BD, *value).view(heads)
            key_BHLD, value_BHLD = cache.update(key_BHD[:, :, None], value_BHD[:, :, None], number)
            # The query heads that share a key head are rows of one product (attention.py).
            scores_BHGL = torch.matmul((query_BHD * self._scaling).view(grouped), key_BHLD.transpose(2, 3)) + mask_B11L
            attended_BHGD = torch.matmul(torch.softmax(scores_BHGL, -1), value_BHLD)
            hidden_BD = hidden_BD + linear(attended_BHGD.view(rows, -1), *output)
            normed_BD = _normed(hidden_BD, *mlp_norm)
            hidden_BD = hidden_BD + linear(silu(linear(normed_BD, *gate)) * linear(normed_BD, *up), *down)
        return _normed(hidden_BD, *self._norm)


def can_write_out(model: PreTrainedModel) -> bool:
    """Whether `WrittenOutDecoder` computes what ``model`` does: fp32 on a CPU, a known family, nothing put into it."""
    backbone: Any = model.get_decoder()
    if type(backbone).__name__ not in FAMILIES or (model.device.type, model.dtype) != ("cpu", torch.float32):
        return False
    config = backbone.config
    if config.hidden_act != "silu" or config.rope_parameters["rope_type"] in _LENGTH_DEPENDENT:
        return False
    linears = [getattr(layer.self_attn, name) for layer in backbone.layers for name in _ATTENTION]
    linears += [getattr(layer.mlp, name) for layer in backbone.layers for name in _MLP]
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())
    return all(type(module) is nn.Linear for module in linears) and not hooked


def _weights(layer: Any) -> tuple[tuple[Any, Any], ...]:
    attention = [_linear(getattr(layer.self_attn, name)) for name in _ATTENTION]
    mlp = [_linear(getattr(layer.mlp, name)) for name in _MLP]
    return _norm(layer.input_layernorm), *attention, _norm(layer.post_attention_layernorm), *mlp


def _linear(module: nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    return module.weight, module.bias


def _norm(module: Any) -> tuple[torch.Tensor, float]:
    return module.weight, module.variance_epsilon


def _normed(x_BD: torch.Tensor, weight_D: torch.Tensor, epsilon: float) -> torch.Tensor:
    return weight_D * (x_BD * torch.rsqrt(x_BD.pow(2).mean(-1, keepdim=True) + epsilon))


def _rotated(x_BHD: torch.Tensor, cos_B1D: torch.Tensor, sin_B1D: torch.Tensor) -> torch.Tensor:
    first_BHD, second_BHD = x_BHD.chunk(2, -1)
    return x_BHD * cos_B1D + torch.cat([second_BHD, first_BHD], -1) * sin_B1D
