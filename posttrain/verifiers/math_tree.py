"""What a math answer can be: expressions, and the forms that hold expressions."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Number:
    """An exact rational; decimals are exact too, so 1.333 is not 4/3."""

    value: Fraction


@dataclass(frozen=True)
class Symbol:
    """A letter, with its subscript and primes; a number in another base ("11 base 2"); "±"."""

    name: str


@dataclass(frozen=True)
class Operation:
    """``name`` is +, *, /, ^, neg, root or a function's name, applied to expressions."""

    name: str
    operands: tuple["Expression", ...]


Expression = Number | Symbol | Operation


@dataclass(frozen=True)
class Word:
    """A text answer, case folded."""

    text: str


@dataclass(frozen=True)
class Quantity:
    """An expression and what it counts: a unit, or "%"."""

    value: Expression
    unit: str


@dataclass(frozen=True)
class Sequence:
    """Items in brackets: ``opening`` and ``closing`` tell tuple, interval and vector; "" and "" a bare list, "{" a
    set."""

    opening: str
    items: tuple["Answer", ...]
    closing: str


@dataclass(frozen=True)
class Matrix:
    """Rows of expressions; ``kind`` "matrix" or "determinant"."""

    kind: str
    rows: tuple[tuple["Answer", ...], ...]


@dataclass(frozen=True)
class Relation:
    """``sides[0] operators[0] sides[1] …`` with operators among = < <= > >= != : in."""

    operators: tuple[str, ...]
    sides: tuple["Answer", ...]


@dataclass(frozen=True)
class Joined:
    """Sets joined by ``operator`` (cup, cap or setminus)."""

    operator: str
    parts: tuple["Answer", ...]


Answer = Number | Symbol | Operation | Word | Quantity | Sequence | Matrix | Relation | Joined
