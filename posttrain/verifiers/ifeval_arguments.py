"""What the arguments of an instruction may be: checked once, when a label is read, never guessed."""

import re
from collections.abc import Mapping
from typing import Any

from posttrain.errors import PosttrainError

RELATIONS = ("less than", "at least")
QUANTIFIERS = ("at least", "around", "at most")

_SAYS = {
    "text": "a text that is not blank",
    "texts": "a list of texts, none blank",
    "regex": "a regular expression; escape special characters, as in c\\+\\+",
    "regexes": "a list of regular expressions; escape special characters, as in c\\+\\+",
    "options": "a text or a list of texts",
    "character": "one character",
    "count": "a whole number from 0",
    "position": "a whole number from 1",
    "relation": " or ".join(map(repr, RELATIONS)),
    "quantifier": " or ".join(map(repr, QUANTIFIERS)),
}


def checked(name: str, wanted: Mapping[str, str], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of instruction ``name``: those given that are not None, all that are wanted and no other.

    Filtering is on ``is not None``: 0 and "" are values. Raises PosttrainError naming the instruction and the argument.
    """
    if given is not None and not isinstance(given, Mapping):
        raise PosttrainError(f"{name}: its arguments are {given!r:.80}, not a mapping")
    arguments = {key: value for key, value in (given or {}).items() if value is not None}
    missing = [key for key in wanted if key not in arguments]
    unknown = [key for key in arguments if key not in wanted]
    if missing or unknown:
        said = [f"{word} {', '.join(keys)}" for word, keys in (("lacks", missing), ("does not know", unknown)) if keys]
        raise PosttrainError(f"{name} {' and '.join(said)}; it takes {', '.join(wanted) or 'no argument'}")
    return {key: _value(name, key, kind, arguments[key]) for key, kind in wanted.items()}


def _value(name: str, key: str, kind: str, value: Any) -> Any:
    if kind in ("count", "position"):
        # Tables read back from parquet or pandas turn integers beside a null into floats.
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        if whole and value >= (kind == "position"):
            return int(value)
    elif kind == "relation" and value in RELATIONS or kind == "quantifier" and value in QUANTIFIERS:
        return value
    elif kind in ("text", "regex") and isinstance(value, str) and value.strip():
        if kind == "text" or _compiles(value):
            return value
    elif kind == "character" and isinstance(value, str) and len(value.strip()) == 1:
        return value.strip()
    elif kind in ("texts", "regexes", "options") and isinstance(value, list | tuple) and value:
        if all(isinstance(one, str) and one.strip() and (kind != "regexes" or _compiles(one)) for one in value):
            return tuple(value)
    elif kind == "options" and isinstance(value, str) and value.strip():
        return value
    raise PosttrainError(f"{name}: {key} is {value!r:.80}, not {_SAYS[kind]}")


def _compiles(source: str) -> bool:
    try:
        re.compile(source)
    except re.error:
        return False
    return True
