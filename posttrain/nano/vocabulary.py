"""The nano tokenizer: byte-level BPE in which every digit is a token of its own."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
PAD = "<pad>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")  # one token each; pretraining text never holds them


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """``size`` tokens, special ones included. Words keep the space before them, a digit takes at most that space."""
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?\d| ?[A-Za-z]+| ?[^A-Za-z\d\s]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END, PAD, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, additional_special_tokens=list(ROLES)
    )
