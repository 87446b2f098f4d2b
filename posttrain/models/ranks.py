"""Which of the processes that share a stage's work this one is. Outside torch.distributed: the first of one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

Item = TypeVar("Item")
Found = TypeVar("Found")


def rank() -> int:
    """Counted from 0. The first one alone writes logs, reports and exported models."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def shared_out(items: Sequence[Item], work: Callable[[Sequence[Item]], Iterable[Found]]) -> list[Found]:
    """What ``work`` makes of all ``items``, each rank having done a run of neighbours: in order, on every rank.

    What it makes is sent as it is pickled. Of one process: ``work(items)``.
    """
    if world_size() == 1:
        return list(work(items))
    first, end = (len(items) * at // world_size() for at in (rank(), rank() + 1))
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, list(work(items[first:end])))
    return [one for part in found for one in part]
