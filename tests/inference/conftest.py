"""Tiny models that every test of the engine samples from."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def _tiny(key_heads: int = 2, scale: float = 0.25, positions: int = 64, seed: int = 0) -> LlamaForCausalLM:
    """Random weights, large enough that the next-token distributions are far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        max_position_embeddings=positions,
        initializer_range=scale,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny():
    """Makes a model of its own: tiny(key_heads, scale, positions, seed)."""
    return _tiny


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    return _tiny()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """61 tokens: pad, bos, eos, and 58 pieces of text, some of them of several letters or of half a character."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    euro = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("€")[0][0]
    pieces = [
        *"abcdefghijklmnopqrstuvwxyz",
        *"0123456789",
        *".,:?!|<>",
        *euro,
        "Ġ",
        "Ċ",
        "th",
        "the",
        "ing",
        "Ċen",
        "d.",
    ]
    pieces += [letter for letter in letters if letter not in pieces][: 58 - len(pieces)]
    vocabulary = {piece: i for i, piece in enumerate(["<pad>", "<s>", "</s>", *pieces])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    made.chat_template = (
        "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<a>{% endif %}"
    )
    return made
