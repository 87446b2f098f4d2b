"""Which pair a set of ratings makes."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.columns import columns_from_row, row_from_columns
from posttrain.data.rows import VerifiablePrompt
from posttrain.preferences.binarize import Pairing, choose_pair, preference_pair, prompt_record
from posttrain.preferences.figures import preference_figures
from posttrain.preferences.judge import Candidate, Judged
from posttrain.preferences.pool import Member
from posttrain.verifiers.verdict import Verdict

POLICY, OTHER = Member("policy", on_policy=True), Member("other", 0.7)
PROMPT = VerifiablePrompt(
    "p1", ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}), "4", "gsm8k", "sums"
)


def judged(*ratings: float | None, texts=None, tokens=None) -> list[Judged]:
    texts = texts or [f"answer {i}" for i in range(len(ratings))]
    tokens = tokens or [5] * len(ratings)
    return [
        Judged(
            Candidate(POLICY if i % 2 else OTHER, i, texts[i], True, tokens[i]),
            rating,
            (Verdict("error", 0.0),) if rating is None else (Verdict("wrong", max(0.0, rating)),),
        )
        for i, rating in enumerate(ratings)
    ]


@given(
    ratings=st.lists(st.sampled_from([None, -1.0, -0.5, 0.0, 1 / 3, 0.5, 1.0]), min_size=2, max_size=6),
    texts=st.lists(st.sampled_from(["a", "b", "c", "", " \n"]), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_the_chosen_is_best_and_the_rejected_strictly_worse(ratings, texts, seed):
    """Against a plain reading of the rule, over ties, missing ratings, blanks and equal texts."""
    pairing = choose_pair("p", seed, judged(*ratings, texts=texts))
    usable = [i for i, rating in enumerate(ratings) if rating is not None and texts[i].strip()]
    if pairing.reason is None:
        assert pairing.chosen in usable and pairing.rejected in usable
        assert ratings[pairing.chosen] == max(ratings[i] for i in usable)
        assert ratings[pairing.rejected] < ratings[pairing.chosen]
        assert texts[pairing.rejected] != texts[pairing.chosen]
        return
    assert pairing.chosen is None and pairing.rejected is None
    if len(usable) < 2:
        assert pairing.reason == "too_few_rated"
    elif len({ratings[i] for i in usable}) == 1:
        assert pairing.reason == "all_equal"
    else:
        assert pairing.reason == "same_text"
        best = max(ratings[i] for i in usable)
        lower = {texts[i] for i in usable if ratings[i] < best}
        assert len(lower) == 1 and lower <= {texts[i] for i in usable if ratings[i] == best}


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ((1.0, 0.0), Pairing(0, 1)),
        ((0.0, 0.5, None), Pairing(1, 0)),
        ((None, 0.5, None, -1.0), Pairing(1, 3)),
        ((0.5, 0.5, 0.5), Pairing(None, None, "all_equal")),
        ((0.5, None), Pairing(None, None, "too_few_rated")),
    ],
)
def test_exact_pairs(ratings, expected):
    assert choose_pair("p", 1, judged(*ratings)) == expected


def test_among_several_best_and_several_lower_all_come_up_evenly():
    row = judged(1.0, 0.0, 1.0, -1.0)
    counts = Counter((p.chosen, p.rejected) for p in (choose_pair(str(i), 1, row) for i in range(4000)))
    assert set(counts) == {(0, 1), (0, 3), (2, 1), (2, 3)}
    assert all(abs(count - 1000) < 5 * 750**0.5 for count in counts.values())
    assert choose_pair("7", 1, row) == choose_pair("7", 1, row)


def test_the_pair_is_a_published_row_and_tells_where_it_came_from():
    row = judged(0.0, 1.0, 0.5, None)
    pairing = Pairing(1, 2)
    pair = preference_pair(PROMPT, row, pairing)
    columns = json.loads(json.dumps(columns_from_row(pair)))
    assert columns["chosen"] == [*map(dict, PROMPT.messages), {"role": "assistant", "content": "answer 1"}]
    assert columns["rejected"] == [*map(dict, PROMPT.messages), {"role": "assistant", "content": "answer 2"}]
    assert (columns["id"], columns["prompt"], columns["source"]) == ("p1", "2+2?", "sums")
    assert (columns["chosen_model"], columns["rejected_model"]) == ("policy", "other")
    assert (columns["chosen_rating"], columns["rejected_rating"]) == (1.0, 0.5)
    assert columns_from_row(row_from_columns("preference", columns, "x")) == columns
    record = prompt_record(PROMPT, row, pairing)
    assert [one["text"] for one in record["candidates"]] == [f"answer {i}" for i in range(4)]
    assert [one["rating"] for one in record["candidates"]] == [0.0, 1.0, 0.5, None]
    assert record["candidates"] == columns["candidates"] and record["chosen"] == 1
    assert record["candidates"][3]["outcomes"] == ["error"]


def test_figures_count_yield_and_biases():
    rows = [judged(1.0, 0.0, tokens=[9, 3]), judged(0.0, 1.0, tokens=[2, 2]), judged(0.5, 0.5), judged(None, 1.0)]
    pairings = [choose_pair(str(i), 1, row) for i, row in enumerate(rows)]
    figures = preference_figures(rows, pairings)
    assert figures["no_pair"] == {"all_equal": 1, "too_few_rated": 1}
    assert figures["unrated"] == 1
    assert figures["ratings"] == {"other": 0.5, "policy": 0.625}
    assert figures["chosen_longer"] == 0.75
    assert (figures["chosen_on_policy"], figures["rejected_on_policy"]) == (0.5, 0.5)
