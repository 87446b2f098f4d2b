"""A tokenizer whose tokens are bytes, a tiny model folder, and a sampler that says what it is told."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.data.chat import TEMPLATES
from posttrain.inference.protocols import Sample, SampleRequest


def byte_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<eos>", "<pad>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture
def tokenizer():
    return byte_tokenizer(TEMPLATES["tulu"])


@pytest.fixture
def model_folder(tmp_path):
    """``model_folder(chat_template)``: a saved random Llama with the byte tokenizer."""

    def make(chat_template: str | None):
        torch.manual_seed(0)
        tokenizer = byte_tokenizer(chat_template)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=512,
            eos_token_id=0,
        )
        folder = tmp_path / f"model-{chat_template is None}"
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


class Told:
    """A sampler that answers each prompt by a function of its text, and remembers what it was asked."""

    def __init__(
        self, tokenizer, answer: Callable[[str], str], context_length: int = 4096, dies_after: int | None = None
    ):
        self.tokenizer, self.answer, self.context_length, self.dies_after = (
            tokenizer,
            answer,
            context_length,
            dies_after,
        )
        self.asked: list[SampleRequest] = []

    def generate(self, requests):
        for request in requests:
            if self.dies_after is not None and len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            text = self.answer(self.tokenizer.decode(request.prompt_ids))
            ids = (*self.tokenizer(text, add_special_tokens=False).input_ids, self.tokenizer.eos_token_id)
            cut = ids[: request.sampling.max_tokens]
            reason = "stop" if cut == ids else "length"
            yield Sample(request, cut, (0.0,) * len(cut), reason, 0)

    def score(self, sequences):
        raise NotImplementedError

    def update_weights(self, tensors, version):
        raise NotImplementedError

    def close(self):
        pass


@pytest.fixture
def told():
    return Told
