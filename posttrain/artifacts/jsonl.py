"""JSON Lines: read with the line number of every fault, written whole, or appended so that a kill costs no row."""

import errno
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.artifacts.atomic import disk_full, writing
from posttrain.errors import PosttrainError


class BadLine(PosttrainError):
    """A line that is no JSON object. ``line`` counts from 1. ``kind``: the ``reason`` without what only it says."""

    def __init__(self, path: Path, line: int, kind: str, found: str = ""):
        self.path, self.line, self.kind = path, line, kind
        self.reason = f"{kind} ({found})" if found else kind
        super().__init__(f"{path}:{line}: {self.reason}")


def read_jsonl(
    path: str | os.PathLike[str], *, on_bad: Callable[[BadLine, str], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a ``.jsonl`` or ``.jsonl.gz`` file; blank lines are skipped.

    A bad line raises BadLine, or, with ``on_bad``, is handed to it with its raw text and left out. A missing file
    raises PosttrainError, a damaged gzip stream BadLine (never ``on_bad``: all that follows is lost).
    """
    path = Path(path)
    if not path.is_file():
        raise PosttrainError(f"{path}: no such file. Check the path in the recipe or command.")
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # noqa: SIM115
    number = 0
    with opened as file:
        lines = iter(file)
        while True:
            try:
                raw = next(lines, None)
            except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
                raise BadLine(path, number + 1, f"the compressed file is damaged: {error}") from error
            if raw is None:
                return
            number += 1
            if not raw.strip():
                continue
            fault, value = _parse(raw)
            if fault is None:
                yield number, value
                continue
            bad = BadLine(path, number, *fault)
            if on_bad is None:
                raise bad
            on_bad(bad, raw.decode("utf-8", errors="replace").rstrip("\r\n"))


def dump_line(row: Mapping[str, Any]) -> str:
    """One row as compact UTF-8 JSON without a newline. NaN raises ValueError."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes the rows to ``path``, whole or not at all, gzipped if it ends in ``.gz``; returns how many."""
    count = 0
    with writing(path) as file:
        # mtime=0 and no name: equal rows give equal bytes, so that a rerun has the same digest.
        zipped = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if Path(path).suffix == ".gz" else None
        for row in rows:
            (zipped or file).write(dump_line(row).encode("utf-8") + b"\n")
            count += 1
        if zipped is not None:
            zipped.close()
    return count


class JsonlAppender:
    """Appends rows one by one, each on the disk when ``append`` returns. Repairs a torn last line when opened.

    A process killed while it wrote leaves a last line without a newline: if that line is a whole object it gets its
    newline, otherwise it is cut off. A full disk raises PosttrainError and leaves the file at its last whole row.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 — closed by close()
        self._repair()

    def _repair(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        start = end
        tail = b""
        while start > 0 and b"\n" not in tail:
            step = min(start, 1 << 16)
            start -= step
            self._file.seek(start)
            tail = self._file.read(step) + tail
        last = tail[tail.rfind(b"\n") + 1 :]
        if not last:
            return
        if _parse(last)[0] is None:
            self._file.write(b"\n")
        else:
            self._file.truncate(end - len(last))

    def append(self, row: Mapping[str, Any]) -> None:
        self.append_all([row])

    def append_all(self, rows: Iterable[Mapping[str, Any]]) -> list[int]:
        """Appends rows with one wait for the disk, all or none of them; returns their lengths in bytes."""
        lines = [dump_line(row).encode("utf-8") + b"\n" for row in rows]
        if not lines:
            return []
        data = b"".join(lines)
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(self.path, written=end) from error
            raise
        return list(map(len, lines))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "JsonlAppender":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(raw: bytes) -> tuple[tuple[str, str] | None, Any]:
    """(what is wrong and where, or None; the object)."""
    try:
        value = json.loads(raw)
    except UnicodeDecodeError as error:
        return ("not UTF-8", f"byte {error.start} of the line"), None
    except json.JSONDecodeError as error:
        return (f"not JSON: {error.msg}", f"column {error.colno}"), None
    except RecursionError:
        return ("not JSON that can be read: nested too deeply", ""), None
    except ValueError as error:  # a number of more digits than Python converts
        return ("not JSON that can be read", str(error)), None
    if not isinstance(value, dict):
        return (f"a JSON object is wanted, not {type(value).__name__}", ""), None
    return None, value
