"""What crosses between processes: every value of the closed types, unchanged; nothing else, whatever is sent."""

import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.sandbox.encoding import MAX_MESSAGE, Channel, EncodingError, decode, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary(max_size=20)
    | st.sampled_from([int, str, dict, type(None)])
)
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner), max_leaves=4)
VALUES = st.recursive(
    SCALARS | st.slices(9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(HASHABLE, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
    ),
    max_leaves=12,
)


def refuse(value):
    raise EncodingError(f"no reference to {value!r}")


def crossed(value):
    return decode(json.loads(json.dumps(encode(value, refuse))), refuse)


def written(value):
    """Like repr, but a set's order does not matter."""
    if isinstance(value, set):
        return f"set {sorted(map(written, value))}"
    if isinstance(value, dict):
        return f"dict {[(written(key), written(item)) for key, item in value.items()]}"
    return f"{type(value).__name__} {list(map(written, value))}" if isinstance(value, list | tuple) else repr(value)


@given(VALUES)
def test_every_value_arrives_as_it_was(value):
    assert written(crossed(value)) == written(value)


@given(st.lists(st.floats() | st.integers() | st.sampled_from([2**53, 2**53 + 1, -0.0, 10**400, True]), max_size=9))
def test_a_long_list_of_numbers_arrives_as_it_was(numbers):
    assert written(crossed([1, 0.5] * 500 + numbers)) == written([1, 0.5] * 500 + numbers)


@given(st.lists(st.floats(allow_nan=False), max_size=9))
def test_a_long_list_of_fractions_is_as_short_as_its_bytes(numbers):
    assert len(json.dumps(encode([0.1] * 1000 + numbers, refuse))) < 12 * (1000 + len(numbers))


@pytest.mark.parametrize("value", [True, 1, 1.0, 1 + 0j, -0.0, math.inf, -math.inf, "1", b"1", (1,), [1], {1}, {1: 1}])
def test_types_that_python_calls_equal_stay_apart(value):
    assert type(crossed(value)) is type(value) and repr(crossed(value)) == repr(value)


def test_nan_is_nan_and_equals_nothing():
    assert math.isnan(crossed(math.nan)) and crossed(math.nan) != crossed(math.nan)


def test_a_subclass_arrives_as_what_it_derives_from():
    class Liar(int):
        __eq__ = lambda *_: True  # noqa: E731
        __hash__ = int.__hash__

    assert type(crossed(Liar(7))) is int and crossed(Liar(7)) != 8
    assert type(crossed([Liar(7)])[0]) is int


def test_anything_else_crosses_as_a_reference_only():
    kept = []
    encoded = encode([object(), print], lambda value: kept.append(value) or len(kept) - 1)
    assert encoded == [{"o": 0}, {"o": 1}]
    with pytest.raises(EncodingError):
        encode(lambda: 0, refuse)


@pytest.mark.parametrize("name", ["longdouble", "clongdouble"])
def test_a_number_that_is_longer_than_pythons_is_a_reference(name):
    numpy = pytest.importorskip("numpy")
    kept = []
    value = getattr(numpy, name)(1.5)
    assert encode([value, numpy.float32(0.5)], lambda one: kept.append(one) or 0) == [{"o": 0}, 0.5]
    assert kept == [value]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*"ifcbtsdokn", "x"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(JSON)
def test_a_forged_message_is_a_plain_value_or_an_error(message):
    try:
        value = decode(message, lambda number: f"object {number}")
    except EncodingError:
        return
    plain = (bool, int, float, complex, str, bytes, list, tuple, set, dict, type(None), type)
    assert isinstance(value, plain)


@pytest.mark.parametrize(
    "content",
    [
        [],
        ["AAAAAAAAAAA="],
        ["AAAA", ""],
        ["AAAAAAAAAAA=", "AQE="],
        ["AAAAAAAAAAA=", [0]],
        ["AAAAAAAA8H8=", "AQ=="],
        ["?", ""],
        ["AAAAAAAAAAA=", "?"],
    ],
)
def test_forged_packed_numbers_are_an_error(content):
    with pytest.raises(EncodingError):
        decode({"n": content}, refuse)


@given(st.binary(max_size=60))
def test_a_channel_gives_a_message_its_end_or_an_encoding_error(data):
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    try:
        Channel(read).receive()
    except (EOFError, EncodingError):
        pass
    finally:
        os.close(read)


def test_a_message_over_the_limit_is_refused_before_it_is_sent():
    with pytest.raises(EncodingError, match="limit"):
        Channel(-1).send("x" * MAX_MESSAGE)
