"""The index and its arithmetic against the rule written out naively, with sets of tuples and fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.decontamination.index import EvaluationIndex, EvaluationItem
from posttrain.decontamination.match import match_rows, shared_spans
from posttrain.decontamination.profiles import PROFILES, Profile
from posttrain.decontamination.tokens import tokens


def grams(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def coverage(words, counted, shared, n):
    """(tokens inside a shared n-gram, tokens inside a counted n-gram)."""
    found, possible = set(), set()
    for begin, gram in enumerate(grams(words, n)):
        if gram in counted:
            possible.update(range(begin, begin + n))
            if gram in shared:
                found.update(range(begin, begin + n))
    return len(found), len(possible)


def naive_paper(items, row, n):
    """item number → mean over fields of the share of its tokens in an n-gram that the row holds too."""
    in_row = {gram for turn in row for gram in grams(tokens(turn), n)}
    scores = {}
    for number, item in enumerate(items):
        fields = [words for words in map(tokens, item.fields) if words]
        if fields:
            parts = [Fraction(coverage(words, set(grams(words, n)), in_row, n)[0], len(words)) for words in fields]
            scores[number] = sum(parts) / len(parts)
    return scores


def naive_strict(items, row, n, limit):
    split = lambda text: tokens(text, "scripts")  # noqa: E731
    texts = {tuple(split(text)) for item in items for text in item.fields}
    frequency = {}
    for text in texts:
        for gram in set(grams(text, n)):
            frequency[gram] = frequency.get(gram, 0) + 1
    counted = {gram for gram, count in frequency.items() if count <= limit}
    in_row = {gram for turn in row for gram in grams(split(turn), n)}
    scores = {}
    for number, item in enumerate(items):
        pairs = [coverage(split(text), counted, in_row, n) for text in item.fields]
        parts = [Fraction(found, possible) for found, possible in pairs if possible]
        if parts:
            scores[number] = sum(parts) / len(parts)
        else:
            words = [word for text in item.fields for word in split(text)]
            scores[number] = Fraction(bool(words) and any(split(turn) == words for turn in row))
    return scores


def found_by(index, rows, threshold):
    return [{match.item: match.coverage for match in found} for _, found in match_rows(index, rows, threshold)]


words = st.lists(st.sampled_from(["a", "b", "C", "d-e", "."]), max_size=14).map(" ".join)
items = st.lists(st.lists(words, min_size=1, max_size=3).map(tuple), min_size=1, max_size=6)
thresholds = st.sampled_from([Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(2, 3), Fraction(9, 10)])


@st.composite
def worlds(draw):
    """Evaluation items, and training rows patched together from them so that overlaps of every size occur."""
    fields = draw(items)
    pool = [text for item in fields for text in item]
    piece = st.tuples(st.sampled_from(pool), st.integers(0, 20), st.integers(0, 30)).map(lambda t: t[0][t[1] : t[2]])
    turn = st.lists(piece | words, max_size=4).map(" x ".join) | st.sampled_from(pool)
    rows = draw(st.lists(st.lists(turn, max_size=3).map(tuple), min_size=1, max_size=5))
    return [EvaluationItem(str(n), item) for n, item in enumerate(fields)], [(str(n), r) for n, r in enumerate(rows)]


@settings(max_examples=150, deadline=None)
@given(worlds(), st.integers(1, 5), thresholds)
def test_paper_rule_equals_brute_force(world, n, threshold):
    evaluation, rows = world
    index = EvaluationIndex({"task": evaluation}, Profile("paper", ngram=n))
    for (_, turns), found in zip(rows, found_by(index, rows, threshold), strict=True):
        wanted = {number: s for number, s in naive_paper(evaluation, turns, n).items() if s > threshold}
        assert found == pytest.approx({number: float(score) for number, score in wanted.items()})


@settings(max_examples=150, deadline=None)
@given(worlds(), st.integers(1, 5), thresholds, st.integers(1, 3))
def test_strict_rule_equals_brute_force(world, n, threshold, limit):
    evaluation, rows = world
    profile = Profile("strict", ngram=n, splitting="scripts", boilerplate_texts=limit, match_rest_whole=True)
    index = EvaluationIndex({"task": evaluation}, profile)
    for (_, turns), found in zip(rows, found_by(index, rows, threshold), strict=True):
        wanted = {number: s for number, s in naive_strict(evaluation, turns, n, limit).items() if s > threshold}
        assert found == pytest.approx({number: float(score) for number, score in wanted.items()})


@settings(max_examples=100, deadline=None)
@given(worlds(), st.integers(1, 4))
def test_spans_hold_as_many_tokens_as_are_covered(world, n):
    evaluation, rows = world
    index = EvaluationIndex({"task": evaluation}, Profile("paper", ngram=n))
    for (_, turns), found in match_rows(index, rows, Fraction(0)):
        for match in found:
            spans = shared_spans(index, match.item, turns)
            fields = evaluation[match.item].fields
            sizes = [len(tokens(text)) for text in fields]
            inside = [0] * len(fields)
            for number, begin, end in spans.item:
                inside[number] += len(tokens(fields[number][begin:end]))
            shares = [part / size for part, size in zip(inside, sizes, strict=True) if size]
            assert sum(shares) / len(shares) == pytest.approx(match.coverage)
            assert spans.train and all(len(tokens(turns[t][b:e])) >= n for t, b, e in spans.train)


def test_a_batch_border_changes_nothing(monkeypatch):
    evaluation = [EvaluationItem(str(n), (f"one two three four five six seven eight nine {n}",)) for n in range(20)]
    rows = [(str(n), (f"so one two three four five six seven eight nine {n}",)) for n in range(50)]
    index = EvaluationIndex({"task": evaluation}, PROFILES["paper"])
    whole = list(match_rows(index, rows, Fraction(1, 2)))
    monkeypatch.setattr("posttrain.decontamination.match.BATCH_TOKENS", 30)
    assert list(match_rows(index, rows, Fraction(1, 2))) == whole
    assert [found[0].row for _, found in whole] == list(range(50))


def test_hash_collisions_are_noticed_and_another_hash_is_taken(monkeypatch):
    """The first hash maps everything to 0; the answer must be the same."""
    from posttrain.decontamination import index as module

    real = module._factors
    tried = []

    def factors(ngram, salt):
        tried.append(salt)
        return [np.uint64(0)] * ngram if salt == 0 else real(ngram, salt)

    monkeypatch.setattr(module, "_factors", factors)
    evaluation = [EvaluationItem("a", ("a b c d",)), EvaluationItem("b", ("c d a b",))]
    index = EvaluationIndex({"task": evaluation}, Profile("paper", ngram=2))
    assert tried == [0, 1]
    wanted = {n: float(s) for n, s in naive_paper(evaluation, ("a b c",), 2).items() if s > Fraction(1, 2)}
    assert found_by(index, [("x", ("a b c",))], Fraction(1, 2)) == [wanted]


def test_a_training_ngram_with_the_hash_of_another_is_no_match(monkeypatch):
    from posttrain.decontamination import index as module

    # A hash of the sum of token numbers: a b c and c b a collide, but the evaluation holds only one of them.
    monkeypatch.setattr(module, "_factors", lambda ngram, salt: [np.uint64(1 << 50)] * ngram)
    index = EvaluationIndex({"task": [EvaluationItem("a", ("a b c",))]}, Profile("paper", ngram=3))
    assert found_by(index, [("x", ("c b a",)), ("y", ("a b c",))], Fraction(1, 2)) == [{}, {0: 1.0}]


EIGHT = "one two three four five six seven eight"


@pytest.mark.parametrize(
    ("fields", "turns", "paper", "strict"),
    [
        ((EIGHT,), (f"{EIGHT} and more",), True, True),
        ((EIGHT.upper(),), (EIGHT.replace(" ", ", "),), True, True),  # case and separators do not count
        ((EIGHT,), ("one two three four", "five six seven eight"), False, False),  # never across turns
        (("what is red",), ("What is red?",), False, True),  # too short for an 8-gram: whole, or not at all
        (("what is red",), ("Tell me what is red",), False, False),
        ((EIGHT, "what is red"), (EIGHT,), False, True),  # (1 + 0) / 2 is not over a half
        ((f"{EIGHT} {EIGHT[::-1]}",), (EIGHT,), False, False),  # exactly a half
        ((EIGHT,), (), False, False),
        (("",), ("",), False, False),
    ],
)
def test_profiles_on_plain_examples(fields, turns, paper, strict):
    for name, wanted in (("paper", paper), ("strict", strict)):
        index = EvaluationIndex({"task": [EvaluationItem("a", fields)]}, PROFILES[name])
        assert bool(found_by(index, [("x", turns)], Fraction(1, 2))[0]) is wanted, name


def test_boilerplate_alone_is_a_match_for_the_paper_and_not_for_strict():
    frame = "Which of the following statements about the theory below is right and why? "
    tail = "alpha beta gamma delta epsilon zeta eta theta iota"
    evaluation = [EvaluationItem(str(n), (f"{frame} {n} " + tail.replace("a", str(n)),)) for n in range(20)]
    rows = [("frame", (f"{frame} of something else",)), ("leak", (evaluation[3].fields[0],))]
    paper, strict = (EvaluationIndex({"t": evaluation}, PROFILES[name]) for name in ("paper", "strict"))
    assert [sorted(found) for found in found_by(paper, rows, Fraction(1, 2))] == [list(range(20)), list(range(20))]
    assert [sorted(found) for found in found_by(strict, rows, Fraction(1, 2))] == [[], [3]]


def test_an_empty_evaluation_matches_nothing():
    for name in ("paper", "strict"):
        index = EvaluationIndex({"task": []}, PROFILES[name])
        assert found_by(index, [("x", (EIGHT,))], Fraction(1, 2)) == [{}]
