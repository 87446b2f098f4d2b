"""The processes behind a sandbox: a zygote, started once, and the jails it forks, each for one program or checker."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from posttrain.errors import PosttrainError
from posttrain.sandbox.zygote import DENIED, READY, STATUS

ALLOW_DEGRADED = "POSTTRAIN_ALLOW_DEGRADED_SANDBOX"  # environment variable; "1" allows verifiers a degraded sandbox

_START_SECONDS = 60.0  # until the zygote is ready, on a machine under load
_END_SECONDS = 30.0  # until a killed process is gone
_KILLED = "the sandbox's own process was killed from outside; is the machine out of memory? Try again"
_BEGIN = """
import sys
sys.path.insert(0, sys.argv[1])
from posttrain.sandbox.zygote import main
import json
sys.path.pop(0)
main(*json.loads(sys.argv[2]))
"""


class SandboxRefused(PosttrainError):
    """Namespaces are required, and this machine permits none."""


@dataclass(frozen=True)
class Limits:
    """Per sandboxed process; ``processes`` (threads too) and ``scratch`` for it and its descendants together. Bytes."""

    memory: int = 2**30
    processes: int = 16
    file_size: int = 16 * 2**20
    scratch: int = 64 * 2**20
    files: int = 64
    output: int = 2**20


@dataclass
class Zygote:
    """The process that forks the jails."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    stderr: IO[bytes]

    def end(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()
        self.stderr.close()


@dataclass
class Jail:
    """A sandboxed process, by the socket of its zygote. ``ended`` once it and all its descendants are gone."""

    control: socket.socket
    ended: tuple[int, float, float] | None = field(default=None)

    def kill(self) -> None:
        """Have it killed, without waiting for that."""
        if self.ended is None:
            self.control.shutdown(socket.SHUT_WR)

    def end(self) -> tuple[int, float, float]:
        """Kill it unless it has ended; (exit status, CPU seconds, peak memory)."""
        if self.ended is None:
            self.kill()
            self.control.settimeout(_END_SECONDS)
            told = b"".join(iter(lambda: self.control.recv(1000), b""))
            if len(told) > STATUS.size:
                reason = told[: -STATUS.size].decode(errors="replace")
                raise PosttrainError(f"the sandbox could not set up a process for a program: {reason}")
            if len(told) != STATUS.size:
                raise PosttrainError(_KILLED)
            status, cpu, memory = STATUS.unpack(told)
            self.ended = (os.waitstatus_to_exitcode(status) if status >= 0 else 70), cpu, memory
        return self.ended


class Jailer:
    """Starts the zygote when it is first needed, and has it make jails within ``limits``."""

    def __init__(self, limits: Limits, *, required: bool, reason: str):
        self.limits = limits
        self.zygotes: list[Zygote] = []  # one, or none
        self.reason = reason  # why programs are not isolated; empty when they are
        self._required = required

    def end(self) -> None:
        """End the zygote, and all jails with it."""
        while self.zygotes:
            self.zygotes.pop().end()

    def jail(self, stack: ExitStack, role: str, seconds: float, inside: Sequence[Any], *, waiting: int = 0) -> Jail:
        """A new sandboxed process in ``role`` (docs/sandbox.md) for ``seconds``, which holds the files ``inside``.

        Processes that wait beside it (``waiting``) take nothing from what it may start."""
        limits = {
            "cpu_seconds": cpu_limit(seconds),
            "memory": self.limits.memory,
            "processes": self.limits.processes + waiting,
            "file_size": self.limits.file_size,
            "files": self.limits.files,
            "scratch": self.limits.scratch,
        }
        message = json.dumps({"role": role, "limits": limits}).encode()
        ours, theirs = pair(stack)
        descriptors = [theirs.fileno(), *(one.fileno() for one in inside)]
        try:
            socket.send_fds(self.ready().control, [message], descriptors)
        except OSError:  # it was killed from outside: once more, with a new one
            self.end()
            socket.send_fds(self.ready().control, [message], descriptors)
        theirs.close()
        return Jail(ours)

    def ready(self) -> Zygote:
        """The zygote, started if there is none."""
        if not self.zygotes:
            zygote, answer = self._start(isolated=self._required or not self.reason)
            if answer.startswith(DENIED):
                zygote.end()
                self.reason = answer.removeprefix(DENIED).decode()
                if self._required:
                    raise SandboxRefused(
                        f"the sandbox cannot isolate programs from this machine, so none is run ({self.reason}). "
                        "docs/sandbox.md says what it needs of the kernel or container. To run programs with this "
                        f"user's access to files and network all the same: {ALLOW_DEGRADED}=1, in a recipe "
                        "allow_degraded_sandbox: true"
                    )
                zygote, answer = self._start(isolated=False)
            if answer != READY:
                size = zygote.stderr.seek(0, os.SEEK_END)
                zygote.stderr.seek(max(0, size - 1000))
                words = zygote.stderr.read().decode(errors="replace").strip()
                zygote.end()
                raise PosttrainError(f"the sandbox does not start with {sys.executable}: {words or 'no answer'}")
            self.zygotes.append(zygote)
        return self.zygotes[0]

    def _start(self, *, isolated: bool) -> tuple[Zygote, bytes]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        paths = [
            os.path.join(prefix, name)
            for prefix in (sys.base_prefix, sys.base_exec_prefix)
            for name in ("lib", "lib64")
        ]
        folders = [path for path in dict.fromkeys([*paths, *packages]) if os.path.isdir(path)]
        arguments = json.dumps([theirs.fileno(), isolated, folders, packages])
        stderr = TemporaryFile()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-S", "-c", _BEGIN, str(Path(__file__).parents[2]), arguments],
                pass_fds=[theirs.fileno()],
                env={
                    "PATH": "/usr/bin:/bin",
                    "HOME": "/tmp",
                    "LANG": "C.UTF-8",
                    "PYTHONHASHSEED": "0",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "OMP_NUM_THREADS": "1",
                    # Memory of freed texts and lists is used again: fetching it anew is a seventh of some tests' time.
                    "MALLOC_MMAP_THRESHOLD_": str(2**25),
                    "MALLOC_TRIM_THRESHOLD_": str(2**30),
                },
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        ours.settimeout(_START_SECONDS)
        zygote = Zygote(process, ours, stderr)
        try:
            answer = ours.recv(2000)
        except OSError:
            answer = b""
        ours.settimeout(None)
        return zygote, answer


def pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


def cpu_limit(seconds: float) -> int:
    return int(seconds) + 1
