"""Reference log-probabilities: computed once by the initial policy, kept on disk as they come, never again."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import torch

from posttrain.artifacts.atomic import write_bytes
from posttrain.artifacts.jsonl import JsonlAppender, read_jsonl
from posttrain.models.ranks import rank, world_size
from posttrain.training.loop import Progress, finite
from posttrain.training.sharding import largest_over_ranks, summed_over_ranks, wait_for_ranks

SIDES = ("chosen", "rejected")


def cached_reference(
    folder: Path,
    pairs: int,
    share: Sequence[list[int]],
    score: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    progress: Progress,
) -> dict[str, torch.Tensor]:
    """The log-probabilities of each of ``pairs``, fp32, by side, from ``folder`` or by ``score``.

    ``share``: this rank's micro-batches of pairs; ``score(n)`` is of the n-th, and every rank calls it together for the
    same ones. Each is kept when it is made, so that a run that is killed goes on from there, and all of them in
    reference.safetensors; one that is not finite is NaN, and the loop skips its step. Call it BEFORE a checkpoint is
    loaded: ``score`` then always sees the initial policy.
    """
    path = folder / "reference.safetensors"
    if not path.exists():
        part = folder / f"reference-{rank()}-of-{world_size()}.jsonl"
        with JsonlAppender(part) as kept:  # which repairs a line that a kill tore
            known = {tuple(row["pairs"]): row for _, row in read_jsonl(part)}
            mine = next((n for n, group in enumerate(share) if tuple(group) not in known), len(share))
            done = round(-float(largest_over_ranks(torch.tensor(-float(mine)))))  # what every rank has
            total = sum(map(len, share))
            progress.start("reference log-probabilities", total, "pairs", done=sum(map(len, share[:done])))
            for n, group in enumerate(share[done:], done):
                values = {s: [finite(x) for x in of_side.tolist()] for s, of_side in zip(SIDES, score(n), strict=True)}
                known[tuple(group)] = values
                kept.append({"pairs": group, **values})
                progress.advance(len(group))
        found = {side: torch.zeros(pairs) for side in SIDES}
        for group in share:
            for side in SIDES:
                values = [math.nan if value is None else value for value in known[tuple(group)][side]]
                found[side][group] = torch.tensor(values)
        whole = {side: torch.as_tensor(t, dtype=torch.float32) for side, t in summed_over_ranks(found).items()}
        if rank() == 0:
            write_bytes(path, safetensors.torch.save({side: t.contiguous() for side, t in whole.items()}))
        wait_for_ranks()
        part.unlink()
    return safetensors.torch.load_file(path)
