"""The candidate's process: loads a program that nobody trusts, and answers calls into it.

Whatever the program does here (other builtins, other modules, other frames), it can do no more than choose the values
that it returns. Tests and expected results are never in this process.
"""

from __future__ import annotations

import builtins
import sys
import types
from itertools import islice
from time import monotonic

from posttrain.sandbox.encoding import Channel, EncodingError, decode, encode

TYPE_CHECKING = False  # without typing, whose import is a tenth of a cold start
if TYPE_CHECKING:
    from typing import Any

MAX_ITEMS = 1_000_000  # that iterating over a reference gives
EACH_SECONDS = 0.001  # after which answers to several calls at once are sent, one at least
NONE_CROSSES = [], None  # the answer to several calls whose answers cannot cross together: they are asked one by one


def load(source: str, name: str) -> dict[str, Any]:
    """Run the program as module ``name``; its globals."""
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def serve(channel: Channel) -> None:
    """Receive the program, say how loading it went, then answer requests until the other end closes."""
    objects: list[Any] = []

    find = objects.__getitem__

    def refer(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    try:
        names = load(channel.receive(), "candidate")
        channel.send({"value": None})
    except BaseException as error:  # SystemExit too: whatever it raises is an answer
        channel.send(_raised(error))
        return
    while True:
        try:
            operation, *arguments = channel.receive()
        except EOFError:
            return
        try:
            given = [decode(argument, find) for argument in arguments]
            answer = _perform(operation, given, names)
            try:
                channel.send({"value": encode(answer, refer)})
            except (EncodingError, RecursionError, MemoryError):
                if operation != "each" or len(given[1]) < 2:
                    raise
                channel.send({"value": encode(NONE_CROSSES, refer)})
        except EncodingError:
            channel.send({"raised": ["TypeError", "the value cannot leave the sandbox"]})
        except BaseException as error:
            channel.send(_raised(error))


def run_main(source: str) -> None:
    """Run the program as a script, its own standard input and output."""
    load(source, "__main__")


def _perform(operation: str, given: list[Any], names: dict[str, Any]) -> Any:
    if operation == "call":  # nearly all are
        function, arguments, *keywords = given
        return function(*arguments, **keywords[0]) if keywords else function(*arguments)
    match operation, *given:
        case "name", str(name):
            if name not in names:
                raise NameError(name)
            return names[name]
        case "get", target, str(name):
            return getattr(target, name)
        case "set", target, str(name), value:
            return setattr(target, name, value)
        case "item", target, key:
            return target[key]
        case "length", target:
            return len(target)
        case "each", function, list(calls):
            return _each(function, calls)
        case "iterate", target:
            return list(islice(target, MAX_ITEMS))
    raise TypeError(f"no such operation: {operation}")


def _each(function: Any, calls: list[Any]) -> tuple[list[Any], list[str] | None]:
    """The answers to the first of the calls, and what the next one raised, if that is why there are no more."""
    answers, until = [], monotonic() + EACH_SECONDS
    for arguments in calls:
        try:
            answers.append(function(*arguments))
        except BaseException as error:
            return answers, _raised(error)["raised"]
        if monotonic() > until:
            break
    return answers, None


def _raised(error: BaseException) -> dict[str, list[str]]:
    """The name of the nearest built-in class, and the beginning of the text."""
    kind = next((one.__name__ for one in type(error).__mro__ if one.__module__ == "builtins"), "Exception")
    try:
        text = str(error)[:300]
    except BaseException:
        text = ""
    return {"raised": [kind, f"{type(error).__name__}: {text}" if kind != type(error).__name__ else text]}
