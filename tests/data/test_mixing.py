from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.mixing import keyed_order, requested, select, unique_ids, without_duplicates
from posttrain.data.rows import Conversation

MANY = [str(number) for number in range(1000)]


def test_an_order_is_the_same_on_any_machine():
    # Written down once; a change would make every mixture and every training run another.
    assert keyed_order("abcdefgh", seed=1, purpose="shuffle") == PINNED
    assert keyed_order("abcdefgh", seed=2, purpose="shuffle") != PINNED
    assert keyed_order("abcdefgh", seed=1, purpose="epoch 0") != PINNED


PINNED = [6, 7, 1, 2, 5, 3, 4, 0]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers())
def test_an_order_is_a_permutation(keys, seed):
    assert sorted(keyed_order(keys, seed, "x")) == list(range(len(keys)))


@given(st.sets(st.integers(0, 999)), st.integers(0, 9))
def test_rows_keep_their_order_when_others_go(gone, seed):
    keys = [str(number) for number in range(60)]
    left = [key for key in keys if int(key) not in gone]
    whole = [keys[position] for position in keyed_order(keys, seed, "x")]
    assert [left[position] for position in keyed_order(left, seed, "x")] == [key for key in whole if key in left]


def test_every_place_is_equally_likely():
    places = Counter(keyed_order(map(str, range(4)), seed, "x").index(0) for seed in range(4000))
    # Binomial(4000, 1/4): standard deviation 27
    assert all(abs(count - 1000) < 5 * 27 for count in places.values())


def test_a_fraction_takes_that_share_in_the_given_order():
    used = select(MANY, fraction=0.25, seed=1, source="s")
    assert len(used) == 250 == requested(1000, fraction=0.25)
    assert used == sorted(used)
    assert used == select(MANY, fraction=0.25, seed=1, source="s")
    assert used != select(MANY, fraction=0.25, seed=2, source="s")


def test_a_larger_amount_holds_the_smaller_one():
    few = set(select(MANY, count=100, seed=1, source="s"))
    more = set(select(MANY, count=101, seed=1, source="s"))
    assert len(few) == 100 and few < more


def test_a_count_beyond_what_is_there_repeats_nothing():
    assert select(MANY, count=5000, seed=1, source="s") == list(range(1000))
    assert requested(1000, count=5000) == 5000


def test_repeat_gives_every_row_as_often():
    assert Counter(select(MANY, repeat=3, seed=1, source="s")) == dict.fromkeys(range(1000), 3)


def test_no_amount_takes_all():
    assert select(MANY, seed=1, source="s") == list(range(1000)) and requested(1000) == 1000


@given(st.lists(st.sampled_from(["a", "a#2", "a#3", "b"])))
def test_ids_become_unique_and_first_ones_stay(ids):
    fresh = list(unique_ids(ids))
    assert len(set(fresh)) == len(ids)
    assert all(new.startswith(old) for new, old in zip(fresh, ids, strict=True))
    if len(set(ids)) == len(ids):
        assert fresh == ids


def test_only_the_first_of_equal_rows_stays_whatever_its_id_and_source():
    row = Conversation("a", ({"role": "assistant", "content": "x"},), "s")
    same = Conversation("b", ({"content": "x", "role": "assistant"},), "t", {"score": 1})
    other = Conversation("a", ({"role": "assistant", "content": "y"},), "s")
    first = without_duplicates([row, same, other], {}, "first")
    assert (first.positions, first.copies_of) == ([0, 2], {"first": 1})
    second = without_duplicates([same, other], {first.fingerprints[0]: "first"}, "second")
    assert (second.positions, second.copies_of) == ([1], {"first": 1})
    assert second.fingerprints == first.fingerprints[1:]


@pytest.mark.parametrize("available", [0, 1, 2, 7])
def test_a_fraction_is_rounded_to_whole_rows(available):
    assert requested(available, fraction=0.5) in (available // 2, (available + 1) // 2)
