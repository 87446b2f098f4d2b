"""llama2.c's legacy model file and tokenizer → a Llama folder that transformers loads.

Model (.bin, little endian): seven int32 (dim, hidden_dim, layers, heads, kv_heads, vocabulary, positions; a negative
vocabulary means an output head of its own), then fp32 tensors. Tokenizer: int32 longest token, then per token fp32
score, int32 length, bytes; 0 is <unk>, 1 begins, 2 ends a text, 3…258 are the 256 bytes, spaces are plain spaces.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.errors import PosttrainError
from posttrain.models.load import save_model

SPACE = "▁"  # SentencePiece's mark for a space
SPECIAL = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True)
class Shape:
    """The header of a .bin."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int
    own_head: bool


def convert_llama2c(bin: str | os.PathLike, tokenizer_bin: str | os.PathLike, folder: str | os.PathLike) -> Path:
    """Writes weights and tokenizer to ``folder``. Raises PosttrainError when a file is not of the format."""
    model = read_model(bin)
    tokenizer = read_tokenizer(tokenizer_bin, model.config.vocab_size)
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_model(model, tokenizer, folder)
    return Path(folder)


def read_model(path: str | os.PathLike) -> LlamaForCausalLM:
    """The model in a legacy .bin, as transformers' Llama in fp32."""
    data = _read(path)
    shape = _shape(path, data)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=not shape.own_head,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(_tensors(path, data, shape), strict=shape.own_head)
    model.tie_weights()
    return model.eval()


def read_tokenizer(path: str | os.PathLike, vocabulary: int) -> PreTrainedTokenizerFast:
    """A fast BPE tokenizer that merges as llama2.c's ``encode`` does: best score first, leftmost first.

    A begin token is not added (chat templates say what they want). A text's first word gets a space in front;
    characters outside the vocabulary become bytes. As in SentencePiece, a literal U+2581 counts as a space.
    """
    pieces = list(_pieces(path, vocabulary))
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocab=ids, merges=_merges(pieces), unk_token=SPECIAL[0], byte_fallback=True))
    # Metaspace puts a space before the first word only where the text does not begin with one; llama2.c always does.
    tokenizer.normalizer = normalizers.Replace(Regex(r"\A "), "  ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    unk, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unk, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )


def _shape(path: str | os.PathLike, data: bytes) -> Shape:
    if len(data) < 28:
        raise PosttrainError(f"{path}: too short for a llama2.c model file (legacy format)")
    dim, hidden_dim, layers, heads, kv_heads, vocabulary, positions = struct.unpack("<7i", data[:28])
    if min(dim, hidden_dim, layers, heads, kv_heads, positions) <= 0 or vocabulary == 0 or dim % heads:
        raise PosttrainError(f"{path}: not a llama2.c model file (legacy format): its header makes no sense")
    return Shape(dim, hidden_dim, layers, heads, kv_heads, abs(vocabulary), positions, own_head=vocabulary < 0)


def _tensors(path: str | os.PathLike, data: bytes, shape: Shape) -> dict[str, torch.Tensor]:
    """transformers' names and layout. The file keeps each kind of weight for all layers together."""
    L, D, F, V = shape.layers, shape.dim, shape.hidden_dim, shape.vocabulary
    head_dim = D // shape.heads
    KV = shape.kv_heads * head_dim
    layout = {
        "embed": (V, D),
        "input_layernorm": (L, D),
        "self_attn.q_proj": (L, D, D),
        "self_attn.k_proj": (L, KV, D),
        "self_attn.v_proj": (L, KV, D),
        "self_attn.o_proj": (L, D, D),
        "post_attention_layernorm": (L, D),
        "mlp.gate_proj": (L, F, D),
        "mlp.down_proj": (L, D, F),
        "mlp.up_proj": (L, F, D),
        "norm": (D,),
        "rotary_tables": (2, shape.positions, head_dim // 2),
    }
    if shape.own_head:
        layout["head"] = (V, D)
    expected = 28 + 4 * sum(int(np.prod(size)) for size in layout.values())
    if len(data) != expected:
        raise PosttrainError(f"{path}: {len(data)} bytes where its header asks for {expected}; the file is damaged")
    read, offset = {}, 28
    for name, size in layout.items():
        count = int(np.prod(size))
        read[name] = torch.from_numpy(np.frombuffer(data, "<f4", count, offset).reshape(size).astype(np.float32))
        offset += 4 * count

    # llama2.c rotates neighbouring pairs, transformers the two halves of a head: the same after reordering the rows.
    read["self_attn.q_proj"] = _halves(read["self_attn.q_proj"], shape.heads)
    read["self_attn.k_proj"] = _halves(read["self_attn.k_proj"], shape.kv_heads)
    state = {"model.embed_tokens.weight": read["embed"], "model.norm.weight": read["norm"]}
    if shape.own_head:
        state["lm_head.weight"] = read["head"]
    for name in [n for n in layout if n.startswith(("self_attn", "mlp", "input", "post"))]:
        for layer in range(L):
            state[f"model.layers.{layer}.{name}.weight"] = read[name][layer]
    return state if shape.own_head else {**state, "lm_head.weight": read["embed"]}


def _halves(weight_LOD: torch.Tensor, heads: int) -> torch.Tensor:
    L, rows, D = weight_LOD.shape
    return weight_LOD.view(L, heads, rows // heads // 2, 2, D).transpose(2, 3).reshape(L, rows, D)


def _pieces(path: str | os.PathLike, vocabulary: int) -> Iterator[tuple[str, float]]:
    """(text, score) by id; spaces as SentencePiece writes them, special tokens by their usual names."""
    data, offset = _read(path), 4
    for index in range(vocabulary):
        if offset + 8 > len(data):
            raise PosttrainError(f"{path}: ends at token {index} of {vocabulary}; it is of another model or damaged")
        score, length = struct.unpack_from("<fi", data, offset)
        raw = data[offset + 8 : offset + 8 + length]
        offset += 8 + length
        yield SPECIAL[index] if index < len(SPECIAL) else raw.decode("utf-8").replace(" ", SPACE), score


def _merges(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, by the token's score.

    A byte token ("<0x41>") is neither made nor merged. llama2.c ranks the splits of one token alike and takes the
    leftmost, here the shorter left part goes first: they differ only for a token that begins and ends alike (aba+b
    and ab+ab…, where two of its splits can overlap in a text). tok512 has none such.
    """
    scores = {piece: score for index, (piece, score) in enumerate(pieces) if index >= len(SPECIAL) + 256}
    ranked = sorted(scores, key=lambda piece: -scores[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def _read(path: str | os.PathLike) -> bytes:
    if not Path(path).is_file():
        raise PosttrainError(f"{path}: no such file")
    return Path(path).read_bytes()
