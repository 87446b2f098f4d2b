"""Whether two math answers are the same answer."""

from collections.abc import Sequence as Seq
from fractions import Fraction

from posttrain.verifiers.math_parse import parse
from posttrain.verifiers.math_tokens import Unreadable, bare, canonical
from posttrain.verifiers.math_tree import (
    Answer,
    Expression,
    Joined,
    Matrix,
    Number,
    Operation,
    Quantity,
    Relation,
    Sequence,
    Symbol,
    Word,
)
from posttrain.verifiers.math_values import proportional, same_value, substituted, symbols

_FLIPPED = {">": "<", ">=": "<="}
MAX_UNORDERED = 24


def equal_answers(found: str, wanted: str) -> bool:
    """Whether an answer equals another: by its text without typography, else by what it means.

    Raises TooLarge when either is beyond the bounds on size, depth or magnitude.
    """
    a, b = bare(found), bare(wanted)
    if canonical(a) == canonical(b):
        return bool(canonical(a))
    try:
        return same(parse(a), parse(b))
    except Unreadable:
        return False


def same(a: Answer, b: Answer) -> bool:
    """Whether two answers mean the same."""
    a, b = _spread(a), _spread(b)
    if isinstance(a, Quantity) or isinstance(b, Quantity):
        return _same_quantity(a, b)
    if isinstance(a, Relation) or isinstance(b, Relation):
        return _same_relation(a, b)
    if isinstance(a, Number | Symbol | Operation) and isinstance(b, Number | Symbol | Operation):
        return same_value(a, b)
    if isinstance(a, Word) and isinstance(b, Word):
        return a == b
    if isinstance(a, Sequence) and isinstance(b, Sequence):
        return _same_sequence(a, b)
    if isinstance(a, Matrix) and isinstance(b, Matrix):
        return (
            a.kind == b.kind
            and [len(row) for row in a.rows] == [len(row) for row in b.rows]
            and all(same(x, y) for p, q in zip(a.rows, b.rows, strict=True) for x, y in zip(p, q, strict=True))
        )
    if isinstance(a, Joined) and isinstance(b, Joined):
        if a.operator == "setminus":
            return a.operator == b.operator and _same_in_order(a.parts, b.parts)
        return a.operator == b.operator and _same_in_any_order(a.parts, b.parts)
    return False


def _same_in_order(a: Seq[Answer], b: Seq[Answer]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def _same_in_any_order(a: Seq[Answer], b: Seq[Answer]) -> bool:
    if len(a) != len(b) or len(a) > MAX_UNORDERED:
        return _same_in_order(a, b)
    left = list(b)
    for one in a:
        match = next((index for index, other in enumerate(left) if same(one, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same_sequence(a: Sequence, b: Sequence) -> bool:
    unordered = ("", "{")
    if a.opening in unordered and b.opening in unordered:
        return _same_in_any_order(a.items, b.items)
    return (a.opening, a.closing) == (b.opening, b.closing) and _same_in_order(a.items, b.items)


def _spread(answer: Answer) -> Answer:
    """± written out: ``1 ± x`` is the list ``1 + x, 1 - x``, also within a bare list or a set."""
    if isinstance(answer, Number | Symbol | Operation) and "±" in symbols(answer):
        values = tuple(substituted(answer, {"±": Number(Fraction(sign))}) for sign in (1, -1))
        return Sequence("", values, "")
    if isinstance(answer, Relation) and answer.operators == ("=",) and isinstance(answer.sides[0], Symbol):
        spread = _spread(answer.sides[1])
        if isinstance(spread, Sequence) and spread is not answer.sides[1]:
            return Sequence("", tuple(Relation(("=",), (answer.sides[0], one)) for one in spread.items), "")
    if isinstance(answer, Sequence) and answer.opening in ("", "{"):
        items: list[Answer] = []
        for item in answer.items:
            spread = _spread(item)
            is_new = isinstance(spread, Sequence) and not isinstance(item, Sequence)
            items.extend(spread.items if is_new and isinstance(spread, Sequence) else [item])
        return Sequence(answer.opening, tuple(items), answer.closing)
    return answer


def _same_quantity(a: Answer, b: Answer) -> bool:
    """Units must be the same where both have one. A bare number may be a percentage, or its value: 5 % is 5 and
    0.05."""
    x, unit_x = (a.value, a.unit) if isinstance(a, Quantity) else (a, "")
    y, unit_y = (b.value, b.unit) if isinstance(b, Quantity) else (b, "")
    if unit_x and unit_y:
        return unit_x == unit_y and same(x, y)
    if isinstance(x, Word) or isinstance(y, Word):
        return False
    if same(x, y):
        return True
    percent, other = (x, y) if unit_x == "percent" else (y, x)
    if "percent" not in (unit_x, unit_y) or not isinstance(other, Number | Symbol | Operation):
        return False
    assert isinstance(percent, Number | Symbol | Operation)
    return same_value(Operation("/", (percent, Number(Fraction(100)))), other)


def _same_relation(a: Answer, b: Answer) -> bool:
    if isinstance(a, Relation) and isinstance(b, Relation):
        if _in_order(a).operators == _in_order(b).operators:
            if _same_in_order(_in_order(a).sides, _in_order(b).sides):
                return True
        return _same_equation(a, b)
    relation, other = (a, b) if isinstance(a, Relation) else (b, a)
    assert isinstance(relation, Relation)
    # "x = 5" or "x in [1,2]" for an answer that leaves the name out.
    named = relation.operators in (("=",), ("in",)) and isinstance(relation.sides[0], Symbol)
    return named and same(relation.sides[1], other)


def _in_order(relation: Relation) -> Relation:
    """With < and <= alone: ``a > b`` is ``b < a``."""
    if all(one in _FLIPPED for one in relation.operators):
        return Relation(tuple(_FLIPPED[one] for one in reversed(relation.operators)), relation.sides[::-1])
    return relation


def _same_equation(a: Relation, b: Relation) -> bool:
    """Two equations of one unknown or more that are multiples of each other: ``y = 2x`` and ``2x - y = 0``."""
    if a.operators != ("=",) or b.operators != ("=",):
        return False
    sides = (*a.sides, *b.sides)
    if not all(isinstance(one, Number | Symbol | Operation) for one in sides):
        return False
    first, second = _difference(a), _difference(b)
    return symbols(first) == symbols(second) and proportional(first, second)


def _difference(relation: Relation) -> Expression:
    left, right = relation.sides
    assert isinstance(left, Number | Symbol | Operation) and isinstance(right, Number | Symbol | Operation)
    return Operation("+", (left, Operation("neg", (right,))))
