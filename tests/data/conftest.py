"""Tokenizers of three families, all small."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.data.chat import prepare_tokenizer

TEXT = [
    "<|system|>\nBe brief.\n<|user|>\nHow many apples are there?\n<|assistant|>\nThere are two  apples.\n\n- one\n-",
    "<|assistant|>\n\n  indented\n\n\n<|user|>\n  and\tyet  \n<|assistant|>\n é 漢字 🙂 Assistant: Assistant: The",
]
NEWLINES = ["\n\n" * 99, "\nT" * 99, " a" * 99]  # merged first, so that they straddle the end of a header


def byte_level(text, *, use_regex, trim_offsets=True):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text * 3, trainer)
    return tokenizer


def sentencepiece_like(text):
    """As the Llama 2 family has it: spaces as ▁, one put before the text, bytes for what is not in the vocabulary."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(text * 3, trainer)
    return tokenizer


def ready(tokenizer, template="tulu"):
    return prepare_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>"), template)


@pytest.fixture(scope="session")
def byte_tokenizer():
    """Words and spaces apart, as GPT-2 and Llama 3 do."""
    return ready(byte_level(TEXT, use_regex=True))


@pytest.fixture(scope="session")
def greedy_tokenizer():
    """Merges across anything, newlines and words too: tokens straddle the turns' borders all the time."""
    return ready(byte_level([*TEXT, *NEWLINES], use_regex=False))


@pytest.fixture(scope="session")
def piece_tokenizer():
    return ready(sentencepiece_like(TEXT))


@pytest.fixture(scope="session")
def olmo_tokenizer(data_dir):
    file = str(data_dir / "tokenizers/olmo/tokenizer.json")
    return prepare_tokenizer(PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<|endoftext|>"), "tulu")


@pytest.fixture(scope="session")
def gpt2_tokenizer(data_dir):
    folder = data_dir / "tokenizers"
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel()
    return prepare_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>"), "tulu")
