"""The process that every sandboxed process is forked from: standard library only, single-threaded, pristine.

It never reads a program or a test. Each request forks one process into process, mount and IPC namespaces of its own;
data reaches that process through descriptors that the zygote merely passes on.
"""

from __future__ import annotations

import _thread
import atexit
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from importlib import import_module
from time import monotonic

from posttrain.sandbox import candidate, checker, namespaces
from posttrain.sandbox.encoding import Channel

TYPE_CHECKING = False  # without typing, whose import is a tenth of a cold start
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

MAX_DESCRIPTORS = 4
STATUS = struct.Struct("=idd")  # wait status, seconds of CPU, peak memory of its largest process in bytes
READY, DENIED, PREPARED = b"ready", b"denied ", b"p"
# What many programs import, loaded once for all; not at the start, when somebody waits for the first.
PRELOADED = (
    "ast",
    "bisect",
    "collections",
    "functools",
    "heapq",
    "itertools",
    "math",
    "re",
    "string",
    "typing",
)
_SHARING = {"mmap", "multiprocessing"}  # modules that make memory which forks share


def main(descriptor: int, isolated: bool, folders: list[str], packages: list[str]) -> None:
    """Isolate (or not), say how that went, and serve requests on the socket until its other end closes.

    The first message is READY, or DENIED and the reason. ``folders`` are visible inside, ``packages`` importable.
    """
    control = socket.socket(fileno=descriptor)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))  # a verifier's worker watches itself by its own
    sys.argv = ["program.py"]
    sys.path.extend(map(namespaces.seen_at, packages) if isolated else packages)
    root = os.geteuid() == 0
    if isolated:
        try:
            namespaces.isolate(folders)
        except (OSError, AttributeError) as error:
            control.send(DENIED + str(error).encode())
            return
        if child := os.fork():  # the first child is process 1 of the new namespace; all inside end with it
            control.close()
            os.waitpid(child, 0)
            os._exit(0)
        namespaces.die_with_parent()
        try:
            _try_isolated_fork(root)
        except OSError as error:
            control.send(DENIED + str(error).encode())
            return
    else:
        namespaces.adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that uses us
    gc.freeze()  # a collection in a child would copy every page
    _Zygote(control, isolated, root).serve()


class _Zygote:
    """``jails`` are the live processes: by pidfd, their number, the socket that rules them, their scratch folder."""

    def __init__(self, control: socket.socket, isolated: bool, root: bool):
        self.control, self.isolated, self.root = control, isolated, root
        self.jails: dict[int, tuple[int, int, str | None]] = {}
        self.preloaded = False
        if not isolated:
            self.preload()  # while we may read where the interpreter lies
        self.watch = select.poll()
        self.watch.register(control, select.POLLIN)

    def serve(self) -> NoReturn:
        self.control.send(READY)
        while True:
            descriptor = self.watch.poll()[0][0]  # one at a time: dealing with it may close, and reuse, another
            if descriptor == self.control.fileno():
                self.start()
            elif descriptor in self.jails:
                self.bury(descriptor)
            else:  # a ruling socket is readable when its other end has closed
                self.watch.unregister(descriptor)
                pidfd = next(pidfd for pidfd, (_, ruler, _) in self.jails.items() if ruler == descriptor)
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def start(self) -> None:
        """Fork a process for the next request; end when there will be none."""
        message, descriptors, _, _ = socket.recv_fds(self.control, 4096, MAX_DESCRIPTORS)
        if not message:
            os._exit(0)
        ruler, *inside = descriptors
        scratch = None if self.isolated else _scratch_folder(self.root)
        process, pidfd = namespaces.fork_into_new_namespaces() if self.isolated else _fork()
        if process == 0:
            try:
                _become(json.loads(message), inside, ruler, scratch, self.root)
            finally:
                os._exit(70)
        for one in inside:
            os.close(one)
        self.jails[pidfd] = process, ruler, scratch
        self.watch.register(pidfd, select.POLLIN)
        self.watch.register(ruler, select.POLLIN)

    def bury(self, pidfd: int) -> None:
        """A jail's first process has ended, and with it all others of its namespace: send its status."""
        process, ruler, scratch = self.jails.pop(pidfd)
        _, status, used = os.wait4(process, 0)
        if scratch is not None:
            _clear(scratch, {process for process, _, _ in self.jails.values()})
        self.watch.unregister(pidfd)
        try:
            self.watch.unregister(ruler)
        except KeyError:
            pass
        try:
            os.write(ruler, STATUS.pack(status, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024.0))
        except OSError:
            pass  # nobody waits for it any more
        os.close(pidfd)
        os.close(ruler)
        if not self.preloaded:
            self.preload()

    def preload(self) -> None:
        """Import what many programs do, for all that are forked from now on."""
        for name in PRELOADED if self.isolated else (*PRELOADED, "random", "threading"):
            import_module(name)
        gc.freeze()
        self.preloaded = True


def _become(request: dict[str, Any], inside: Sequence[int], ruler: int, scratch: str | None, root: bool) -> None:
    """What the new process does before it hears of any program; then its role. The ruler is told what failed."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 64) for descriptor in (*inside, ruler)]
    *given, tell = (os.dup2(descriptor, at) for at, descriptor in enumerate(high, 3))
    os.closerange(tell + 1, 2**16)
    os.dup2(1, 2)
    try:
        os.setsid()
        limits = request["limits"]
        size = limits.pop("scratch")
        if scratch is None:
            namespaces.mount_scratch(size)
        else:
            os.chdir(scratch)
            limits["processes"] += _count_tasks(namespaces.NOBODY if root else os.geteuid())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        namespaces.drop_privileges(become_nobody=root)
        namespaces.limit(**limits)
    except Exception as error:
        os.write(tell, repr(error).encode()[:300])
        raise
    os.close(tell)
    _ROLES[request["role"]](*given)


def _try_isolated_fork(root: bool) -> None:
    """Raises OSError where the kernel forbids what each program's process will need."""
    told, tell = os.pipe()
    process, pidfd = namespaces.fork_into_new_namespaces()
    if process == 0:
        try:
            namespaces.mount_scratch(2**20)
            namespaces.drop_privileges(become_nobody=root)
        except OSError as error:
            os.write(tell, str(error).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(process, 0)
    os.close(pidfd)
    with open(told, "rb") as reader:
        if reason := reader.read().decode():
            raise OSError(reason)


def _serve(data: int) -> None:
    candidate.serve(Channel(data))
    os._exit(0)


def _check(data: int, peer: int) -> None:
    channel = Channel(data)
    channel.send(checker.Tests(channel.receive()).check(Channel(peer)))
    os._exit(0)


def _check_many(data: int) -> None:
    """Prepare tests once; for each pair of descriptors received after that (verdict, candidate), fork and check.

    Says PREPARED before each, unless the setup or the last left something for the next to find: a file or a process,
    or what forks share (an open file's position, a pipe, shared memory; a thread they would lack).
    """
    before = _descriptors(), _SHARING & sys.modules.keys()
    tests = checker.Tests(Channel(data).receive())
    if (_descriptors(), _SHARING & sys.modules.keys()) != before or _thread._count():
        os._exit(0)
    control, scratch = socket.socket(fileno=data), os.open(".", os.O_RDONLY)
    gc.freeze()
    while not os.listdir(scratch) and _no_child():
        control.send(PREPARED)
        _, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not descriptors:
            break
        process = os.fork()
        if process == 0:
            try:
                os.close(scratch)
                control.close()
                verdict, peer = map(Channel, descriptors)
                verdict.send(tests.check(peer))
            finally:
                os._exit(0)
        for one in descriptors:
            os.close(one)
        os.waitpid(process, 0)
    os._exit(0)


def _descriptors() -> dict[int, tuple[int, int, int]]:
    """The open ones, and which file each is."""
    found = {}
    for descriptor in range(resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        try:
            file = os.fstat(descriptor)
        except OSError:
            continue
        found[descriptor] = file.st_mode, file.st_dev, file.st_ino
    return found


def _no_child() -> bool:
    """Of ours, or left to us, but for those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _script(data: int, given: int, output: int) -> None:
    """Run a program as the interpreter would: threads are waited for, exit functions run, streams flushed."""
    channel = Channel(data)
    source = channel.receive()
    _standard_streams(given, output)
    status = 0
    try:
        candidate.run_main(source)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        status = 1
        channel.send(f"{type(error).__name__}: {error!s:.200}")
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        status = status or 120  # as the interpreter has it
    os._exit(status & 0xFF)


_ROLES = {"serve": _serve, "check": _check, "check many": _check_many, "script": _script}


def _standard_streams(given: int, output: int) -> None:
    """Of a script. The zygote's own are /dev/null, but for what it says of its own failures on standard error."""
    for standard, source in ((0, given), (1, output)):
        os.dup2(source, standard)
        os.close(source)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


# Without namespaces.


def _scratch_folder(root: bool) -> str:
    import tempfile

    folder = tempfile.mkdtemp(prefix=f"sandbox-{os.getpid()}-")
    if root:
        os.chown(folder, namespaces.NOBODY, namespaces.NOBODY)
    return folder


def _fork() -> tuple[int, int]:
    process = os.fork()
    return process, os.pidfd_open(process) if process else -1


def _clear(scratch: str, living: set[int]) -> None:
    """Kill every descendant, adopted ones included, but for the living and theirs; remove the folder."""
    import shutil

    until = monotonic() + 5.0
    while monotonic() < until:
        left = _descendants({os.getpid()}) - living - _descendants(living)
        if not left:
            break
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, os.WNOHANG)
            except (ProcessLookupError, ChildProcessError):
                pass
    shutil.rmtree(scratch, ignore_errors=True)


def _descendants(ancestors: set[int]) -> set[int]:
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            pass
    found: set[int] = set()
    grown = ancestors
    while grown:
        grown = {process for process, parent in parents.items() if parent in grown} - found
        found |= grown
    return found


def _count_tasks(user: int) -> int:
    """Processes and threads of the user, which the limit of processes counts along."""
    total = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == user:
                total += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            pass
    return total
