"""Where a training row and an evaluation item share n-grams, in characters of their own texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.decontamination.index import EvaluationIndex, distinct
from posttrain.decontamination.tokens import Splitting, TokenStream, lay_out, ranges

Span = tuple[int, int, int]
"""(number of the turn or field, begin, end)."""


@dataclass(frozen=True)
class Spans:
    """What two texts share."""

    train: tuple[Span, ...]
    item: tuple[Span, ...]


PART_CHARACTERS = 1 << 19


def shared_spans(index: EvaluationIndex, pairs: Sequence[tuple[int, Sequence[str]]]) -> list[Spans]:
    """For each pair, an item's number and a row's user turns, what they share of the n-grams that count.

    For an item that has no such n-gram: its whole fields, and where the row holds them. Rows of some 500,000 characters
    are read together, each once for all its pairs.
    """
    pairs_of: dict[int, list[int]] = {}  # a row's turns are one object in all its pairs
    for number, (_, turns) in enumerate(pairs):
        pairs_of.setdefault(id(turns), []).append(number)
    found: dict[int, Spans] = {}
    part: list[list[int]] = []
    size = 0
    for numbers in pairs_of.values():
        part.append(numbers)
        size += sum(map(len, pairs[numbers[0]][1]))
        if size >= PART_CHARACTERS:
            found.update(_of_rows(index, pairs, part))
            part, size = [], 0
    if part:
        found.update(_of_rows(index, pairs, part))
    return [found[number] for number in range(len(pairs))]


def _of_rows(
    index: EvaluationIndex,
    pairs: Sequence[tuple[int, Sequence[str]]],
    part: Sequence[Sequence[int]],
) -> Iterator[tuple[int, Spans]]:
    """(number of the pair, what it shares) for all pairs of each row in ``part``, given by their numbers."""
    splitting, ngram = index.profile.splitting, index.profile.ngram
    rows = [pairs[numbers[0]][1] for numbers in part]
    turns = [turn for row in rows for turn in row]
    row_X = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    first_R = np.searchsorted(row_X, np.arange(len(rows)))
    stream = lay_out(turns, splitting)
    row_T = row_X[stream.text_T]
    unit_T = row_T if index.profile.joint_turns else stream.text_T
    hash_T = index.hashing.of_tokens(stream)
    begins, ngrams = index.look_up(stream, unit_T, index.hashing.of_sequences(hash_T, ngram))

    # N pairs, by row. What both sides hold: an n-gram of the item is looked for among those of the row.
    number_N = [number for numbers in part for number in numbers]
    row_N = np.repeat(np.arange(len(rows)), [len(numbers) for numbers in part])
    pair_P, positions, of_items = index.ngrams_of([pairs[number][0] for number in number_N])
    grams = max(1, len(index.hash_G))
    in_row = row_T[begins] * grams + ngrams
    order = np.argsort(in_row, kind="stable")
    of_item = row_N[pair_P] * grams + of_items
    low, high = (np.searchsorted(in_row[order], of_item, side) for side in ("left", "right"))
    shared = high > low
    pair_P, positions, low, high = pair_P[shared], positions[shared], low[shared], high[shared]
    hits, _ = ranges(low, high - low)
    # An n-gram that an item holds twice finds its places twice.
    key = distinct(np.repeat(pair_P, high - low) * max(1, len(row_T)) + begins[order][hits])
    pair_H, begin_H = np.divmod(key, max(1, len(row_T)))

    train: list[list[Span]] = [[] for _ in number_N]
    unit_H = pair_H * (len(turns) + len(rows)) + unit_T[begin_H]
    for n, text, begin, end in _joined(stream, turns, splitting, pair_H, unit_H, begin_H, ngram):
        train[n].append((text - int(first_R[row_N[n]]), begin, end))
    own: list[list[Span]] = [[] for _ in number_N]
    unit_P = pair_P * len(index.item_F) + index.field_P[positions]
    for n, text, begin, end in _joined(index.stream, index.texts, splitting, pair_P, unit_P, positions, ngram):
        own[n].append((text - index.first_field_I[pairs[number_N[n]][0]], begin, end))
    for n, number in enumerate(number_N):
        item = pairs[number][0]
        if index.fields_I[item]:
            yield number, Spans(tuple(train[n]), tuple(own[n]))
        else:
            row = int(row_N[n])
            texts = slice(int(first_R[row]), int(first_R[row]) + len(rows[row]))
            yield number, _whole(index, item, stream, hash_T, turns, texts)


def _joined(
    stream: TokenStream,
    texts: Sequence[str],
    splitting: Splitting,
    pair_B: np.ndarray,
    unit_B: np.ndarray,
    begin_B: np.ndarray,
    ngram: int,
) -> Iterator[tuple[int, int, int, int]]:
    """(pair, text, begin, end) in characters of what the n-grams from the tokens ``begin_B`` on cover together.

    B n-grams, ascending within their unit; those that touch in one unit are one span, or one for each text it is in.
    """
    new_B = np.concatenate(([True], (unit_B[1:] != unit_B[:-1]) | (begin_B[1:] > begin_B[:-1] + ngram)))[: len(begin_B)]
    first = np.flatnonzero(new_B)
    last = np.append(first[1:], len(begin_B)) - 1 if len(first) else first
    for pair, begin, end in zip(
        pair_B[first].tolist(), begin_B[first].tolist(), (begin_B[last] + ngram).tolist(), strict=True
    ):
        yield from _texts(stream, texts, splitting, pair, begin, end)


def _texts(
    stream: TokenStream, texts: Sequence[str], splitting: Splitting, pair: int, begin: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """(pair, text, begin, end) in characters for each text that holds some of the tokens from ``begin`` to ``end``."""
    while begin < end:
        text = int(stream.text_T[begin])
        stop = min(end, int(stream.first_X[text] + stream.count_X[text]))
        yield pair, text, *stream.characters(begin, stop, text, texts[text], splitting)
        begin = stop


def _whole(
    index: EvaluationIndex, item: int, stream: TokenStream, hash_T: np.ndarray, turns: Sequence[str], texts: slice
) -> Spans:
    """Where the turns ``texts`` hold the item's tokens: a phrase where it stands alone, else a whole turn, or all."""
    fields, hashing = index.items[item][1].fields, index.hashing
    place, count = index.place(item)
    content = index.stream.sequence(place, count)
    first, stop = int(stream.first_X[texts.start]), int((stream.first_X + stream.count_X)[texts.stop - 1])
    if content in index.phrases:
        begins = first + np.flatnonzero(stream.marked_T[first : stop - count + 1])
        begins = begins[stream.marked_T[begins + count]]
        begins = begins[hashing.of_sequences_at(hash_T, begins, count) == index.hash_of(place, count)]
    else:
        borders = np.append(stream.first_X[texts], stop)
        begins = np.unique(borders[np.isin(borders + count, borders)])
    train = [
        (text - texts.start, one, other)
        for begin in begins.tolist()
        if stream.sequence(begin, count) == content
        for _, text, one, other in _texts(stream, turns, index.profile.splitting, 0, begin, begin + count)
    ]
    return Spans(tuple(train), tuple((number, 0, len(text)) for number, text in enumerate(fields)))
