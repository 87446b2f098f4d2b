"""Which rows each optimizer step learns from, decided before the first one.

The plan is a pure function of data and seed, so a resumed run needs no saved data position: step k is step k.
"""

from collections.abc import Iterable, Sequence


def plan_steps(orders: Iterable[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Cuts each epoch's order into batches. An epoch's last batch may be smaller: no row is dropped."""
    return [list(order[i : i + batch_size]) for order in orders for i in range(0, len(order), batch_size)]


def plan_tokens(
    orders: Iterable[Sequence[int]], batch_size: int, tokens_of_row: Sequence[int], budget: int
) -> list[list[int]]:
    """As many batches as it takes to train on at least ``budget`` tokens, over ``orders`` without end."""
    plan: list[list[int]] = []
    tokens = 0
    for order in orders:
        for batch in plan_steps([order], batch_size):
            if tokens >= budget:
                return plan
            plan.append(batch)
            tokens += sum(tokens_of_row[row] for row in batch)
    return plan
