"""Rows that cannot be used: what is wrong with one, and the file where they are set aside."""

import errno
import json
import reprlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from posttrain.artifacts.atomic import disk_full
from posttrain.artifacts.jsonl import BadLine, dump_line
from posttrain.data.json_values import as_json
from posttrain.errors import PosttrainError

REASONS = 100


class BadRow(PosttrainError):
    """One row that cannot be used. ``reason`` says why, without naming the file or line.

    ``kind``: the reason without ``found``, what the row holds instead: rows are counted by it.
    """

    def __init__(self, kind: str, place: str = "", *, found: str = ""):
        self.kind, self.found = kind, found
        self.reason = f"{kind} ({found})" if found else kind
        super().__init__(f"{place}: {self.reason}" if place else self.reason)


brief = reprlib.repr
"""A value in a reason, in at most some hundred characters: a row may hold anything."""


def told(columns: Iterable[str]) -> str:
    """The names of a row's columns in a reason, cut too."""
    names = ", ".join(columns)
    return f"{names[:200]} …" if len(names) > 200 else names or "none"


class Rejects:
    """Sets bad rows aside in ``path`` (made when the first one comes) as {file, line, reason, row}, and counts them.

    ``row`` is the row as it was read: the parsed object, or the raw text of a line that is no JSON. Without a path
    they are only counted: where an earlier reading set them aside. ``reasons`` counts at most REASONS kinds by name,
    ``first`` tells the first row of each. What an earlier reading left in ``path`` is removed.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        if path is not None:
            path.unlink(missing_ok=True)

    def add(self, file: str, line: int, bad: BadRow | BadLine, row: Any) -> None:
        entry = as_json({"file": file, "line": line, "reason": bad.reason})
        kind = as_json(bad.kind)
        kind = kind if kind in self.reasons or len(self.reasons) < REASONS else "another reason"
        self.count += 1
        self.reasons[kind] += 1
        self.first.setdefault(kind, f"{entry['file']}:{line}: {entry['reason']}")
        if self.path is None:
            return
        try:
            row = as_json(row)
        except RecursionError:  # as a line that is no JSON
            row = json.dumps(row, default=repr)
        written = dump_line(entry | {"row": row}).encode("utf-8") + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Not fsynced row by row: a file may hold a million bad rows, and a stage killed here reads it again.
            with open(self.path, "ab") as rejected:
                rejected.write(written)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(self.path, written=self.path.stat().st_size) from error
            raise
