"""Values that JSON cannot hold, as text: Parquet files and the hub carry dates, bytes and NaN."""

from collections.abc import Mapping
from datetime import date, datetime, time
from math import isfinite
from typing import Any


def as_json(value: Any) -> Any:
    """``value`` with dates as ISO 8601, and what else JSON does not know as its repr; JSON values stay as they are."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if isfinite(value) else repr(value)
        case str():
            return value if value.isascii() else value.encode("utf-8", errors="replace").decode("utf-8")
        case Mapping():
            return {str(key): as_json(item) for key, item in value.items()}
        case list() | tuple():
            return [as_json(item) for item in value]
        case datetime() | date() | time():
            return value.isoformat()
    return repr(value)
