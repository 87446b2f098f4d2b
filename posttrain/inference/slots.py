"""What the engine remembers of each running completion: arrays over slots, so that no step loops over rows."""

from collections.abc import Sequence

import numpy as np

from posttrain.inference.protocols import FinishReason, Sample, SampleRequest
from posttrain.inference.randomness import stream_key

_NO_TOKEN = -1


class Slots:
    """Running completions in slots 0 .. ``count`` - 1, without holes between engine steps.

    ``cached[s]``: positions of slot s in the cache; ``following[s]``: the token to be fed next, at that position;
    ``produced[s]``: tokens drawn so far.
    """

    def __init__(self, slots: int):
        self.count = 0
        self.requests: list[SampleRequest | None] = [None] * slots
        self.cached = np.zeros(slots, np.int64)
        self.following = np.zeros(slots, np.int64)
        self.produced = np.zeros(slots, np.int64)
        self.limit = np.zeros(slots, np.int64)
        self.key = np.zeros(slots, np.uint64)
        self.temperature = np.ones(slots, np.float32)
        self.top_p = np.ones(slots, np.float64)
        self.restricted = np.zeros(slots, bool)
        self.stops_on_text = np.zeros(slots, bool)
        self.stop_ids = np.full((slots, 1), _NO_TOKEN, np.int64)
        self.tokens = np.zeros((slots, 0), np.int64)
        self.logprobs = np.zeros((slots, 0), np.float32)

    def start(self, slot: int, request: SampleRequest, context_length: int) -> None:
        """Puts ``request`` in ``slot``, its prompt but for the last token taken to be in the cache already."""
        sampling = request.sampling
        self.requests[slot] = request
        self.cached[slot] = len(request.prompt_ids) - 1
        self.following[slot] = request.prompt_ids[-1]
        self.produced[slot] = 0
        self.limit[slot] = min(sampling.max_tokens, context_length - len(request.prompt_ids))
        self.key[slot] = stream_key(sampling.seed, request.prompt_id, request.sample_index)
        self.temperature[slot] = sampling.temperature
        self.top_p[slot] = sampling.top_p
        self.restricted[slot] = sampling.allowed_token_ids is not None
        self.stops_on_text[slot] = bool(sampling.stop_strings)
        stops = sampling.stop_token_ids
        self.stop_ids = _widened(self.stop_ids, len(stops), _NO_TOKEN)
        self.stop_ids[slot] = _NO_TOKEN
        self.stop_ids[slot, : len(stops)] = stops
        self.tokens = _widened(self.tokens, int(self.limit[slot]), 0)
        self.logprobs = _widened(self.logprobs, int(self.limit[slot]), 0)

    def record(self, token_B: np.ndarray, logprob_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Appends one drawn token per running row. Returns which rows met a stop token, and which have no room left."""
        rows, count = np.arange(self.count), self.count
        self.tokens[rows, self.produced[:count]] = token_B
        self.logprobs[rows, self.produced[:count]] = logprob_B
        self.produced[:count] += 1
        self.cached[:count] += 1
        self.following[:count] = token_B
        stopped_B = (token_B[:, None] == self.stop_ids[:count]).any(1)
        return stopped_B, self.produced[:count] >= self.limit[:count]

    def sample(self, slot: int, reason: FinishReason, weight_version: int) -> Sample:
        """The finished completion in ``slot``."""
        request, produced = self.requests[slot], int(self.produced[slot])
        assert request is not None
        tokens = tuple(self.tokens[slot, :produced].tolist())
        return Sample(request, tokens, tuple(self.logprobs[slot, :produced].tolist()), reason, weight_version)

    def move(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Moves rows ``sources`` into slots ``targets``."""
        for target, source in zip(targets, sources, strict=True):
            self.requests[target] = self.requests[source]
        for array in vars(self).values():
            if isinstance(array, np.ndarray):
                array[targets] = array[sources]


def _widened(array: np.ndarray, width: int, fill: int) -> np.ndarray:
    if width <= array.shape[1]:
        return array
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)
