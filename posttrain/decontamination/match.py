"""Training rows against the evaluation index: which items does each row overlap, and by how much."""

import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context, parent_process
from multiprocessing.context import BaseContext
from typing import Protocol

import numpy as np

from posttrain.decontamination.alignment import Reading, near, tokens_of
from posttrain.decontamination.index import EvaluationIndex, distinct
from posttrain.decontamination.tokens import TokenStream, lay_out
from posttrain.errors import PosttrainError

TrainRow = tuple[str, Sequence[str]]
"""(id, the texts of its user turns)."""


class Batch(Protocol):
    """Rows of a training set that were matched together; at least those that match can be had."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> TrainRow: ...


BATCH_CHARACTERS = 1 << 19
ROW_CHARACTERS = 8  # what a row counts beside its text: rows without any must not pile up
LONG = 4  # times as many tokens as the item has
EXPANDED = 1 << 21  # (row, position) pairs that are held at once


@dataclass(frozen=True, eq=False)
class Matches:
    """M pairs, by row and then item: row ``row_M`` of the batch covers ``coverage_M`` of item ``item_M`` of the index,
    more than the threshold; or has as much of it in order, where the profile looks at that."""

    row_M: np.ndarray
    item_M: np.ndarray
    coverage_M: np.ndarray


def match_batches(
    index: EvaluationIndex, rows: Iterable[TrainRow], threshold: Fraction, *, processes: int = 1
) -> Iterator[tuple[list[TrainRow], Matches]]:
    """All rows, in order, in batches, each with the items that its rows cover by more than ``threshold``.

    A field's token is covered by a row if both hold an n-gram with that token in it; an item's coverage is the mean
    over its fields. ``processes`` beyond one are forked and share the index; where torch is loaded, whose threads do
    not survive a fork, or there is no fork, they are started afresh (spawn) with a copy each. Only a few batches are
    held at a time. Raises PosttrainError if such a process dies.
    """
    if processes == 1:
        for batch in _batches(rows):
            yield batch, match_batch(index, [turns for _, turns in batch], threshold)
        return
    with ProcessPoolExecutor(processes, _context(), _set_up, (index, threshold)) as pool:
        pending: deque[tuple[list[TrainRow], Future[Matches]]] = deque()

        def first() -> tuple[list[TrainRow], Matches]:
            batch, future = pending.popleft()
            try:
                return batch, future.result()
            except BrokenProcessPool as error:
                raise PosttrainError(
                    f"a decontamination process died near row {batch[0][0]!r}, most likely for want of memory. "
                    "Ask for fewer processes."
                ) from error

        for batch in _batches(rows):
            pending.append((batch, pool.submit(_match_in_process, [turns for _, turns in batch])))
            if len(pending) > 3 * processes:
                yield first()
        while pending:
            yield first()


def match_batch(index: EvaluationIndex, rows: Sequence[Sequence[str]], threshold: Fraction) -> Matches:
    """The matches of one batch of rows, each given as its user turns."""
    row_X = np.repeat(np.arange(len(rows)), [len(turns) for turns in rows])
    stream = lay_out([turn for turns in rows for turn in turns], index.profile.splitting)
    row_T = row_X[stream.text_T]
    unit_T = row_T if index.profile.joint_turns else stream.text_T
    hash_T = index.hashing.of_tokens(stream)
    begins, ngrams = index.look_up(stream, unit_T, index.hashing.of_sequences(hash_T, index.profile.ngram))
    alignment = index.profile.alignment
    if alignment is None:
        found, _ = _covered_items(index, row_T[begins], ngrams, threshold, threshold)
    else:
        touched, over = _covered_items(index, row_T[begins], ngrams, min(threshold, alignment.touched), threshold)
        found = _aligned(index, stream, row_T, hash_T, begins, ngrams, touched, over, threshold)

    equal = set()
    if index.whole:
        for x in np.flatnonzero(np.isin(stream.count_X, index.whole_counts)).tolist():
            for item in index.whole.get(stream.sequence(stream.first_X[x], stream.count_X[x]), ()):
                equal.add((int(row_X[x]), item))
        count_R = np.bincount(row_T, minlength=len(rows))
        first_R = np.cumsum(count_R) - count_R
        for r in np.flatnonzero(np.isin(count_R, index.whole_counts) & (np.bincount(row_X, minlength=len(rows)) > 1)):
            for item in index.whole.get(stream.sequence(first_R[r], count_R[r]), ()):
                equal.add((int(r), item))
    for first, _, content in index.find_phrases(stream, row_T, hash_T, alone=True):
        equal.update((int(row_T[first]), item) for item in index.phrases[content])
    if not equal:
        return found
    rows_equal, items_equal = np.array(sorted(equal), dtype=np.int64).T
    row_M = np.concatenate((found.row_M, rows_equal))
    item_M = np.concatenate((found.item_M, items_equal))
    coverage_M = np.concatenate((found.coverage_M, np.ones(len(equal))))
    order = np.lexsort((item_M, row_M))
    return Matches(row_M[order], item_M[order], coverage_M[order])


def _aligned(
    index: EvaluationIndex,
    stream: TokenStream,
    row_T: np.ndarray,
    hash_T: np.ndarray,
    begins: np.ndarray,
    ngram_H: np.ndarray,
    touched: Matches,
    over_M: np.ndarray,
    threshold: Fraction,
) -> Matches:
    """Of the pairs that share enough n-grams to be looked at, those covered over the threshold, and those that have as
    much of the item in order. In a row many times as long as the item only what is near the shared n-grams is read."""
    assert index.profile.alignment is not None
    numbers_alike = max(threshold, index.profile.alignment.numbers_alike)
    kept_M, coverage_M = over_M.copy(), touched.coverage_M.copy()
    looked_at = np.flatnonzero(~over_M)
    most, most_alike = index.shares_at_most(row_T, hash_T, touched.row_M[looked_at], touched.item_M[looked_at])
    likely, likely_alike = most > float(threshold) - 1e-9, most_alike > float(numbers_alike) - 1e-9
    read = np.flatnonzero(likely | likely_alike)
    row_N, item_N = touched.row_M[looked_at[read]], touched.item_M[looked_at[read]]
    first_N, stop_N = np.searchsorted(row_T, row_N), np.searchsorted(row_T, row_N, "right")
    long_N = stop_N - first_N > LONG * index.own_count_I[item_N]
    last, whole = -1, Reading([])
    columns = (looked_at[read], row_N, item_N, first_N, stop_N, long_N, likely[read], likely_alike[read])
    for m, row, item, first, stop, long, exact, alike in zip(*(column.tolist() for column in columns), strict=True):
        if long:
            hits = slice(*np.searchsorted(begins, (first, stop)).tolist())
            shared = begins[hits][np.isin(ngram_H[hits], index.ngrams_of([item])[2])]
            parts = near(shared, int(index.own_count_I[item]) + index.profile.ngram, first, stop)
            reading = Reading([token for part in parts for token in tokens_of(stream, *part)])
        else:
            if row != last:
                last, whole = row, Reading(tokens_of(stream, first, stop))
            reading = whole
        texts, own = index.own_texts(item), index.own_tokens
        share = reading.share_over(threshold, texts, own, numbers_alike=False) if exact else 0.0
        if not share and alike:
            share = reading.share_over(numbers_alike, texts, own, numbers_alike=True)
        if share:
            kept_M[m], coverage_M[m] = True, share
    return Matches(touched.row_M[kept_M], touched.item_M[kept_M], coverage_M[kept_M])


def _covered_items(
    index: EvaluationIndex, row_H: np.ndarray, ngram_H: np.ndarray, least: Fraction, threshold: Fraction
) -> tuple[Matches, np.ndarray]:
    """From H hits (a row holds an n-gram) to the M matches over ``threshold``, or over ``least`` with n-grams of every
    field; bool, M: which are over ``threshold``."""
    grams = max(1, len(index.hash_G))
    row_H, ngram_H = np.divmod(distinct(row_H * grams + ngram_H), grams)
    parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=bool))]
    size_H = index.size_G[ngram_H]
    expanded_H = np.cumsum(size_H)
    begin = 0
    while begin < len(row_H):
        # Whole rows, at least one, and as many as fit.
        fitting = np.searchsorted(expanded_H, expanded_H[begin] - size_H[begin] + EXPANDED, "right")
        end = np.searchsorted(row_H, row_H[min(fitting, len(row_H) - 1)], "left" if fitting < len(row_H) else "right")
        if end <= begin:
            end = np.searchsorted(row_H, row_H[begin], "right")
        part = slice(begin, end)
        parts.append(_covered_part(index, row_H[part], index.first_G[ngram_H[part]], size_H[part], least, threshold))
        begin = end
    *columns, over_M = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Matches(*columns), over_M


def _covered_part(
    index: EvaluationIndex,
    row_H: np.ndarray,
    first_H: np.ndarray,
    size_H: np.ndarray,
    least: Fraction,
    threshold: Fraction,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    ngram, tokens_in_all = index.profile.ngram, len(index.field_P)
    shift = np.repeat(first_H - (np.cumsum(size_H) - size_H), size_H)
    positions = index.positions[shift + np.arange(len(shift))]
    row, positions = np.divmod(np.sort(np.repeat(row_H, size_H) * tokens_in_all + positions), tokens_in_all)
    fields = index.field_P[positions]
    # Going up through the positions, each n-gram adds the tokens up to the next one's beginning, at most its own.
    last_of_field = np.append((fields[1:] != fields[:-1]) | (row[1:] != row[:-1]), True)
    added = np.where(last_of_field, ngram, np.minimum(np.diff(positions, append=0), ngram))
    first_of_field = np.flatnonzero(np.concatenate(([True], last_of_field[:-1])))
    covered = np.add.reduceat(added, first_of_field)
    fields, row = fields[first_of_field], row[first_of_field]

    items = index.item_F[fields]
    first_of_item = np.flatnonzero(np.concatenate(([True], (items[1:] != items[:-1]) | (row[1:] != row[:-1]))))
    ends = np.append(first_of_item[1:], len(fields))
    coverage = np.add.reduceat(covered / index.weight_F[fields], first_of_item)
    items, row = items[first_of_item], row[first_of_item]
    coverage = coverage / index.fields_I[items]
    touched = ends - first_of_item

    def over(bound: Fraction) -> np.ndarray:
        over = coverage > float(bound)
        # Where only one field of an item is touched, whole numbers tell, unless they could be too great for 64 bits.
        largest = bound.denominator * index.largest_weight * int(index.fields_I.max(initial=1))
        one = np.flatnonzero(touched == 1) if largest < 1 << 62 else np.zeros(0, dtype=np.int64)
        of_one, weight = covered[first_of_item[one]], index.weight_F[fields[first_of_item[one]]]
        over[one] = of_one * bound.denominator > weight * index.fields_I[items[one]] * bound.numerator
        close = np.abs(coverage - float(bound)) < 1e-9
        close[one] = False
        for i in np.flatnonzero(close):
            part = slice(first_of_item[i], ends[i])
            exact = sum(map(Fraction, covered[part].tolist(), index.weight_F[fields[part]].tolist()))
            over[i] = exact / int(index.fields_I[items[i]]) > bound
        return over

    enough = over(threshold)
    kept = enough if least == threshold else enough | over(least) & (touched == index.fields_I[items])
    return row[kept], items[kept], coverage[kept], enough[kept]


def _batches(rows: Iterable[TrainRow]) -> Iterator[list[TrainRow]]:
    batch: list[TrainRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += ROW_CHARACTERS + sum(map(len, row[1]))
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_in_process: tuple[EvaluationIndex, Fraction] | None = None


def _context() -> BaseContext:
    return get_context("fork" if sys.platform == "linux" and "torch" not in sys.modules else "spawn")


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _set_up(index: EvaluationIndex, threshold: Fraction) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()  # a killed parent would leave it waiting for work
    global _in_process
    _in_process = index, threshold


def _match_in_process(rows: list[Sequence[str]]) -> Matches:
    assert _in_process is not None
    index, threshold = _in_process
    return match_batch(index, rows, threshold)
