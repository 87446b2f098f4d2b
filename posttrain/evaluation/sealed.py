"""The unseen suite is sealed: running it takes a reason, and every run of it leaves a line that stays."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from posttrain.artifacts.hashing import digest_json
from posttrain.artifacts.jsonl import JsonlAppender, read_jsonl
from posttrain.errors import PosttrainError

LOG = "unsealed.jsonl"


def check_seal(suite: str, reason: str | None) -> None:
    """Raises PosttrainError if ``suite`` is the unseen one and no reason is given."""
    if suite == "unseen" and not (reason or "").strip():
        raise PosttrainError(
            "the unseen suite is sealed: it may not guide any choice of data or settings. To look at it after all "
            'training, give a reason (--unseal "final table", or unseal: in the recipe); the act is recorded.'
        )


def record_unsealing(log: Path, reason: str, models: Mapping[str, str], tasks: Sequence[str]) -> None:
    """Appends the act to ``log``: when, why, which models (label → identity of the weights), which tasks.

    The same weights on the same tasks are one look, however often a killed run is resumed.
    """
    act = digest_json([sorted(models.values()), sorted(tasks)])
    if log.is_file() and any(row.get("act") == act for _, row in read_jsonl(log)):
        return
    with JsonlAppender(log) as lines:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        lines.append({"act": act, "when": when, "reason": reason, "models": dict(models), "tasks": list(tasks)})


def count_unsealings(log: Path) -> int:
    """How often the unseen suite was looked at, by this log."""
    return sum(1 for _ in read_jsonl(log)) if log.is_file() else 0
