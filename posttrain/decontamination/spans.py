"""Where a training row and an evaluation item share n-grams, in characters of their own texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.decontamination.index import EvaluationIndex, distinct
from posttrain.decontamination.tokens import Splitting, TokenStream, lay_out, ranges, token_spans, tokens

Span = tuple[int, int, int]
"""(number of the turn or field, begin, end)."""


@dataclass(frozen=True)
class Spans:
    """What two texts share."""

    train: tuple[Span, ...]
    item: tuple[Span, ...]


def shared_spans(index: EvaluationIndex, pairs: Sequence[tuple[int, Sequence[str]]]) -> list[Spans]:
    """For each pair, an item's number and a row's user turns, what they share of the n-grams that count.

    For an item that has no such n-gram: its whole fields, and where the row holds their tokens.
    """
    splitting, ngram = index.profile.splitting, index.profile.ngram
    turns = [turn for _, texts in pairs for turn in texts]
    pair_X = np.repeat(np.arange(len(pairs)), [len(texts) for _, texts in pairs])
    stream = lay_out(turns, splitting)
    pair_T = pair_X[stream.text_T]
    unit_T = pair_T if index.profile.joint_turns else stream.text_T
    hashes_T = index.hashing.of_sequences(index.hashing.of_tokens(stream), ngram)
    begins, ngrams = index.look_up(stream, unit_T, hashes_T)
    pair_P, positions, of_items = _ngrams_of_items(index, [item for item, _ in pairs])
    grams = len(index.hash_G)
    in_row, in_item = pair_T[begins] * grams + ngrams, pair_P * grams + of_items
    begins, shared = begins[_among(in_row, in_item)], _among(in_item, in_row)
    pair_P, positions = pair_P[shared], positions[shared]

    train: list[list[Span]] = [[] for _ in pairs]
    first_X = np.searchsorted(pair_X, np.arange(len(pairs)))
    for pair, text, begin, end in _joined(stream, turns, splitting, pair_T[begins], unit_T[begins], begins, ngram):
        train[pair].append((text - int(first_X[pair]), begin, end))
    own: list[list[Span]] = [[] for _ in pairs]
    fields = [text for _, item in index.items for text in item.fields]
    first_I = np.searchsorted(index.item_F, np.arange(len(index.items)))
    unit_P = pair_P * len(fields) + index.field_P[positions]
    for pair, text, begin, end in _joined(index.stream, fields, splitting, pair_P, unit_P, positions, ngram):
        own[pair].append((text - int(first_I[pairs[pair][0]]), begin, end))
    return [
        Spans(tuple(train[n]), tuple(own[n])) if index.fields_I[item] else _whole(index, item, texts)
        for n, (item, texts) in enumerate(pairs)
    ]


def _among(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """np.isin, which hashes, and takes several times as long."""
    others = distinct(others)
    return others[np.searchsorted(others[:-1], values)] == values if len(others) else np.zeros(len(values), dtype=bool)


def _ngrams_of_items(index: EvaluationIndex, items: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each item in turn: its number in ``items``, the positions of its n-grams that count, and their numbers."""
    item_N = np.array(items, dtype=np.int64)
    count_I = np.bincount(index.item_F, index.length_F, minlength=len(index.items)).astype(np.int64)
    first_I = np.cumsum(count_I) - count_I
    positions, _ = ranges(first_I[item_N], count_I[item_N])
    counts = index.indexed_P[positions]
    positions = positions[counts]
    return np.repeat(np.arange(len(items)), count_I[item_N])[counts], positions, index.numbers_at(positions)


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
        while begin < end:
            text = int(stream.text_T[begin])
            stop = min(end, int(stream.first_X[text] + stream.count_X[text]))
            yield pair, text, *stream.characters(begin, stop, text, texts[text], splitting)
            begin = stop


def _whole(index: EvaluationIndex, item: int, turns: Sequence[str]) -> Spans:
    """The item's tokens wherever they stand in the turns, in a row."""
    splitting, fields = index.profile.splitting, index.items[item][1].fields
    wanted = [token for text in fields for token in tokens(text, splitting)]
    placed = [
        [
            (turn, token, *span)
            for token, span in zip(tokens(text, splitting), token_spans(text, splitting), strict=True)
        ]
        for turn, text in enumerate(turns)
    ]
    if index.profile.joint_turns:
        placed = [[place for places in placed for place in places]]
    train: list[Span] = []
    for places in placed:
        for first in range(len(places) - len(wanted) + 1):
            run = places[first : first + len(wanted)]
            if [token for _, token, _, _ in run] == wanted:
                for turn in dict.fromkeys(turn for turn, _, _, _ in run):
                    inside = [(begin, end) for of, _, begin, end in run if of == turn]
                    train.append((turn, inside[0][0], inside[-1][1]))
    return Spans(tuple(train), tuple((number, 0, len(text)) for number, text in enumerate(fields)))
