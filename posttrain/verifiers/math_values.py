"""Whether two expressions have the same value: exactly where both are rational, else at 60 digits and several points.

Letters are numbers: an identity holds when both sides agree at four fixed points, of which some are negative (so that
sqrt(x^2) is not x). Two different expressions that agree to 40 digits at all of them do not occur by accident.
"""

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath

from posttrain.verifiers.math_tokens import TooLarge
from posttrain.verifiers.math_tree import Expression, Number, Operation, Symbol

DIGITS = 60
MAX_BITS = 20_000  # of an exact power
MAX_EXPONENT = 100_000  # bits of magnitude of an inexact one
MAX_FACTORIAL = 3_000
_RANGES = ((1, 3), (0, 1), (-3, -1), (4, 9))

# A context of our own: mpmath's global precision is left alone.
_mp = mpmath.MPContext()
_mp.dps = DIGITS
_TOLERANCE = _mp.mpf(10) ** -40
_SWALLOWED = _mp.mpf(10) ** -25  # a term smaller than this part of a sum is not compared well enough
_NOISE = _mp.mpf(10) ** -50  # what 60 digits leave of a zero, as a part of what it was made of
MAX_ANGLE = 10**20  # beyond it fewer than 40 digits of a sine are right

_OF_ANGLES = {name: getattr(_mp, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")}
_FUNCTIONS = {
    **{"arcsin": _mp.asin, "arccos": _mp.acos, "arctan": _mp.atan},
    **{name: getattr(_mp, name) for name in ("sinh", "cosh", "tanh", "exp")},
}

Value = Any  # Fraction where exact, else an mpmath number


class Undefined(Exception):
    """No value at this point: a division by zero, a logarithm of zero."""


def same_value(first: Expression, second: Expression) -> bool:
    """Whether two expressions are equal wherever both are defined. Raises TooLarge for values beyond the bounds."""
    agreed = 0
    for point in range(len(_RANGES)):
        a, b = _value_or_none(first, point), _value_or_none(second, point)
        if (a is None) != (b is None):
            return False
        if a is None or b is None:
            continue
        if not close(a, b):
            return False
        if isinstance(a, Fraction) and isinstance(b, Fraction) and not symbols(first) and not symbols(second):
            return True
        agreed += 1
    return agreed > 0


def proportional(first: Expression, second: Expression) -> bool:
    """Whether one expression is a constant other than 0 times the other: then first = 0 and second = 0 say the same."""
    ratios = []
    for point in range(len(_RANGES)):
        a, b = _value_or_none(first, point), _value_or_none(second, point)
        if a is None or b is None or close(a, Fraction(0)) or close(b, Fraction(0)):
            return False
        ratios.append(a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else _inexact(a) / _inexact(b))
    return bool(symbols(first)) and all(close(ratios[0], ratio) for ratio in ratios[1:])


def close(a: Value, b: Value) -> bool:
    """Exact equality of fractions; else agreement to 40 digits, however small (``value`` gives a zero as exact)."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    x, y = _inexact(a), _inexact(b)
    return bool(abs(x - y) <= _TOLERANCE * max(abs(x), abs(y)))


def _value_or_none(expression: Expression, point: int) -> Value | None:
    try:
        return value(expression, point)
    except (Undefined, ZeroDivisionError):
        return None


@cache
def _letter(name: str, point: int) -> Value:
    low, high = _RANGES[point]
    drawn = int.from_bytes(hashlib.sha256(f"{name} {point}".encode()).digest(), "big")
    return low + (high - low) * _mp.mpf(drawn) / 2**256


def symbols(expression: Expression) -> frozenset[str]:
    """The letters of an expression, without the constants pi, e and i."""
    if isinstance(expression, Symbol):
        return frozenset() if expression.name in ("pi", "e", "i") else frozenset([expression.name])
    if isinstance(expression, Number):
        return frozenset()
    return frozenset().union(*map(symbols, expression.operands))


def substituted(expression: Expression, replacement: Mapping[str, Expression]) -> Expression:
    """The expression with letters replaced."""
    if isinstance(expression, Symbol):
        return replacement.get(expression.name, expression)
    if isinstance(expression, Number):
        return expression
    return Operation(expression.name, tuple(substituted(one, replacement) for one in expression.operands))


def value(expression: Expression, point: int) -> Value:
    """The value with letters at a point. Raises Undefined, ZeroDivisionError or TooLarge."""
    if isinstance(expression, Number):
        return expression.value
    if isinstance(expression, Symbol):
        if expression.name == "pi":
            return +_mp.pi
        if expression.name == "e":
            return +_mp.e
        return _mp.mpc(0, 1) if expression.name == "i" else _letter(expression.name, point)
    if expression.name == "+":
        return _sum(expression, point)[0]
    operands = [value(one, point) for one in expression.operands]
    name = expression.name
    if name == "neg":
        return -operands[0]
    if name in ("*", "/"):
        a, b = operands if all(isinstance(one, Fraction) for one in operands) else map(_inexact, operands)
        if name == "*":
            return _bounded(a * b)
        if not b:
            raise Undefined
        return _bounded(a / b)
    if name == "^":
        return _power(operands[0], operands[1])
    if name == "root":
        if not isinstance(operands[1], Fraction) or operands[1] <= 0:
            raise Undefined
        return _power(operands[0], 1 / operands[1])
    return _function(name, operands)


def _sum(expression: Expression, point: int) -> tuple[Value, Value]:
    """The value of an expression, and the size of the greatest summand if it is a sum (0 where all are exact).

    What is left of a sum below _NOISE of that summand is a zero. A summand beyond the digits that are compared is
    refused: 2^{4950} + C would be 2^{4950}.
    """
    if not isinstance(expression, Operation) or expression.name != "+":
        one = value(expression, point)
        return one, 0 if isinstance(one, Fraction) else abs(one)
    (a, great_a), (b, great_b) = (_sum(one, point) for one in expression.operands)
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a + b), max(great_a, great_b)
    a, b = _inexact(a), _inexact(b)
    small, great = sorted((abs(a), abs(b)))
    if 0 < small < great * _SWALLOWED:
        raise TooLarge("a sum of very different magnitudes")
    greatest = max(great, great_a, great_b)
    total = a + b
    return (Fraction(0) if abs(total) <= _NOISE * greatest else total), greatest


def _bounded(number: Value) -> Value:
    if (
        isinstance(number, Fraction)
        and max(number.numerator.bit_length(), number.denominator.bit_length()) > 2 * MAX_BITS
    ):
        raise TooLarge("a number of many digits")
    return number


def _inexact(number: Value) -> Any:
    return _mp.mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        if not base and exponent <= 0:
            raise Undefined
        if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > MAX_BITS:
            if abs(base) != 1:
                raise TooLarge("a power of many digits")
            exponent %= 2
        return base**exponent.numerator
    b, e = _inexact(base), _inexact(exponent)
    if not b:
        if _mp.im(e) or _mp.re(e) <= 0:
            raise Undefined
        return Fraction(0)
    if abs(e) * (abs(_mp.log(abs(b), 2)) + 1) > MAX_EXPONENT:
        raise TooLarge("a power of great magnitude")
    if isinstance(exponent, Fraction) and exponent.denominator % 2 and not _mp.im(b) and _mp.re(b) < 0:
        # The real root of a negative number, as in school: the cube root of -8 is -2.
        size = _mp.power(-_mp.re(b), e)
        return -size if exponent.numerator % 2 else size
    return _mp.power(b, e)


def _function(name: str, operands: list[Value]) -> Value:
    if name == "factorial":
        return _factorial(operands[0])
    if name == "binom":
        n, k = operands
        if all(isinstance(one, Fraction) and one.denominator == 1 for one in operands) and 0 <= k <= n <= MAX_FACTORIAL:
            return _factorial(n) / (_factorial(k) * _factorial(n - k))
        raise Undefined
    x = _inexact(operands[0])
    if name in ("floor", "ceil", "abs"):
        if name == "abs":
            return abs(operands[0])
        if _mp.im(x):
            raise Undefined
        return Fraction(int(_mp.floor(_mp.re(x)) if name == "floor" else _mp.ceil(_mp.re(x))))
    if name in ("ln", "log"):
        base = _inexact(operands[1]) if name == "log" else _mp.e
        if not x or not base or base == 1:
            raise Undefined
        return _mp.log(x) / _mp.log(base) if abs(x - 1) > _NOISE else Fraction(0)
    if name in ("exp", "sinh", "cosh", "tanh") and abs(x) > MAX_EXPONENT:
        raise TooLarge("an exponential of great magnitude")
    if name in _OF_ANGLES:
        return _of_angle(name, x)
    if name not in _FUNCTIONS:
        raise Undefined
    return _FUNCTIONS[name](x)


def _of_angle(name: str, x: Any) -> Value:
    """Raises Undefined at a pole, which 60 digits miss by a little, as they do a zero."""
    if abs(x) > MAX_ANGLE:
        raise TooLarge("an angle of great magnitude")
    found = _OF_ANGLES[name](x)
    if abs(found) <= _NOISE * abs(x):
        return Fraction(0)
    if abs(found) * abs(x) * _NOISE >= 1:
        raise Undefined
    return found


def _factorial(n: Value) -> Fraction:
    if not isinstance(n, Fraction) or n.denominator != 1 or n < 0:
        raise Undefined
    if n > MAX_FACTORIAL:
        raise TooLarge("a great factorial")
    product = 1
    for factor in range(2, n.numerator + 1):
        product *= factor
    return Fraction(product)
