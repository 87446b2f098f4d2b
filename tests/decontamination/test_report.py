import json

import pytest

from posttrain.decontamination.index import EvaluationIndex, EvaluationItem
from posttrain.decontamination.profiles import PROFILES
from posttrain.decontamination.report import AROUND, decide, find_overlaps


def text(seed, count=12):
    return " ".join(f"w{seed}x{place}" for place in range(count))


LARGE = [EvaluationItem(f"large-{n}", (text(n),)) for n in range(100)]
SMALL = [EvaluationItem(f"small-{n}", (text(1000 + n),)) for n in range(10)]


def report(*row_numbers, **settings):
    rows = [(f"row {n}", (text(n),)) for n in row_numbers]
    return find_overlaps(rows, {"large": LARGE, "small": SMALL}, **settings)


def test_rates_count_items_and_pairs_count_pairs():
    found = report(0, 0, 1, 5000, 1003)
    large, small = found.evaluations
    assert (large.task, large.items, large.overlapping, large.rate, large.pair_count) == ("large", 100, 2, 0.02, 3)
    assert (small.task, small.items, small.overlapping, small.rate) == ("small", 10, 1, 0.1)
    assert large.row_numbers == (0, 1, 2) and small.row_numbers == (4,)
    assert found.rows == 5


def test_a_set_is_contaminated_above_two_per_cent_and_not_at_it():
    assert not report(0, 1).evaluations[0].contaminated
    assert report(0, 1, 2).evaluations[0].contaminated
    assert not report(0, 1, 2, set_threshold=0.03).evaluations[0].contaminated


def test_rows_are_dropped_only_for_evaluations_over_the_threshold():
    found = report(0, 1003, 5000)  # 1 % of large, 10 % of small
    assert decide(found, "drop_rows").dropped == {1}
    assert decide(found, "drop_set").dropped == {0, 1, 2}
    assert decide(found, "keep").dropped == frozenset()
    for policy in ("drop_rows", "drop_set", "keep"):
        decision = decide(found, policy)
        assert (
            decision.action == policy and "small 10.0% (1 of 10)" in decision.reason and "large" not in decision.reason
        )


def test_a_clean_set_is_kept_whatever_the_policy():
    for policy in ("drop_rows", "drop_set", "keep"):
        decision = decide(report(0, 5000), policy)
        assert (decision.action, decision.dropped) == ("keep", frozenset())


def test_pairs_say_who_matches_whom_and_where():
    rows = [("wrapped", ("Hello!", f"Please solve this: {text(4)} Thanks."))]
    [pair] = find_overlaps(rows, {"large": LARGE}).evaluations[0].pairs
    assert (pair.train_id, pair.item_id, pair.coverage) == ("wrapped", "large-4", 1.0)
    [(turn, begin, end)] = pair.spans.train
    assert rows[0][1][turn][begin:end] == text(4)
    assert pair.spans.item == ((0, 0, len(text(4))),)


def test_an_excerpt_holds_the_shared_text_and_what_stands_about_it():
    shared = "Which of the seven green lamps in the tall hall was lit first that night"
    far = "x" * 9 * AROUND
    turns = ("Nothing of it here.", f"{far} Now: {shared}? {far} Again {shared}.", "Nor here.")
    items = {"t": [EvaluationItem("1", (shared,))]}
    ((pair,),) = (found.pairs for found in find_overlaps([("row", turns)], items).evaluations)
    assert [text for text, is_shared in pair.excerpt if is_shared] == [turns[t][b:e] for t, b, e in pair.spans.train]
    assert all(text.startswith("Which of") for text, is_shared in pair.excerpt if is_shared)
    told = "".join(text for text, _ in pair.excerpt)
    assert f"x Now: {shared}? x" in told and f"x Again {shared}.\n" in told
    assert "Nothing" not in told and len(told) < 5 * AROUND


def test_a_match_of_a_whole_short_item_spans_all_of_it():
    items = {"short": [EvaluationItem("s", ("Who is he?",))]}
    [pair] = find_overlaps([("r", ("no", "who is HE"))], items, profile="strict").evaluations[0].pairs
    assert pair.spans.train == ((1, 0, 9),) and pair.spans.item == ((0, 0, 10),)


def test_the_best_pairs_are_shown_and_all_are_counted():
    words = text(7, 20).split()
    rows = [(f"first {n} words", (" ".join(words[:n]),)) for n in (18, 20, 19)]
    items = {"long": [EvaluationItem("l", (text(7, 20),))]}
    found = find_overlaps(rows, items, pairs_shown=2).evaluations[0]
    assert [pair.train_id for pair in found.pairs] == ["first 20 words", "first 19 words"]
    assert found.pair_count == 3 and found.row_numbers == (0, 1, 2)


def test_one_index_serves_many_sets_and_every_row_is_reported():
    index = EvaluationIndex({"large": LARGE, "small": SMALL}, PROFILES["strict"])
    seen = []
    rows = [(str(n), (text(n),)) for n in range(7)]
    assert find_overlaps(rows, index, on_rows=seen.append) == find_overlaps(rows, {"large": LARGE, "small": SMALL})
    assert sum(seen) == 7


def test_a_report_is_plain_json():
    columns = json.loads(json.dumps(report(0, 1, 2).as_json(excerpts=True)))
    assert columns["evaluations"][0]["rate"] == 0.03 and columns["evaluations"][0]["pairs"][0]["spans"]["train"]
    assert columns["evaluations"][0]["pairs"][0]["excerpt"]


def test_a_report_for_others_holds_no_text_of_an_evaluation():
    told = json.dumps(report(0, 1, 2).as_json(excerpts=False))
    assert '"spans"' in told and not any(item.fields[0].split()[0] in told for item in LARGE)


@pytest.mark.parametrize("profile", ["paper", "strict"])
def test_nothing_to_check_is_no_contamination(profile):
    assert find_overlaps([], {"large": LARGE, "none": []}, profile=profile).contaminated == ()
