"""The sandbox's semantics, with programs that mean well."""

import os
import resource
import signal
import threading
import time
from pathlib import Path
from tempfile import gettempdir

import pytest

from posttrain.errors import PosttrainError
from posttrain.sandbox.jails import Limits, SandboxRefused
from posttrain.sandbox.sandbox import Sandbox
from tests.sandbox.canaries import leftovers, traces
from tests.sandbox.denying import DENYING

SECONDS = 30.0


@pytest.fixture(params=["required", "none"], scope="module")
def either(request):
    with Sandbox(isolation=request.param) as sandbox:
        yield sandbox


def passes(sandbox, program, *tests, **options):
    result = sandbox.run_tests(program, tests, seconds=SECONDS, **options)
    assert result.defect is None, result
    return result.passed


def test_each_test_is_told_apart(either):
    program = "def f(x):\n    return x * 2"
    assert passes(either, program, "assert f(2) == 4", "assert f(2) == 5", "assert f('a') == 'aa'") == (
        True,
        False,
        True,
    )


def test_values_of_every_type_go_there_and_back(either):
    values = (
        "[None, True, 1, 10**40, 1.5, float('inf'), 1j, 'ü', b'x', [1, [2]], (1, (2,)), {1, 2}, {(1,): {'a': None}}]"
    )
    tests = f"for value in {values}:\n    assert f(value) == value and type(f(value)) is type(value)"
    assert passes(either, "def f(x): return x", tests, "assert f(float('nan')) != f(float('nan'))") == (True, True)


EACH = "from posttrain.sandbox.checker import each\n"


def test_answers_asked_together_are_those_of_single_calls(either):
    program = """
import time
calls = []
def f(x):
    calls.append(x)
    if x == 370:
        raise KeyError(x)
    if x % 50 == 0:
        time.sleep(0.002)
    return [x, len(calls)]
"""
    test = """
found = []
try:
    for answer in each(f, [(x,) for x in range(1000)]):
        found.append(answer)
except KeyError as error:
    found.append(str(error))
assert found == [[x, x + 1] for x in range(370)] + ["'370'"], found[-1]
"""
    assert passes(either, program, EACH + test, calls=["f"]) == (True,)


@pytest.mark.parametrize("ahead", ["0.001", "60"])  # seconds that the candidate may go on for
@pytest.mark.parametrize("call", ["f('x' * 20_000_000)", "g(20_000_000)"])
def test_answers_asked_together_may_be_as_large_as_single_ones(sandbox, call, ahead):
    program = f"""
import sys
sys.modules["posttrain.sandbox.candidate"].EACH_SECONDS = {ahead}
def f(text): return len(text)
def g(n): return n * "x"
"""
    name, argument = call[0], call[2:-1]
    test = f"assert [len(str(one)) for one in each({name}, [({argument},)] * 5)] == [len(str({call}))] * 5"
    assert passes(sandbox, program, EACH + test, calls=["f", "g"]) == (True,)


def test_an_answer_nested_too_deep_fails_its_own_call_alone(sandbox):
    program = """
import sys
sys.modules["posttrain.sandbox.candidate"].EACH_SECONDS = 60
def f(depth):
    value = []
    for _ in range(depth): value = [value]
    return value
"""
    test = """
found = 0
try:
    for answer in each(f, [(1,)] * 10 + [(100_000,), (1,)]):
        found += 1
except (TypeError, RecursionError):
    pass
assert found == 10, found
"""
    assert passes(sandbox, program, EACH + test, calls=["f"]) == (True,)


@pytest.mark.parametrize("answers", ["[], None", "[1] * 9, None", "[], ['KeyError']", "1", "[1, 1], ['KeyError', '']"])
def test_a_program_that_answers_more_or_fewer_calls_than_were_asked_fails(sandbox, answers):
    program = f"""
import sys
sys.modules["posttrain.sandbox.candidate"]._each = lambda *_: ({answers})
def f(x): return 1
"""
    test = "for one in each(f, [(1,), (2,)]): assert one == 1"
    assert passes(sandbox, program, EACH + test, "assert True", calls=["f"])[0] is False


def test_objects_of_the_programs_are_used_where_they_are(sandbox):
    program = """
class Node:
    def __init__(self, value): self.value, self.left = value, None
    def double(self): return Node(self.value * 2)
def depth(node): return 1 + depth(node.left) if node else 0
def numbers(): yield from range(3)
"""
    setup = "root = Node(1)\nroot.left = Node(2)"
    tests = ["assert depth(root) == 2", "assert root.left.double().value == 4", "assert list(numbers()) == [0, 1, 2]"]
    assert passes(sandbox, program, *tests, "assert Node(1) != Node(1)", setup=setup) == (True,) * 4


def test_exceptions_cross_by_their_built_in_class(sandbox):
    program = """
class Mine(ValueError): pass
def f(x): raise Mine("no " + x)
def g(): raise SystemExit
"""
    caught = (
        "try:\n    f('good')\nexcept ValueError as error:\n    assert 'no good' in str(error)\nelse:\n    assert False"
    )
    ends = "try:\n    g()\nexcept Exception:\n    pass"
    assert passes(sandbox, program, caught, "f('x')", ends) == (True, False, True)


def test_arguments_cross_by_value(sandbox):
    program = "def f(x):\n    x.clear()\n    return x"
    assert passes(sandbox, program, "given = [1, 2]\nassert f(given) == [] and given == [1, 2]") == (True,)


def test_a_stub_in_the_setup_gives_way_to_the_programs_function(sandbox):
    setup = "def helper(x): return x\ndef f(x): pass"
    program = "def helper(x): return 0\ndef f(x): return x + 1"
    tests = ["assert f(1) == 2", "assert helper(5) == 5"]
    assert passes(sandbox, program, *tests, setup=setup, calls=["f"]) == (True, True)


def test_a_task_may_ask_for_a_function_named_as_a_builtin(sandbox):
    assert passes(sandbox, "def sum(a, b): return 0", "assert sum(1, 2) == 0") == (True,)
    assert passes(sandbox, "def sum(a): return 0\ndef f(): return [1]", "assert sum(f()) == 1") == (True,)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("def g(): pass", "NameError"),
        ("def f(x): return y", "NameError"),
        ("import os\ndef f(x): os._exit(3)", "ended during a call"),
        ("", "NameError"),
        ("\0", "SyntaxError"),
    ],
)
def test_a_wrong_program_fails_with_its_reason(sandbox, program, why):
    result = sandbox.run_tests(program, ["assert f(1) == 1"], seconds=SECONDS)
    assert result.passed == (False,) and result.defect is None and result.limit is None
    assert why in result.why


@pytest.mark.parametrize(
    ("tests", "defect"),
    [
        (["assert f(1) ="], "do not compile"),
        (["import no_such_module\nassert f(1) == 1"], "no_such_module"),
        (["assert f(lambda: 0) == 1"], "function"),
        (["assert f(1) == 1", "assert f(lambda: 0) == 1"], "function"),
        (["assert f(x for x in (1, 2)) == 1"], "generator"),
        (["assert f(range(3)) == 1"], "range"),
        (["assert f('x' * 2**26) == 1"], "bytes; the limit"),
        ([f"assert f(1) == {'1' * 2**26}"], "bytes; the limit"),
    ],
)
def test_what_is_wrong_with_the_tests_is_not_blamed_on_the_program(sandbox, tests, defect):
    result = sandbox.run_tests("def f(x): return 1", tests, seconds=SECONDS)
    assert defect in (result.defect or "")


FLOOD = """
import os, struct
def f(n):
    data = memoryview(b'{"value": "' + "ü".encode() * 9_000_000 + b'"}')
    os.write(3, struct.pack("=Q", len(data)))
    while data: data = data[os.write(3, data) :]
def g(x): return 1
"""


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(n): return range(n)", "assert f(5)[:2] == [7, 8]"),
        ("def f(n): return object()", "assert f(5)[:2] == [7, 8]"),
        ("from collections import deque\ndef f(n): return deque([7, 8])", "assert f(5)[:2] == [7, 8]"),
        (FLOOD, "assert g(f(5)) == 1"),
        (FLOOD, "try:\n    g(f(5))\nexcept Exception:\n    pass"),
        (FLOOD, "try:\n    g(f(5))\nexcept BaseException:\n    pass"),
        ("def f(n): return object()\ndef g(x): return 1", "assert g(type(f(5))) == 1"),
        ("def f(n): return [n]\ndef g(x): return 1", "assert g(f(5).count) == 1"),
        ("def f(n): return n\ndef g(x): return 1", "import fractions\nassert g(fractions.Fraction(1, 2) * f(5)) == 1"),
    ],
)
def test_what_an_answer_leads_to_is_not_blamed_on_the_tests(sandbox, program, test):
    assert passes(sandbox, program, test) == (False,)


def test_objects_of_the_programs_are_sliced_where_they_are(sandbox):
    program = """
class Row:
    def __getitem__(self, key): return [1, 2, 3][key] if isinstance(key, slice) else key
def f(): return Row()
def same(x): return x
"""
    tests = [
        "assert f()[1:] == [2, 3]",
        "assert f()[::2, 1] == (slice(None, None, 2), 1)",
        "same(slice(1)) == slice(1)",
    ]
    assert passes(sandbox, program, *tests) == (True, True, True)


def test_a_program_cannot_end_the_loop_that_it_is_called_in(sandbox):
    tests = [
        "assert all(map(f, [2, 3, 5, 7]))",
        "for got, want in zip(map(f, range(5)), [0] * 5):\n    assert got == want",
        "assert not any(map(f, [4, 6]))",
        "assert list(iter(f, 1)) == []",
        "import asyncio\nasync def g():\n    async for x in h(): assert False\n"
        "class h:\n    def __aiter__(self): return self\n    async def __anext__(self): return f(1)\nasyncio.run(g())",
    ]
    for kind in ("StopIteration", "StopAsyncIteration"):
        assert passes(sandbox, f"def f(*x): raise {kind}", *tests) == (False,) * len(tests)


def test_helpers_of_the_standard_library_are_not_the_programs_unless_they_are_asked_for(sandbox):
    mine = "def Counter(x): return 0\ndef sqrt(x): return 0\ndef f(x): return 0"
    tests = ["assert Counter(f('ab')) == Counter(['a', 'b'])", "assert f(4) == sqrt(4)"]
    assert passes(sandbox, mine, *tests) == (False, False)
    assert passes(sandbox, "def f(x): return list(x)", tests[0]) == (True,)
    assert passes(sandbox, mine, "for x in (1, 4):\n    assert sqrt(x) == 0") == (True,)
    assert passes(sandbox, "def f(x): return 0", "for x in (1, 4):\n    assert sqrt(x) == 0") == (False,)
    assert passes(sandbox, mine, tests[1], calls=["f", "sqrt"]) == (True,)


def test_a_program_may_talk_to_itself(sandbox):
    program = """
import asyncio, socket
async def twice(x): return 2 * x
def f(x):
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6): socket.socket(family).close()
    one, other = socket.socketpair()
    one.send(bytes([asyncio.run(twice(x))]))
    return other.recv(1)[0]
"""
    assert passes(sandbox, program, "assert f(3) == 6") == (True,)


def test_an_import_error_of_the_programs_is_its_own_fault(sandbox):
    result = sandbox.run_tests("def f(x):\n    import no_such_module", ["f(1)"], seconds=SECONDS)
    assert result.passed == (False,) and result.defect is None


def test_scripts_read_and_print_as_under_the_interpreter(either):
    program = """
import atexit, sys, threading
if __name__ == "__main__":
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: print("thread")).start()
    print(sum(map(int, sys.stdin)), input.__name__, end="\\n")
"""
    result = either.run_script(program, "1\n2\n3\n", seconds=SECONDS)
    assert (sorted(result.output.split(b"\n")), result.status) == ([b"", b"6 input", b"at exit", b"thread"], 0)


@pytest.mark.parametrize(("program", "status"), [("raise SystemExit(3)", 3), ("exit_code = 1 / 0", 1), ("", 0)])
def test_the_status_of_a_script(sandbox, program, status):
    assert sandbox.run_script(program, seconds=SECONDS).status == status


def test_limits_are_named(sandbox):
    assert sandbox.run_script("while True: pass", seconds=0.3).limit == "time"
    assert sandbox.run_script("print('x' * 10**7)", seconds=SECONDS).limit == "output"
    assert sandbox.run_script("x = bytearray(2**31)", seconds=SECONDS).limit == "memory"
    assert sandbox.run_tests("def f(): return bytearray(2**31)", ["f()"], seconds=SECONDS).limit == "memory"
    assert sandbox.run_tests("def f():\n    while True: pass", ["f()"], seconds=0.3).limit == "time"
    assert sandbox.run_tests("#" * 2**26, ["f()"], seconds=SECONDS).limit == "size"
    assert sandbox.run_script("#" * 2**26, seconds=SECONDS).limit == "size"
    with Sandbox(Limits(file_size=1000)) as small:
        write = "with open('x', 'wb') as file: file.write(bytes(2000))"
        assert small.run_script(write, seconds=SECONDS).status != 0


def test_programs_do_not_see_each_other(either):
    write = "import builtins, random\nbuiltins.left = 1\nopen('note', 'w').write('x')"
    assert either.run_script(write, seconds=SECONDS).status == 0
    look = "import builtins, os\nprint(hasattr(builtins, 'left'), os.listdir('.'))"
    assert either.run_script(look, seconds=SECONDS).output == b"False []\n"


def test_kept_tests_begin_anew_for_every_program():
    setup = "import os\nseen = []"
    test = "seen.append(f())\nassert seen == [1] and os.listdir('.') == []\nopen('note', 'w').close()"
    given = {"setup": setup, "calls": ["f"], "seconds": SECONDS}
    with Sandbox() as sandbox:
        for _ in range(4):
            assert sandbox.run_tests("def f(): return 1", [test], **given).passed == (True,)
        stays = f"{test.splitlines()[0]}\nif os.fork() == 0:\n    import time\n    time.sleep(1000)"
        before = traces()
        for _ in range(4):
            assert sandbox.run_tests("def f(): return 1", [stays], **given).passed == (True,)
        sandbox.close()
        assert leftovers(before) == []


@pytest.mark.parametrize("limit", ["size", "files"])
def test_a_program_that_kept_tests_never_saw_costs_the_next_nothing(limit):
    with Sandbox() as sandbox:

        def judge(program="def f(): return 1"):
            return sandbox.run_tests(program, ["assert f() == 1"], calls=["f"], seconds=3.0)

        judge(), judge()
        if limit == "size":
            assert judge("#" * 2**26).limit == "size"
        else:
            left = resource.getrlimit(resource.RLIMIT_NOFILE)
            os.close(lowest := os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, left[1]))
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    judge()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, left)
        for _ in range(2):
            assert judge().passed == (True,)


@pytest.mark.parametrize("victim", ["zygote", "checker"])
def test_kept_tests_killed_from_outside_are_replaced(victim):
    with Sandbox() as sandbox:
        for _ in range(6):
            assert sandbox.run_tests("def f(): return 1", ["assert f() == 1"], seconds=SECONDS).passed == (True,)
            if sandbox._kept:
                zygote = sandbox._jailer.zygotes[0].process.pid
                time.sleep(0.1)  # until it has said that it is ready
                os.kill(zygote if victim == "zygote" else descendants(zygote)[-1], signal.SIGKILL)
                time.sleep(0.2)


def descendants(process):
    """Its children, theirs, and so on, the oldest first."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return sorted(sum(([int(child), *descendants(int(child))] for child in children), []))


@pytest.mark.parametrize("stays", ["", "open('note', 'w').close()"])
def test_a_programs_time_is_the_same_wherever_it_stands(stays):
    setup = f"import time\ntime.sleep(1.2)\n{stays}"
    slow = "import time\ndef f(n):\n    time.sleep(n)\n    return 1"
    with Sandbox() as sandbox:
        # Prepared once, the tests leave a program all of its time; where they cannot be kept, their setup is a part.
        quick, late = (0.2, 2.5) if stays else (1.4, 2.5)
        for _ in range(3):
            for wait, passed in ((quick, True), (late, False)):
                program = f"{slow}\nwait = {wait}"
                result = sandbox.run_tests(
                    program, ["assert f(wait) == 1"], setup=setup, calls=["f", "wait"], seconds=2.0
                )
                assert (result.passed, result.limit) == ((passed,), None if passed else "time")


SHARED = (
    "import tempfile\nfile = tempfile.TemporaryFile(buffering=0)\nfile.write(b'1222')\nfile.seek(0)\n"
    "def seen(): return file.read(1)",
    "import os\nread, write = os.pipe()\nos.write(write, b'1222')\ndef seen(): return os.read(read, 1)",
    "import socket\none, two = socket.socketpair()\none.send(b'1222')\ndef seen(): return two.recv(1)",
    "import mmap\nheld = mmap.mmap(-1, 9)\nheld[:1] = b'1'\n"
    "def seen():\n    was = held[:1]\n    held[:1] = b'2'\n    return was",
    "import threading, queue\nasked, told = queue.Queue(), queue.Queue()\n"
    "def serve():\n    while True: told.put(asked.get())\n"
    "threading.Thread(target=serve, daemon=True).start()\n"
    "def seen():\n    asked.put(b'1')\n    return told.get(timeout=5)",
)


@pytest.mark.parametrize("setup", SHARED)
def test_what_forks_would_share_is_made_anew_for_every_program(setup):
    test = "assert f() == 1 and seen() == b'1'"
    with Sandbox() as sandbox:
        for _ in range(3):
            result = sandbox.run_tests("def f(): return 1", [test], setup=setup, calls=["f"], seconds=SECONDS)
            assert result.passed == (True,), result


def test_a_program_may_fill_most_of_its_memory():
    grow = (
        "def f():\n    held = bytearray()\n    while len(held) < 700 * 2**20: held += bytes(2**13)\n"
        "    return len(held)"
    )
    with Sandbox() as sandbox:
        assert passes(sandbox, grow, "assert f() == 700 * 2**20") == (True,)


THREADS = """
import threading, time
count = 0
try:
    while count < 99:
        threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
        count += 1
except RuntimeError:
    pass
def f(): return count
"""


def test_kept_tests_outlive_every_kind_of_program():
    wrong = (
        "import os\ndef f(): os._exit(0)",
        "def f():\n    while True: pass",
        "def f(): return 0",
        "def f(): return [0] * 10**8",
        "1 / 0",
        THREADS,
    )
    with Sandbox() as sandbox:
        for program in wrong:
            for given, right in (("def f(): return 1", True), ("def f(): return 1", True), (program, False)):
                result = sandbox.run_tests(given, ["assert f() == 1"], calls=["f"], seconds=3.0)
                assert (result.passed, result.defect) == ((right,), None), given


@pytest.mark.parametrize(
    ("setup", "defect"), [("import no_such_module", True), ("1 / 0", False), ("import os\nos._exit(0)", False)]
)
def test_a_setup_that_fails_does_so_for_every_program(sandbox, setup, defect):
    for _ in range(3):
        result = sandbox.run_tests("def f(): pass", ["f()"], calls=["f"], setup=setup, seconds=SECONDS)
        assert not any(result.passed) and bool(result.defect) == defect


def test_a_program_may_start_as_many_threads_beside_kept_tests(sandbox):
    for _ in range(4):  # one more where it is faster than the checker's fork
        assert passes(sandbox, THREADS, "assert f() >= 14", "assert f() <= 15") == (True, True)


def test_without_namespaces_too_nothing_stays(open_sandbox):
    stays = "import os, time\nopen('note', 'w').close()\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)"
    assert open_sandbox.degraded  # and started
    before = traces()
    assert open_sandbox.run_script(stays, seconds=SECONDS).status == 0
    assert leftovers(before) == []
    assert not list(Path(gettempdir()).glob(f"sandbox-{open_sandbox._jailer.zygotes[0].process.pid}-*"))


def test_the_same_program_prints_the_same_each_time():
    outputs = set()
    for _ in range(2):
        with Sandbox() as sandbox:
            outputs.add(sandbox.run_script("print(set('abcdefgh'), hash('x'))", seconds=SECONDS).output)
    assert len(outputs) == 1


def test_threads_may_share_a_sandbox(sandbox):
    found = {}

    def judge(number):
        found[number] = passes(sandbox, f"def f(): return {number}", f"assert f() == {number}", "assert f() == -1")

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: (True, False) for number in range(8)}


def test_a_zygote_killed_from_outside_is_replaced():
    with Sandbox() as sandbox:
        sandbox.run_script("")
        sandbox._jailer.zygotes[0].process.kill()
        sandbox._jailer.zygotes[0].process.wait()
        time.sleep(0.2)
        assert sandbox.run_script("print(1)", seconds=SECONDS).output == b"1\n"


def test_what_fails_before_a_program_is_heard_is_never_its_fault(monkeypatch):
    monkeypatch.setattr("posttrain.sandbox.jails._BEGIN", DENYING.replace("isolate = refused", "limit = None"))
    with Sandbox() as sandbox:
        for call in (sandbox.run_script, lambda program: sandbox.run_tests(program, ["f()"])):
            with pytest.raises(PosttrainError, match="could not set up.*TypeError"):
                call("def f(): pass")


def test_closing_ends_every_process():
    sandbox = Sandbox()
    sandbox.run_script("")
    process = sandbox._jailer.zygotes[0].process
    sandbox.close()
    assert process.poll() == -signal.SIGKILL


def test_an_interpreter_that_cannot_start_is_reported(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(PosttrainError, match="does not start"):
        Sandbox().run_script("")


def test_where_namespaces_are_refused_no_program_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("posttrain.sandbox.jails._BEGIN", DENYING)
    with Sandbox() as sandbox:
        for _ in range(2):  # not at the second call either
            with pytest.raises(SandboxRefused, match="not permitted.*docs/sandbox.md"):
                sandbox.run_script(f"open({str(tmp_path / 'ran')!r}, 'w')")
            with pytest.raises(SandboxRefused):
                sandbox.run_tests("", ["assert True"])
            with pytest.raises(SandboxRefused):
                sandbox.degraded  # noqa: B018
        assert not sandbox._jailer.zygotes and not os.listdir(tmp_path)


def test_a_kernel_that_lacks_a_call_for_each_program_is_noticed_at_the_start(monkeypatch):
    monkeypatch.setattr("posttrain.sandbox.jails._BEGIN", DENYING.replace("isolate", "mount_scratch"))
    with Sandbox() as sandbox, pytest.raises(SandboxRefused, match="not permitted"):
        sandbox.run_script("")


def test_where_it_is_allowed_a_degraded_sandbox_says_so_and_still_judges(monkeypatch):
    monkeypatch.setattr("posttrain.sandbox.jails._BEGIN", DENYING)
    with Sandbox(isolation="preferred") as sandbox:
        assert "not permitted" in sandbox.degraded
        assert passes(sandbox, "def f(): return 1", "assert f() == 1", "assert f() == 2") == (True, False)


def test_no_descriptor_is_lost():
    with Sandbox() as sandbox:
        for _ in range(2):  # then it keeps the tests
            sandbox.run_tests("def f(): return 1", ["assert f() == 1"], seconds=SECONDS)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            sandbox.run_script("print(1)", seconds=SECONDS)
            sandbox.run_tests("def f(): return 1", ["assert f() == 1"], seconds=SECONDS)
        assert len(os.listdir("/proc/self/fd")) == before
