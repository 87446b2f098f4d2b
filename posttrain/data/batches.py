"""Rows into an order, rows into micro-batches, a micro-batch into tensors."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from posttrain.data.mixing import keyed_order
from posttrain.data.tokenize import Tokenized
from posttrain.errors import PosttrainError


@dataclass(frozen=True)
class PaddedBatch:
    """Rows padded on the right: ``input_ids_BT`` and ``attention_mask_BT`` long, ``trained_BT`` bool."""

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    trained_BT: torch.Tensor


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A fresh shuffle of ``range(count)`` for each (seed, epoch), the same on any machine."""
    return keyed_order(map(str, range(count)), seed, f"epoch {epoch}")


def micro_batches(lengths: Sequence[int], max_padded_tokens: int) -> list[list[int]]:
    """Groups of indices of like length, each of at most ``max_padded_tokens`` (rows × longest row), none empty.

    Every index stands in exactly one group. Raises PosttrainError for a row that is longer than the budget alone.
    """
    by_length = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    if by_length and lengths[by_length[-1]] > max_padded_tokens:
        raise _too_long(lengths[by_length[-1]], max_padded_tokens)
    groups: list[list[int]] = []
    for index in by_length:
        # Ascending, so the row that comes last is the longest of its group.
        if groups and (len(groups[-1]) + 1) * lengths[index] <= max_padded_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _too_long(length: int, max_tokens: int) -> PosttrainError:
    return PosttrainError(
        f"a row of {length} tokens does not fit a micro-batch of {max_tokens}: "
        "raise micro_batch_tokens or lower max_tokens in the recipe."
    )


def packed_micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """As few groups as will do, of like numbers of tokens, none over ``max_tokens`` and none empty, largest first.

    Of more than 512 groups up to one in 256 may be spared: a search one by one would take minutes for a whole set.
    """
    if lengths and max(lengths) > max_tokens:
        raise _too_long(max(lengths), max_tokens)
    count = -(-sum(lengths) // max_tokens)
    while True:
        shares = balanced_shares(lengths, count)
        if all(sum(lengths[i] for i in share) <= max_tokens for share in shares):
            return sorted((share for share in shares if share), key=lambda share: -sum(lengths[i] for i in share))
        count += max(1, count // 256)


def rank_micro_batches(
    lengths: Sequence[int], max_tokens: int, *, rank: int, ranks: int, packed: bool = False
) -> list[list[int]]:
    """One rank's share of a step's rows as `micro_batches` (or `packed_micro_batches`), as many of them on every rank.

    The ranks gather weights together, so each needs the same number of forwards: empty groups (`pad_batch` makes a row
    of padding of them) make it up. A pure function: every rank works out the shares of all.
    """
    grouped = packed_micro_batches if packed else micro_batches
    shares = [
        [[share[i] for i in group] for group in grouped([lengths[i] for i in share], max_tokens)]
        for share in balanced_shares(lengths, ranks)
    ]
    return shares[rank] + [[]] * (max(map(len, shares)) - len(shares[rank]))


def balanced_shares(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices per rank: the longest row first, each to the rank with the fewest tokens so far (Graham 1969, LPT)."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    lightest = [(0, 0, rank) for rank in range(ranks)]  # a heap: tokens, rows, rank
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        tokens, rows, rank = lightest[0]
        shares[rank].append(index)
        heapq.heapreplace(lightest, (tokens + lengths[index], rows + 1, rank))
    return [sorted(share) for share in shares]


def pad_batch(rows: Sequence[Tokenized], pad_id: int) -> PaddedBatch:
    """Tensors of shape (rows, longest row); padding is neither attended to nor trained.

    No rows give one row of one padding token, which trains nothing: a forward for ranks that have run out of rows.
    """
    shape = (max(1, len(rows)), max(map(len, rows), default=1))
    input_ids_BT = torch.full(shape, pad_id, dtype=torch.long)
    attention_mask_BT = torch.zeros(shape, dtype=torch.long)
    trained_BT = torch.zeros(shape, dtype=torch.bool)
    for b, row in enumerate(rows):
        input_ids_BT[b, : len(row)] = torch.from_numpy(row.input_ids)
        attention_mask_BT[b, : len(row)] = 1
        trained_BT[b, : len(row)] = torch.from_numpy(row.trained)
    return PaddedBatch(input_ids_BT, attention_mask_BT, trained_BT)
