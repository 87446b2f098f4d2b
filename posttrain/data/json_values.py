"""Values that JSON cannot hold, as text: Parquet files and the hub carry dates, bytes and NaN."""

from collections.abc import Mapping
from datetime import date, datetime, time
from math import isfinite
from typing import Any


def as_json(value: Any) -> Any:
    """``value`` with dates as ISO 8601, and what else JSON does not know as its repr; JSON values stay as they are.

    Half of a surrogate pair, which is no Unicode text, becomes ``?``, in a key its escape, so that keys stay apart.
    """
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if isfinite(value) else repr(value)
        case str():
            return value if value.isascii() else value.encode("utf-8", errors="replace").decode("utf-8")
        case Mapping():
            return {_key(key): as_json(item) for key, item in value.items()}
        case list() | tuple():
            return [as_json(item) for item in value]
        case datetime() | date() | time():
            return value.isoformat()
    return repr(value)


def is_unicode(value: Any) -> bool:
    """Whether no text in ``value``, keys too, holds half of a surrogate pair."""
    match value:
        case str():
            try:
                value.isascii() or value.encode("utf-8")
            except UnicodeEncodeError:
                return False
            return True
        case Mapping():
            return all(map(is_unicode, value)) and all(map(is_unicode, value.values()))
        case list() | tuple():
            return all(map(is_unicode, value))
    return True


def _key(key: Any) -> str:
    text = str(key)
    return text if text.isascii() else text.encode("utf-8", errors="backslashreplace").decode("utf-8")
