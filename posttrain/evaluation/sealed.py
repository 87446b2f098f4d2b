"""The unseen suite is sealed: running it takes a reason, and every run of it leaves a line that stays."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.artifacts.hashing import digest_json
from posttrain.artifacts.jsonl import JsonlAppender, read_jsonl
from posttrain.artifacts.manifest import NAME as MANIFEST
from posttrain.artifacts.manifest import read_manifest
from posttrain.errors import PosttrainError

LOG = "unsealed.jsonl"


def check_seal(suite: str, reason: str | None) -> None:
    """Raises PosttrainError if ``suite`` is the unseen one and no reason is given."""
    if suite == "unseen" and not (reason or "").strip():
        raise PosttrainError(
            "the unseen suite is sealed: it may not guide any choice of data or settings. To look at it after all "
            'training, give a reason (--unseal "final table", or unseal: in the recipe); the act is recorded.'
        )


def run_folder(model: Path) -> Path | None:
    """The run that made a model, ``runs/RECIPE`` for ``runs/RECIPE/STAGE/KEY``; None for any other folder."""
    if not (model / MANIFEST).is_file():
        return None
    manifest = read_manifest(model)
    made_here = (manifest.get("stage"), manifest.get("key")) == (model.parent.name, model.name)
    return model.parent.parent if made_here else None


def record_unsealing(
    folders: Iterable[Path], reason: str, models: Mapping[str, str], tasks: Sequence[str], asked: Mapping[str, Any]
) -> None:
    """Appends the act to the log of each folder: when, why, which models (label → identity of weights), which tasks.

    ``asked`` is all else that decides the answers: limits, chat template, RoPE positions. The same weights asked the
    same are one look, however often a killed run is resumed.
    """
    act = digest_json([sorted(models.values()), sorted(tasks), dict(asked)])
    when = datetime.now(UTC).isoformat(timespec="seconds")
    line = {
        "act": act,
        "when": when,
        "reason": reason,
        "models": dict(models),
        "tasks": list(tasks),
        "asked": dict(asked),
    }
    for log in {folder / LOG for folder in folders}:
        if act not in _acts(log):
            with JsonlAppender(log) as lines:
                lines.append(line)


def count_unsealings(folders: Iterable[Path]) -> int:
    """How often the unseen suite was looked at, by the logs in these folders together."""
    return len(set().union(*(_acts(folder / LOG) for folder in folders)))


def _acts(log: Path) -> set[str]:
    return {row["act"] for _, row in read_jsonl(log)} if log.is_file() else set()
