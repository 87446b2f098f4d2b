"""Rows from files in the published layouts, and back; a bad row is set aside and the rest goes on."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, overload

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.data.columns import RowKind, columns_from_row, row_from_columns
from posttrain.data.layouts import AS_PUBLISHED, Layout, from_texts, published
from posttrain.data.records import DELIMITED, BadLineHandler, Record, read_records
from posttrain.data.rejects import BadRow, Rejects
from posttrain.data.rows import Conversation, PreferencePair, Row, VerifiablePrompt
from posttrain.errors import PosttrainError


@overload
def read_rows(
    path: str | Path,
    kind: Literal["conversation"],
    *,
    rejected: Path | Rejects | None = None,
    limit: int | None = None,
    source: str | None = None,
    place: str | None = None,
    layout: Layout = AS_PUBLISHED,
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
    layout: Layout = AS_PUBLISHED,
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
    layout: Layout = AS_PUBLISHED,
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
    layout: Layout = AS_PUBLISHED,
) -> Iterator[Row]: ...
def read_rows(
    path: str | Path,
    kind: RowKind,
    *,
    rejected: Path | Rejects | None = None,
    limit: int | None = None,
    source: str | None = None,
    place: str | None = None,
    layout: Layout = AS_PUBLISHED,
) -> Iterator[Row]:
    """Yields the rows of one file (records.SUFFIXES), of its first ``limit`` lines, whose columns ``layout`` describes.

    A bad row is set aside in ``rejected`` with file, line and reason, and the rest goes on; without ``rejected`` it
    raises BadRow, since nothing may be lost. ``source`` is the source of rows that name none (default: the file's
    name), ``place`` what messages and rejects call the file (default: its path). Raises PosttrainError: no such file,
    a suffix that is not read, not one good row.
    """
    numbered = numbered_rows(path, kind, rejected=rejected, limit=limit, source=source, place=place, layout=layout)
    return (row for _, row in numbered)


def numbered_rows(
    path: str | Path,
    kind: RowKind,
    *,
    rejected: Path | Rejects | None = None,
    limit: int | None = None,
    source: str | None = None,
    place: str | None = None,
    layout: Layout = AS_PUBLISHED,
) -> Iterator[tuple[int, Row]]:
    """As `read_rows`, each row with the number of the line on which it begins (in Parquet and JSON of the row)."""
    path = Path(path)
    place = place or str(path)
    rejects = Rejects(rejected) if isinstance(rejected, Path) else rejected
    records = read_records(path, limit=limit, on_bad=_setting_aside(place, rejects), header=layout.header)
    if path.suffix in DELIMITED:
        records = ((line, from_texts(columns, layout)) for line, columns in records)
    name = source or path.name
    return rows_from_records(records, kind, place=place, rejects=rejects, source=name, layout=layout)


def rows_from_records(
    records: Iterable[Record],
    kind: RowKind,
    *,
    place: str,
    rejects: Rejects | None,
    source: str,
    layout: Layout = AS_PUBLISHED,
) -> Iterator[tuple[int, Row]]:
    """The rows of any numbered records, under the rules of `read_rows`; ``place`` names them in messages."""
    good, before = 0, rejects.count if rejects else 0
    for line, columns in records:
        try:
            row = row_from_columns(kind, published(kind, columns, layout), source)
        except BadRow as bad:
            if rejects is None:
                raise BadRow(bad.kind, f"{place}:{line}", found=bad.found) from None
            rejects.add(place, line, bad, columns)
            continue
        good += 1
        yield line, row
    if good:
        return
    bad_rows = rejects.count - before if rejects else 0
    if not rejects or not bad_rows:
        raise PosttrainError(f"{place}: holds no rows.")
    reason, count = rejects.reasons.most_common(1)[0]
    raise PosttrainError(
        f"{place}: all {bad_rows} rows were rejected as {kind} rows; most often ({count}): {rejects.first[reason]}."
        + (f" They stand with their reasons in {rejects.path}." if rejects.path else "")
    )


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Writes rows in the published layout as .jsonl or .jsonl.gz, whole or not at all; returns how many."""
    return write_jsonl(path, map(columns_from_row, rows))


def _setting_aside(place: str, rejects: Rejects | None) -> BadLineHandler | None:
    if rejects is None:
        return None
    return lambda bad, raw: rejects.add(place, bad.line, bad, raw)
