"""How much of an evaluation item stands in a training row in the same order, other words between or not.

N-grams break at every changed word, so they find a copy and cannot say how much of it is one; and half of the n-grams
of two different exercises may be their instructions. What shares an n-gram is therefore compared token by token.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cached_property

import numpy as np

from posttrain.decontamination.tokens import TokenStream

_NUMBER = re.compile(rb"\d+")


def in_order(sought: Sequence[bytes], tokens: Sequence[bytes]) -> int:
    """The length of the longest common subsequence: bit-parallel (Hyyrö, 2004), one step for each token of ``tokens``
    that is sought."""
    places: dict[bytes, int] = {}
    bit = 1
    for token in sought:
        places[token] = places.get(token, 0) | bit
        bit <<= 1
    full = left = bit - 1
    for token in tokens:
        if token in places:
            met = left & places[token]
            left = ((left + met) | (left - met)) & full
    return len(sought) - left.bit_count()


class Reading:
    """The tokens of a row, and how much of each text that was looked for in them stands there in order."""

    def __init__(self, tokens: Sequence[bytes]):
        self.tokens = tokens
        self._found: dict[tuple[int, bool], tuple[int, int]] = {}

    def share_over(
        self, bound: Fraction, texts: Sequence[int], own: Callable[[int], Sequence[bytes]], *, numbers_alike: bool
    ) -> float:
        """The mean over ``texts``, by number, of the share of their ``own`` tokens that stand in the row in order; 0 if
        it is not over ``bound``."""
        over, under = 0, 1
        for text in texts:
            if (text, numbers_alike) not in self._found:
                sought, read = own(text), self._numbers_alike if numbers_alike else self.tokens
                sought = with_numbers_alike(sought) if numbers_alike else sought
                self._found[text, numbers_alike] = in_order(sought, read), len(sought)
            part, whole = self._found[text, numbers_alike]
            over, under = over * whole + part * under, under * whole
        under *= len(texts)
        return over / under if over * bound.denominator > bound.numerator * under else 0.0

    @cached_property
    def _numbers_alike(self) -> list[bytes]:
        return with_numbers_alike(self.tokens)


def with_numbers_alike(tokens: Sequence[bytes]) -> list[bytes]:
    """The tokens with 0 in place of every number."""
    return _NUMBER.sub(b"0", b" ".join(tokens)).split(b" ")


def tokens_of(stream: TokenStream, first: int, stop: int) -> list[bytes]:
    """The tokens from ``first`` to before ``stop``."""
    return stream.sequence(first, stop - first).split(b" ") if stop > first else []


def near(begins: np.ndarray, reach: int, first: int, stop: int) -> list[tuple[int, int]]:
    """The stretches of tokens within ``reach`` of any of ``begins`` (ascending), inside ``first`` to ``stop``."""
    stretches: list[tuple[int, int]] = []
    for begin in begins.tolist():
        one, other = max(first, begin - reach), min(stop, begin + reach)
        if stretches and one <= stretches[-1][1]:
            stretches[-1] = stretches[-1][0], other
        else:
            stretches.append((one, other))
    return stretches
