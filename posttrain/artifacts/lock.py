"""One builder per artifact: a lock file that names its holder and dies with it."""

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError

_held: set[Path] = set()  # by this process: POSIX record locks do not exclude a process from itself


class Lock:
    """Holds ``path`` for this process, with host and pid written inside. A context manager.

    The kernel's record lock (fcntl) is not inherited by children and ends with the process, kill -9 included, so a lock
    left by a dead process on this host is taken over at once. Raises PosttrainError when a live process, or one on
    another host that cannot be asked, holds it.
    """

    def __init__(self, path: Path, what: str):
        self.path, self.what = path.absolute(), what
        self._descriptor = -1

    def __enter__(self) -> "Lock":
        if self.path in _held:
            raise PosttrainError(f"{self.what}: this process is already building it.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = self._holder()
                os.close(self._descriptor)
                raise self._busy(holder) from None
            if self._still_there():
                break
            os.close(self._descriptor)  # its last holder removed the file between our open and our lock
        holder = self._holder()
        if holder and not _dead(holder):
            os.close(self._descriptor)
            raise self._busy(holder)
        record = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())})
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, record.encode(), 0)
        os.fsync(self._descriptor)
        _held.add(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)  # while still locked, so that nobody else's file can be the one removed
        os.close(self._descriptor)
        _held.discard(self.path)

    def _holder(self) -> dict[str, Any]:
        try:
            record = json.loads(os.pread(self._descriptor, 4096, 0))
        except ValueError:  # empty: its holder was killed before it could sign
            return {}
        return record if isinstance(record, dict) else {}

    def _still_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _busy(self, holder: dict[str, Any]) -> PosttrainError:
        who = f"process {holder.get('pid', 'unknown')} on host {holder.get('host', 'unknown')}"
        return PosttrainError(
            f"{self.what}: {who} is building it (lock file {self.path}). Wait for it or stop it; "
            "if it no longer runs, remove the lock file and run again."
        )


def held(path: Path) -> bool:
    """Whether a lock file is there whose holder lives, or is on another host that cannot be asked."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(holder, dict) and not _dead(holder)


def _dead(holder: dict[str, Any]) -> bool:
    """Whether the recorded holder is surely gone. On another host nobody can tell, so the answer is no."""
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # alive, another user's
    born = holder.get("born")
    return born is not None and _born(pid) != born  # the pid was given to a newer process


def _born(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, None where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])
