"""Who answers what: settled by the prompt's id and the seed alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import PosttrainError
from posttrain.preferences.pool import Member, check_pool, draw_members

POLICY = Member("policy", on_policy=True)
POOL = [Member(f"m{i}", 0.5 + i / 10) for i in range(6)]


@given(
    prompt=st.text(max_size=20),
    seed=st.integers(0, 2**40),
    responses=st.integers(2, 9),
    on_policy=st.integers(0, 9),
    pool_size=st.integers(1, 6),
)
def test_a_draw_has_the_shares_asked_for_and_no_needless_repetition(prompt, seed, responses, on_policy, pool_size):
    on_policy, pool = min(on_policy, responses), POOL[:pool_size]
    draws = draw_members(prompt, seed, POLICY, pool, responses=responses, on_policy=on_policy)
    assert [draw.sample_index for draw in draws] == list(range(responses))
    counts = Counter(draw.member for draw in draws)
    assert counts.pop(POLICY, 0) == on_policy
    assert set(counts) <= set(pool) and sum(counts.values()) == responses - on_policy
    times = [counts[member] for member in pool]
    assert max(times) - min(times) <= 1
    assert draws == draw_members(prompt, seed, POLICY, pool, responses=responses, on_policy=on_policy)


def test_members_and_their_order_are_drawn_evenly():
    """2 of 6 for each of 6,000 prompts; each member is expected 2,000 times, the policy first in half of the rows."""
    draws = [draw_members(str(i), 1, POLICY, POOL, responses=4, on_policy=2) for i in range(6000)]
    counts = Counter(draw.member for row in draws for draw in row)
    assert counts.pop(POLICY) == 12_000
    assert all(abs(counts[member] - 2000) < 5 * 2000**0.5 for member in POOL)
    assert abs(sum(row[0].member == POLICY for row in draws) - 3000) < 5 * 1500**0.5


def test_another_seed_draws_otherwise():
    def drawn(seed):
        return [draw_members(str(i), seed, POLICY, POOL, responses=4, on_policy=1) for i in range(50)]

    assert drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("pool", "responses", "on_policy", "said"),
    [
        ([], 4, 2, "pool is empty"),
        (POOL, 1, 0, "at least 2"),
        (POOL, 4, 5, "between 0 and"),
        (POOL, 4, -1, "between 0 and"),
    ],
)
def test_impossible_pools_are_refused(pool, responses, on_policy, said):
    with pytest.raises(PosttrainError, match=said):
        check_pool(pool, responses, on_policy)


def test_a_policy_alone_needs_no_pool():
    check_pool([], 4, 4)
    draws = draw_members("p", 1, POLICY, [], responses=4, on_policy=4)
    assert {draw.member for draw in draws} == {POLICY}
