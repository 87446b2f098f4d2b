"""Rows from files in the published layouts, and back; a bad row is set aside and the rest goes on."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, overload

from posttrain.artifacts.jsonl import BadLine, read_jsonl, write_jsonl
from posttrain.data.columns import RowKind, columns_from_row, row_from_columns
from posttrain.data.rejects import BadRow, Rejects
from posttrain.data.rows import Conversation, PreferencePair, Row, VerifiablePrompt
from posttrain.errors import PosttrainError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")

Record = tuple[int, dict[str, Any]]
"""(line or row number from 1, columns)."""


@overload
def read_rows(
    path: str | Path,
    kind: Literal["conversation"],
    *,
    rejected: Path | Rejects | None = None,
    limit: int | None = None,
    source: str | None = None,
    place: str | None = None,
) -> Iterator[Conversation]: ...
@overload
def read_rows(
    path: str | Path,
    kind: Literal["preference"],
    *,
    rejected: Path | Rejects | None = None,
    limit: int | None = None,
    source: str | None = None,
    place: str | None = None,
) -> Iterator[PreferencePair]: ...
@overload
def read_rows(
    path: str | Path,
    kind: Literal["verifiable"],
    *,
    rejected: Path | Rejects | None = None,
    limit: int | None = None,
    source: str | None = None,
    place: str | None = None,
) -> Iterator[VerifiablePrompt]: ...
@overload
def read_rows(
    path: str | Path,
    kind: RowKind,
    *,
    rejected: Path | Rejects | None = None,
    limit: int | None = None,
    source: str | None = None,
    place: str | None = None,
) -> Iterator[Row]: ...
def read_rows(
    path: str | Path,
    kind: RowKind,
    *,
    rejected: Path | Rejects | None = None,
    limit: int | None = None,
    source: str | None = None,
    place: str | None = None,
) -> Iterator[Row]:
    """Yields the rows of one .jsonl, .jsonl.gz, .json or .parquet file, of its first ``limit`` lines.

    A bad row is set aside in ``rejected`` with file, line and reason, and the rest goes on; without ``rejected`` it
    raises BadRow, since nothing may be lost. ``source`` is the source of rows that name none (default: the file's
    name), ``place`` what messages and rejects call the file (default: its path). Raises PosttrainError: no such file,
    a suffix that is not read, not one good row.
    """
    path = Path(path)
    place = place or str(path)
    rejects = Rejects(rejected) if isinstance(rejected, Path) else rejected
    records = _records(path, limit, _setting_aside(place, rejects))
    return rows_from_records(records, kind, place=place, rejects=rejects, source=source or path.name)


def rows_from_records(
    records: Iterable[Record], kind: RowKind, *, place: str, rejects: Rejects | None, source: str
) -> Iterator[Row]:
    """The rows of any numbered records, under the same rules as `read_rows`; ``place`` names them in messages."""
    good, before = 0, rejects.count if rejects else 0
    for line, columns in records:
        try:
            row = row_from_columns(kind, columns, source)
        except BadRow as bad:
            if rejects is None:
                raise BadRow(bad.reason, f"{place}:{line}") from None
            rejects.add(place, line, bad.reason, columns)
            continue
        good += 1
        yield row
    if good:
        return
    bad_rows = rejects.count - before if rejects else 0
    if not rejects or not bad_rows:
        raise PosttrainError(f"{place}: holds no rows.")
    reason, count = rejects.reasons.most_common(1)[0]
    raise PosttrainError(
        f"{place}: all {bad_rows} rows were rejected as {kind} rows; most often ({count}): {reason}. "
        f"They stand with their reasons in {rejects.path}."
    )


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Writes rows in the published layout as .jsonl or .jsonl.gz, whole or not at all; returns how many."""
    return write_jsonl(path, map(columns_from_row, rows))


BadLineHandler = Callable[[BadLine, str], None]


def _setting_aside(place: str, rejects: Rejects | None) -> BadLineHandler | None:
    if rejects is None:
        return None
    return lambda bad, raw: rejects.add(place, bad.line, bad.reason, raw)


def _records(path: Path, limit: int | None, on_bad: BadLineHandler | None) -> Iterator[Record]:
    if not path.is_file():
        raise PosttrainError(f"{path}: no such file. Check the path in the recipe or command.")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _jsonl(path, limit, on_bad)
    if path.suffix == ".json":
        return islice(_json(path), limit)
    if path.suffix == ".parquet":
        return islice(_parquet(path), limit)
    raise PosttrainError(f"{path}: rows are read from {', '.join(SUFFIXES)}; convert this file to one of them.")


def _jsonl(path: Path, limit: int | None, on_bad: BadLineHandler | None) -> Iterator[Record]:
    read = 0

    def counted(bad: BadLine, raw: str) -> None:
        nonlocal read
        read += 1
        if on_bad is None:
            raise bad
        if limit is None or read <= limit:
            on_bad(bad, raw)

    lines = read_jsonl(path, on_bad=counted)
    while limit is None or read < limit:
        try:
            record = next(lines, None)
        except BadLine as bad:
            # A damaged gzip stream ends here: the lines before it are good, the loss is on record.
            if on_bad is None:
                raise
            on_bad(bad, "")
            return
        if record is None or (limit is not None and read >= limit):
            return
        read += 1
        yield record


def _json(path: Path) -> Iterator[Record]:
    try:
        value = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PosttrainError(f"{path}: not JSON: {error}. One object a line is JSON Lines: name it .jsonl.") from None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise PosttrainError(f"{path}: a .json file must hold one list of objects.")
    yield from enumerate(value, start=1)


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for columns in batch.to_pylist():
                    number += 1
                    yield number, columns
    except pyarrow.ArrowException as error:
        raise PosttrainError(f"{path}: no readable Parquet after row {number}: {error}") from error
