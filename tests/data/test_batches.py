import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.batches import balanced_shares, epoch_order, micro_batches, packed_micro_batches, pad_batch
from posttrain.data.tokenize import Tokenized
from posttrain.errors import PosttrainError


@given(st.lists(st.integers(1, 50)), st.integers(50, 300))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths, budget):
    groups = micro_batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(0 < len(group) * max(lengths[i] for i in group) <= budget for group in groups)
    # No two neighbours would fit into one: the grouping wastes no forward pass.
    for left, right in zip(groups, groups[1:], strict=False):
        assert (len(left) + 1) * lengths[right[0]] > budget


@given(st.lists(st.integers(1, 50)), st.integers(50, 300))
def test_packed_micro_batches_are_few_full_and_hold_every_row_once(lengths, budget):
    groups = packed_micro_batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in group) for group in groups]
    assert sums == sorted(sums, reverse=True) and all(0 < total <= budget for total in sums)
    assert len(groups) <= 1 + sum(lengths) // (budget - max(lengths, default=0) + 1)


def test_a_row_over_the_budget_is_an_error_with_a_way_out():
    with pytest.raises(PosttrainError, match="20 tokens.*micro_batch_tokens"):
        micro_batches([3, 20], 10)
    with pytest.raises(PosttrainError, match="20 tokens.*micro_batch_tokens"):
        packed_micro_batches([3, 20], 10)


def test_epochs_are_fresh_shuffles_that_never_change():
    orders = [epoch_order(50, seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    assert epoch_order(8, 1, 0) == PINNED


PINNED = [3, 2, 7, 5, 6, 1, 4, 0]


def test_padding_is_on_the_right_neither_seen_nor_trained():
    rows = [
        Tokenized("a", np.array([5, 6, 7], np.int32), np.array([False, True, True])),
        Tokenized("b", np.array([8], np.int32), np.array([True])),
    ]
    batch = pad_batch(rows, pad_id=9)
    assert batch.input_ids_BT.tolist() == [[5, 6, 7], [8, 9, 9]] and batch.input_ids_BT.dtype == torch.long
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.trained_BT.tolist() == [[False, True, True], [True, False, False]]


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(1, 8))
def test_each_row_goes_to_the_rank_with_the_fewest_tokens_so_far(lengths, ranks):
    shares, tokens = [[] for _ in range(ranks)], [0] * ranks
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        to = min(range(ranks), key=lambda rank: (tokens[rank], len(shares[rank])))
        shares[to].append(index)
        tokens[to] += lengths[index]
    assert balanced_shares(lengths, ranks) == [sorted(share) for share in shares]


def test_forty_thousand_rows_are_planned_at_once():
    began = time.process_time()
    groups = packed_micro_batches([50 + i % 900 for i in range(40_000)], 4096)
    assert len(groups) > 4_800
    assert time.process_time() - began < 10  # a scan of all groups for each row would take minutes
