"""Rows that say almost the same: MinHash finds the candidates, the words themselves decide."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from posttrain.decontamination.tokens import Hashing, lay_out, tokens

SHINGLE = 5  # words
BANDS, ROWS = 16, 4  # two rows of Jaccard similarity s meet in a band with probability 1 − (1 − s⁴)¹⁶: 0.9998 at 0.8
COMPARED = 50  # rows of one bucket that a new one is compared with, so that a template costs no quadratic time
BATCH = 2000  # rows


class Texts(Protocol):
    """A list of texts, or what reads each when it is asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> str: ...


@dataclass(frozen=True)
class NearDuplicate:
    """Row number ``row`` is like the earlier row ``original``: their shingles' Jaccard similarity is ``similarity``."""

    row: int
    original: int
    similarity: float


def near_duplicates(texts: Texts, similarity: float = 0.8) -> Iterator[NearDuplicate]:
    """Every text that is at least ``similarity`` like an earlier one that is not itself such a copy, in order.

    Similarity is the Jaccard index of the sets of 5-word shingles; a text of fewer words is one shingle. A pair just at
    0.8 is overlooked once in about 5,000 times. Texts are read once in order, and those that share a band once more
    for each comparison; held are 128 bytes of signature for each.
    """
    parts = list(signatures_of(texts))
    band_NB = np.concatenate(parts) if parts else np.zeros((0, BANDS), dtype=np.uint64)
    shared_NB = np.zeros(band_NB.shape, dtype=bool)
    for number in range(BANDS):
        order = np.argsort(band_NB[:, number], kind="stable")
        equal = np.flatnonzero(np.diff(band_NB[order, number]) == 0)
        shared_NB[order[equal], number] = shared_NB[order[equal + 1], number] = True
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in np.flatnonzero(shared_NB.any(axis=1)).tolist():
        keys = [(number, int(band_NB[row, number])) for number in np.flatnonzero(shared_NB[row]).tolist()]
        candidates = dict.fromkeys(chain.from_iterable(buckets[key] for key in keys if key in buckets))
        text = texts[row] if candidates else ""
        best = max(((jaccard(text, texts[other]), -other) for other in candidates), default=(0.0, 0))
        if best[0] >= similarity:
            yield NearDuplicate(row, -best[1], best[0])
        else:
            for key in keys:
                if len(buckets[key]) < COMPARED:
                    buckets[key].append(row)


def jaccard(one: str, other: str) -> float:
    """Of the two sets of shingles, exactly."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = tokens(text, "scripts")
    return {tuple(words[begin : begin + SHINGLE]) for begin in range(max(1, len(words) - SHINGLE + 1))}


def signatures_of(texts: Texts) -> Iterator[np.ndarray]:
    """uint64 of shape (rows, BANDS) for every batch of texts: equal bands make a candidate pair."""
    hashing = Hashing(SHINGLE)
    mixing = np.random.Generator(np.random.PCG64(0)).integers(0, 1 << 63, (BANDS * ROWS, 2), dtype=np.uint64)
    for start in range(0, len(texts), BATCH):
        batch = [texts[number] for number in range(start, min(start + BATCH, len(texts)))]
        stream = lay_out(batch, "scripts")
        hashes = hashing.of_sequences(hashing.of_tokens(stream), SHINGLE)
        # The windows of a text are those that begin in it and end in it; of a short text, the one it begins with.
        counts = np.maximum(stream.count_X - SHINGLE + 1, np.minimum(stream.count_X, 1))
        first = stream.first_X
        begins = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
        short = np.flatnonzero((stream.count_X < SHINGLE) & (stream.count_X > 0))
        for x in short:  # what follows is another text's
            own = hashing.of_tokens(lay_out([batch[x]], "scripts"))
            hashes[first[x]] = hashing.of_sequences(own, SHINGLE)[0]
        held = np.flatnonzero(counts)
        signature = np.zeros((len(batch), BANDS * ROWS), dtype=np.uint64)
        if len(held):
            starts = (np.cumsum(counts) - counts)[held]
            windows = hashes[begins]
            for n, (factor, offset) in enumerate(mixing):
                mixed = windows * (factor | np.uint64(1)) + offset
                signature[held, n] = np.minimum.reduceat(mixed ^ (mixed >> np.uint64(29)), starts)
        bands = signature.reshape(len(batch), BANDS, ROWS)
        weights = mixing[:ROWS, 0] | np.uint64(1)
        yield (bands * weights).sum(axis=2, dtype=np.uint64)
