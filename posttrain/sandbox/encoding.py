"""How values cross between the candidate's process and the checker's: a closed, typed encoding, and a framed channel.

None, bool, int, float (nan and infinities too), complex, str, bytes, list, tuple, set, dict and slice cross by value,
and these types themselves (but slice) by name. Subclasses cross as what they derive from, numpy scalars as Python's.
Anything else stays where it is and crosses as a numbered reference. Never pickle: decoding builds nothing but these and
runs no code of the other side.
"""

from __future__ import annotations

import json
import math
import os
import struct

TYPE_CHECKING = False  # without typing, whose import is a tenth of a cold start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Refer = Callable[[Any], int]
    Dereference = Callable[[int], Any]

MAX_MESSAGE = 32 * 2**20  # bytes
_LENGTH = struct.Struct("=Q")
_PLAIN_INT = 2**63
_TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, dict, type(None))}

_AS_THEY_ARE = frozenset((bool, int, float, str, type(None)))


class EncodingError(Exception):
    """A value that cannot cross, or a message that is not in the encoding."""


def encode(value: Any, refer: Refer) -> Any:
    """The value in terms of JSON. ``refer`` numbers an object that must stay here, or raises EncodingError."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -_PLAIN_INT < value < _PLAIN_INT else {"i": int.__format__(value, "x")}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"f": float.__repr__(value)}
    if isinstance(value, complex):
        return {"c": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"b": value.hex()}
    if isinstance(value, list):
        return _encoded(list.__iter__(value), refer)
    if isinstance(value, tuple):
        return {"t": _encoded(tuple.__iter__(value), refer)}
    if isinstance(value, set | frozenset):
        return {"s": [encode(item, refer) for item in value]}
    if isinstance(value, dict):
        return {"d": [[encode(key, refer), encode(item, refer)] for key, item in dict.items(value)]}
    if isinstance(value, slice):
        return {"r": [encode(part, refer) for part in (value.start, value.stop, value.step)]}
    if any(value is kind for kind in _TYPES.values()):
        return {"k": value.__name__}
    return {"o": refer(value)}


def _encoded(items: Iterable[Any], refer: Refer) -> list[Any]:
    # Plain numbers and texts without a call each: a list of a million floats crosses in a quarter of the time.
    return [
        item
        if (kind := type(item)) is str
        or (kind is float and -math.inf < item < math.inf)
        or (kind is int and -_PLAIN_INT < item < _PLAIN_INT)
        else encode(item, refer)
        for item in items
    ]


def decode(message: Any, dereference: Dereference) -> Any:
    """The value of what ``encode`` gave. Raises EncodingError for anything else."""
    if message is None or isinstance(message, bool | str | int | float):
        return message
    if isinstance(message, list):
        return _decoded(message, dereference)
    if not isinstance(message, dict) or len(message) != 1:
        raise EncodingError("a tagged value has exactly one tag")
    ((tag, content),) = message.items()
    try:
        return _decode_tagged(tag, content, dereference)
    except (TypeError, ValueError, AttributeError) as error:  # such as a set of lists
        raise EncodingError(f"malformed value under tag {tag!r:.20}: {type(error).__name__}") from None


def _decoded(items: Iterable[Any], dereference: Dereference) -> list[Any]:
    return [item if type(item) in _AS_THEY_ARE else decode(item, dereference) for item in items]


def _decode_tagged(tag: str, content: Any, dereference: Dereference) -> Any:
    match tag:
        case "i":
            return int(content, 16)
        case "f":
            return float(content)
        case "c":
            real, imaginary = content
            return complex(float.fromhex(real), float.fromhex(imaginary))
        case "b":
            return bytes.fromhex(content)
        case "t":
            return tuple(_decoded(content, dereference))
        case "s":
            return {decode(item, dereference) for item in content}
        case "d":
            return {decode(key, dereference): decode(item, dereference) for key, item in content}
        case "r":
            start, stop, step = (decode(part, dereference) for part in content)
            return slice(start, stop, step)
        case "k" if isinstance(content, str) and content in _TYPES:
            return _TYPES[content]
        case "o" if type(content) is int:
            return dereference(content)
    raise EncodingError(f"no such tag, or no reference: {tag!r:.20}")


class Channel:
    """Framed JSON messages over a file descriptor, blocking."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def send(self, message: Any) -> None:
        """Raises EncodingError for a message over MAX_MESSAGE or nested too deep, OSError when the other end is
        closed."""
        try:
            data = json.dumps(message).encode()
        except RecursionError:
            raise EncodingError("nested too deep") from None
        if len(data) > MAX_MESSAGE:
            raise EncodingError(f"a message of {len(data)} bytes; the limit is {MAX_MESSAGE}")
        data = memoryview(_LENGTH.pack(len(data)) + data)
        while data:
            data = data[os.write(self.descriptor, data) :]

    def receive(self) -> Any:
        """The next message. Raises EOFError at the end, EncodingError for a message that is none."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > MAX_MESSAGE:
            raise EncodingError(f"a message of {length} bytes; the limit is {MAX_MESSAGE}")
        try:
            return json.loads(self._read(length))
        except (ValueError, RecursionError):
            raise EncodingError("a message that is not JSON, or nested too deep") from None

    def _read(self, length: int) -> bytes:
        pieces = []
        while length:
            piece = os.read(self.descriptor, min(length, 2**20))
            if not piece:
                raise EOFError
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)
