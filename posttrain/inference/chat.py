"""Any `Sampler` as a `ChatEndpoint`: messages in, text out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from posttrain.errors import PosttrainError
from posttrain.inference.protocols import ChatAnswer, ChatRequest, Sample, Sampler, SampleRequest


class SamplerChat:
    """Renders messages by the tokenizer's chat template, samples, and decodes.

    The EOS token ends every answer besides the request's own stops. The text holds neither special tokens nor the stop
    token or string that ended it. ``usage``: prompt_tokens and completion_tokens (the stop token counted).
    """

    def __init__(self, sampler: Sampler, tokenizer: PreTrainedTokenizerBase, model_name: str):
        if tokenizer.chat_template is None:
            raise PosttrainError(f"{model_name}: its tokenizer has no chat template; name one (chat_template: tulu)")
        self.model = model_name
        self._sampler = sampler
        self._tokenizer = tokenizer

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """The conversation and the header of the assistant turn to come, as token ids."""
        conversation = [dict(message) for message in messages]
        [text] = self._tokenizer.apply_chat_template([conversation], tokenize=False, add_generation_prompt=True)
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[ChatAnswer]:
        """Yields each answer as it finishes. Raises PosttrainError as the sampler's ``generate`` does."""
        waiting: dict[SampleRequest, list[ChatRequest]] = {}
        tokenised = (self._sample_request(request, waiting) for request in requests)
        # A list lets the sampler check every prompt before it draws a token; a stream is taken as it comes.
        for sample in self._sampler.generate(list(tokenised) if isinstance(requests, Sequence) else tokenised):
            request = waiting[sample.request].pop()
            usage = {"prompt_tokens": len(sample.request.prompt_ids), "completion_tokens": len(sample.token_ids)}
            yield ChatAnswer(request, self._text(sample), sample.finish_reason, usage)

    def close(self) -> None:
        self._sampler.close()

    def _sample_request(self, request: ChatRequest, waiting: dict[SampleRequest, list[ChatRequest]]) -> SampleRequest:
        stops = request.sampling.stop_token_ids
        eos = self._tokenizer.eos_token_id
        if eos is not None and eos not in stops:
            stops = (*stops, eos)
        sampling = replace(request.sampling, stop_token_ids=stops)
        made = SampleRequest(request.id, request.sample_index, self.prompt_ids(request.messages), sampling)
        waiting.setdefault(made, []).append(request)
        return made

    def _text(self, sample: Sample) -> str:
        tokens, sampling = list(sample.token_ids), sample.request.sampling
        if tokens and tokens[-1] in sampling.stop_token_ids:
            tokens.pop()
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # a list only for a list of lists
        ends = [place for string in sampling.stop_strings if (place := text.find(string)) >= 0]
        return text[: min(ends)] if ends else text
