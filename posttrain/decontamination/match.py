"""Training rows against the evaluation index: which items does each row overlap, and where."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat

import numpy as np

from posttrain.decontamination.index import OUTSIDE, EvaluationIndex, covered_tokens, window_begins
from posttrain.decontamination.tokens import token_spans, tokens

TrainRow = tuple[str, Sequence[str]]
"""(id, the texts of its user turns)."""

BATCH_TOKENS = 1 << 18


@dataclass(frozen=True)
class Match:
    """Row number ``row`` covers ``coverage`` of item number ``item`` of the index: more than the threshold."""

    row: int
    item: int
    coverage: float


@dataclass(frozen=True)
class Spans:
    """What two texts share, as (number of turn or field, begin, end) in characters."""

    train: tuple[tuple[int, int, int], ...]
    item: tuple[tuple[int, int, int], ...]


def match_rows(
    index: EvaluationIndex, rows: Iterable[TrainRow], threshold: Fraction
) -> Iterator[tuple[TrainRow, list[Match]]]:
    """Every row, in order, with the items of which it covers more than ``threshold``.

    A field's token is covered by a row if both hold an n-gram with that token in it, the row within one turn; an
    item's coverage is the mean over its fields.
    """
    for first, batch in _batches(rows):
        yield from zip(batch, _match_batch(index, first, batch, threshold), strict=True)


def shared_spans(index: EvaluationIndex, item: int, turns: Sequence[str]) -> Spans:
    """Where ``turns`` and the item's fields share indexed n-grams; whole texts for an item matched as a whole."""
    splitting, ngram = index.profile.splitting, index.profile.ngram
    fields = index.items[item][1].fields
    turns_ids = [_ids(index, turn) for turn in turns]
    if index.fields_I[item] == 0:
        whole = tuple(t for text in fields for t in _ids(index, text))
        train = [(number, 0, len(turns[number])) for number, ids in enumerate(turns_ids) if tuple(ids) == whole]
        return Spans(tuple(train), tuple((number, 0, len(text)) for number, text in enumerate(fields)))
    first, end = np.searchsorted(index.item_F, [item, item + 1])
    field_grams = [_indexed_grams(index, field) for field in range(first, end)]
    wanted = {gram for grams in field_grams for gram in grams.values()}
    train_grams = [{b: g for b, g in _grams(ids, ngram).items() if g in wanted} for ids in turns_ids]
    shared = {gram for grams in train_grams for gram in grams.values()}

    def spans(texts: Sequence[str], grams: list[dict[int, tuple[int, ...]]]) -> tuple[tuple[int, int, int], ...]:
        found = []
        for number, text in enumerate(texts):
            characters = token_spans(text, splitting)
            begins = np.zeros(len(characters), dtype=bool)
            begins[[begin for begin, gram in grams[number].items() if gram in shared]] = True
            edges = np.flatnonzero(np.diff(covered_tokens(begins, ngram), prepend=False, append=False))
            found += [
                (number, characters[a][0], characters[b - 1][1]) for a, b in zip(edges[::2], edges[1::2], strict=True)
            ]
        return tuple(found)

    return Spans(spans(turns, train_grams), spans(fields, field_grams))


def _batches(rows: Iterable[TrainRow]) -> Iterator[tuple[int, list[TrainRow]]]:
    batch: list[TrainRow] = []
    first = size = 0
    for row in rows:
        batch.append(row)
        size += sum(map(len, row[1])) // 4  # about four characters a token
        if size >= BATCH_TOKENS:
            yield first, batch
            first, batch, size = first + len(batch), [], 0
    if batch:
        yield first, batch


def _match_batch(
    index: EvaluationIndex, first: int, batch: list[TrainRow], threshold: Fraction
) -> Iterator[list[Match]]:
    corpus: list[int] = []
    begin_of_row = []
    whole: list[set[int]] = []
    for _, turns in batch:
        begin_of_row.append(len(corpus))
        equal: set[int] = set()
        for turn in turns:
            ids = _ids(index, turn)
            if len(ids) in index.whole_lengths:
                equal.update(index.whole.get(tuple(ids), ()))
            corpus += ids
            corpus.append(OUTSIDE)
        whole.append(equal)
    corpus_T = np.array(corpus, dtype=np.int64)
    begins, ngrams = index.look_up(corpus_T, window_begins(corpus_T, index.profile.ngram))
    borders = np.searchsorted(begins, [*begin_of_row, len(corpus)])
    for number, equal in enumerate(whole):
        hits = ngrams[borders[number] : borders[number + 1]]
        matches = _covered_items(index, first + number, np.unique(hits), threshold) if len(hits) else []
        yield matches + [Match(first + number, item, 1.0) for item in sorted(equal)]


def _covered_items(index: EvaluationIndex, row: int, ngrams: np.ndarray, threshold: Fraction) -> list[Match]:
    positions = index.positions_of(ngrams)
    fields = index.field_P[positions]
    # Going up through the positions, each n-gram adds the tokens up to the next one's beginning, at most its own.
    last_of_field = np.append(fields[1:] != fields[:-1], True)
    gaps = np.diff(positions, append=positions[-1])
    added = np.where(last_of_field, index.profile.ngram, np.minimum(gaps, index.profile.ngram))
    first_of_field = np.flatnonzero(np.concatenate(([True], last_of_field[:-1])))
    covered = np.add.reduceat(added, first_of_field)
    fields = fields[first_of_field]

    items = index.item_F[fields]
    first_of_item = np.flatnonzero(np.concatenate(([True], items[1:] != items[:-1])))
    totals = np.add.reduceat(covered / index.weight_F[fields], first_of_item)
    items = items[first_of_item]
    coverage = totals / index.fields_I[items]
    ends = np.append(first_of_item[1:], len(fields))
    matches = []
    for i in np.flatnonzero(coverage > float(threshold) - 1e-9):
        part = slice(first_of_item[i], ends[i])
        exact = sum(map(Fraction, covered[part].tolist(), index.weight_F[fields[part]].tolist()))
        if exact / int(index.fields_I[items[i]]) > threshold:
            matches.append(Match(row, int(items[i]), float(coverage[i])))
    return matches


def _ids(index: EvaluationIndex, text: str) -> list[int]:
    return list(map(index.vocabulary.get, tokens(text, index.profile.splitting), repeat(OUTSIDE)))


def _grams(ids: Sequence[int], ngram: int) -> dict[int, tuple[int, ...]]:
    return {begin: tuple(ids[begin : begin + ngram]) for begin in range(len(ids) - ngram + 1)}


def _indexed_grams(index: EvaluationIndex, field: int) -> dict[int, tuple[int, ...]]:
    begin = int(np.searchsorted(index.field_P, field))
    ids = index.corpus_P[begin : begin + int(index.length_F[field])].tolist()
    return {b: gram for b, gram in _grams(ids, index.profile.ngram).items() if index.indexed_P[begin + b]}
