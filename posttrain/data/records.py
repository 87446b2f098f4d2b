"""Numbered records from files: JSON Lines, JSON, Parquet, CSV and TSV, all but .json streamed."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.artifacts.jsonl import BadLine, read_jsonl
from posttrain.data.json_values import is_unicode
from posttrain.data.rejects import brief
from posttrain.errors import PosttrainError

DELIMITED = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", *DELIMITED)

Record = tuple[int, dict[str, Any]]
"""(line or row number from 1, columns)."""

BadLineHandler = Callable[[BadLine, str], None]


def read_records(
    path: Path, *, limit: int | None, on_bad: BadLineHandler | None, header: Sequence[str] | None = None
) -> Iterator[Record]:
    """The records of the first ``limit`` lines; ``on_bad`` gets what is no record, with its raw text, else it raises.

    ``header``: the columns of a CSV or TSV file that has no header line. A TSV file has no quotes: what stands between
    two tabs is a value. Raises PosttrainError: no such file, a suffix that is not read, a damaged Parquet file.
    """
    if not path.is_file():
        raise PosttrainError(f"{path}: no such file. Check the path in the recipe or command.")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _numbered(read_jsonl, path, limit, on_bad)
    if path.suffix in DELIMITED:
        return _numbered(lambda path, on_bad: _delimited(path, header, on_bad), path, limit, on_bad)
    if path.suffix == ".json":
        return islice(_json(path), limit)
    if path.suffix == ".parquet":
        return islice(_parquet(path), limit)
    raise PosttrainError(f"{path}: rows are read from {', '.join(SUFFIXES)}; convert this file to one of them.")


def _numbered(
    reader: Callable[..., Iterator[Record]], path: Path, limit: int | None, on_bad: BadLineHandler | None
) -> Iterator[Record]:
    read = 0

    def counted(bad: BadLine, raw: str) -> None:
        nonlocal read
        read += 1
        if on_bad is None:
            raise bad
        if limit is None or read <= limit:
            on_bad(bad, raw)

    lines = reader(path, on_bad=counted)
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
            _apart(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1024):
                for columns in batch.to_pylist():
                    number += 1
                    yield number, columns
    except pyarrow.ArrowException as error:
        raise PosttrainError(f"{path}: no readable Parquet after row {number}: {error}") from error


class _Lines:
    """The lines of a file, with those taken since the last record."""

    def __init__(self, file):
        self._file, self.number, self.first = file, 0, 1
        self._taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.number += 1
        self._taken.append(line)
        return line

    def begin(self) -> None:
        self.first = self.number + 1
        self._taken.clear()

    @property
    def raw(self) -> str:
        return "".join(self._taken)


def _delimited(path: Path, header: Sequence[str] | None, on_bad: BadLineHandler) -> Iterator[Record]:
    """Records by the line on which they begin. Cells are texts, None where they are empty."""
    csv.field_size_limit(sys.maxsize)  # its own limit of 128 KiB cuts no line, it refuses the file
    dialect: dict[str, Any] = {"strict": True}
    if path.suffix == ".tsv":
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file)
        rows = csv.reader(lines, **dialect)
        names = _apart(path, header) if header else None
        while True:
            lines.begin()
            fault: tuple[str, ...] = ()
            cells: list[str] | None = None
            try:
                cells = next(rows, None)
            except csv.Error as error:
                fault = (f"not {path.suffix[1:].upper()}: {error}",)
                if "unexpected end of data" in str(error):
                    fault = ("a quote is opened and never closed", f"all to line {lines.number} would be its text")
            if cells is None and not fault:
                return
            if cells == []:
                continue
            if cells and not all(map(is_unicode, cells)):
                fault = ("not UTF-8",)
            if not fault and names is None:
                names = _apart(path, cells or ())
                continue
            if not fault and len(cells or ()) != len(names or ()):
                found = f"{len(cells or ())} fields where the header names {len(names or ())}"
                fault = ("more or fewer fields than the header names", found)
            if fault:
                on_bad(BadLine(path, lines.first, *fault), lines.raw.rstrip("\r\n"))
                continue
            yield lines.first, {name: cell or None for name, cell in zip(names or (), cells or (), strict=True)}


def _apart(path: Path, names: Sequence[str]) -> list[str]:
    """The names of the columns. PosttrainError where one is repeated: its first values would be lost."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise PosttrainError(f"{path}: more than one column is named {brief(repeated[0])}; give each its own name.")
    return list(names)
