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
from array import array
from binascii import a2b_base64, b2a_base64
from itertools import compress, repeat
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from operator import is_

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

_AS_THEY_ARE = frozenset((bool, int, float, str, type(None)))  # in a message
_AS_THEY_ARE_HERE = frozenset((bool, str, type(None)))  # of any value
_PACKED = range(1000, 2**20)  # lengths of lists; a longer one of short numbers may fit a message as text only
_NUMBERS, _EXACT = ({float}, {float, int}), 2**53
_SETS, _BYTES = (set, frozenset), (bytes, bytearray)
_read = json.JSONDecoder().raw_decode
# json.JSONEncoder(check_circular=False).iterencode, made once and not for each message.
_pieces = c_make_encoder(None, json.JSONEncoder().default, encode_basestring_ascii, None, ":", ",", False, False, True)


class EncodingError(Exception):
    """A value that cannot cross, or a message that is not in the encoding."""


def encode(value: Any, refer: Refer) -> Any:
    """The value in terms of JSON. ``refer`` numbers an object that must stay here, or raises EncodingError."""
    if type(value) in _AS_THEY_ARE_HERE:
        return value
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
        plain = value.item()
        if type(plain) is not type(value):  # as of a number that is longer than Python's
            return encode(plain, refer)
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if -_PLAIN_INT < value < _PLAIN_INT else {"i": int.__format__(value, "x")}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"f": float.__repr__(value)}
    if isinstance(value, list):
        return _packed(value) or _encoded(list.__iter__(value), refer)
    if isinstance(value, tuple):
        return {"t": _encoded(tuple.__iter__(value), refer)}
    if isinstance(value, dict):
        return {"d": [[encode(key, refer), encode(item, refer)] for key, item in dict.items(value)]}
    if type(value) is type:
        return {"k": value.__name__} if value is _TYPES.get(value.__name__) else {"o": refer(value)}
    if isinstance(value, _SETS):
        return {"s": [encode(item, refer) for item in value]}
    if isinstance(value, _BYTES):
        return {"b": value.hex()}
    if isinstance(value, complex):
        return {"c": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, slice):
        return {"r": [encode(part, refer) for part in (value.start, value.stop, value.step)]}
    return {"o": refer(value)}


def _packed(value: list[Any]) -> dict[str, Any] | None:
    """A long list with fractions in it as bytes, and which are whole numbers; None where that is not exact."""
    if type(value) is not list or len(value) not in _PACKED or (kinds := set(map(type, value))) not in _NUMBERS:
        return None
    whole = bytes(map(is_, map(type, value), repeat(int))) if int in kinds else b""
    if max(map(abs, compress(value, whole)), default=0) > _EXACT:
        return None
    return {"n": [b2a_base64(part, newline=False).decode() for part in (array("d", value), whole)]}


def _unpacked(text: str, whole: str) -> list[Any]:
    doubles = array("d")
    doubles.frombytes(a2b_base64(text, strict_mode=True))
    if not whole:
        return doubles.tolist()
    of_each = zip(doubles, a2b_base64(whole, strict_mode=True), strict=True)
    return [int(one) if is_whole else one for one, is_whole in of_each]


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
    kind = type(message)
    if kind in _AS_THEY_ARE:
        return message
    if kind is list:
        return _decoded(message, dereference)
    if kind is not dict or len(message) != 1:
        raise EncodingError("a tagged value has exactly one tag")
    ((tag, content),) = message.items()
    try:
        return _decode_tagged(tag, content, dereference)
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:  # such as a set of lists
        raise EncodingError(f"malformed value under tag {tag!r:.20}: {type(error).__name__}") from None


def _decoded(items: Iterable[Any], dereference: Dereference) -> list[Any]:
    return [item if type(item) in _AS_THEY_ARE else decode(item, dereference) for item in items]


def _decode_tagged(tag: str, content: Any, dereference: Dereference) -> Any:
    match tag:
        case "o" if type(content) is int:
            return dereference(content)
        case "n":
            return _unpacked(*content)
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
    raise EncodingError(f"no such tag, or no reference: {tag!r:.20}")


class Channel:
    """Framed JSON messages over a file descriptor, blocking."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._held = b""  # received, of messages that nobody asked for yet

    def send(self, message: Any) -> None:
        """Raises EncodingError for a message over MAX_MESSAGE or nested too deep, OSError when the other end is
        closed."""
        try:
            text = "".join(_pieces(message, 0)).encode()
        except RecursionError:
            raise EncodingError("nested too deep") from None
        if len(text) > MAX_MESSAGE:
            raise EncodingError(f"a message of {len(text)} bytes; the limit is {MAX_MESSAGE}")
        head = _LENGTH.pack(len(text))
        sent = os.writev(self.descriptor, (head, text))
        while sent < len(head):
            sent += os.write(self.descriptor, head[sent:])
        rest = memoryview(text)[sent - len(head) :]
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]

    def receive(self) -> Any:
        """The next message. Raises EOFError at the end, EncodingError for a message that is none."""
        held = self._held
        while len(held) < _LENGTH.size:
            held += self._more(2**16)
        (length,) = _LENGTH.unpack_from(held)
        if length > MAX_MESSAGE:
            raise EncodingError(f"a message of {length} bytes; the limit is {MAX_MESSAGE}")
        end = _LENGTH.size + length
        if len(held) < end:
            pieces, missing = [held], end - len(held)
            while missing:
                pieces.append(self._more(min(missing, 2**20)))
                missing -= len(pieces[-1])
            held = b"".join(pieces)
        self._held = held[end:]
        try:
            text = str(memoryview(held)[_LENGTH.size : end], "utf-8")
            message, read = _read(text)
        except (ValueError, RecursionError):
            raise EncodingError("a message that is not JSON, or nested too deep") from None
        if read != len(text):
            raise EncodingError("more than one value in a message")
        return message

    def _more(self, most: int) -> bytes:
        if piece := os.read(self.descriptor, most):
            return piece
        raise EOFError
