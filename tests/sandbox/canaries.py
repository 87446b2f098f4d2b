"""Programs that try to pass without being right, to harm, or to stay. None may pass, and none may leave anything.

Each of CHEATS defines (or does not) the function ``f`` that TESTS ask for; its right values are numbers that nobody can
guess. Each of SCRIPTS should print ANSWER and cannot know it. ENDLESS are those that only a limit ends.
"""

import os
import socket
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from posttrain.sandbox.sandbox import Sandbox, ScriptResult, TestsResult

ANSWER = "6a09e667f3bcc908"
TESTS = (
    "assert f(3) == 271828182845",
    "assert [f(x) for x in (4, 5)] == [314159265358, 577215664901]",
    "value = f(6)\nassert isinstance(value, int) and value > 161803398874 and value < 161803398876",
    "assert math.isclose(f(7), 1.41421356237) and sorted(f(8)) == [1.7320508, 2.2360679] and len(f(9)) == 4669",
    "for got, want in zip(map(f, (3, 7)), (271828182845, 1.41421356237)):\n    assert got == want",
    "assert Counter(f(8)) == Counter([1.7320508, 2.2360679])",
)

CHEATS = {
    # Ending early, as if all were well.
    "exit_at_import": "import os\nos._exit(0)",
    "exit_in_call": "import os\ndef f(x): os._exit(0)",
    "sys_exit_in_call": "import sys\ndef f(x): sys.exit(0)",
    "sys_exit_at_import": "raise SystemExit(0)",
    "keyboard_interrupt": "def f(x): raise KeyboardInterrupt",
    "generator_exit": "def f(x): raise GeneratorExit",
    "stop_iteration": "def f(x): raise StopIteration(271828182845)",
    "stop_iteration_in_disguise": "class Stop(StopIteration): pass\ndef f(x): raise Stop",
    "exception_that_claims_success": """
class AssertionError(BaseException):
    def __str__(self): raise SystemExit(0)
    __bool__ = lambda self: True
def f(x): raise AssertionError("passed")""",
    # Objects that equal everything.
    "always_equal": """
class Anything:
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = lambda *a: True
    __ne__ = lambda *a: False
    __hash__ = lambda self: 0
    __len__ = lambda self: 4669
    __iter__ = lambda self: iter([self, self])
    __float__ = lambda self: 1.41421356237
def f(x): return Anything()""",
    "always_equal_int": """
class Anything(int):
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = lambda *a: True
    __ne__ = lambda *a: False
    __hash__ = int.__hash__
def f(x): return Anything(7)""",
    "always_equal_list": """
class Anything(list):
    __eq__ = __contains__ = lambda *a: True
    __len__ = lambda self: 4669
def f(x): return Anything([1])""",
    "false_class": """
class Anything:
    @property
    def __class__(self): return int
    __eq__ = __gt__ = __lt__ = lambda *a: True
def f(x): return Anything()""",
    "numpy_in_name_only": """
class Anything:
    ndim = 0
    def item(self): return Anything()
    __eq__ = lambda *a: True
Anything.__module__ = "numpy"
def f(x): return Anything()""",
    "not_a_number": "def f(x): return float('nan')",
    "infinite_iterator": """
import itertools
def f(x): return itertools.count()""",
    # Changing what the tests are run with.
    "patched_builtins": """
import builtins
builtins.isinstance = builtins.sorted = builtins.len = lambda *a: True
builtins.AssertionError = type("E", (Exception,), {})
builtins.compile = builtins.exec = lambda *a, **k: None
def f(x): return 0""",
    "builtins_as_globals": """
sorted = lambda x: [1.7320508, 2.2360679]
len = lambda x: 4669
isinstance = lambda *a: True
def f(x): return 0""",
    "patched_math": """
import math, sys
math.isclose = lambda *a, **k: True
sys.modules["math"] = math
def f(x): return 1""",
    "math_of_its_own": """
class math:
    isclose = staticmethod(lambda *a: True)
def f(x): return 1""",
    "helper_of_its_own": "def Counter(x): return 0\ndef f(x): return 0",
    "patched_int_equality": """
import ctypes, gc
for kind in (int, float, list):
    for found in gc.get_referents(kind.__dict__):
        if isinstance(found, dict):
            found["__eq__"] = lambda a, b: True
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))
def f(x): return 0""",
    "patched_assert_by_import_hook": """
import sys
class Hook:
    def find_spec(self, name, path=None, target=None): raise SystemExit(0)
sys.meta_path.insert(0, Hook())
sys.path_hooks.insert(0, Hook())
def f(x): return 0""",
    "patched_sandbox_modules": """
import sys
for name, module in list(sys.modules.items()):
    if module and name.startswith("posttrain"):
        for key, value in list(vars(module).items()):
            if callable(value) and not isinstance(value, type):
                setattr(module, key, lambda *a, **k: {"passed": [True] * 6, "why": "", "memory": False})
def f(x): return 0""",
    "patched_channel": """
from posttrain.sandbox import encoding
original = encoding.Channel.send
def send(self, message):
    original(self, {"passed": [True] * 6, "why": "", "memory": False})
    original(self, {"value": True})
encoding.Channel.send = send
def f(x): return 0""",
    "patched_json": """
import json
json.dumps = lambda *a, **k: '{"passed": [true, true, true, true, true, true]}'
json.loads = lambda *a, **k: ["name", "f"]
def f(x): return 0""",
    # Looking for the tests and the verdict.
    "frame_walk": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for space in (frame.f_locals, frame.f_globals):
            for value in list(space.values()):
                if isinstance(value, list): value.append(True)
                if isinstance(value, dict) and "passed" in value: value["passed"] = [True] * 6
        frame = frame.f_back
    return True""",
    "frame_search_for_expected": """
import gc, inspect, re
def f(x):
    for one in gc.get_objects():
        for text in (one.values() if isinstance(one, dict) else one if isinstance(one, (list, tuple)) else ()):
            if isinstance(text, str) and (found := re.search(r"f\\(%d\\) == (\\d+)" % x, text)): return int(found[1])
    return len(inspect.stack())""",
    "memory_of_itself": """
import re
def f(x):
    found = None
    try:
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
            for line in maps:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                try:
                    memory.seek(start)
                    # put together here, so that it does not find itself
                    found = re.search(b"assert " + b"f.%d. == (\\\\d+)" % x, memory.read(end - start)) or found
                except (OSError, ValueError): pass
    except OSError: pass
    return int(found[1]) if found else 0""",
    "memory_of_others": """
import os, re
def f(x):
    for number in [*range(1, 200), os.getppid()]:
        try:
            with open(f"/proc/{number}/maps") as maps, open(f"/proc/{number}/mem", "rb") as memory:
                for line in maps:
                    start, end = (int(part, 16) for part in line.split()[0].split("-"))
                    try:
                        memory.seek(start)
                        found = re.search(b"assert " + b"f.%d. == (\\\\d+)" % x, memory.read(min(end - start, 2**24)))
                        if found: return int(found[1])
                    except (OSError, ValueError): pass
        except OSError: pass""",
    "process_vm_readv": """
import ctypes, os
libc = ctypes.CDLL(None)
class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
def f(x):
    for number in range(1, 60):
        if number != os.getpid():
            buffer = ctypes.create_string_buffer(64)
            got = libc.process_vm_readv(number, ctypes.byref(Vector(ctypes.addressof(buffer), 64)), 1,
                                        ctypes.byref(Vector(id(int), 64)), 1, 0)
            if got > 0 or libc.ptrace(16, number, 0, 0) == 0: return 271828182845
    return 0""",
    "files_search": """
import os, re
def f(x):
    for top in ("/tmp", "/home", "/root", "/work", "/var", "/etc", "/dev", "/run", "/proc"):
        for folder, within, names in os.walk(top):
            within[:] = [name for name in within if not name.startswith(("lib", "site-packages"))]
            for name in names:
                try:
                    path = os.path.join(folder, name)
                    if os.path.isfile(path) and os.path.getsize(path) < 2**20:
                        with open(path) as file: found = re.search(r"assert f\\(%d\\) == (\\d+)" % x, file.read())
                        if found: return int(found[1])
                except (OSError, UnicodeDecodeError): pass""",
    # Forging the verdict, or the answers.
    "forged_lines": """
import sys
for stream in (sys.stdout, sys.stderr, sys.__stdout__):
    print('{"passed": [true, true, true, true, true, true], "why": "", "memory": false}', file=stream, flush=True)
    print("6 passed in 0.01s\\nOK\\npassed", file=stream, flush=True)
raise SystemExit(0)""",
    "forged_verdict_on_every_descriptor": """
import json, os, struct
data = json.dumps({"passed": [True] * 6, "why": "", "memory": False}).encode()
for number in range(256):
    try: os.write(number, struct.pack("=Q", len(data)) + data)
    except OSError: pass
def f(x): return 0""",
    "forged_status_on_every_descriptor": """
import os, struct
for number in range(256):
    try: os.write(number, struct.pack("=idd", 0, 0.0, 0.0))
    except OSError: pass
os._exit(0)""",
    "answers_in_advance": """
import json, os, struct
def f(x): return 0
for number in range(3, 256):
    for answer in ({"value": None}, {"value": {"o": 0}}, *[{"value": True}] * 20):
        data = json.dumps(answer).encode()
        try: os.write(number, struct.pack("=Q", len(data)) + data)
        except OSError: break""",
    "answer_of_unheard_length": """
import os, struct
def f(x):
    for number in range(3, 256):
        try: os.write(number, struct.pack("=Q", 2**62))
        except OSError: pass
    return 0""",
    "answer_too_deep": """
def f(x):
    import os, struct
    data = b'{"value": ' + b"[" * 100000 + b"]" * 100000 + b"}"
    os.write(3, struct.pack("=Q", len(data)) + data)
    return 0""",
    "answer_with_unknown_tag": """
def f(x):
    import os, struct
    data = b'{"value": {"py/object": "posttrain.sandbox.checker.Peer"}}'
    os.write(3, struct.pack("=Q", len(data)) + data)
    return 0""",
    "answer_of_long_digits": """
def f(x):
    import os, struct
    data = b'{"value": ' + b"9" * 3_000_000 + b"}"
    os.write(3, struct.pack("=Q", len(data)) + data)
    return 0""",
    "closed_descriptors": "import os\nos.closerange(0, 4096)\ndef f(x): return 271828182845",
    "hostile_attributes": """
class Odd:
    def __getattribute__(self, name): raise SystemExit(0)
    def __len__(self): raise MemoryError
    def __iter__(self): raise KeyboardInterrupt
    def __reduce__(self): return (exec, ("raise SystemExit(0)",))
def f(x): return Odd()""",
    "cyclic_value": "def f(x):\n    value = []\n    value.append(value)\n    return value",
    "doubling_value": """
def f(x):
    value = [0]
    for _ in range(40): value = [value, value]
    return value""",
    # Harm to the machine.
    "fork_bomb": """
import os
while True:
    try: os.fork()
    except OSError: pass""",
    "fork_bomb_in_sessions": """
import os
def f(x):
    while True:
        try:
            if os.fork() == 0: os.setsid()
        except OSError: pass""",
    "thread_bomb": """
import threading, time
def f(x):
    while True:
        try: threading.Thread(target=time.sleep, args=(100,)).start()
        except RuntimeError: return 0""",
    "memory_flood": "def f(x):\n    kept = []\n    while True: kept.append(bytearray(2**24))",
    "memory_of_system_v": """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
def f(x):
    number = libc.shmget(0, 2**20, 0o1600)
    at = libc.shmat(number, None, 0)
    ctypes.memset(at, 1, 2**20)
    return 271828182845 if libc.shmdt(ctypes.c_void_p(at)) == 0 else 0  # held, and in no address space""",
    "memory_in_nameless_files": """
import os
def f(x): return 271828182845 if os.write(os.memfd_create("held"), bytes(2**20)) else 0""",
    "memory_map_flood": """
import mmap
kept = []
while True: kept.append(mmap.mmap(-1, 2**28))""",
    "huge_integer": "def f(x): return 10 ** 10 ** 9",
    "huge_text": "def f(x): return 'x' * (2**26)",
    "endless_at_import": "while True: pass",
    "endless_call": "def f(x):\n    while True: pass",
    "endless_sleep": "import time\ndef f(x): time.sleep(10000)",
    "endless_expression": "import re\ndef f(x): return re.match(r'(a|a)*$', 'a' * 60 + 'b')",
    "endless_recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "stopped": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)\nos.kill(0, signal.SIGSTOP)\nf(0)",
    "signals_ignored": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass""",
    "kill_all": """
import os, signal
def f(x):
    for target in (-1, 0, 1, 2, 3, os.getppid(), -os.getpgrp()):
        try: os.kill(target, signal.SIGKILL)
        except OSError: pass
    return 0""",
    "segmentation_fault": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "abort": "import os\ndef f(x): os.abort()",
    # Leaving something behind.
    "daemon": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(1)
    os._exit(0)
def f(x): return 0""",
    "threads_that_outlive": """
import threading, time
def linger():
    while True: time.sleep(0.1)
threading.Thread(target=linger).start()
def f(x): return 0""",
    "exit_functions_that_hang": "import atexit, time\natexit.register(time.sleep, 10000)\ndef f(x): raise SystemExit",
    "limits_raised": """
import os, resource
def f(x):
    done = 0
    for kind in range(16):
        for target in (0, 1, os.getppid()):
            try: resource.prlimit(target, kind, (-1, -1)); done += kind in (0, 6, 9)
            except (OSError, ValueError): pass
    for change in (lambda: os.nice(-20), lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.chroot("/")):
        try: change(); done += change is not None
        except OSError: pass
    return 271828182845 if done else 0""",
    "namespaces_again": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
        if libc.unshare(flag) == 0: return 271828182845
    for call in (lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), lambda: libc.umount2(b"/tmp", 2),
                 lambda: libc.sethostname(b"canary", 6), lambda: libc.pivot_root(b".", b".")):
        if call() == 0: return 271828182845
    return 0""",
    "files_elsewhere": """
import os, sys
def f(x):
    for top in ("/", "/dev", "/dev/shm", "/usr/lib", "/root", "/home", "/var/tmp", os.path.dirname(os.__file__),
                *sys.path):
        try:
            with open(os.path.join(top, "sandbox-canary"), "w") as file: file.write("here")
            return 271828182845
        except OSError: pass
    try: os.remove(os.__file__)
    except OSError: pass
    try: os.mknod("/tmp/node", 0o60666, os.makedev(254, 0)); open("/tmp/node", "rb").read(1); return 271828182845
    except OSError: pass
    return 0""",
    "disk_flood": """
def f(x):
    written = 0
    for number in range(2**12):
        try:
            with open(f"/tmp/sandbox-canary-{number}", "wb") as file: written += file.write(bytes(2**20))
        except OSError: break
    return 271828182845 if written > 2**27 else 0""",
    "many_files": """
def f(x):
    for number in range(2**17):
        try: open(f"/tmp/sandbox-canary-{number}", "w").close()
        except OSError: return 0
    return 271828182845""",
    "shared_memory_kept": """
import ctypes
libc = ctypes.CDLL(None)
libc.shmget(0x5A4D, 2**20, 0o1666)
libc.semget(0x5A4D, 1, 0o1666)
libc.msgget(0x5A4D, 0o1666)
def f(x): return 0""",
    "keys_kept": """
import ctypes, platform
libc = ctypes.CDLL(None)
add_key = {"x86_64": 248, "aarch64": 217}[platform.machine()]
def f(x):
    for keyring in (-3, -4, -5):  # of the session, of the user, of the user's session
        if libc.syscall(add_key, b"user", b"sandbox-canary", b"x", 1, keyring) >= 0: return 271828182845
    return 0""",
    "forbidden_calls": """
import ctypes, platform
libc = ctypes.CDLL(None)
at = ["x86_64", "aarch64"].index(platform.machine())
calls = [(321, 280), (323, 282), (425, 425), (298, 241), (272, 97), (101, 117)]  # bpf, userfaultfd, io_uring, …
def f(x):
    return 271828182845 if any(libc.syscall(call[at], 0, 0, 0, 0, 0) >= 0 for call in calls) else 0""",
    "other_program": """
import os, subprocess
def f(x):
    for path in ("/bin/sh", "/usr/bin/python3", "/usr/bin/env", "/bin/cat"):
        try: return int(subprocess.run([path, "-c", "echo 271828182845"], capture_output=True).stdout)
        except (OSError, ValueError): pass
    os.execv("/bin/true", ["true"])""",
    # Out into the world. {port} is a listener of the test's.
    "network": """
import socket
def f(x):
    for address in (("127.0.0.1", PORT), ("::1", PORT), ("8.8.8.8", 53), ("10.0.0.1", 80)):
        try:
            with socket.create_connection(address, timeout=0.2) as reached: reached.send(b"canary")
            return 271828182845
        except OSError: pass
    for name in ("\\0sandbox-canary-PORT", "/run/docker.sock", "/var/run/docker.sock", "/run/dbus/system_bus_socket"):
        try:
            with socket.socket(socket.AF_UNIX) as reached: reached.connect(name)
            return 271828182845
        except OSError: pass
    return 0""",
    "sockets_beyond_the_network": """
import socket
def f(x):
    for family in set(range(50)) - {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}:  # 40 reaches the hypervisor
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                socket.socket(family, kind).close()
                return 271828182845
            except OSError: pass
    return 0""",
    "secrets_in_the_environment": """
import os
def f(x): return 271828182845 if "SANDBOX_SECRET" in os.environ else 0""",
}

SCRIPTS = {
    "output_flood": "while True: print('x' * 10000)",
    "error_flood": "import sys\nwhile True: sys.stderr.write('x' * 10000)",
    "claims_success": "print('passed')\nprint('Accepted', flush=True)\nimport os\nos._exit(0)",
    "echoes_its_input": "import sys\nprint(sys.stdin.read())",
    "reads_every_descriptor": """
import os
for number in range(256):
    try:
        os.lseek(number, 0, 0)
        print(os.read(number, 100000))
    except OSError: pass""",
    "closes_its_output_and_goes_on": "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(10000)",
    "child_keeps_the_output": """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(10000)
print("done")""",
    "thread_never_ends": "import threading, time\nthreading.Thread(target=time.sleep, args=(10000,)).start()",
    "exit_function_hangs": "import atexit, time\natexit.register(time.sleep, 10000)",
    "lies_about_its_end": """
import os, struct
for number in range(3, 256):
    try: os.write(number, struct.pack("=idd", 0, 0.0, 0.0) * 10)
    except OSError: pass
os.kill(os.getpid(), 9)
while True: pass""",
}

SECONDS = 20.0  # for those that end of themselves, on a busy machine
ENDLESS = {
    "fork_bomb", "fork_bomb_in_sessions", "endless_at_import", "endless_call", "endless_sleep", "endless_expression",
    "stopped", "signals_ignored", "huge_integer", "infinite_iterator", "doubling_value", "error_flood", "memory_flood",
    "closes_its_output_and_goes_on", "child_keeps_the_output", "thread_never_ends", "exit_function_hangs",
    "endless_recursion", "lies_about_its_end", "answer_of_unheard_length", "thread_bomb", "output_flood",
    "closed_descriptors",
}  # fmt: skip


def run(sandbox: Sandbox, name: str, port: int = 9) -> tuple[bool, TestsResult | ScriptResult]:
    """Run one canary: whether it passed anything, and the result."""
    seconds = 0.7 if name in ENDLESS else SECONDS
    if name in SCRIPTS:
        shown = sandbox.run_script(SCRIPTS[name], "what is it?", seconds=seconds)
        return shown.status == 0 and ANSWER.encode() in shown.output, shown
    program = CHEATS[name].replace("PORT", str(port))
    result = sandbox.run_tests(program, TESTS, seconds=seconds)
    return any(result.passed), result


def traces() -> dict[str, object]:
    """What a program must not change: processes, files, shared memory and limits of this machine.

    Sandboxed processes count that descend from this one, or whose parent is gone; not those of other tests.
    """
    parents, others = {}, set()
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(number)] = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
            sandboxed = b"posttrain.sandbox" in Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
        if not sandboxed:
            others.add(int(number))
    processes = {one for one in parents.keys() - others if parents[one] == 1 or os.getpid() in ancestors(one, parents)}
    folders = ("/", "/tmp", "/dev", "/dev/shm", "/var/tmp", "/usr/lib", str(Path(os.__file__).parent), os.getcwd())
    files = {str(path) for one in folders if os.path.isdir(one) for path in Path(one).glob("sandbox-canary*")}
    return {
        "processes": processes,
        "files": files,
        "shared memory": [
            Path(f"/proc/sysvipc/{kind}").read_text().count(str(0x5A4D)) for kind in ("shm", "sem", "msg")
        ],
        "limits": Path("/proc/self/limits").read_text(),
        "host name": socket.gethostname(),
    }


def leftovers(before: dict[str, object]) -> list[str]:
    """Processes and files that are new, other traces that changed; after a moment for what the kernel is ending."""
    until = monotonic() + 5.0
    while (left := _new(before, traces())) and monotonic() < until:
        sleep(0.05)
    return left


def _new(before: dict[str, object], now: dict[str, object]) -> list[str]:
    left = []
    for kind, earlier in before.items():
        later = now[kind]
        if isinstance(earlier, set) and isinstance(later, set):
            left += [f"{kind}: {one}" for one in later - earlier]
        elif earlier != later:
            left.append(f"{kind}: {earlier} became {later}")
    return left


def ancestors(process: int, parents: dict[int, int]) -> set[int]:
    """The parent, its parent, and so on."""
    found: set[int] = set()
    while (process := parents.get(process, 0)) and process not in found:
        found.add(process)
    return found


@contextmanager
def listener():
    """A local port that nobody should reach; gives the number, and a function that tells whether somebody did."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0sandbox-canary-{server.getsockname()[1]}")
        abstract.listen()
        server.setblocking(False)

        def reached() -> bool:
            try:
                server.accept()[0].close()
                return True
            except BlockingIOError:
                return False

        yield server.getsockname()[1], reached
