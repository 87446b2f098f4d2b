"""Runs Python programs that nobody trusts, and says what came of it. The verdict is always ours.

    with Sandbox() as sandbox:
        sandbox.run_tests("def f(x): return x + 1", ["assert f(1) == 2"]).passed  # (True,)
        sandbox.run_script("print(input()[::-1])", "abc").output                  # b"cba\\n"

Semantics and the threat model: docs/sandbox.md.
"""

import os
import select
import signal
import socket
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import IO, Any, Literal

from posttrain.sandbox.encoding import Channel, EncodingError
from posttrain.sandbox.jails import Jail, Jailer, Limits, cpu_limit, pair
from posttrain.sandbox.zygote import PREPARED

Limit = Literal["time", "memory", "output", "size"]  # "size": of the program, MAX_MESSAGE
_KEPT_CHECKS = 500  # then the checker that keeps tests begins anew: its own forks are CPU time too


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


class _KeptTests:
    """A checker that has prepared tests, and forks for each program. ``key`` says which tests."""

    def __init__(self, key: object, control: socket.socket, ruler: Jail):
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
        off = "isolation was turned off" if isolation == "none" else ""
        self._jailer = Jailer(self.limits, required=isolation == "required", reason=off)
        self._kept: list[_KeptTests] = []  # one, or none
        self._tests: object = None  # the last that were run
        self._not_kept: object = None  # the last that no checker could keep
        self._lock = Lock()
        weakref.finalize(self, _end_all, self._kept, self._jailer.zygotes)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes. The next call starts new ones."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        _end_all(self._kept, self._jailer.zygotes)

    @property
    def degraded(self) -> str:
        """Why programs are not isolated from this machine; empty when they are."""
        with self._lock:
            self._jailer.ready()
            return self._jailer.reason

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
            kept = self._keep(request, seconds) if again and not self._jailer.reason else None
            until = monotonic() + seconds  # the same for each program, whether or not tests were prepared before it
            ours, theirs = pair(stack)
            verdicts, checkers = pair(stack)
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
            if status == -signal.SIGKILL and cpu >= cpu_limit(seconds) - 0.1:
                hit = "time"
            elif answer["memory"]:
                hit = "memory"
        return TestsResult(passed, hit, None, answer["why"], cpu)

    def run_script(self, program: str, given: str | bytes = b"", *, seconds: float = 4.0) -> ScriptResult:
        """Run ``program`` as a script with ``given`` as its standard input, within ``seconds``."""
        given = given.encode(errors="surrogateescape") if isinstance(given, str) else given
        until = monotonic() + seconds
        with self._lock, ExitStack() as stack:
            ours, theirs = pair(stack)
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
        if limit is None and status == -signal.SIGKILL and cpu >= cpu_limit(seconds) - 0.1:
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
            ours, theirs = pair(stack)
            # A checker that waits takes nothing from programs, nor a program that starts all it may the checker's fork.
            jail = self._jailer.jail(stack, "check many", 2 * seconds, [theirs], waiting=2)
            self._kept.append(_KeptTests(key, ours, jail))
            stack.pop_all()
        theirs.close()
        if _try_send(ours, request) == "" and self._kept[0].ready(until):
            return self._kept[0]
        _end_all(self._kept)
        self._not_kept = key
        return None

    @contextmanager
    def _jails(self, *wanted: tuple[str, float, Sequence[Any]]) -> Iterator[list[Jail]]:
        """New sandboxed processes by (role, seconds, the files inside). They have ended when the context does."""
        with ExitStack() as stack:
            try:
                jails = [self._jailer.jail(stack, *one, waiting=len(self._kept)) for one in wanted]
                yield jails
                for jail in jails:
                    jail.kill()
                for jail in jails:
                    jail.end()
            except BaseException:
                self._end()  # interrupted, or its zygote is gone: all processes go with the zygote
                raise


def _end_all(*lists: list[Any]) -> None:
    for each in lists:
        while each:
            each.pop().end()


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
