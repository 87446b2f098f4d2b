"""The index and its arithmetic against the rule written out naively, with sets of tuples and fractions."""

import re
import subprocess
import sys
import time
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.decontamination import index as index_module
from posttrain.decontamination import match as match_module
from posttrain.decontamination import spans as spans_module
from posttrain.decontamination.alignment import in_order
from posttrain.decontamination.index import EvaluationIndex, EvaluationItem
from posttrain.decontamination.match import match_batches
from posttrain.decontamination.profiles import PROFILES, Alignment, Boilerplate, Profile
from posttrain.decontamination.spans import shared_spans
from posttrain.decontamination.tokens import Hashing, lay_out, tokens


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


def strict_tokens(text):
    return tokens(text, "scripts")


def naive_boilerplate(evaluations, length, bound):
    """The sequences of ``length`` tokens that stand in too many distinct texts, of all or of one evaluation."""
    holders = {}
    for task, items in evaluations.items():
        for text in {tuple(strict_tokens(text)) for item in items for text in item.fields}:
            for gram in grams(text, length):
                holders.setdefault(gram, set()).add((task, text))
    common = set()
    for gram, pairs in holders.items():
        in_all = len({text for _, text in pairs}) > bound.texts
        if in_all or any(sum(holder == task for holder, _ in pairs) > bound.texts_of_one for task in evaluations):
            common.add(gram)
    return common


def stands_alone(turn, wanted):
    """Cut the turn at every sentence mark: are the wanted tokens some pieces in a row?"""
    for mark in '.?!:;()"':
        turn = turn.replace(mark, "\n")
    pieces = [strict_tokens(piece) for piece in turn.split("\n")]
    return any(
        [token for piece in pieces[i:j] for token in piece] == wanted
        for i in range(len(pieces))
        for j in range(i + 1, len(pieces) + 1)
    )


def naive_in_order(one, other):
    """The length of the longest common subsequence, by the textbook table."""
    best = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, x in enumerate(one, 1):
        for j, y in enumerate(other, 1):
            best[i][j] = best[i - 1][j - 1] + 1 if x == y else max(best[i - 1][j], best[i][j - 1])
    return best[-1][-1]


def naive_near(joint, shared, n, reach):
    """The row's tokens at most ``reach`` before, or fewer than that after, the beginning of a shared n-gram."""
    begins = [i for i, gram in enumerate(grams(joint, n)) if gram in shared]
    return [token for i, token in enumerate(joint) if any(-reach <= i - begin < reach for begin in begins)]


def without_numbers(words):
    return [re.sub("[0-9]+", "0", word) for word in words]


def naive_strict(evaluations, row, profile, threshold):
    """item number → its score, if that is over the threshold."""
    n, bound = profile.ngram, profile.boilerplate
    items = [item for of_task in evaluations.values() for item in of_task]
    common = {length: naive_boilerplate(evaluations, length, bound) for length in range(1, n + 1)}
    joint = [token for turn in row for token in strict_tokens(turn)]
    in_row = set(grams(joint, n))
    scores = {}
    for number, item in enumerate(items):
        fields = [strict_tokens(text) for text in item.fields]
        counted = [set(grams(words, n)) - common[n] for words in fields]
        pairs = [coverage(words, of_field, in_row, n) for words, of_field in zip(fields, counted, strict=True)]
        parts = [Fraction(found, possible) for found, possible in pairs if possible]
        if parts:
            score = sum(parts) / len(parts)
            every = all(found for found, possible in pairs if possible)
            if profile.alignment and every and min(threshold, profile.alignment.touched) < score <= threshold:
                own = [
                    [
                        word
                        for i, word in enumerate(words)
                        if any(tuple(words[b : b + n]) in of_field for b in range(max(0, i - n + 1), i + 1))
                    ]
                    for words, of_field in zip(fields, counted, strict=True)
                ]
                own = [words for words in own if words]
                size = sum(map(len, own))
                read = joint
                if len(joint) > match_module.LONG * size:
                    read = naive_near(joint, set().union(*counted), n, size + n)
                for change, least in (
                    (list, threshold),
                    (without_numbers, max(threshold, profile.alignment.numbers_alike)),
                ):
                    found = [Fraction(naive_in_order(change(words), change(read)), len(words)) for words in own]
                    if score <= threshold and sum(found) / len(found) > least:
                        score = sum(found) / len(found)
            scores[number] = score
            continue
        words = [word for field in fields for word in field]
        whole = bool(words) and (joint == words or any(strict_tokens(turn) == words for turn in row))
        phrase = profile.phrase <= len(words) < n and tuple(words) not in common[len(words)]
        scores[number] = Fraction(whole or (phrase and stands_alone("\n".join(row), words)))
    return {number: score for number, score in scores.items() if score > threshold}


def found_by(index, rows, threshold, **settings):
    found = []
    for batch, matches in match_batches(index, rows, threshold, **settings):
        of_batch = [{} for _ in batch]
        for row, item, share in zip(matches.row_M, matches.item_M, matches.coverage_M, strict=True):
            assert item not in of_batch[row]
            of_batch[row][int(item)] = float(share)
        found += of_batch
    return found


words = st.lists(st.sampled_from(["a", "b", "C", "d-e", ".", "1", "22"]), max_size=14).map(" ".join)
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


bounds = st.builds(Boilerplate, st.integers(1, 4), st.integers(1, 3))
alignments = st.none() | st.builds(
    Alignment, st.sampled_from([Fraction(0), Fraction(1, 5)]), st.sampled_from([Fraction(1, 2), Fraction(19, 20)])
)


@settings(max_examples=500, deadline=None)
@given(worlds(), st.integers(1, 5), thresholds, bounds, st.integers(1, 4), st.integers(0, 6), alignments)
def test_strict_rule_equals_brute_force(world, n, threshold, bound, phrase, of_first, alignment):
    items, rows = world
    evaluations = {"first": items[:of_first], "second": items[of_first:]}
    profile = Profile("strict", n, "scripts", joint_turns=True, boilerplate=bound, alignment=alignment, phrase=phrase)
    index = EvaluationIndex(evaluations, profile)
    for (_, turns), found in zip(rows, found_by(index, rows, threshold), strict=True):
        wanted = naive_strict(evaluations, turns, profile, threshold)
        assert found == pytest.approx({number: float(score) for number, score in wanted.items()})


@settings(max_examples=100, deadline=None)
@given(worlds(), st.integers(1, 4), st.booleans())
def test_spans_hold_as_many_tokens_as_are_covered(world, n, joint):
    evaluation, rows = world
    index = EvaluationIndex({"task": evaluation}, Profile("paper", ngram=n, joint_turns=joint))
    for (_, turns), found in zip(rows, found_by(index, rows, Fraction(0)), strict=True):
        every = shared_spans(index, [(item, turns) for item in found])
        for (item, share), spans in zip(found.items(), every, strict=True):
            fields = evaluation[item].fields
            sizes = [len(tokens(text)) for text in fields]
            inside = [0] * len(fields)
            for number, begin, end in spans.item:
                inside[number] += len(tokens(fields[number][begin:end]))
            shares = [part / size for part, size in zip(inside, sizes, strict=True) if size]
            assert sum(shares) / len(shares) == pytest.approx(share)
            assert sum(len(tokens(turns[t][b:e])) for t, b, e in spans.train) >= n
            assert joint or all(len(tokens(turns[t][b:e])) >= n for t, b, e in spans.train)


def many_rows(count=50):
    evaluation = [EvaluationItem(str(n), (f"one two three four five six seven eight nine {n}",)) for n in range(20)]
    rows = [(str(n), (f"so one two three four five six seven eight nine {n}",)) for n in range(count)]
    return EvaluationIndex({"task": evaluation}, PROFILES["paper"]), rows


@pytest.mark.parametrize("limit", ["BATCH_CHARACTERS", "EXPANDED"])
def test_neither_batches_nor_parts_of_them_change_anything(limit, monkeypatch):
    index, rows = many_rows()
    whole = found_by(index, rows, Fraction(1, 2))
    assert all(len(found) == 20 for found in whole)
    for size in (1, 30, 100, 1000):
        monkeypatch.setattr(match_module, limit, size)
        assert found_by(index, rows, Fraction(1, 2)) == whole


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_more_processes_find_the_same_in_the_same_order(method, monkeypatch):
    monkeypatch.setattr(match_module, "_context", lambda: get_context(method))
    monkeypatch.setattr(match_module, "BATCH_CHARACTERS", 400)
    index, rows = many_rows(200)
    whole = found_by(index, rows, Fraction(9, 10))
    assert found_by(index, iter(rows), Fraction(9, 10), processes=2) == whole
    assert [max(found, key=found.get) for found in whole[:20]] == list(range(20))


def test_processes_end_with_a_parent_that_is_killed():
    script = """
import itertools, os, signal, multiprocessing
from fractions import Fraction
from posttrain.decontamination import match
from posttrain.decontamination.alignment import in_order
from posttrain.decontamination.index import EvaluationIndex, EvaluationItem
from posttrain.decontamination.profiles import PROFILES
match.BATCH_CHARACTERS = 100
item = EvaluationItem("1", ("one two three four five six seven eight nine",))
index = EvaluationIndex({"a": [item]}, PROFILES["paper"])
rows = ((str(n), ("some words " * 9,)) for n in itertools.count())
for n, _ in enumerate(match.match_batches(index, rows, Fraction(1, 2), processes=2)):
    if n == 3:
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=120)
    children = [Path(f"/proc/{pid}/status") for pid in done.stdout.split()]
    assert done.returncode == -9 and len(children) == 2
    for _ in range(600):
        if not any(status.exists() and "State:\tZ" not in status.read_text() for status in children):
            return
        time.sleep(0.1)
    raise AssertionError("processes are left behind")


def test_hash_collisions_are_noticed_and_another_hash_is_taken(monkeypatch):
    """The first hash maps everything to 0; the answer must be the same."""
    tried = []

    class Colliding(Hashing):
        def __init__(self, ngram, salt=0):
            super().__init__(ngram, salt)
            tried.append(salt)
            if salt == 0:
                self.factors = [np.uint64(0)] * ngram

    monkeypatch.setattr(index_module, "Hashing", Colliding)
    evaluation = [EvaluationItem("a", ("a b c d",)), EvaluationItem("b", ("c d a b",))]
    index = EvaluationIndex({"task": evaluation}, Profile("paper", ngram=2))
    assert tried == [0, 1]
    wanted = {n: float(s) for n, s in naive_paper(evaluation, ("a b c",), 2).items() if s > Fraction(1, 2)}
    assert found_by(index, [("x", ("a b c",))], Fraction(1, 2)) == [wanted]


def test_a_training_ngram_with_the_hash_of_another_is_no_match(monkeypatch):
    class Symmetric(Hashing):  # a b c and c b a collide, but the evaluation holds only one of them
        def __init__(self, ngram, salt=0):
            super().__init__(ngram, salt)
            self.factors = self.factors[:1] * ngram

    monkeypatch.setattr(index_module, "Hashing", Symmetric)
    index = EvaluationIndex({"task": [EvaluationItem("a", ("a b c",))]}, Profile("paper", ngram=3))
    assert found_by(index, [("x", ("c b a",)), ("y", ("a b c",))], Fraction(1, 2)) == [{}, {0: 1.0}]


EIGHT = "one two three four five six seven eight"


@pytest.mark.parametrize(
    ("fields", "turns", "paper", "strict"),
    [
        ((EIGHT,), (f"{EIGHT} and more",), True, True),
        ((EIGHT.upper(),), (EIGHT.replace(" ", ", "),), True, True),  # case and separators do not count
        ((EIGHT,), ("one two three four", "five six seven eight"), False, True),  # strict reads all turns as one
        (("what is red",), ("What is red?",), False, True),  # too short for an 8-gram: whole, or not at all
        (("what is red",), ("Tell me: what is red?",), False, False),
        (("what is red and round",), ("Tell me: what is red and round?",), False, True),  # a phrase that stands alone
        (("what is red and round",), ("Tell me what is red and round",), False, False),
        (("what is red",), ("What", "is red?"), False, True),
        (
            ("\u4f60\u597d\u5417\u6211\u5f88\u597d\u8c22\u8c22",),
            ("\u95ee\uff1a\u4f60\u597d\u5417\u6211\u5f88\u597d\u8c22\u8c22\u3002",),
            False,
            True,
        ),
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


def test_a_row_of_many_items_is_read_once_for_all_its_pairs(monkeypatch):
    evaluation = [EvaluationItem(str(n), (" ".join(f"w{n}x{i}" for i in range(40)),)) for n in range(50)]
    index = EvaluationIndex({"task": evaluation}, PROFILES["strict"])
    row = (" and so ".join(item.fields[0] for item in evaluation),)
    read = []
    monkeypatch.setattr(
        spans_module, "lay_out", lambda texts, splitting: read.append(texts) or lay_out(texts, splitting)
    )
    monkeypatch.setattr(spans_module, "PART_CHARACTERS", 1)
    pairs = [(n, row) for n in range(50)] + [(3, ("so " + evaluation[3].fields[0],))]
    spans = shared_spans(index, pairs)
    assert read == [list(row), ["so " + evaluation[3].fields[0]]]
    for (item, turns), found in zip(pairs, spans, strict=True):
        assert [turns[n][begin:end] for n, begin, end in found.train] == [evaluation[item].fields[0]]
        assert found.item == ((0, 0, len(evaluation[item].fields[0])),)


@pytest.mark.parametrize("threshold", [Fraction("0.3333333333333333"), Fraction(str(0.1 + 0.2)), Fraction(1, 2)])
def test_long_items_and_thresholds_of_many_digits_are_compared_exactly(threshold):
    item = [f"w{n}" for n in range(3000)]
    index = EvaluationIndex({"task": [EvaluationItem("a", (" ".join(item),))]}, PROFILES["paper"])
    for covered in (300, int(3000 * threshold), int(3000 * threshold) + 1, 3000):
        found = found_by(index, [("row", (" ".join(item[:covered]),))], threshold)
        assert bool(found[0]) == (Fraction(covered, 3000) > threshold)


@pytest.mark.parametrize("turn", ["你好。今天天气好。谢谢", "今天天气好。", "（今天天气好）"])
def test_marks_of_scripts_without_spaces_end_sentences(turn):
    index = EvaluationIndex({"task": [EvaluationItem("a", ("今天天气好",))]}, PROFILES["strict"])
    [found] = found_by(index, [("row", (turn,))], Fraction(1, 2))
    assert found == {0: 1.0}
    [spans] = shared_spans(index, [(0, (turn,))])
    assert [turn[begin:end] for _, begin, end in spans.train] == ["今天天气好"]


def test_a_phrase_is_shown_only_where_it_stands_alone():
    index = EvaluationIndex({"task": [EvaluationItem("a", ("name all the colours",))]}, PROFILES["strict"])
    turn = "Now name all the colours you know. Name all the colours. Bye"
    [spans] = shared_spans(index, [(0, (turn,))])
    assert spans.train == ((0, turn.index("Name"), turn.index(". Bye")),)


@given(
    st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=80),
    st.lists(st.sampled_from([b"a", b"b", b"d"]), max_size=80),
)
def test_what_stands_in_order_is_the_longest_common_subsequence(sought, read):
    assert in_order(sought, read) == naive_in_order(sought, read)


def test_in_a_long_row_only_what_is_near_the_shared_words_counts():
    words = [f"w{n}" for n in range(20)]
    index = EvaluationIndex({"task": [EvaluationItem("a", (" ".join(words),))]}, PROFILES["strict"])
    rest = " x ".join(" ".join(words[n : n + 4]) for n in (8, 12, 16))
    near, far = f"{' '.join(words[:8])} x {rest}", f"{' '.join(words[:8])} {'y ' * 60} {rest}"
    found = found_by(index, [("near", (near + " z" * 200,)), ("far", (far + " z" * 200,))], Fraction(85, 100))
    assert found == [{0: pytest.approx(1.0)}, {}]
