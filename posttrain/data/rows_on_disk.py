"""Rows that are kept in a file and read again one at a time: a mixture may be larger than memory."""

import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from posttrain.artifacts.jsonl import dump_line
from posttrain.data.columns import RowKind, columns_from_row, row_from_columns
from posttrain.data.rows import Row


class RowsOnDisk:
    """N rows in one file of the published layout. Only their ids and places are in memory, some 100 bytes a row.

    The file lives as long as its maker lets it; the rows must not be read once it is gone.
    """

    def __init__(self, path: Path, kind: RowKind, rows: Iterable[Row]):
        self.path, self.kind = path, kind
        self.ids: list[str] = []
        self._begins = array("Q")
        begin = 0
        with open(path, "wb") as file:
            for row in rows:
                self.ids.append(row.id)
                self._begins.append(begin)
                begin += file.write(dump_line(columns_from_row(row)).encode("utf-8") + b"\n")
        self._file = open(path, "rb")  # noqa: SIM115: read for as long as the rows are

    def kept(self, positions: Iterable[int]) -> "RowsOnDisk":
        """The rows at ``positions``, in that order, of the same file."""
        some = object.__new__(RowsOnDisk)
        some.path, some.kind, some._file = self.path, self.kind, self._file
        chosen = list(positions)
        some.ids = [self.ids[position] for position in chosen]
        some._begins = array("Q", (self._begins[position] for position in chosen))
        return some

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int, /) -> Row:
        self._file.seek(self._begins[position])
        return row_from_columns(self.kind, json.loads(self._file.readline()), "")

    def __iter__(self) -> Iterator[Row]:
        return (self[position] for position in range(len(self)))
