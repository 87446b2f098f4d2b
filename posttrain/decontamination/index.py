"""All n-grams of the evaluation prompts, to be looked up by the training rows.

The texts lie end to end as token numbers in one array; an n-gram is known by the position where it begins. Positions
are grouped by n-gram through a 64-bit hash that is checked, while the index is built, to tell all of them apart; a
training n-gram is compared token by token with what its hash leads to. So nothing here is approximate.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.decontamination.profiles import Profile
from posttrain.decontamination.tokens import tokens


@dataclass(frozen=True)
class EvaluationItem:
    """One evaluation prompt. ``fields`` are scored apart and averaged (DROP: passage, question)."""

    id: str
    fields: tuple[str, ...]


Evaluations = Mapping[str, Sequence[EvaluationItem]]
"""Evaluation task → its items."""

OUTSIDE = 0
"""The token number of every token that no evaluation holds, and of the gap between two texts."""


class EvaluationIndex:
    """Looks up n-grams of token numbers; P positions in the texts, F fields, I items, G distinct n-grams.

    ``items``: (task, item) by item number. ``weight_F``: the number of tokens that a field can have covered; a field
    with none does not take part in its item's score.
    """

    def __init__(self, evaluations: Evaluations, profile: Profile):
        self.profile = profile
        self.tasks = {task: len(items) for task, items in evaluations.items()}
        self.items = [(task, item) for task, items in evaluations.items() for item in items]
        self.vocabulary: dict[str, int] = {}
        self._lay_out()
        self._group_positions()
        self._drop_boilerplate()
        self._count_weights()

    def _lay_out(self) -> None:
        corpus: list[int] = []
        field_of: list[int] = []
        item_of_field: list[int] = []
        texts: dict[tuple[int, ...], int] = {}
        text_of_field: list[int] = []
        lengths: list[int] = []
        number = self.vocabulary
        for index, (_, item) in enumerate(self.items):
            for text in item.fields:
                ids = [number.setdefault(token, len(number) + 1) for token in tokens(text, self.profile.splitting)]
                corpus += [*ids, OUTSIDE]
                field_of += [len(item_of_field)] * (len(ids) + 1)
                item_of_field.append(index)
                text_of_field.append(texts.setdefault(tuple(ids), len(texts)))
                lengths.append(len(ids))
        self.corpus_P = np.array(corpus, dtype=np.int64)
        self.field_P = np.array(field_of, dtype=np.int64)
        self.item_F = np.array(item_of_field, dtype=np.int64)
        self.length_F = np.array(lengths, dtype=np.int64)
        self._text_F = np.array(text_of_field, dtype=np.int64)

    def _group_positions(self) -> None:
        begins = window_begins(self.corpus_P, self.profile.ngram)
        for salt in range(64):
            self._factors = _factors(self.profile.ngram, salt)
            hashes = self._hash(self.corpus_P, begins)
            order = np.argsort(hashes, kind="stable")
            positions, hashes = begins[order], hashes[order]
            first = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
            group = np.repeat(np.arange(len(first)), np.diff(first, append=len(hashes)))
            if self._same(self.corpus_P, positions, positions[first][group]).all():
                break
        else:  # 64 unlucky hash functions in a row: not in the lifetime of the universe
            raise AssertionError("no hash tells all n-grams apart")
        self.positions, self.group, self.first_G, self.hash_G = positions, group, first, hashes[first]
        self.end_G = np.append(first[1:], len(positions))

    def _drop_boilerplate(self) -> None:
        limit = self.profile.boilerplate_texts
        if limit is not None and len(self.positions):
            texts = len(self._text_F)
            pairs = np.unique(self.group * texts + self._text_F[self.field_P[self.positions]])
            kept_G = np.bincount(pairs // texts, minlength=len(self.first_G)) <= limit
            kept = kept_G[self.group]
            self.positions = self.positions[kept]
            self.hash_G = self.hash_G[kept_G]
            sizes = (self.end_G - self.first_G)[kept_G]
            self.end_G = np.cumsum(sizes)
            self.first_G = self.end_G - sizes
        del self.group
        # A bit per hash prefix, sixteen times as many as n-grams: most training n-grams end here.
        bits = min(28, max(16, int(16 * len(self.hash_G)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._seen = np.zeros(1 << bits, dtype=bool)
        self._seen[self.hash_G >> self._shift] = True

    def _count_weights(self) -> None:
        self.indexed_P = np.zeros(len(self.corpus_P), dtype=bool)
        self.indexed_P[self.positions] = True
        if self.profile.match_rest_whole:
            coverable = covered_tokens(self.indexed_P, self.profile.ngram)
            self.weight_F = np.bincount(self.field_P[coverable], minlength=len(self.item_F))
        else:
            self.weight_F = self.length_F
        self.fields_I = np.bincount(self.item_F[self.weight_F > 0], minlength=len(self.items))
        self.whole: dict[tuple[int, ...], list[int]] = {}
        if self.profile.match_rest_whole:
            for index in np.flatnonzero(self.fields_I == 0):
                words = [w for text in self.items[index][1].fields for w in tokens(text, self.profile.splitting)]
                if words:
                    self.whole.setdefault(tuple(map(self.vocabulary.__getitem__, words)), []).append(int(index))
        self.whole_lengths = frozenset(map(len, self.whole))

    def look_up(self, corpus: np.ndarray, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of ``begins`` whose n-gram in ``corpus`` is indexed, and the number of that n-gram."""
        hashes = self._hash(corpus, begins)
        likely = self._seen[hashes >> self._shift]
        begins, hashes = begins[likely], hashes[likely]
        found_G = np.searchsorted(self.hash_G, hashes)
        found_G[found_G == len(self.hash_G)] = 0
        equal = self.hash_G[found_G] == hashes if len(self.hash_G) else np.zeros(len(begins), dtype=bool)
        begins, found_G = begins[equal], found_G[equal]
        same = self._same(corpus, begins, self.positions[self.first_G[found_G]])
        return begins[same], found_G[same]

    def positions_of(self, ngrams: np.ndarray) -> np.ndarray:
        """All positions, ascending, of distinct n-grams."""
        return np.sort(np.concatenate([self.positions[self.first_G[g] : self.end_G[g]] for g in ngrams]))

    def _hash(self, corpus: np.ndarray, begins: np.ndarray) -> np.ndarray:
        hashes = np.zeros(len(begins), dtype=np.uint64)
        for offset, factor in enumerate(self._factors):
            hashes += corpus[begins + offset].astype(np.uint64) * factor
        return hashes

    def _same(self, corpus: np.ndarray, begins: np.ndarray, positions: np.ndarray) -> np.ndarray:
        same = np.ones(len(begins), dtype=bool)
        for offset in range(self.profile.ngram):
            same &= corpus[begins + offset] == self.corpus_P[positions + offset]
        return same


def window_begins(corpus: np.ndarray, ngram: int) -> np.ndarray:
    """Where ``ngram`` tokens stand in a row, none of them OUTSIDE."""
    inside = np.cumsum(np.concatenate(([0], corpus != OUTSIDE)))
    return np.flatnonzero(inside[ngram:] - inside[:-ngram] == ngram) if len(inside) > ngram else np.zeros(0, np.int64)


def covered_tokens(begins: np.ndarray, ngram: int) -> np.ndarray:
    """True for every token that lies in an n-gram whose beginning is marked in ``begins``."""
    marks = np.zeros(len(begins) + ngram, dtype=np.int64)
    marks[: len(begins)] += begins
    marks[ngram:] -= begins
    return np.cumsum(marks)[: len(begins)] > 0


def _factors(ngram: int, salt: int) -> list[np.uint64]:
    """Odd 64-bit multipliers, one per place: a hash linear in the token numbers, its high bits well mixed."""
    digest = hashlib.shake_128(f"n-gram {salt}".encode()).digest(8 * ngram)
    return [np.uint64(int.from_bytes(digest[8 * i : 8 * i + 8], "little") | 1) for i in range(ngram)]
