"""Runs Python programs that nobody trusts, and says what came of it. The verdict is always ours.

    with Sandbox() as sandbox:
        sandbox.run_tests("def f(x): return x + 1", ["assert f(1) == 2"]).passed  # (True,)
        sandbox.run_script("print(input()[::-1])", "abc").output                  # b"cba\\n"

Semantics and the threat model: docs/sandbox.md.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from time import monotonic
from typing import IO, Any, Literal

from posttrain.errors import PosttrainError
from posttrain.sandbox.encoding import Channel, EncodingError
from posttrain.sandbox.zygote import DENIED, PREPARED, READY, STATUS

Limit = Literal["time", "memory", "output", "size"]  # "size": of the program, MAX_MESSAGE
ALLOW_DEGRADED = "POSTTRAIN_ALLOW_DEGRADED_SANDBOX"  # environment variable; "1" allows verifiers a degraded sandbox

_START_SECONDS = 60.0  # until the zygote is ready, on a machine under load
_END_SECONDS = 30.0  # until a killed process is gone
_KEPT_CHECKS = 500  # then the checker that keeps tests begins anew: its own forks are CPU time too
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


@dataclass(frozen=True)
class TestsResult:
    """One bool per test. ``limit``: what the program ran into (then tests not reached are False). ``defect``: what is
    wrong with the tests themselves (then nothing is said about the program). ``why``: the first failure."""

    passed: tuple[bool, ...]
    limit: Limit | None = None
    defect: str | None = None
    why: str = ""
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class ScriptResult:
    """What a script printed, and its exit status (negative: the signal that killed it)."""

    output: bytes
    status: int
    limit: Limit | None = None
    why: str = ""
    cpu_seconds: float = 0.0


@dataclass
class _Zygote:
    process: subprocess.Popen[bytes]
    control: socket.socket
    stderr: IO[bytes]

    def end(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()
        self.stderr.close()


@dataclass
class _Jail:
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


class _KeptTests:
    """A checker that has prepared tests, and forks for each program. ``key`` says which tests."""

    def __init__(self, key: object, control: socket.socket, ruler: _Jail):
        self.key, self.control, self.ruler, self.left = key, control, ruler, _KEPT_CHECKS
        self.owed = False  # a program, since it said that it is ready

    def ready(self, until: float) -> bool:
        """Whether it can take a program, once it has said so; it must then be given one, or ended."""
        if self.owed:
            return False
        self.owed = True
        try:
            return _readable(self.control, until) and self.control.recv(1) == PREPARED
        except OSError:
            return False

    def check(self, verdicts: socket.socket, candidate: socket.socket) -> bool:
        """Whether it was there to be given a program: what it said may be all that is left of it."""
        self.left -= 1
        try:
            socket.send_fds(self.control, [b"c"], [verdicts.fileno(), candidate.fileno()])
        except OSError:
            return False
        self.owed = False
        return True

    def end(self) -> None:
        """The zygote kills what has lost its ruler."""
        self.control.close()
        self.ruler.control.close()


class Sandbox:
    """One program at a time, each in new processes without privileges, network, or files but its own and Python's.

    Where the kernel permits no namespaces, every call raises SandboxRefused. Only with ``isolation="preferred"`` do
    programs run there all the same, under limits alone (with "none", anywhere): ``degraded`` then says why. Raises
    PosttrainError when even that cannot be started. Threads may share it; calls wait for each other. ``close`` ends
    everything, and so does the end of this process.
    """

    def __init__(
        self, limits: Limits | None = None, *, isolation: Literal["required", "preferred", "none"] = "required"
    ):
        self.limits = limits or Limits()
        self._required = isolation == "required"
        self._reason = "isolation was turned off" if isolation == "none" else ""
        self._zygotes: list[_Zygote] = []  # one, or none
        self._kept: list[_KeptTests] = []  # one, or none
        self._tests: object = None  # the last that were run
        self._not_kept: object = None  # the last that no checker could keep
        self._lock = Lock()
        weakref.finalize(self, _end_all, self._kept, self._zygotes)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes. The next call starts new ones."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        _end_all(self._kept, self._zygotes)

    @property
    def degraded(self) -> str:
        """Why programs are not isolated from this machine; empty when they are."""
        with self._lock:
            self._ready()
            return self._reason

    def run_tests(
        self,
        program: str,
        tests: Sequence[str],
        *,
        setup: str = "",
        calls: Sequence[str] | None = None,
        seconds: float = 4.0,
    ) -> TestsResult:
        """Load ``program`` in one process and run ``setup`` and each test in another, within ``seconds`` for all.

        A test is Python source; it passes when it raises nothing. ``calls`` are the names that stand for the program's
        (None: every name that the tests use, do not define, and the program does). Arguments and results cross by
        value: what a call does to its arguments is not seen by the tests.
        """
        request = {"setup": setup, "tests": list(tests), "calls": None if calls is None else list(calls)}
        failed = (False,) * len(tests)
        with self._lock, ExitStack() as stack:
            # Tests with a setup, and any at the second program in a row, are prepared to be kept for those after it.
            again, self._tests = bool(setup) or self._tests == (request, seconds), (request, seconds)
            kept = self._keep(request, seconds) if again and not self._reason else None
            until = monotonic() + seconds  # the same for each program, whether or not tests were prepared before it
            ours, theirs = _pair(stack)
            verdicts, checkers = _pair(stack)
            check = "check", 2 * seconds, [checkers, ours]
            wanted = [("serve", seconds, [theirs]), *([check] if kept is None else [])]
            candidate, *checker = stack.enter_context(self._jails(*wanted))
            theirs.close()
            # Before the request: the checker writes there once it has that.
            if why := _try_send(ours, program):
                return TestsResult(failed, "size", None, f"the program: {why}")
            if kept is not None and not kept.check(checkers, ours):
                _end_all(self._kept)
                kept, checker = None, stack.enter_context(self._jails(check))
            ours.close()
            checkers.close()
            if kept is None and (why := _try_send(verdicts, request)):
                return TestsResult(failed, None, f"the tests: {why}")
            answer, late = None, not _readable(verdicts, until)
            if not late:
                try:
                    answer = Channel(verdicts.fileno()).receive()
                except (EOFError, OSError, EncodingError):
                    pass  # the checker ended; what crossed was too much for it
            candidate.kill()
            if late:
                _end_all(self._kept)
            for jail in checker:
                jail.end()
            status, cpu, _ = candidate.end()
        if answer is None:
            limit: Limit = "time" if late else "memory"
            return TestsResult(failed, limit, None, f"not done within {seconds:g} s" if late else "too much data", cpu)
        if "defect" in answer:
            return TestsResult(failed, None, answer["defect"], "", cpu)
        passed = tuple(answer["passed"])
        hit: Limit | None = None
        if not all(passed):
            if status == -signal.SIGKILL and cpu >= _cpu_limit(seconds) - 0.1:
                hit = "time"
            elif answer["memory"]:
                hit = "memory"
        return TestsResult(passed, hit, None, answer["why"], cpu)

    def run_script(self, program: str, given: str | bytes = b"", *, seconds: float = 4.0) -> ScriptResult:
        """Run ``program`` as a script with ``given`` as its standard input, within ``seconds``."""
        given = given.encode(errors="surrogateescape") if isinstance(given, str) else given
        until = monotonic() + seconds
        with self._lock, ExitStack() as stack:
            ours, theirs = _pair(stack)
            source = stack.enter_context(open(os.memfd_create("input"), "w+b", buffering=0))
            source.write(given)
            source.seek(0)
            read, write = os.pipe()
            reader = stack.enter_context(open(read, "rb", buffering=0))
            with open(write, "wb", buffering=0) as writer:
                (jail,) = stack.enter_context(self._jails(("script", seconds, [theirs, source, writer])))
            theirs.close()
            if why := _try_send(ours, program):
                return ScriptResult(b"", -signal.SIGKILL, "size", f"the program: {why}")
            output, limit = self._read(reader, until)
            if limit is None and not _readable(jail.control, until):
                limit = "time"
            status, cpu, _ = jail.end()
            why = "" if limit or status == 0 else _last_words(ours)
        if limit is None and status == -signal.SIGKILL and cpu >= _cpu_limit(seconds) - 0.1:
            limit = "time"
        if limit is None and why.startswith("MemoryError"):
            limit = "memory"
        return ScriptResult(output, status, limit, why or (f"ended with status {status}" if status else ""), cpu)

    def _read(self, reader: IO[bytes], until: float) -> tuple[bytes, Limit | None]:
        pieces, size = [], 0
        while _readable(reader, until):
            piece = reader.read(2**16)
            if not piece:
                return b"".join(pieces), None
            pieces.append(piece)
            size += len(piece)
            if size > self.limits.output:
                return b"".join(pieces), "output"
        return b"".join(pieces), "time"

    def _keep(self, request: dict[str, Any], seconds: float) -> _KeptTests | None:
        """The checker that keeps these tests, ready for a program; None where it cannot be had. ``seconds`` are for
        the preparation alone."""
        key, until = (request, seconds), monotonic() + seconds
        if self._kept and self._kept[0].key == key and self._kept[0].left and self._kept[0].ready(until):
            return self._kept[0]
        _end_all(self._kept)
        if self._not_kept == key:
            return None
        with ExitStack() as stack:
            ours, theirs = _pair(stack)
            jail = self._jail(stack, "check many", 2 * seconds, [theirs])
            self._kept.append(_KeptTests(key, ours, jail))
            stack.pop_all()
        theirs.close()
        if _try_send(ours, request) == "" and self._kept[0].ready(until):
            return self._kept[0]
        _end_all(self._kept)
        self._not_kept = key
        return None

    @contextmanager
    def _jails(self, *wanted: tuple[str, float, Sequence[Any]]) -> Iterator[list[_Jail]]:
        """New sandboxed processes by (role, seconds, the files inside). They have ended when the context does."""
        with ExitStack() as stack:
            try:
                jails = [self._jail(stack, *one) for one in wanted]
                yield jails
                for jail in jails:
                    jail.kill()
                for jail in jails:
                    jail.end()
            except BaseException:
                self._end()  # interrupted, or its zygote is gone: all processes go with the zygote
                raise

    def _jail(self, stack: ExitStack, role: str, seconds: float, inside: Sequence[Any]) -> _Jail:
        # A checker that waits takes nothing from programs, nor a program that starts all it may the checker's fork.
        waiting = 2 if role == "check many" else len(self._kept)
        limits = {
            "cpu_seconds": _cpu_limit(seconds),
            "memory": self.limits.memory,
            "processes": self.limits.processes + waiting,
            "file_size": self.limits.file_size,
            "files": self.limits.files,
            "scratch": self.limits.scratch,
        }
        message = json.dumps({"role": role, "limits": limits}).encode()
        ours, theirs = _pair(stack)
        descriptors = [theirs.fileno(), *(one.fileno() for one in inside)]
        try:
            socket.send_fds(self._ready().control, [message], descriptors)
        except OSError:  # it was killed from outside: once more, with a new one
            self._end()
            socket.send_fds(self._ready().control, [message], descriptors)
        theirs.close()
        return _Jail(ours)

    def _ready(self) -> _Zygote:
        """The zygote, started if there is none."""
        if not self._zygotes:
            zygote, answer = self._start(isolated=self._required or not self._reason)
            if answer.startswith(DENIED):
                zygote.end()
                self._reason = answer.removeprefix(DENIED).decode()
                if self._required:
                    raise SandboxRefused(
                        f"the sandbox cannot isolate programs from this machine, so none is run ({self._reason}). "
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
            self._zygotes.append(zygote)
        return self._zygotes[0]

    def _start(self, *, isolated: bool) -> tuple[_Zygote, bytes]:
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
        zygote = _Zygote(process, ours, stderr)
        try:
            answer = ours.recv(2000)
        except OSError:
            answer = b""
        ours.settimeout(None)
        return zygote, answer


def _end_all(*lists: list[Any]) -> None:
    for each in lists:
        while each:
            each.pop().end()


def _pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


def _cpu_limit(seconds: float) -> int:
    return int(seconds) + 1


def _readable(file: Any, until: float) -> bool:
    watch = select.poll()
    watch.register(file, select.POLLIN)
    return bool(watch.poll(max(0.0, until - monotonic()) * 1000))


def _try_send(to: socket.socket, message: Any) -> str:
    """Why the message is too large to be sent; empty where it is not."""
    try:
        Channel(to.fileno()).send(message)
    except EncodingError as error:
        return str(error)
    except OSError:
        pass  # it has ended already, which shows in its status
    return ""


def _last_words(channel: socket.socket) -> str:
    """What a script that failed said of it, untrusted."""
    try:
        words = Channel(channel.fileno()).receive()
    except (EOFError, OSError, EncodingError):
        return ""
    return words[:300] if isinstance(words, str) else ""
