"""A language of twelve words, a random two-layer Llama that reads it, and a sampler that needs no model."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.data.rows import VerifiablePrompt
from posttrain.inference.protocols import Sample, SampleRequest
from posttrain.rl.plan import RolloutPlan
from posttrain.rl.prompts import Prompt

WORDS = ["red", "green", "blue", "say", "cat", "dog", "sun", "sky"]
TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' + m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' <answer>' }}{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", "<user>", "<answer>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", chat_template=TEMPLATE
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<answer>"]})
    return tokenizer


def tiny_llama(tokenizer, seed: int = 0, positions: int = 32, hidden: int = 32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


def prompt_row(number: int, word: str, verifier: str = "substring") -> VerifiablePrompt:
    messages = ({"role": "user", "content": f"say {word}"},)
    return VerifiablePrompt(f"p{number}", messages, f'["{word}"]', verifier, "toy")


def plan_of(prompts: Sequence[Prompt], **more: Any) -> RolloutPlan:
    """One that rolls out every prompt, twice, in a step."""
    usual: dict[str, Any] = {
        "seed": 0,
        "prompts_per_step": len(prompts),
        "samples_per_prompt": 2,
        "temperature": 1.0,
        "max_response_tokens": 6,
        "stop_token_ids": (1,),
        "pad_token_id": 0,
    }
    return RolloutPlan(prompts, **usual | more)


class EchoSampler:
    """Answers every request with tokens made from its key alone, in an order of its own."""

    context_length = 64
    weight_version = 3

    def __init__(self, backwards: bool = False):
        self.backwards = backwards

    def generate(self, requests: Iterable[SampleRequest]) -> Iterator[Sample]:
        requests = list(requests)
        for request in reversed(requests) if self.backwards else requests:
            generator = torch.Generator().manual_seed((request.sampling.seed + 7919 * request.sample_index) % 2**31)
            length = int(torch.randint(1, request.sampling.max_tokens + 1, (), generator=generator))
            tokens = torch.randint(5, 13, (length,), generator=generator).tolist()
            ended = length < request.sampling.max_tokens
            if ended:
                tokens[-1] = request.sampling.stop_token_ids[0]
            logprobs = (-torch.rand(length, generator=generator)).tolist()
            yield Sample(request, tuple(tokens), tuple(logprobs), "stop" if ended else "length", self.weight_version)

    def score(self, sequences):
        raise NotImplementedError

    def update_weights(self, tensors, version):
        raise NotImplementedError

    def close(self) -> None: ...
