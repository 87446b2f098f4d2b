"""All n-grams of the evaluation prompts, to be looked up by the training rows.

The texts lie end to end as one stream of tokens; an n-gram is known by the token where it begins. Equal n-grams are
grouped by a 64-bit hash that is checked, while the index is built, to tell all of them apart; a training n-gram is
compared byte by byte with what its hash leads to. So nothing here is approximate.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.decontamination.alignment import tokens_of
from posttrain.decontamination.profiles import Profile
from posttrain.decontamination.tokens import Hashing, TokenStream, lay_out, ranges, same_bytes


@dataclass(frozen=True)
class EvaluationItem:
    """One evaluation prompt. ``fields`` are scored apart and averaged (DROP: passage, question)."""

    id: str
    fields: tuple[str, ...]


Evaluations = Mapping[str, Sequence[EvaluationItem]]
"""Evaluation task → its items."""


class EvaluationIndex:
    """Looks up n-grams; P tokens (positions) in the texts, F fields, I items, G distinct n-grams that count.

    ``items``: (task, item) by item number. ``texts``: their fields, end to end. ``weight_F``: the number of tokens that
    a field can have covered; a field with none does not take part in its item's score. ``whole``, ``phrases``: the
    items that have no n-gram of their own, by their tokens' bytes; ``phrases`` holds those that match inside a turn.
    """

    def __init__(self, evaluations: Evaluations, profile: Profile):
        self.profile = profile
        self.tasks = {task: len(items) for task, items in evaluations.items()}
        self.items = [(task, item) for task, items in evaluations.items() for item in items]
        self.task_I = np.repeat(np.arange(len(self.tasks)), list(self.tasks.values()))
        self.item_F = np.repeat(np.arange(len(self.items)), [len(item.fields) for _, item in self.items])
        self.texts = [text for _, item in self.items for text in item.fields]
        self.stream = lay_out(self.texts, profile.splitting)
        self.field_P = self.stream.text_T
        self.length_F, self.first_F = self.stream.count_X, self.stream.first_X
        self._number_texts()
        self._group_positions()
        self._drop_boilerplate()
        self._count_weights()
        self._keep_the_rest()

    def _number_texts(self) -> None:
        texts: dict[bytes, int] = {}
        empty = b""
        self._text_F = np.zeros(len(self.item_F), dtype=np.int64)
        for field, (first, count) in enumerate(zip(self.first_F, self.length_F, strict=True)):
            content = self.stream.sequence(first, count) if count else empty
            self._text_F[field] = texts.setdefault(content, len(texts))
        _, first_X = np.unique(self._text_F, return_index=True)
        self._alike_F = first_X[self._text_F]

    def _group_positions(self) -> None:
        ngram, stream = self.profile.ngram, self.stream
        begins = windows(self.field_P, ngram)
        for salt in range(64):
            self.hashing = Hashing(ngram, salt)
            self._hash_P = self.hashing.of_tokens(stream)
            hashes = self.hashing.of_sequences(self._hash_P, ngram)[begins]
            order = np.argsort(hashes, kind="stable")
            positions, hashes = begins[order], hashes[order]
            first = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
            group = np.repeat(np.arange(len(first)), np.diff(first, append=len(hashes)))
            if self._same(stream, positions, positions[first][group]).all():
                break
        else:  # 64 unlucky hash functions in a row: not in the lifetime of the universe
            raise AssertionError("no hash tells all n-grams apart")
        self.positions, self._group, self.first_G, self.hash_G = positions, group, first, hashes[first]
        self.size_G = np.diff(first, append=len(positions))

    def _drop_boilerplate(self) -> None:
        if self.profile.boilerplate is not None and len(self.positions):
            kept_G = ~self._common(self._group, self.field_P[self.positions], len(self.first_G))
            self.positions = self.positions[kept_G[self._group]]
            self.hash_G, self.size_G = self.hash_G[kept_G], self.size_G[kept_G]
            self.first_G = np.cumsum(self.size_G) - self.size_G
        del self._group
        # Several times as many hash prefixes as n-grams: most training n-grams end here.
        self._seen = Seen(self.hash_G)
        # The rest are looked for among the few with the same prefix, found by where each prefix begins.
        bits = max(1, len(self.hash_G).bit_length())
        self._bucket_shift = np.uint64(64 - bits)
        size = np.bincount((self.hash_G >> self._bucket_shift).astype(np.int64), minlength=1 << bits)
        self._bucket_begin = np.concatenate(([0], np.cumsum(size))).astype(np.int32)

    def _common(self, sequence: np.ndarray, field: np.ndarray, count: int) -> np.ndarray:
        """bool, ``count``: which sequences are boilerplate, given pairs of a sequence and a field that holds it."""
        bound = self.profile.boilerplate
        assert bound is not None
        texts, tasks = len(self._text_F), len(self.tasks)
        task_F = self.task_I[self.item_F]
        pairs = distinct(sequence * texts + self._text_F[field])
        common = np.bincount(pairs // texts, minlength=count) > bound.texts
        triples = distinct((sequence * tasks + task_F[field]) * texts + self._text_F[field]) // texts
        pairs, held_in = np.unique(triples, return_counts=True)
        common[pairs[held_in > bound.texts_of_one] // tasks] = True
        return common

    def _count_weights(self) -> None:
        self.indexed_P = np.zeros(len(self.field_P), dtype=bool)
        self.indexed_P[self.positions] = True
        if self.profile.boilerplate is None:
            self.coverable_P = np.ones(len(self.field_P), dtype=bool)
            self.weight_F = self.length_F
        else:
            self.coverable_P = covered_tokens(self.indexed_P, self.profile.ngram)
            self.weight_F = np.bincount(self.field_P[self.coverable_P], minlength=len(self.item_F))
        self.largest_weight = int(self.weight_F.max(initial=1))
        self.fields_I = np.bincount(self.item_F[self.weight_F > 0], minlength=len(self.items))
        self._length_I = np.bincount(self.item_F, self.length_F, minlength=len(self.items)).astype(np.int64)
        self._first_I = np.cumsum(self._length_I) - self._length_I
        self.own_count_I = np.bincount(self.item_F, self.weight_F, minlength=len(self.items)).astype(np.int64)
        self.first_field_I = np.searchsorted(self.item_F, np.arange(len(self.items) + 1)).tolist()

    def _keep_the_rest(self) -> None:
        self.whole: dict[bytes, list[int]] = {}
        self.phrases: dict[bytes, list[int]] = {}
        place: dict[bytes, tuple[int, int]] = {}
        if self.profile.phrase is not None:
            for item in np.flatnonzero(self.fields_I == 0).tolist():
                first, count = self.place(item)
                if count:
                    content = self.stream.sequence(first, count)
                    self.whole.setdefault(content, []).append(item)
                    place[content] = first, count
        self.whole_counts = np.array(sorted({count for _, count in place.values()}), dtype=np.int64)
        least = self.profile.phrase or 0
        short = {content: at for content, at in place.items() if least <= at[1] < self.profile.ngram}
        self.phrases = {content: self.whole[content] for content in short}
        hashes = [self.hash_of(first, count) for first, count in short.values()]
        self._phrase_seen = Seen(np.array(hashes, dtype=np.uint64))
        heads = [self.hash_of(first, least) for first, _ in short.values()]
        self._head_seen = Seen(np.array(heads, dtype=np.uint64))
        if self.phrases and self.profile.boilerplate is not None:
            number = {content: n for n, content in enumerate(short)}
            found = self.find_phrases(self.stream, self.field_P, self._hash_P)
            held = np.array([(number[content], self.field_P[first]) for first, _, content in found])
            common = self._common(held[:, 0], held[:, 1], len(short)) if len(held) else np.zeros(len(short), dtype=bool)
            self.phrases = {content: self.whole[content] for content, n in number.items() if not common[n]}

    def own_texts(self, item: int) -> list[int]:
        """The item's fields that can be covered, each by the first field of its text."""
        fields = range(self.first_field_I[item], self.first_field_I[item + 1])
        return [int(self._alike_F[field]) for field in fields if self.weight_F[field]]

    def own_tokens(self, field: int) -> list[bytes]:
        """The tokens of a field that can be covered."""
        first, stop = int(self.first_F[field]), int(self.first_F[field] + self.length_F[field])
        return list(itertools.compress(tokens_of(self.stream, first, stop), self.coverable_P[first:stop].tolist()))

    def shares_at_most(
        self, row_T: np.ndarray, hash_T: np.ndarray, row_M: np.ndarray, item_M: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds, M each, on the share of an item's own tokens that stand in a row in order: as many as stand in it at
        all; and the same where a token with a digit may be any other."""
        if not len(row_M):
            return np.zeros(0), np.zeros(0)
        salt_R = np.arange(int(row_M.max()) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        wanted_R = np.zeros(len(salt_R), dtype=bool)
        wanted_R[row_M] = True
        of_rows = row_T < len(salt_R)
        of_rows[of_rows] = wanted_R[row_T[of_rows]]
        held = distinct(hash_T[of_rows] ^ salt_R[row_T[of_rows]])
        count_M = self._length_I[item_M]
        positions, first_M = ranges(self._first_I[item_M], count_M)
        pair, fields = np.repeat(np.arange(len(row_M)), count_M), self.field_P[positions]
        sought = self._hash_P[positions] ^ salt_R[row_M[pair]]
        there = held[np.minimum(np.searchsorted(held, sought), len(held) - 1)] == sought
        part = self.coverable_P[positions] / np.maximum(1, self.weight_F[fields] * self.fields_I[item_M[pair]])
        either = there | self.stream.has_digit_T[positions]
        return np.add.reduceat(part * there, first_M), np.add.reduceat(part * either, first_M)

    def ngrams_of(self, items: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each item in turn: its number in ``items``, the positions of its n-grams that count, and their numbers."""
        item_N = np.array(items, dtype=np.int64)
        count_N = self._length_I[item_N]
        positions, _ = ranges(self._first_I[item_N], count_N)
        counts = self.indexed_P[positions]
        positions = positions[counts]
        return np.repeat(np.arange(len(items)), count_N)[counts], positions, self.numbers_at(positions)

    def place(self, item: int) -> tuple[int, int]:
        """The item's first token in the stream of all items, and the number of its tokens."""
        return int(self._first_I[item]), int(self._length_I[item])

    def look_up(self, stream: TokenStream, unit_T: np.ndarray, hashes_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of ``stream`` at which an indexed n-gram begins, all in one unit, and the number of that n-gram.

        ``unit_T``: what an n-gram may not leave, ascending; ``hashes_T``: of the n-gram from each token on.
        """
        last = self.profile.ngram - 1
        ends_T, begins_T = unit_T[last:], unit_T[: max(0, len(unit_T) - last)]
        hashes = hashes_T[: len(begins_T)]
        begins = np.flatnonzero(self._seen.likely(hashes) & (begins_T == ends_T))
        found_G = self._numbers(hashes[begins])
        begins, found_G = begins[found_G >= 0], found_G[found_G >= 0]
        positions = self.positions[self.first_G[found_G]]
        # Of an n-gram that goes on where the one before it did, only the last token is new.
        goes_on = np.zeros(len(begins), dtype=bool)
        goes_on[1:] = (np.diff(begins) == 1) & (np.diff(positions) == 1)
        skipped = goes_on * last
        same = self._same(stream, begins, positions, skipped)
        if not same.all():
            same = self._same(stream, begins, positions)
        return begins[same], found_G[same]

    def hash_of(self, position: int, count: int) -> np.uint64:
        """Of the ``count`` tokens (at most an n-gram's) from ``position`` on."""
        return self.hashing.of_sequences_at(self._hash_P, np.array([position]), count)[0]

    def numbers_at(self, positions: np.ndarray) -> np.ndarray:
        """The numbers of the n-grams that begin at ``positions``, all of which count."""
        return self._numbers(self.hashing.of_sequences_at(self._hash_P, positions, self.profile.ngram))

    def _numbers(self, hashes: np.ndarray) -> np.ndarray:
        """The number of the n-gram with each hash, or -1."""
        bucket = hashes >> self._bucket_shift
        found_G, end = self._bucket_begin[bucket].astype(np.int64), self._bucket_begin[bucket + np.uint64(1)]
        left = np.flatnonzero(found_G < end)
        missing = np.ones(len(hashes), dtype=bool)
        while len(left):
            equal = self.hash_G[found_G[left]] == hashes[left]
            missing[left[equal]] = False
            left = left[~equal]
            found_G[left] += 1
            left = left[found_G[left] < end[left]]
        found_G[missing] = -1
        return found_G

    def find_phrases(
        self, stream: TokenStream, unit_T: np.ndarray, hash_T: np.ndarray, *, alone: bool = False
    ) -> Iterator[tuple[int, int, bytes]]:
        """(first token, number of tokens, bytes) of every phrase in ``stream``, wherever it stands in one unit.

        ``alone``: only those with a sentence mark or a text's border on either side.
        """
        if not self.phrases:
            return
        least = self.profile.phrase or 1
        first_N = np.flatnonzero(stream.marked_T[:-1]) if alone else np.arange(len(unit_T))
        first_N = first_N[: np.searchsorted(first_N, len(unit_T) - least, "right")]
        first_N = first_N[self._head_seen.likely(self.hashing.of_sequences_at(hash_T, first_N, least))]
        for count in range(least, self.profile.ngram):
            first_N = first_N[first_N + count <= len(unit_T)]
            likely = first_N[unit_T[first_N] == unit_T[first_N + count - 1]]
            likely = likely[stream.marked_T[likely + count]] if alone else likely
            hashes = self.hashing.of_sequences_at(hash_T, likely, count)
            for first in likely[self._phrase_seen.likely(hashes)].tolist():
                content = stream.sequence(first, count)
                if content in self.phrases:
                    yield first, count, content

    def _same(
        self, stream: TokenStream, begins: np.ndarray, positions: np.ndarray, skipped: np.ndarray | int = 0
    ) -> np.ndarray:
        """bool: whether the n-grams at ``begins`` of ``stream`` and ``positions`` of the index are the same bytes, but
        for their first ``skipped`` tokens."""
        last, own = self.profile.ngram - 1, self.stream
        begin_one, begin_other = stream.begin_T[begins + skipped], own.begin_T[positions + skipped]
        length = stream.end_T[begins + last] - begin_one
        same = length == own.end_T[positions + last] - begin_other
        same[same] = same_bytes(stream.bytes_C, begin_one[same], own.bytes_C, begin_other[same], length[same])
        return same


def windows(unit_T: np.ndarray, ngram: int) -> np.ndarray:
    """The tokens from which ``ngram`` tokens in a row lie in one unit; ``unit_T`` ascends."""
    return np.flatnonzero(unit_T[: max(0, len(unit_T) - ngram + 1)] == unit_T[ngram - 1 :])


def distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values, ascending. np.unique hashes, and takes ten times as long on keys that mostly differ."""
    values = np.sort(values)
    return values[np.concatenate(([True], values[1:] != values[:-1]))] if len(values) else values


def covered_tokens(begins: np.ndarray, ngram: int) -> np.ndarray:
    """True for every token that lies in an n-gram whose beginning is marked in ``begins``."""
    marks = np.zeros(len(begins) + ngram, dtype=np.int64)
    marks[: len(begins)] += begins
    marks[ngram:] -= begins
    return np.cumsum(marks)[: len(begins)] > 0


class Seen:
    """The prefixes of hashes, a bit each and several times as many as there are hashes: most others are told apart."""

    def __init__(self, hashes: np.ndarray):
        bits = min(28, max(20, int(8 * len(hashes)).bit_length()))
        self._shift = np.uint64(64 - bits)
        seen = np.zeros(1 << bits, dtype=bool)
        seen[hashes >> self._shift] = True
        self._bits = np.packbits(seen, bitorder="little")

    def likely(self, hashes: np.ndarray) -> np.ndarray:
        """bool: False only for hashes that are not among them."""
        prefix = (hashes >> self._shift).astype(np.uint32)
        return (self._bits[prefix >> 3] >> (prefix & 7).astype(np.uint8) & 1).view(bool)
