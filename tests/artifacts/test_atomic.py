import errno
import os

import pytest

from posttrain.artifacts.atomic import write_bytes, write_json, write_text, writing
from posttrain.errors import PosttrainError


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), writing(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_is_reported_with_path_bytes_and_way_out(tmp_path, monkeypatch):
    path = tmp_path / "weights.bin"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(PosttrainError) as caught:
        write_bytes(path, b"x" * 4096)
    message = str(caught.value)
    assert str(path) in message and "bytes" in message and "--runs" in message
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.bin"]


def test_other_errors_of_the_system_keep_their_own_face(tmp_path):
    (tmp_path / "a").write_text("a file, not a folder")
    with pytest.raises(NotADirectoryError):
        write_text(tmp_path / "a" / "b", "")


def test_json_is_readable_and_refuses_nan(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"grüße": [1, 2.5, None]})
    assert "grüße" in (tmp_path / "new" / "a.json").read_text()
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()
