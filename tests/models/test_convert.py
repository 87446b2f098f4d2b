"""The converted stories260K against llama2.c's algorithm, written again in numpy from its description."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from posttrain.errors import PosttrainError
from posttrain.models.convert import convert_llama2c
from posttrain.models.load import load_tokenizer

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "",
    " two spaces  in  front",
    "Zoë said: “12 €, ñandú” — 漢字 🙂\n\tdone\r\n",
    "endended their wwwwaaaattt hhee herherher st on onon",
    "1 + 1 = 2; x_1 <0x41> <s>",
]


@pytest.fixture(scope="module")
def stories(data_dir):
    return data_dir / "stories260K"


@pytest.fixture(scope="module")
def folder(stories, tmp_path_factory):
    return convert_llama2c(stories / "stories260K.bin", stories / "tok512.bin", tmp_path_factory.mktemp("stories"))


def forward(path, tokens):
    """Logits after each token: one position at a time with a cache, pairs (2i, 2i+1) rotated, float64."""
    data = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, positions = struct.unpack("<7i", data[:28])
    values = np.frombuffer(data, "<f4", offset=28).astype(np.float64)
    head = dim // heads
    kv = kv_heads * head

    def take(*shape):
        nonlocal values
        count = int(np.prod(shape))
        out, values = values[:count].reshape(shape), values[count:]
        return out

    embed, norm_a = take(vocabulary, dim), take(layers, dim)
    wq, wk, wv, wo = take(layers, dim, dim), take(layers, kv, dim), take(layers, kv, dim), take(layers, dim, dim)
    norm_f, w1, w2, w3 = (
        take(layers, dim),
        take(layers, hidden, dim),
        take(layers, dim, hidden),
        take(layers, hidden, dim),
    )
    norm = take(dim)

    def rms(x, w):
        return x / np.sqrt((x * x).mean() + 1e-5) * w

    def rotate(x, position):
        out = x.copy()
        for i in range(0, len(x), 2):
            angle = position / 10000 ** ((i % head) / head)
            c, s = np.cos(angle), np.sin(angle)
            out[i], out[i + 1] = x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c
        return out

    keys, past, result = [[] for _ in range(layers)], [[] for _ in range(layers)], []
    for position, token in enumerate(tokens):
        x = embed[token]
        for n in range(layers):
            a = rms(x, norm_a[n])
            q, k = rotate(wq[n] @ a, position), rotate(wk[n] @ a, position)
            keys[n].append(k)
            past[n].append(wv[n] @ a)
            out = np.zeros(dim)
            for h in range(heads):
                g, mine = h // (heads // kv_heads) * head, slice(h * head, (h + 1) * head)
                scores = np.array([q[mine] @ k[g : g + head] for k in keys[n]]) / np.sqrt(head)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                out[mine] = sum(w * v[g : g + head] for w, v in zip(weights, past[n], strict=True))
            x = x + wo[n] @ out
            f = rms(x, norm_f[n])
            gate = w1[n] @ f
            x = x + w2[n] @ (gate / (1 + np.exp(-gate)) * (w3[n] @ f))
        result.append(embed @ rms(x, norm))
    return np.stack(result)


def encode(path, text):
    """llama2.c's encode without BOS: characters or bytes, then the best-scored neighbours merged, leftmost first."""
    data, offset, pieces, scores = path.read_bytes(), 4, [], []
    while offset < len(data):
        score, length = struct.unpack_from("<fi", data, offset)
        pieces.append(data[offset + 8 : offset + 8 + length])
        scores.append(score)
        offset += 8 + length
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokens = [ids[b" "]] if text else []
    for character in text:
        raw = character.encode()
        tokens += [ids[raw]] if raw in ids else [byte + 3 for byte in raw]
    while True:
        best, where, token = -1e10, None, -1
        for i in range(len(tokens) - 1):
            merged = ids.get(pieces[tokens[i]] + pieces[tokens[i + 1]])
            if merged is not None and scores[merged] > best:
                best, where, token = scores[merged], i, merged
        if where is None:
            return tokens
        tokens[where : where + 2] = [token]


def test_logits_equal_an_independent_forward_of_the_file(stories, folder):
    tokens = [1, *encode(stories / "tok512.bin", TEXTS[0])]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    logits = model(torch.tensor([tokens])).logits[0].detach().numpy()
    # transformers keeps its rotary tables in fp32
    np.testing.assert_allclose(logits, forward(stories / "stories260K.bin", tokens), rtol=0, atol=2e-5)


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_equal_llama2c(stories, folder, text):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer(text.replace("<s>", "<_s>"), add_special_tokens=False)["input_ids"]
    assert ids == encode(stories / "tok512.bin", text.replace("<s>", "<_s>"))
    assert tokenizer.decode(ids) == text.replace("<s>", "<_s>")


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("abdehinorstuvwk ,.\nT"), max_size=60) | st.text(max_size=30))
def test_any_text_gets_the_tokens_of_llama2c_and_comes_back(stories, folder, text):
    text = text.encode("utf-8", "ignore").decode().replace("▁", "_").replace("<", "(")  # no special tokens
    tokenizer = load_tokenizer(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if "\0" not in text:  # where C ends the text
        assert ids == encode(stories / "tok512.bin", text)
    assert tokenizer.decode(ids) == text


def test_files_of_another_kind_are_refused(stories, tmp_path):
    whole = (stories / "stories260K.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[:-4])
    for bad, reason in ((tmp_path / "cut.bin", "damaged"), (stories / "tok512.bin", "header makes no sense|damaged")):
        with pytest.raises(PosttrainError, match=reason):
            convert_llama2c(bad, stories / "tok512.bin", tmp_path / "out")
    with pytest.raises(PosttrainError, match="no such file"):
        convert_llama2c(tmp_path / "absent.bin", stories / "tok512.bin", tmp_path / "out")
