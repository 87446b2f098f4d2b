import errno
import gzip
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.artifacts.jsonl import BadLine, JsonlAppender, read_jsonl, write_jsonl
from posttrain.errors import PosttrainError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
rows = st.lists(st.dictionaries(st.text(max_size=5), values, max_size=3), max_size=6)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
@given(rows=rows.filter(lambda rows: "\ud800" not in json.dumps(rows)))
def test_rows_come_back_as_they_were_written(tmp_path_factory, name, rows):
    path = tmp_path_factory.mktemp("rows") / name
    assert write_jsonl(path, rows) == len(rows)
    assert list(read_jsonl(path)) == list(enumerate(rows, 1))


def test_equal_rows_give_equal_bytes(tmp_path):
    write_jsonl(tmp_path / "a.jsonl.gz", [{"a": 1}])
    write_jsonl(tmp_path / "b.jsonl.gz", [{"a": 1}])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize("line", [b'{"a": 1', b"[1]", b"\xff{}", b"[" * 100_000, b"nonsense"])
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a":1}\n\n' + line + b'\n{"a":2}\n')
    with pytest.raises(BadLine) as caught:
        list(read_jsonl(path))
    assert caught.value.line == 3 and f"{path}:3" in str(caught.value)
    bad = []
    good = list(read_jsonl(path, on_bad=lambda fault, raw: bad.append((fault.line, raw))))
    assert good == [(1, {"a": 1}), (4, {"a": 2})]
    assert [number for number, _ in bad] == [3]


def test_a_missing_or_damaged_file_is_a_clear_error(tmp_path):
    with pytest.raises(PosttrainError, match="no such file"):
        list(read_jsonl(tmp_path / "absent.jsonl"))
    whole = gzip.compress(b'{"a":1}\n' * 10_000)
    (tmp_path / "torn.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadLine, match="damaged"):
        list(read_jsonl(tmp_path / "torn.jsonl.gz", on_bad=lambda *_: None))


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_torn_last_line_is_repaired_and_no_whole_row_is_lost(tmp_path, cut):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}, {"b": 22}])
    path.write_bytes(path.read_bytes()[:-cut])
    with JsonlAppender(path) as file:
        file.append({"c": 3})
    expected = [{"a": 1}, *([{"b": 22}] if cut == 1 else []), {"c": 3}]  # cut 1 takes the newline only
    assert [row for _, row in read_jsonl(path)] == expected


def test_a_full_disk_costs_the_row_that_did_not_fit_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    with JsonlAppender(path) as file:
        file.append({"a": 1})

        def full_disk(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full_disk)
            with pytest.raises(PosttrainError, match="disk is full"):
                file.append({"b": 2})
        file.append({"c": 3})
    assert [row for _, row in read_jsonl(path)] == [{"a": 1}, {"c": 3}]
