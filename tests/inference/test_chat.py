"""Messages in, text out, and where an answer ends."""

from typing import Any

import pytest
import torch

from posttrain.errors import PosttrainError
from posttrain.inference.chat import SamplerChat
from posttrain.inference.local import LocalSampler
from posttrain.inference.protocols import ChatRequest, SampleRequest, SamplingParameters

EOS = 2


def ask_of(prompts: int, samples: int, **sampling: Any) -> list[ChatRequest]:
    settings: dict[str, Any] = {"max_tokens": 30, "seed": 5} | sampling
    given = SamplingParameters(**settings)
    turns = [({"role": "user", "content": f"what is {i}?"},) for i in range(prompts)]
    return [ChatRequest(f"q{i}", turn, given, j) for i, turn in enumerate(turns) for j in range(samples)]


@pytest.fixture
def chat(model, tokenizer) -> SamplerChat:
    return SamplerChat(LocalSampler(model, pad_token_id=0, slots=7, tokenizer=tokenizer), tokenizer, "tiny")


def test_every_request_is_answered_once_whatever_their_form(chat):
    asked = ask_of(4, samples=3)
    answers = {(a.request.id, a.request.sample_index): a for a in chat.chat(asked)}
    assert len(answers) == len(asked) and all(answers[r.id, r.sample_index].request is r for r in asked)
    streamed = {(a.request.id, a.request.sample_index): a for a in chat.chat(iter(asked))}
    assert {k: a.text for k, a in streamed.items()} == {k: a.text for k, a in answers.items()}
    twice = list(chat.chat(asked[:1] * 2))
    assert len(twice) == 2 and twice[0].text == twice[1].text


def test_the_text_is_that_of_the_sampled_tokens_without_eos(chat, model, tokenizer):
    sampler = LocalSampler(model, pad_token_id=0)
    ended = set()
    for answer in chat.chat(ask_of(6, samples=4)):
        ended.add(answer.finish_reason)
        ids = chat.prompt_ids(answer.request.messages)
        sampling = SamplingParameters(max_tokens=30, seed=5, stop_token_ids=(EOS,))
        (sample,) = sampler.generate([SampleRequest(answer.request.id, answer.request.sample_index, ids, sampling)])
        assert answer.text == tokenizer.decode([t for t in sample.token_ids if t > EOS])
        assert answer.usage == {"prompt_tokens": len(ids), "completion_tokens": len(sample.token_ids)}
        assert answer.finish_reason == sample.finish_reason
    assert ended == {"stop", "length"}


def test_the_prompt_is_the_template_with_the_header_of_the_answer(chat, tokenizer):
    turns = ({"role": "system", "content": "be good"}, {"role": "user", "content": "hi?"})
    assert tokenizer.decode(list(chat.prompt_ids(turns))) == "<s>be good\n<u>hi?\n<a>"


@pytest.mark.parametrize("strings", [("e",), ("the", "ing"), ("\n",), ("€",), ("th", "q9", ". ")])
def test_a_stop_string_ends_the_answer_at_the_first_token_that_completes_it(model, tokenizer, strings):
    """Against the answers without stop strings, cut token by token from their whole text."""
    sampler = LocalSampler(model, pad_token_id=0, slots=9, tokenizer=tokenizer)
    free = {"max_tokens": 40, "seed": 3, "stop_token_ids": (EOS,)}

    def requests(**sampling):
        given = SamplingParameters(**free, **sampling)
        return [SampleRequest(f"p{i}", 0, (3 + i, 9), given) for i in range(40)]

    whole = {sample.request.prompt_id: sample for sample in sampler.generate(requests())}
    stopped = 0
    for sample in sampler.generate(requests(stop_strings=strings)):
        expected = whole[sample.request.prompt_id]
        cut = len(expected.token_ids)
        for length in range(1, cut + 1):
            text = tokenizer.decode(list(expected.token_ids[:length]))
            if any(string in text for string in strings):
                cut = length
                break
        assert sample.token_ids == expected.token_ids[:cut]
        if cut < len(expected.token_ids):
            assert sample.finish_reason == "stop"
            stopped += 1
    assert stopped > 0 or strings == ("€",)


def test_the_text_ends_before_its_stop_string(chat):
    texts = [answer.text for answer in chat.chat(ask_of(10, samples=3, stop_strings=("th", "e", "a")))]
    assert any(texts) and not any(string in text for text in texts for string in ("th", "e", "a"))


def test_a_tokenizer_without_template_is_refused(model, tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(PosttrainError, match="tiny: its tokenizer has no chat template"):
        SamplerChat(LocalSampler(model, pad_token_id=0), bare, "tiny")


def test_a_prompt_over_the_context_is_named(chat):
    long = ChatRequest("long one", ({"role": "user", "content": "a" * 70},))
    with pytest.raises(PosttrainError, match="'long one' has 77 tokens and the context holds 64"):
        list(chat.chat([long]))
    assert torch.is_grad_enabled()
