"""Hostile programs: none passes, none leaves a process, file or changed limit; the next program is judged right."""

import pytest

from tests.sandbox.canaries import ANSWER, CHEATS, ENDLESS, SCRIPTS, SECONDS, TESTS, leftovers, listener, run, traces

NAMES = list(CHEATS)
# Those that want the verdict, not the machine; but without namespaces files are open, and these tests are one.
FORGERS = [name for name in NAMES[: NAMES.index("fork_bomb")] if name != "files_search"]
RIGHT = """
def f(x):
    return {3: 271828182845, 4: 314159265358, 5: 577215664901, 6: 161803398875, 7: 1.41421356237,
            8: [2.2360679, 1.7320508], 9: [0] * 4669}[x]
"""


@pytest.fixture(scope="module")
def isolated(sandbox):
    if sandbox.degraded:
        pytest.skip(f"no namespaces on this machine: {sandbox.degraded}")
    return sandbox


def test_there_are_enough_canaries_and_they_could_pass(sandbox):
    assert len(CHEATS) + len(SCRIPTS) >= 40
    assert sandbox.run_tests(RIGHT, TESTS, seconds=30).passed == (True,) * len(TESTS)
    assert ANSWER.encode() in sandbox.run_script(f"print({ANSWER!r})", seconds=30).output


@pytest.mark.parametrize("name", [*CHEATS, *SCRIPTS])
def test_no_canary_passes_or_leaves_anything(isolated, name, monkeypatch):
    monkeypatch.setenv("SANDBOX_SECRET", "1")
    with listener() as (port, reached):
        before = traces()
        passed, result = run(isolated, name, port)
        assert not passed, result
        assert leftovers(before) == []
        assert not reached()
    assert isolated.run_tests("def f(x): return x", ["assert f(1) == 1"], seconds=30).passed == (True,)


@pytest.mark.parametrize("name", FORGERS)
def test_no_verdict_is_forged_from_kept_tests_either(isolated, name):
    seconds = 0.7 if name in ENDLESS else SECONDS  # as the canary's: else the tests are not the same
    for _ in range(2):
        assert isolated.run_tests(RIGHT, TESTS, seconds=seconds).passed == (True,) * len(TESTS)
    passed, result = run(isolated, name)
    assert not passed, result
    assert isolated.run_tests(RIGHT, TESTS, seconds=seconds).passed == (True,) * len(TESTS)


@pytest.mark.parametrize("name", FORGERS)
def test_no_verdict_is_forged_without_namespaces_either(open_sandbox, name):
    assert open_sandbox.degraded
    before = traces()
    passed, result = run(open_sandbox, name)
    assert not passed, result
    assert leftovers(before) == []
