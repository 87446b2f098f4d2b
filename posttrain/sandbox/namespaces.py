"""What the kernel is asked for: namespaces, mounts, limits, no privileges. Through ctypes, for Python before 3.12.

Needs Linux 5.14 or newer (mount_setattr; process limits counted per user namespace). Where something is missing or
forbidden the calls raise OSError, and the sandbox is degraded.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

TYPE_CHECKING = False  # without typing, whose import is a tenth of a cold start
if TYPE_CHECKING:
    from collections.abc import Sequence

NEW_MOUNTS, NEW_CGROUP, NEW_HOSTNAME, NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
NOBODY = 65534

_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_RECURSIVE, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_ATTRIBUTE_READ_ONLY, _ATTRIBUTE_NOSUID = 1, 2
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_DETACH = 2
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _DROP_BOUNDING, _SUBREAPER, _NO_NEW_PRIVILEGES = 1, 4, 24, 36, 38
_SIGKILL, _SIGCHLD = 9, 17
_SYS_CLONE3, _CLONE_PIDFD = 435, 0x1000
_CAPABILITY_VERSION_3 = 0x20080522
_SET_SECCOMP, _SECCOMP_FILTER = 22, 2
# Calls that no program needs and that reach beyond it: other processes' memory, keyrings (which outlive it),
# namespaces, memory that no limit counts, parts of the kernel that had many holes. The numbers are of the machines
# below, in their order.
_FORBIDDEN = (
    ("shmget", 29, 194),
    ("semget", 64, 190),
    ("msgget", 68, 186),
    ("ptrace", 101, 117),
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("keyctl", 250, 219),
    ("unshare", 272, 97),
    ("perf_event_open", 298, 241),
    ("open_by_handle_at", 304, 265),
    ("setns", 308, 268),
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("memfd_create", 319, 279),
    ("bpf", 321, 280),
    ("userfaultfd", 323, 282),
    ("io_uring_setup", 425, 425),
    ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427),
    ("memfd_secret", 447, 447),
)
# Sockets of other families (AF_VSOCK reaches the hypervisor) are not confined by a network namespace.
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
# What the filter calls the machines of which it knows the numbers.
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_DEVICES = "null", "zero", "full", "random", "urandom"
_LIBRARIES = "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache"

_libc = ctypes.CDLL(None, use_errno=True)
_holding_gil = ctypes.PyDLL(None, use_errno=True)


def _done(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move this process into new namespaces (children, for NEW_PROCESSES)."""
    _done(_libc.unshare(flags), "unshare")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    pieces = [None if piece is None else os.fsencode(piece) for piece in (source, target, kind)]
    data = None if options is None else options.encode()
    _done(_libc.mount(*pieces, ctypes.c_ulong(flags), data), f"mount {target}")


def _set_read_only(path: str, recursive: bool) -> None:
    attributes = struct.pack("=4Q", _ATTRIBUTE_READ_ONLY | _ATTRIBUTE_NOSUID, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    arguments = (_AT_FDCWD, os.fsencode(path), flags, attributes, ctypes.c_size_t(len(attributes)))
    _done(_libc.syscall(ctypes.c_long(_SYS_MOUNT_SETATTR), *arguments), f"read-only {path}")


def isolate(folders: Sequence[str]) -> None:
    """Enter new user, mount, network, IPC, hostname and cgroup namespaces, a process namespace for children, and a
    root that holds ``folders``, the system's libraries and a few devices, all read-only.

    Inside, this process is root over nothing but these; started by root, it also has the user NOBODY to become.
    """
    _in_new_user_namespace(NEW_MOUNTS | NEW_PROCESSES | NEW_NETWORK | NEW_IPC | NEW_HOSTNAME | NEW_CGROUP)
    try:
        _write("/proc/sys/user/max_user_namespaces", "0")  # no further ones, hence no capabilities in them
    except OSError:
        pass  # where /proc/sys is read-only; programs then may make namespaces inside their own
    _mount("none", "/", None, _MS_RECURSIVE | _MS_PRIVATE)
    _enter_root(folders)
    for capability in range(64):
        if _libc.prctl(_DROP_BOUNDING, capability, 0, 0, 0):
            break
    _done(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    _forbid_calls()


def _forbid_calls() -> None:
    """EPERM for the calls of _FORBIDDEN, for sockets but of Unix and the internet, and for any call by the numbers of
    another machine. Nothing on other machines."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        return
    at = list(_MACHINES).index(machine)
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # of the kernel's packet filters
    the_number, the_machine, first_argument = 0, 4, 16  # where they lie in what the filter sees
    allow, refuse = -2, -1  # the last two steps
    steps = [  # what to do, with which value, and how many steps to skip if it holds and if not
        (load, the_machine, 0, 0),
        (equal, _MACHINES[machine], 0, refuse),
        (load, the_number, 0, 0),
        (at_least, 1 << 30, refuse, 0),  # x86's third set of numbers
        *((equal, entry[1 + at], refuse, 0) for entry in _FORBIDDEN),
        (equal, _SOCKET[at], 0, 4),
        (load, first_argument, 0, 0),
        (equal, _AF_INET, allow, 0),
        (equal, _AF_INET6, allow, 0),
        (equal, _AF_UNIX, allow, refuse),
        (equal, _SOCKETPAIR[at], 0, allow),
        (load, first_argument, 0, 0),
        (equal, _AF_UNIX, allow, refuse),
        (give, 0x7FFF0000, 0, 0),
        (give, 0x00050000 | 1, 0, 0),
    ]
    packed = b""
    for place, (operation, value, *skips) in enumerate(steps, 1):
        skips = (skip if skip >= 0 else len(steps) - place + skip for skip in skips)
        packed += struct.pack("=HBBI", operation, *skips, value)
    code = ctypes.create_string_buffer(packed)
    filter_ = struct.pack("=H6xQ", len(steps), ctypes.addressof(code))
    _done(_libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, filter_, 0, 0), "seccomp")


def _in_new_user_namespace(flags: int) -> None:
    user, group = os.geteuid(), os.getegid()
    if user != 0:
        unshare(NEW_USERS | flags)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {user} 1")
        _write("/proc/self/gid_map", f"0 {group} 1")
        return
    # Root's processes are not counted against limits, so programs run as NOBODY; only from outside can two users be
    # mapped.
    ready, tell = os.pipe()
    outside = os.fork()
    if outside == 0:
        os.close(tell)
        failed = 1
        try:
            os.read(ready, 1)
            for kind in ("uid_map", "gid_map"):
                _write(f"/proc/{os.getppid()}/{kind}", f"0 0 1\n{NOBODY} {NOBODY} 1")
            failed = 0
        finally:
            os._exit(failed)
    try:
        unshare(NEW_USERS | flags)
    finally:
        os.close(tell)
        os.close(ready)
        status = os.waitpid(outside, 0)[1]
    if status:
        raise OSError(1, "writing the user map was refused")


def seen_at(folder: str) -> str:
    """Where ``folder`` lies inside: its own place, but under /tmp, which is the program's own (`mount_scratch`)."""
    return f"/outside{folder}" if os.path.abspath(folder).startswith("/tmp/") else folder


def _enter_root(folders: Sequence[str]) -> None:
    new = next(path for path in ("/tmp", "/mnt", "/var", "/home") if os.path.isdir(path))
    wanted = [path for path in (*_LIBRARIES, *(f"/dev/{name}" for name in _DEVICES)) if os.path.exists(path)]
    places = []
    for path in dict.fromkeys([*wanted, *map(os.path.abspath, folders)]):
        if not os.path.islink(path):
            places.append((path, os.open(path, os.O_PATH | os.O_CLOEXEC), os.path.isdir(path)))
    links = [(path, os.readlink(path)) for path in wanted if os.path.islink(path)]
    _mount("tmpfs", new, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    # Outer folders first, else they would cover what lies within them.
    for path, descriptor, is_folder in sorted(places):
        inside = new + seen_at(path)
        os.makedirs(inside if is_folder else os.path.dirname(inside), exist_ok=True)
        if not os.path.exists(inside):
            os.close(os.open(inside, os.O_CREAT | os.O_WRONLY))
        _mount(f"/proc/self/fd/{descriptor}", inside, None, _MS_BIND | _MS_RECURSIVE)
        if not path.startswith("/dev/"):
            _set_read_only(inside, recursive=True)
        os.close(descriptor)
    for path, target in links:
        os.makedirs(os.path.dirname(new + path), exist_ok=True)
        os.symlink(target, new + path)
    os.makedirs(new + "/tmp", exist_ok=True)
    os.chdir(new)
    _done(_libc.pivot_root(b".", b"."), "pivot_root")
    _done(_libc.umount2(b".", _DETACH), "umount2")
    os.chdir("/")
    _set_read_only("/", recursive=False)


def fork_into_new_namespaces() -> tuple[int, int]:
    """Fork; the child is process 1 of a new process namespace, with mount and IPC namespaces of its own.

    (process number, pidfd) in the parent, (0, -1) in the child. One clone3 in place of unshare and two forks: a third
    of the cost. Only for a process of one thread. The end of the child is the end of all in its namespace.
    """
    pidfd = ctypes.c_int(-1)
    flags = NEW_PROCESSES | NEW_MOUNTS | NEW_IPC | _CLONE_PIDFD
    arguments = struct.pack("=8Q", flags, ctypes.addressof(pidfd), 0, 0, _SIGCHLD, 0, 0, 0)
    ctypes.pythonapi.PyOS_BeforeFork()
    process = _holding_gil.syscall(ctypes.c_long(_SYS_CLONE3), arguments, ctypes.c_size_t(len(arguments)))
    if process == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    _done(min(process, 0), "clone3")
    return process, pidfd.value


def mount_scratch(size: int) -> None:
    """A fresh tmpfs of ``size`` bytes at /tmp, and there we are."""
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},nr_inodes=4096,mode=1777")
    os.chdir("/tmp")


def drop_privileges(become_nobody: bool) -> None:
    """No capability, none to be gained; not to be traced by its likes; killed when the zygote dies."""
    if become_nobody:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, none = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    _done(_libc.capset(header, none), "capset")
    _done(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    _done(_libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    die_with_parent()


def die_with_parent() -> None:
    """Be killed by the kernel when the parent ends."""
    _done(_libc.prctl(_SET_DEATH_SIGNAL, _SIGKILL, 0, 0, 0), "death signal")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ended."""
    _done(_libc.prctl(_SUBREAPER, 1, 0, 0, 0), "subreaper")


def limit(cpu_seconds: int, memory: int, processes: int, file_size: int, files: int) -> None:
    """Hard limits that the process cannot raise again. Bytes, counts, and seconds of CPU."""
    for what, amount in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        hard = resource.getrlimit(what)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(what, (amount, amount))
