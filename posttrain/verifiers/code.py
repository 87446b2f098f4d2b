"""Python programs, judged by running them in the sandbox: against asserts, or on standard input and output.

A label is JSON: a list of asserts or of ``{"input": …, "output": …}`` cases (as published), or an object with

* ``tests``: Python sources, each of which passes when it raises nothing; ``setup``, run once before them; ``calls``,
  the names that stand for the program's functions (without it: every name that the tests use and do not define. For a
  reward give it, so that no helper of the tests is the program's own); or
* ``stdio``: cases of ``input`` and the ``output`` to expect, each a run of the program from the start;
* ``score``: ``rate`` (the fraction that passed) or ``all`` (1 or 0; the default in ``strict``); ``seconds`` for all
  tests.

Whether a response is ``correct`` is in any case that everything passed. Source: spec/verifiers.md §7 (``code``).
"""

import json
import os
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from time import monotonic
from typing import Any, Literal

from posttrain.errors import PosttrainError
from posttrain.sandbox.jails import ALLOW_DEGRADED, SandboxRefused
from posttrain.sandbox.sandbox import Sandbox
from posttrain.verifiers.verdict import Verdict

VERSION = 2
SECONDS = 4.0

_BLOCK = re.compile(r"^[ \t]*```([^\n`]*)\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
_PYTHON = {"python", "py", "python3"}


@dataclass(frozen=True)
class Label:
    """How a program is judged; see the module."""

    tests: tuple[str, ...] = ()
    setup: str = ""
    calls: tuple[str, ...] | None = None
    stdio: tuple[tuple[str, str], ...] = ()
    score: Literal["rate", "all"] | None = None
    seconds: float = SECONDS


def verify_tulu3(response: str, label: str) -> Verdict:
    """The program is the last fenced block, else the whole response; the score is the fraction that passed."""
    blocks = _BLOCK.findall(response)
    return _judge(blocks[-1][1] if blocks else response, read_label(label), "rate")


def verify_strict(response: str, label: str) -> Verdict:
    """The program is the last block fenced as Python, else the last one, else the whole response; all must pass."""
    return _judge(extract_program(response), read_label(label), "all")


def warm(labels: list[str]) -> None:
    """Start the sandbox, so that no response's time pays for it."""
    try:
        sandbox().degraded  # noqa: B018
    except SandboxRefused:
        pass  # each response is told


@cache
def sandbox() -> Sandbox:
    """The one of this process. Without namespaces it refuses, unless the environment variable ALLOW_DEGRADED is 1."""
    return Sandbox(isolation="preferred" if os.environ.get(ALLOW_DEGRADED) == "1" else "required")


def extract_program(response: str) -> str:
    """The last Python block of a response, else its last block of any kind, else all of it."""
    blocks = _BLOCK.findall(response)
    tagged = [text for tag, text in blocks if tag.strip().lower() in _PYTHON]
    return (tagged or [text for _, text in blocks] or [response])[-1]


@lru_cache(maxsize=256)
def read_label(label: str) -> Label:
    """Raises PosttrainError for a label that is not as the module says, or has nothing to test."""
    try:
        given = json.loads(label)
        if isinstance(given, list):
            given = {"tests" if all(isinstance(one, str) for one in given) else "stdio": given}
        found = _label(**given)
    except (ValueError, TypeError, KeyError) as error:
        raise PosttrainError(
            f'code label {label[:80]!r} is neither a list of asserts nor an object with "tests" or "stdio": {error}'
        ) from None
    if bool(found.tests) == bool(found.stdio):
        raise PosttrainError(f'code label {label[:80]!r} needs either "tests" or "stdio", and at least one of them')
    return found


def _label(
    *,
    tests: list[str] = [],  # noqa: B006
    setup: str = "",
    calls: list[str] | None = None,
    stdio: list[dict[str, str]] = [],  # noqa: B006
    score: Any = None,
    seconds: float = SECONDS,
) -> Label:
    cases = tuple((case["input"], case["output"]) for case in stdio)
    texts = [*tests, setup, *(calls or ()), *(text for case in cases for text in case)]
    if not all(isinstance(text, str) for text in texts) or score not in (None, "rate", "all") or not 0 < seconds:
        raise ValueError("a value is not of the kind that it must be")
    return Label(tuple(tests), setup, None if calls is None else tuple(calls), cases, score, float(seconds))


def _judge(program: str, label: Label, score: str) -> Verdict:
    passed, limit, why = _run_tests(program, label) if label.tests else _run_cases(program, label)
    told = "; ".join(filter(None, (f"passed {sum(passed)} of {len(passed)}", why, _mark())))
    if limit:
        return Verdict("timeout", 0.0, f"{limit}: {told}", VERSION)
    rate = sum(passed) / len(passed)
    if (label.score or score) == "all":
        rate = float(all(passed))
    return Verdict("correct" if all(passed) else "wrong", rate, told, VERSION)


def _mark() -> str:
    reason = sandbox().degraded
    return f"degraded sandbox: {reason}" if reason else ""


def _run_tests(program: str, label: Label) -> tuple[tuple[bool, ...], str | None, str]:
    result = sandbox().run_tests(program, label.tests, setup=label.setup, calls=label.calls, seconds=label.seconds)
    if result.defect is not None:
        raise PosttrainError(f"the tests of a code label are at fault: {result.defect}")
    return result.passed, result.limit, result.why


def _run_cases(program: str, label: Label) -> tuple[tuple[bool, ...], str | None, str]:
    until = monotonic() + label.seconds
    passed, why = [], ""
    for at, (given, expected) in enumerate(label.stdio, 1):
        result = sandbox().run_script(program, given, seconds=max(0.01, until - monotonic()))
        if result.limit:
            return tuple(passed) + (False,) * (len(label.stdio) - len(passed)), result.limit, f"case {at}"
        right = result.status == 0 and same_output(result.output.decode(errors="replace"), expected)
        passed.append(right)
        if not right:
            why = why or f"case {at}: {result.why or 'another output'}"
    return tuple(passed), None, why


def same_output(found: str, expected: str) -> bool:
    """Whether two outputs are the same up to spaces, tabs and carriage returns at the ends of lines, and empty lines
    at the end of the whole."""
    return _lines(found) == _lines(expected)


def _lines(output: str) -> list[str]:
    return [line.rstrip(" \t\r") for line in output.rstrip(" \t\r\n").split("\n")]
