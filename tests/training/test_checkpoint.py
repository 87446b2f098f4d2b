"""Checkpoints: whole or absent, the last two, the same bits back."""

import builtins
import errno
import threading
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from posttrain.errors import PosttrainError
from posttrain.training.checkpoint import CheckpointWriter, checkpoints, load_latest, save_checkpoint
from posttrain.training.optimizer import build_adamw


def trained(seed: int, steps: int):
    torch.manual_seed(seed)
    module = torch.nn.Linear(4, 3)
    optimizer = build_adamw(module.parameters(), 1e-2)
    for _ in range(steps):
        module(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def one_more_step(module, optimizer):
    module(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_training_goes_on_to_the_bit_after_a_load(tmp_path):
    module, optimizer = trained(0, 3)
    save_checkpoint(tmp_path, 3, modules={"m": module}, optimizers={"o": optimizer}, extra={"note": "three"})
    expected = one_more_step(module, optimizer)  # uses torch's random state, which the checkpoint holds

    fresh, fresh_optimizer = trained(99, 1)
    assert load_latest(tmp_path, modules={"m": fresh}, optimizers={"o": fresh_optimizer}) == (3, {"note": "three"})
    assert torch.equal(one_more_step(fresh, fresh_optimizer), expected)


def test_only_the_last_two_are_kept_and_the_newest_is_read(tmp_path):
    module, optimizer = trained(0, 1)
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, modules={"m": module}, optimizers={"o": optimizer})
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000010.pt", "step-00000015.pt"]
    assert load_latest(tmp_path, modules={"m": module}, optimizers={"o": optimizer}) == (15, {})
    assert load_latest(tmp_path / "absent", modules={"m": module}, optimizers={"o": optimizer}) is None


@pytest.mark.parametrize("damaged", [lambda whole: whole[:-200], lambda whole: whole[:20], lambda whole: b""])
@pytest.mark.parametrize("filled", [lambda part, whole: part, lambda part, whole: part.ljust(len(whole), b"\0")])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, damaged, filled):
    """Cut short, and with zeros in place of what is lost, as a power cut leaves files."""
    module, optimizer = trained(0, 1)
    for step in (5, 10):
        last = save_checkpoint(tmp_path, step, modules={"m": module}, optimizers={"o": optimizer})
    whole = last.read_bytes()
    last.write_bytes(filled(damaged(whole), whole))
    with pytest.warns(UserWarning, match="damaged"):
        assert load_latest(tmp_path, modules={"m": module}, optimizers={"o": optimizer}) == (5, {})


def test_a_damaged_checkpoint_is_set_aside_and_its_step_written_again(tmp_path):
    module, optimizer = trained(0, 1)
    live: dict[str, Any] = dict(modules={"m": module}, optimizers={"o": optimizer})
    for step in (5, 10):
        last = save_checkpoint(tmp_path, step, **live)
    last.write_bytes(last.read_bytes()[:-200])
    with pytest.warns(UserWarning, match="damaged"):
        load_latest(tmp_path, **live)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000005.pt"]
    save_checkpoint(tmp_path, 10, **live)
    assert load_latest(tmp_path, **live) == (10, {})


def test_the_only_checkpoint_damaged_ends_the_run_and_the_next_begins_anew(tmp_path):
    module, optimizer = trained(0, 1)
    live: dict[str, Any] = dict(modules={"m": module}, optimizers={"o": optimizer})
    only = save_checkpoint(tmp_path, 5, **live)
    only.write_bytes(only.read_bytes()[:-200])
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(PosttrainError, match="the only checkpoint"):
        load_latest(tmp_path, **live)
    assert load_latest(tmp_path, **live) is None


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    module, optimizer = trained(0, 1)
    left = tmp_path / ".step-00000005.pt.99.aa.tmp"
    left.write_bytes(b"half")
    save_checkpoint(tmp_path, 10, modules={"m": module}, optimizers={"o": optimizer})
    assert not left.exists()


def test_a_full_disk_is_named_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    module, optimizer = trained(0, 1)
    save_checkpoint(tmp_path, 5, modules={"m": module}, optimizers={"o": optimizer})

    real_open = builtins.open

    def full(path, mode="r", *rest, **named):
        file = real_open(path, mode, *rest, **named)
        if "w" in mode and str(tmp_path) in str(path):

            def refuse(data):
                raise OSError(errno.ENOSPC, "No space left on device")

            file.close()

            class Full:
                write = staticmethod(refuse)
                flush = staticmethod(lambda: None)
                __enter__ = lambda self: self  # noqa: E731
                __exit__ = lambda self, *_: None  # noqa: E731

            return Full()
        return file

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(PosttrainError, match="step-00000010.pt"):
        save_checkpoint(tmp_path, 10, modules={"m": module}, optimizers={"o": optimizer})
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005.pt"]
    assert load_latest(tmp_path, modules={"m": module}, optimizers={"o": optimizer}) == (5, {})


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    module, optimizer = trained(0, 1)
    save_checkpoint(tmp_path, 5, modules={"m": module}, optimizers={"o": optimizer})
    other = torch.nn.Linear(4, 7)
    with pytest.raises(PosttrainError, match="another model"):
        load_latest(tmp_path, modules={"m": other}, optimizers={"o": build_adamw(other.parameters(), 1e-2)})
    with pytest.raises(PosttrainError, match="modules"):
        load_latest(tmp_path, modules={"m": module, "value": other}, optimizers={"o": optimizer})


def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_reach_it(tmp_path, monkeypatch):
    module, optimizer = trained(0, 1)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    go, save = threading.Event(), torch.save

    def slow(*args):
        assert go.wait(10)
        save(*args)

    monkeypatch.setattr(torch, "save", slow)
    writer = CheckpointWriter(tmp_path)
    writer.begin(5, modules={"m": module}, optimizers={"o": optimizer})
    one_more_step(module, optimizer)
    assert checkpoints(tmp_path) == []
    go.set()
    writer.finish()
    assert load_latest(tmp_path, modules={"m": module}, optimizers={"o": optimizer}) == (5, {})
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    assert all(state["step"] == 1 for state in optimizer.state.values())


def test_a_write_that_failed_behind_the_training_is_told_at_the_next(tmp_path, monkeypatch):
    module, optimizer = trained(0, 1)
    state = dict(modules={"m": module}, optimizers={"o": optimizer})
    writer = CheckpointWriter(tmp_path)
    writer.begin(5, **state)
    writer.finish()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    writer.begin(10, **state)
    with pytest.raises(PosttrainError, match="step-00000010.pt"):
        writer.begin(15, **state)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005.pt"]


def folder_of_ranks(folder, step, module, optimizer):
    """A checkpoint as ranks write it, by one process."""
    state = {name: dict(optimizer.state[parameter]) for name, parameter in module.named_parameters()}
    saved, target = {"m": {"module": module.state_dict(), "optimizer": state}}, folder / f"step-{step:08d}"
    dcp.save(saved, storage_writer=dcp.FileSystemWriter(target), no_dist=True)
    torch.save({"step": step, "extra": {}, "random_state": torch.get_rng_state(), "threads": 1}, target / "extra.pt")
    return target


def shards(folder):
    (found,) = folder.glob("*.distcp")
    return found


@pytest.mark.parametrize("keeps", [0, 0.3, 0.97])
@pytest.mark.parametrize("part", [shards, lambda folder: folder / "extra.pt", lambda folder: folder / ".metadata"])
def test_a_folder_of_which_a_part_is_cut_short_is_set_aside(tmp_path, part, keeps):
    module, optimizer = trained(0, 1)
    live: dict[str, Any] = dict(modules={"m": module}, optimizers={"m": optimizer})
    last = [folder_of_ranks(tmp_path, step, module, optimizer) for step in (5, 10)][-1]
    damaged = part(last)
    damaged.write_bytes(damaged.read_bytes()[: int(keeps * damaged.stat().st_size)])
    with pytest.warns(UserWarning, match="damaged"):
        assert load_latest(tmp_path, **live) == (5, {})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000005"]


@pytest.mark.parametrize(
    "reason",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4321"),
        KeyboardInterrupt(),
    ],
    ids=["no memory", "no GPU memory", "a lost rank", "Ctrl-C"],
)
@pytest.mark.parametrize("where", ["file", "extra.pt", "shards", "between ranks"])
def test_what_is_no_damage_leaves_the_checkpoint_alone(tmp_path, monkeypatch, where, reason):
    module, optimizer = trained(0, 1)
    live: dict[str, Any] = dict(modules={"m": module}, optimizers={"m": optimizer})
    if where == "file":
        save_checkpoint(tmp_path, 10, **live)
    else:
        folder_of_ranks(tmp_path, 10, module, optimizer)
    load, calls = torch.load, []

    def fails(*arguments, **options):
        calls.append(arguments)
        if len(calls) == (2 if where == "shards" else 1):  # DCP reads with torch.load and wraps what it raises
            raise reason
        return load(*arguments, **options)

    monkeypatch.setattr(*((dcp, "load") if where == "between ranks" else (torch, "load")), fails)
    with pytest.raises(type(reason)) as caught:
        load_latest(tmp_path, **live)
    assert caught.value is reason
    monkeypatch.undo()
    assert load_latest(tmp_path, **live) == (10, {})
