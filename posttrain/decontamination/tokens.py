"""Text as decontamination sees it: lower-case words between the separators of the published analyzer."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

Splitting = Literal["published", "scripts"]
"""``published``: the released separators alone. ``scripts``: and each CJK or Thai character is a token of its own, and
these scripts' punctuation separates."""

# The released analyzer splits on space , . ? ! : ; ( ) " - newline and backslash, and on nothing else.
_SEPARATOR_BYTES = b' ,.?!:;()"-\n\\'
_SEPARATORS = r' ,.?!:;()"\-\n\\'
# These scripts write no spaces, so a whole sentence would be one token: Thai, Lao, Khmer, kana, Han, Hangul stays
# with the words since it has spaces.
_UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

# Their punctuation, as the ASCII mark that does the same. Full-width Latin letters and digits are left as they are.
_ASCII_MARKS: dict[int, str] = dict.fromkeys(
    map(ord, "。．！？：；（）「」『』〈〉《》【】〔〕［］｛｝｡｢｣።۔।॥"), "."
) | dict.fromkeys(map(ord, "、，・､･･／"), ",")
_UNSPACED_SEPARATORS = re.escape("".join(map(chr, _ASCII_MARKS)))

_PATTERNS: dict[Splitting, re.Pattern[str]] = {
    "published": re.compile(f"[^{_SEPARATORS}]+"),
    "scripts": re.compile(f"[{_UNSPACED}]|[^{_SEPARATORS}{_UNSPACED_SEPARATORS}{_UNSPACED}]+"),
}
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_UNSPACED_ANY = re.compile(f"[{_UNSPACED}{_UNSPACED_SEPARATORS}]")
# 1 for what ends a sentence, or sets a quotation apart.
_MARKS = bytes(byte in b'.?!:;()"\n' for byte in range(256))
_SPACE = ord(" ")
_TO_SPACE = bytes(_SPACE if byte in _SEPARATOR_BYTES else byte for byte in range(256))


def tokens(text: str, splitting: Splitting = "published") -> list[str]:
    """The tokens of ``text``, in lower case, in order."""
    return _PATTERNS[splitting].findall(text.lower())


@lru_cache(maxsize=64)
def token_spans(text: str, splitting: Splitting = "published") -> tuple[tuple[int, int], ...]:
    """[begin, end) of every token, in characters of ``text`` itself; as many as `tokens` gives.

    Lower-casing may change a text's length but never makes or removes a separator, so the counts agree.
    """
    return tuple(map(re.Match.span, _PATTERNS[splitting].finditer(text)))


@dataclass(frozen=True, eq=False)
class TokenStream:
    """The tokens of X texts end to end, T in all, as C bytes of UTF-8 with one space after each.

    Two token sequences are equal if and only if their bytes are. ``begin_T``, ``end_T``: each token's place in
    ``bytes_C``; ``text_T``: the number of its text; ``first_X``, ``count_X``: the tokens of each text.
    """

    bytes_C: np.ndarray
    begin_T: np.ndarray
    end_T: np.ndarray
    text_T: np.ndarray
    first_X: np.ndarray
    count_X: np.ndarray
    _raw: bytes
    _raw_begin_X: np.ndarray
    _raw_begin_T: np.ndarray

    def sequence(self, first: int, count: int) -> bytes:
        """The bytes of ``count`` tokens from number ``first``, without the space after the last."""
        return self.bytes_C[self.begin_T[first] : self.end_T[first + count - 1]].tobytes()

    def characters(self, first: int, stop: int, number: int, text: str, splitting: Splitting) -> tuple[int, int]:
        """[begin, end) in ``text``, which has this ``number``, of the tokens ``first`` to before ``stop``."""
        last = stop - 1
        if text.isascii():
            end = self._raw_begin_T[last] + self.end_T[last] - self.begin_T[last]
            border = self._raw_begin_X[number]
            return int(self._raw_begin_T[first] - border), int(end - border)
        spans = token_spans(text, splitting)
        return spans[first - self.first_X[number]][0], spans[last - self.first_X[number]][1]

    @cached_property
    def has_digit_T(self) -> np.ndarray:
        """bool, T: whether an ASCII digit stands in each token."""
        digits = (self.bytes_C >= ord("0")) & (self.bytes_C <= ord("9"))
        return np.logical_or.reduceat(digits, self.begin_T) if len(self.begin_T) else digits

    @cached_property
    def marked_T(self) -> np.ndarray:
        """bool, T + 1: whether a sentence mark or a text's border stands before each token, and at the end."""
        if not len(self.begin_T):
            return np.ones(1, dtype=bool)
        marks, begin_T = np.frombuffer(self._raw.translate(_MARKS), bool), self._raw_begin_T
        gap_T = np.diff(begin_T) - (self.end_T - self.begin_T)[:-1]
        marked = np.concatenate(([True], marks[begin_T[1:] - 1], [True]))
        wide = np.flatnonzero(~marked[1:-1] & (gap_T > 1))
        if len(wide):
            inside, first = ranges(begin_T[wide + 1] - gap_T[wide], gap_T[wide])
            marked[wide + 1] = np.logical_or.reduceat(marks[inside], first)
        return marked


def lay_out(texts: Sequence[str], splitting: Splitting) -> TokenStream:
    """`tokens` of many texts at once, some thirty times as fast: all of it is array operations on bytes.

    Every separator is ASCII, and no byte of a longer UTF-8 character is, so bytes are split where characters are.
    """
    lower = [text.lower() for text in texts]
    if splitting == "scripts":
        lower = [text if text.isascii() or not _UNSPACED_ANY.search(text) else _spaced(text) for text in lower]
    encoded = [text.encode("utf-8", "surrogatepass") for text in lower]
    raw = b"\n".join([*encoded, b""])
    raw_C = np.frombuffer(raw.translate(_TO_SPACE), dtype=np.uint8)
    gap_C = raw_C == _SPACE
    after_gap_C = np.concatenate(([True], gap_C[:-1])) if len(raw) else gap_C
    bytes_C = raw_C[~(gap_C & after_gap_C)]
    end_T = np.flatnonzero(bytes_C == _SPACE)
    begin_T = np.concatenate(([0], end_T[:-1] + 1)) if len(end_T) else end_T
    raw_begin_T = np.flatnonzero(after_gap_C & ~gap_C)
    raw_begin_X = np.cumsum(np.fromiter(map(len, [b"", *encoded]), np.int64, len(encoded) + 1) + 1) - 1
    border_X = np.searchsorted(raw_begin_T, raw_begin_X)
    count_X = np.diff(border_X)
    text_T = np.repeat(np.arange(len(texts)), count_X)
    return TokenStream(bytes_C, begin_T, end_T, text_T, border_X[:-1], count_X, raw, raw_begin_X[:-1], raw_begin_T)


def _spaced(text: str) -> str:
    return _UNSPACED_CHARACTER.sub(r" \g<0> ", text.translate(_ASCII_MARKS))


class Hashing:
    """64-bit hashes of tokens and of token sequences, drawn by ``salt``; all arithmetic is modulo 2^64.

    A token's hash is the polynomial of its bytes at a random odd point, read off prefix sums; a sequence's is linear in
    its tokens' hashes with a random odd factor for each place, so that its high bits are well mixed. Equal sequences
    have equal hashes; the converse is for the caller to check.
    """

    BLOCK = 1 << 16  # bytes: arrays of eight bytes each then stay in the processor's cache

    def __init__(self, ngram: int, salt: int = 0):
        digest = hashlib.shake_128(f"n-gram {salt}".encode()).digest(8 * (ngram + 1))
        point, *factors = (int.from_bytes(digest[i : i + 8], "little") | 1 for i in range(0, len(digest), 8))
        self.factors = [np.uint64(factor) for factor in factors]
        self._power = _powers(point, self.BLOCK)
        self._inverse = _powers(pow(point, -1, 1 << 64), self.BLOCK)

    def of_tokens(self, stream: TokenStream) -> np.ndarray:
        """uint64, one for each token."""
        hash_T = np.empty(len(stream.begin_T), dtype=np.uint64)
        first = 0
        while first < len(hash_T):
            base = int(stream.begin_T[first])
            last = int(np.searchsorted(stream.end_T, base + self.BLOCK, "left"))
            if last == first:  # one token of more than a block
                digest = hashlib.blake2b(stream.sequence(first, 1), digest_size=8).digest()
                hash_T[first] = int.from_bytes(digest, "little")
                first += 1
                continue
            begin, end = stream.begin_T[first:last] - base, stream.end_T[first:last] - base
            terms = self._power[: end[-1]] * stream.bytes_C[base : base + end[-1]]
            sums = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)))
            hash_T[first:last] = (sums[end] - sums[begin]) * self._inverse[begin]
            first = last
        return hash_T

    def of_sequences_at(self, hash_T: np.ndarray, first_N: np.ndarray, count: int) -> np.ndarray:
        """uint64, for the ``count`` tokens from each of ``first_N`` on."""
        hash_N = np.zeros(len(first_N), dtype=np.uint64)
        for n, factor in enumerate(self.factors[:count]):
            hash_N += hash_T[first_N + n] * factor
        return hash_N

    def of_sequences(self, hash_T: np.ndarray, count: int) -> np.ndarray:
        """uint64, for the ``count`` tokens from each token on; beyond the last token zeros follow."""
        hashes = hash_T * self.factors[0]
        for n in range(1, count):
            hashes[: max(0, len(hash_T) - n)] += hash_T[n:] * self.factors[n]
        return hashes


def same_bytes(
    one: np.ndarray, begin_one_N: np.ndarray, other: np.ndarray, begin_other_N: np.ndarray, length_N: np.ndarray
) -> np.ndarray:
    """bool, N: whether ``length_N`` (at least 1) bytes from either place are equal."""
    same_N = np.empty(len(length_N), dtype=bool)
    for start in range(0, len(length_N), 1 << 14):
        part = slice(start, start + (1 << 14))
        length = length_N[part]
        of_one, first = ranges(begin_one_N[part], length)
        of_other, _ = ranges(begin_other_N[part], length)
        same_N[part] = np.logical_and.reduceat(one[of_one] == other[of_other], first)
    return same_N


def ranges(begin_N: np.ndarray, length_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of ``length_N`` (at least 1) places from each begin on, end to end, and where each range begins."""
    first_N = np.cumsum(length_N) - length_N
    return np.repeat(begin_N - first_N, length_N) + np.arange(int(length_N.sum())), first_N


def _powers(base: int, count: int) -> np.ndarray:
    """base^0, base^1, …"""
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)
