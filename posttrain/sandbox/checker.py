"""The checker's process: runs the tests on values, and asks the candidate's process for them.

Names that the tests use and do not define are the candidate's. Everything the tests compare is a plain value made here,
or a ``Reference``, which equals nothing but itself.
"""

from __future__ import annotations

import builtins
import sys
from importlib import import_module
from types import FunctionType, GeneratorType

from posttrain.sandbox.encoding import Channel, EncodingError, decode, encode

TYPE_CHECKING = False  # without typing, whose import is a tenth of a cold start
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

# Names that tests apply to answers, and import nowhere: ours, unless nothing else could be what the program is asked
# for. Else a program could bring a Counter that is always 0.
_STANDARD = {
    **dict.fromkeys(["Counter", "OrderedDict", "defaultdict"], "collections"),
    **dict.fromkeys(["ceil", "floor", "inf", "isclose", "nan", "pi", "sqrt"], "math"),
}


MOST_CALLS = 256  # that are asked at once


class CandidateGone(BaseException):
    """The candidate's process ended, or broke the protocol. No test's ``except Exception`` swallows it."""


class CandidateError(Exception):
    """The candidate raised something that is no built-in exception, or that would end a process or a loop."""


class Uncrossable(BaseException):
    """A test handed the candidate a value that cannot cross, such as a function or one too large.

    ``defect``: the test does so whatever the program answers. Otherwise an answer may have led to it, and the test
    fails. No test's ``except Exception`` swallows it.
    """

    def __init__(self, why: str, defect: bool):
        super().__init__(why)
        self.defect = defect


class _NotPlain(EncodingError):
    def __init__(self, value: Any):
        super().__init__(f"a test passes a {type(value).__name__} to the program; only plain values can cross")
        self.written = isinstance(value, FunctionType | GeneratorType)  # in the test itself: no value has led to it


class Peer:
    """The candidate's process, from the checker's side."""

    def __init__(self, channel: Channel):
        self.channel = channel
        self.gone: str | None = None
        self.answered = False  # anything but what its names are
        self.uncrossed: Uncrossable | None = None  # the first since ``uncrossed`` was last None

    def ask(self, operation: str, *arguments: Any) -> Any:
        """The value that the candidate answers, or the exception that it raised."""
        if self.gone is not None:
            raise CandidateGone(self.gone)
        try:
            try:
                given = [{"o": one._number} if type(one) is Reference else encode(one, _number) for one in arguments]
                self.channel.send([operation, *given])
            except (EncodingError, RecursionError) as error:
                defect = not self.answered or getattr(error, "written", False)
                self.uncrossed = self.uncrossed or Uncrossable(str(error), defect)
                raise self.uncrossed from None
            self.answered |= operation != "name"
            return self.answer()
        except (EOFError, OSError):
            self.gone = "the program ended during a call"
            raise CandidateGone(self.gone) from None

    def _refer(self, number: int) -> Reference:
        return Reference(self, number)

    def answer(self) -> Any:
        """Receive the answer to what was asked last."""
        try:
            message = self.channel.receive()
            if type(message) is dict and len(message) == 1 and "value" in message:
                return decode(message["value"], self._refer)
            match message:
                case {"raised": [str(kind), str(text)], **rest} if not rest:
                    raise _exception(kind, text)
            raise EncodingError("neither a value nor an exception")
        except (EncodingError, RecursionError, MemoryError) as error:
            if getattr(error, "from_candidate", False):
                raise
            self.gone = f"the program's answer cannot be read: {error}"
            raise CandidateGone(self.gone) from None


class Reference:
    """An object that stays in the candidate's process. The operations below are asked of it; equality is not."""

    __slots__ = ("_number", "_peer")

    def __init__(self, peer: Peer, number: int):
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._peer.ask("call", self, list(arguments), *([keywords] if keywords else ()))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # asked by the interpreter and libraries, of any object
            raise AttributeError(name)
        return self._peer.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._peer.ask("item", self, key)

    def __len__(self) -> int:
        return self._peer.ask("length", self)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self._peer.ask("iterate", self))


def each(function: Any, calls: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """``function(*arguments)`` of each in turn, for tests that compare many answers: several cross at once.

    The candidate may be up to `MOST_CALLS` short calls ahead of what is compared. Where arguments or answers are too
    large to cross together, they are asked for again, one at a time.
    """
    if type(function) is not Reference:
        yield from (function(*arguments) for arguments in calls)
        return
    peer, at, count = function._peer, 0, 1
    while at < len(calls):
        before = peer.uncrossed
        asked = [list(arguments) for arguments in calls[at : at + count]]
        try:
            answers, raised = _answers(peer.ask("each", function, asked), len(asked))
        except Uncrossable:
            if count == 1:
                raise
            peer.uncrossed, count = before, 1  # too much at once, perhaps
            continue
        except ValueError:
            peer.gone = "the program's answer cannot be read: not as many answers as calls"
            raise CandidateGone(peer.gone) from None
        if not answers and raised is None:  # none of them crosses beside the others
            count = 1
            continue
        yield from answers
        if raised is not None:
            raise _exception(*raised)
        at += len(answers)
        count = min(2 * count, MOST_CALLS) if len(answers) == len(asked) else max(1, len(answers))


def _answers(message: Any, asked: int) -> tuple[list[Any], tuple[str, str] | None]:
    """Raises ValueError for what no honest candidate sends."""
    match message:
        case ([], None) if asked > 1:
            return [], None
        case (list(answers), None) if 1 <= len(answers) <= asked:
            return answers, None
        case (list(answers), [str(kind), str(text)]) if len(answers) < asked:
            return answers, (kind, text)
    raise ValueError


def _number(value: Any) -> int:
    if type(value) is Reference:
        return value._number
    raise _NotPlain(value)


def _exception(kind: str, text: str) -> Exception:
    """Of the built-in class of that name. One that would end a process (SystemExit), or the loop that a test calls the
    program in, as ``map`` does (StopIteration), is a CandidateError."""
    found = getattr(builtins, kind, None)
    made: Exception = CandidateError(f"{kind}: {text}")
    ends_loop = found in (StopIteration, StopAsyncIteration)
    if isinstance(found, type) and issubclass(found, Exception) and not ends_loop:
        try:
            made = found(text)
        except Exception:  # UnicodeDecodeError and its like take more arguments
            pass
    made.from_candidate = True  # type: ignore[attr-defined]
    return made


def _used_names(sources: list[str]) -> tuple[set[str], set[str], set[str]]:
    """Names that the sources read, those of which they read an attribute, as in ``math.isclose``, and variables."""
    import ast

    read, bases, variables = set(), set(), set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else variables).add(node.id)
        elif isinstance(node, ast.arg):
            variables.add(node.arg)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            bases.add(node.value.id)
    return read, bases, variables


class Tests:
    """``setup`` and ``tests`` of a request, compiled. ``calls`` are the candidate's names (None: all that the tests use
    and the candidate defines); where they are given no candidate is heard of in the setup, which is run here."""

    def __init__(self, request: dict[str, Any]):
        self.calls, self.defect = request["calls"], ""
        self.failure: BaseException | None = None
        self.names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
        sources = [request["setup"], *request["tests"]]
        try:
            self.setup = compile(request["setup"], "setup", "exec", dont_inherit=True)
            self.tests = [
                compile(test, f"test {at}", "exec", dont_inherit=True) for at, test in enumerate(request["tests"], 1)
            ]
            self.used = _used_names(sources) if self.calls is None else None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            self.defect = f"the tests do not compile: {error!r:.300}"
            return
        if self.calls is not None:
            try:
                exec(self.setup, self.names)
            except BaseException as error:
                self.failure = error

    def check(self, candidate: Channel) -> dict[str, Any]:
        """Run the tests, once: they may leave their mark on what the setup made.

        Gives ``passed``, one bool per test, ``why``, the first failure, and ``memory``, whether the program ran out of
        it; or ``defect``, what is wrong with the tests.
        """
        peer, names = Peer(candidate), self.names
        if self.defect:
            return {"defect": self.defect}
        failed = {"passed": [False] * len(self.tests), "memory": False}
        try:
            peer.answer()
        except EOFError:
            return failed | {"why": "the program ended while it was loaded"}
        except (Exception, CandidateGone) as error:
            return failed | {"why": f"while it was loaded: {error!r:.300}"}
        try:
            if self.failure is not None:
                raise self.failure
            if self.used is not None:
                _bring(names, peer, *self.used)
                exec(self.setup, names)
            if peer.uncrossed:
                raise peer.uncrossed
            for name in self.calls or ():  # after the setup, which may hold a stub of the same name
                names[name] = peer.ask("name", name)
        except BaseException as error:
            return _defect(error) or failed | {"why": f"before the tests: {error!r:.300}"}
        passed, why, memory = [], "", False
        for at, test in enumerate(self.tests, 1):
            peer.uncrossed = None
            try:
                exec(test, names)
                error = None if peer.gone is None else CandidateGone(peer.gone)
            except BaseException as raised:
                error = raised
            error = peer.uncrossed or error
            if error is not None:
                if defect := _defect(error):
                    return defect
                why = why or f"test {at}: {_told(error)}"
                memory = memory or isinstance(error, MemoryError)
            passed.append(error is None)
        return {"passed": passed, "why": why, "memory": memory}


def _bring(names: dict[str, Any], peer: Peer, read: set[str], bases: set[str], variables: set[str]) -> None:
    """Define what the tests use and the candidate has.

    Modules of the standard library are never the candidate's. Names of _STANDARD are (a task may ask for ``sqrt``) only
    where the tests use nothing else that could be, and built-in functions (``sum``) only where there is none of those.
    """
    modules = read & bases & sys.stdlib_module_names
    names |= {name: import_module(name) for name in sorted(modules)}
    theirs = read - modules - vars(builtins).keys() - _STANDARD.keys()
    if theirs - variables:
        names |= {name: getattr(import_module(_STANDARD[name]), name) for name in read & _STANDARD.keys()}
    else:
        theirs |= read & _STANDARD.keys() or read & vars(builtins).keys()
    for name in sorted(theirs):
        try:
            names[name] = peer.ask("name", name)
        except NameError:
            pass  # the tests define it themselves, or will miss it


def _defect(error: BaseException) -> dict[str, str] | None:
    """What is the tests' own fault: a module that is not installed here, a value that cannot cross."""
    missing = isinstance(error, ImportError) and not getattr(error, "from_candidate", False)
    if missing or (isinstance(error, Uncrossable) and error.defect):
        return {"defect": f"the tests cannot run: {error!r:.300}"}
    return None


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error!s:.200}" if str(error) else type(error).__name__
