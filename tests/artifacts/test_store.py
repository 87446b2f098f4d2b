import json
import os
import signal
import socket
import time

import pytest

from posttrain.artifacts.hashing import digest_file, digest_folder, digest_json
from posttrain.artifacts.lock import Lock
from posttrain.artifacts.store import Store
from posttrain.errors import PosttrainError


def build(store, stage="sft", key="k1", content="weights"):
    with store.build(stage, key) as building:
        (building.output / "sub").mkdir()
        (building.output / "sub" / "model.bin").write_text(content)
        return store.finish(building, {"kind": "sft", "seconds": 1.0, "inputs": {}})


def test_an_artifact_is_found_again_with_what_made_it(tmp_path):
    store = Store(tmp_path, "quickstart")
    assert store.find("sft", "k1") is None
    made = build(store)
    found = store.find("sft", "k1")
    assert found is not None and found == made
    assert found.path == tmp_path / "quickstart" / "sft" / "k1"
    assert found.manifest["files"] == {
        "sub/model.bin": {"sha256": digest_file(found.path / "sub" / "model.bin"), "bytes": 7}
    }
    assert os.listdir(tmp_path / "quickstart" / "sft") == ["k1"]


def test_sibling_recipes_share_finished_work_of_the_same_stage_and_key(tmp_path):
    made = build(Store(tmp_path, "quickstart"))
    other = Store(tmp_path, "controls")
    assert other.find("sft", "k1") == made
    assert other.find("sft", "k2") is None
    assert other.find("dpo", "k1") is None


def test_an_unfinished_build_leaves_no_artifact_and_keeps_its_checkpoints(tmp_path):
    store = Store(tmp_path, "quickstart")
    with pytest.raises(RuntimeError), store.build("sft", "k1") as building:
        (building.output / "half").write_text("half")
        (building.checkpoints / "step-1").write_text("state")
        raise RuntimeError
    assert store.find("sft", "k1") is None
    assert store.has_checkpoints("sft", "k1")
    with store.build("sft", "k1") as building:
        assert not any(building.output.iterdir())
        assert (building.checkpoints / "step-1").read_text() == "state"
        store.finish(building, {})
    assert not store.has_checkpoints("sft", "k1")


@pytest.mark.parametrize("damage", ["remove", "truncate"])
def test_a_damaged_artifact_is_refused_by_name(tmp_path, damage):
    store = Store(tmp_path, "quickstart")
    file = build(store).path / "sub" / "model.bin"
    file.unlink() if damage == "remove" else file.write_text("w")
    with pytest.raises(PosttrainError, match="model.bin"):
        store.find("sft", "k1")


def held_by_a_child(path):
    """Pid of a forked process that holds the lock until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with Lock(path, "sft k1"):
            os.write(writer, b"!")
            time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    return child


def test_a_live_lock_names_its_holder_and_a_dead_one_is_taken_over(tmp_path):
    path = tmp_path / ".lock-k1"
    child = held_by_a_child(path)
    try:
        with pytest.raises(PosttrainError) as caught, Lock(path, "sft k1"):
            pass
        assert str(child) in str(caught.value) and socket.gethostname() in str(caught.value)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert path.exists()  # kill -9 leaves it behind
    with Lock(path, "sft k1"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_lock_of_another_host_is_never_taken_over(tmp_path):
    path = tmp_path / ".lock-k1"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": 1}))
    with pytest.raises(PosttrainError, match="elsewhere"), Lock(path, "sft k1"):
        pass


def test_a_reused_pid_does_not_keep_a_dead_lock_alive(tmp_path):
    path = tmp_path / ".lock-k1"
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getppid(), "born": 1}))
    with Lock(path, "sft k1"):
        pass


def test_a_lock_signed_by_a_living_process_holds_even_where_the_kernel_keeps_no_locks(tmp_path):
    path = tmp_path / ".lock-k1"
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getppid()}))
    with pytest.raises(PosttrainError), Lock(path, "sft k1"):
        pass


def test_one_process_cannot_build_the_same_key_twice_at_once(tmp_path):
    store = Store(tmp_path, "quickstart")
    with store.build("sft", "k1"), pytest.raises(PosttrainError), store.build("sft", "k1"):
        pass


def test_digests_tell_contents_and_names_apart(tmp_path):
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 1.0})
    digests = set()
    for number, (name, text) in enumerate([("a", "x"), ("b", "x"), ("a", "y")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text(text)
        digests.add(digest_folder(folder))
        (folder / ".cache").write_text("not part of it")
        digests.add(digest_folder(folder))
    assert len(digests) == 3
