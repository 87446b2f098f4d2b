"""Prompts out of rows of either kind, and records of any layout, from a file or a downloaded hub set."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from posttrain.artifacts.jsonl import BadLine
from posttrain.data.records import SUFFIXES, read_records
from posttrain.data.rejects import Rejects
from posttrain.data.rows import Conversation, VerifiablePrompt
from posttrain.data.sources import find_source
from posttrain.errors import PosttrainError
from posttrain.preferences.parts import as_prompt


def read_prompts(
    path: Path, rows: Literal["conversation", "verifiable"], rejects: Rejects, hub_mirror: Mapping[str, str]
) -> Iterator[VerifiablePrompt]:
    """Verifiable rows as they are; of conversations what comes before their last answer, without checks."""
    source = find_source(path, hub_mirror=hub_mirror)
    if rows == "conversation":
        return map(as_prompt, cast(Iterator[Conversation], source.rows("conversation", rejects=rejects, limit=None)))
    return cast(Iterator[VerifiablePrompt], source.rows("verifiable", rejects=rejects, limit=None))


def records_in(path: Path, rejects: Rejects, limit: int | None = None) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(file, number, columns) of a file, or of all data files in a folder by name; what is no record is set aside."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
        if not files:
            raise PosttrainError(f"{path}: holds no file of {', '.join(SUFFIXES)}.")
    for file in files:

        def set_aside(bad: BadLine, raw: str, place: str = str(file)) -> None:
            rejects.add(place, bad.line, bad, raw)

        for number, columns in read_records(file, limit=limit, on_bad=set_aside):
            yield str(file), number, columns
