"""A shelf beside a dict."""

import errno
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.artifacts.shelf import Shelf
from posttrain.errors import PosttrainError


@given(st.lists(st.tuples(st.integers(0, 9), st.text())))
def test_values_are_what_was_put_last_in_any_order(puts):
    shelf, expected = Shelf(), {}
    for number, value in puts:
        shelf.put(number, value)
        expected[number] = value
        assert shelf[number] == value
    assert [shelf.get(number) for number in range(12)] == [expected.get(number) for number in range(12)]
    assert [number for number in range(12) if number in shelf] == sorted(expected)
    assert len(shelf) == max(expected, default=-1) + 1


def test_it_is_read_as_often_as_wanted_while_it_grows_and_leaves_no_file(tmp_path):
    shelf = Shelf.of((("x" * i, i) for i in range(50)), tmp_path / "made")
    first, second = iter(shelf), iter(shelf)
    assert next(first) == ("", 0) and next(second) == ("", 0) and next(first) == ("x", 1)
    shelf.put(50, ("more", 50))
    assert next(first) == ("xx", 2) and shelf[50] == ("more", 50)
    with pytest.raises(IndexError):
        Shelf.of([1])[1]
    assert list((tmp_path / "made").iterdir()) == []


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    class Full:
        seek = staticmethod(lambda *_: 7)

        @staticmethod
        def write(_):
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(PosttrainError, match="disk is full"):
        Shelf(tmp_path).put(0, "x")
