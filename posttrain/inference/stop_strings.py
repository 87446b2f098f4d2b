"""Stop strings: the one thing that makes a step look at text."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from posttrain.inference.slots import Slots


class StopStrings:
    """Marks the rows whose text so far holds one of their stop strings. Only rows that have any cost anything."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None):
        self._tokenizer = tokenizer

    def mark(self, running: Slots, stopped_B: np.ndarray) -> None:
        """Sets ``stopped_B[row]`` where the last drawn token completed a stop string."""
        for slot in np.flatnonzero(running.stops_on_text[: running.count] & ~stopped_B).tolist():
            request = running.requests[slot]
            assert request is not None and self._tokenizer is not None
            strings = request.sampling.stop_strings
            # A token holds at least one byte, so a string of n bytes lies within the last n tokens; four more let a
            # character of several bytes, begun before, come out whole.
            tail = max(len(string.encode()) for string in strings) + 4
            produced = running.produced[slot]
            tokens = running.tokens[slot, max(0, produced - tail) : produced]
            text = self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            stopped_B[slot] = any(string in text for string in strings)
