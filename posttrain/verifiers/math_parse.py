"""The grammar of math answers: lists, relations, unions, quantities, brackets and matrices of expressions.

Whatever is left over after an answer makes the whole unreadable.
"""

import re
from fractions import Fraction

from posttrain.verifiers.math_expressions import CLOSING, CONSTANTS, FUNCTIONS, MAX_DEPTH, ExpressionReader
from posttrain.verifiers.math_tokens import DOLLAR, ROW, TooLarge, Unreadable, tokens
from posttrain.verifiers.math_tree import (
    Answer,
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
from posttrain.verifiers.math_units import unit_name

_RELATIONS = {
    **{"=": "=", "<": "<", ">": ">", ":": ":", "le": "<=", "ge": ">=", "lt": "<", "gt": ">", "ne": "!=", "in": "in"},
    **{"equiv": "=", "colon": ":"},
}
_SETS = {"cup": "cup", "cap": "cap", "setminus": "setminus", "backslash": "setminus"}
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_WORDS = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)*")


def parse(bare_text: str) -> Answer:
    """The answer a bare text (``math_tokens.bare``) stands for.

    Raises Unreadable outside the grammar and TooLarge beyond the bounds.
    """
    if word := _word(bare_text):
        return word
    reader = _AnswerReader(tokens(bare_text))
    answer = reader.listed(("end",))
    reader.expect("end")
    return answer


def _word(text: str) -> Answer | None:
    """A text answer: words alone, of more than one letter."""
    if not _WORDS.fullmatch(text) or len(text) < 2 or text in CONSTANTS or text in FUNCTIONS:
        return None
    folded = text.casefold().rstrip(".")
    return Number(Fraction(_NUMBER_WORDS.index(folded))) if folded in _NUMBER_WORDS else Word(folded)


class _AnswerReader(ExpressionReader):
    def listed(self, closing: tuple[str, ...]) -> Answer:
        """Items up to a closing sign; several make a bare list."""
        items = self.items(closing)
        if len(items) == 1:
            return items[0]
        return Sequence("", tuple(items), "")

    def items(self, closing: tuple[str, ...]) -> list[Answer]:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"nested deeper than {MAX_DEPTH}")
        items = [self.item()]
        while self.is_next(",", ";"):
            self.take()
            items.append(self.item())
        if not self.is_next(*closing):
            raise Unreadable(f"{self.next.value or 'the end'!r} is left over")
        self.depth -= 1
        return items

    def item(self) -> Answer:
        """A relation of unions of quantities; with one ± it is two values."""
        head = self.head()
        sides, operators = [self.union()], []
        while (operator := self.relation()) is not None:
            operators.append(operator)
            sides.append(self.union())
        if head is not None:
            sides, operators = [head[0], *sides], [head[1], *operators]
        return Relation(tuple(operators), tuple(sides)) if operators else sides[0]

    def relation(self) -> str | None:
        token = self.next
        name = token.value if token.kind == "command" else token.kind
        if name not in _RELATIONS:
            return None
        self.take()
        if name in ("<", ">", "!") and self.is_next("="):
            self.take()
            return {"<": "<=", ">": ">="}[name]
        return _RELATIONS[name]

    def head(self) -> tuple[Symbol, str] | None:
        """``f(x) =``, which the expression grammar would refuse: named as it is written."""
        start = self.at
        token = self.next
        if token.kind == "letters" and len(token.value) == 1 and self.tokens[start + 1].kind == "(":
            end = start + 2
            while self.tokens[end].kind in ("letters", ","):
                end += 1
            if self.tokens[end].kind == ")" and self.tokens[end + 1].kind == "=":
                self.at = end + 2
                return Symbol("".join(one.value for one in self.tokens[start : end + 1])), "="
        return None

    def union(self) -> Answer:
        first = self.quantity()
        parts, operator = [first], None
        while self.next.kind == "command" and self.next.value in _SETS:
            joined = _SETS[self.take().value]
            if operator not in (None, joined):
                raise Unreadable("mixed set operations")
            operator = joined
            parts.append(self.quantity())
        return Joined(operator, tuple(parts)) if operator else first

    def quantity(self) -> Answer:
        value = self.bracketed()
        if value is not None:
            return value
        currency = self.currency()
        expression = self.sum()
        if currency is None:
            unit = self.unit()
            return Quantity(expression, unit) if unit else expression
        unit = " ".join(dict.fromkeys(["dollar", *self.unit().split()]))  # "$5 dollars" says it twice
        return Quantity(Operation("neg", (expression,)) if currency == "-" else expression, unit)

    def currency(self) -> str | None:
        """The sign of an amount behind DOLLAR, which is taken: ``-$5``; None where there is no DOLLAR."""
        if self.is_next(DOLLAR):
            self.take()
            return "+"
        if self.is_next("-") and self.tokens[self.at + 1].kind == DOLLAR:
            self.at += 2
            return "-"
        return None

    def unit(self) -> str:
        """What a number counts: texts and words up to the end of the item, squared or cubed, or a percent sign."""
        written: list[str] = []
        while True:
            token = self.next
            if token.kind == "%" or (token.kind == "command" and token.value == "degree"):
                written.append({"%": "percent"}.get(token.kind, "degree"))
            elif token.kind == DOLLAR:
                written.append("dollar")
            elif token.kind in ("text", "letters"):
                written.append(token.value)
            elif token.kind == "^" and written and self.tokens[self.at + 1].kind in ("number", "{"):
                self.take()
                power = self.group_text()
                if power not in ("2", "3"):
                    raise Unreadable("a unit with this power")
                written[-1] += f" {power}"
                continue
            elif token.kind == "/" and written and self.tokens[self.at + 1].kind in ("text", "letters"):
                written.append("per")
            else:
                break
            self.take()
        return unit_name(" ".join(written)) if written else ""

    def bracketed(self) -> Answer | None:
        """A tuple, interval, set, vector or matrix that is an answer of its own; None (and nothing taken) for a
        group."""
        token, start = self.next, self.at
        name = token.value if token.kind == "command" else token.kind
        if name == "begin":
            return self.matrix()
        if name not in ("(", "[", r"\{", "langle"):
            return None
        self.take()
        closings = {"(": (")", "]"), "[": ("]", ")")}.get(name, (CLOSING[name],))
        items = self.items(closings)
        end = self.take()
        closing = end.value
        if len(items) == 1 and name in "([":
            if closing != CLOSING[name]:
                raise Unreadable("brackets that do not match")
            inner = items[0]
            if isinstance(inner, Number | Symbol | Operation):
                self.groups[start] = (inner, self.at)
                self.at = start
                return None
            return inner
        if name == r"\{":
            return Sequence("{", tuple(items), "}")
        if {name, closing} & {"[", "]"} and len(items) != 2:
            raise Unreadable("an interval has two ends")
        return Sequence(name, tuple(items), closing)

    def matrix(self) -> Answer:
        name = self.take().value
        if name not in ("pmatrix", "bmatrix", "matrix", "vmatrix", "array", "smallmatrix", "Bmatrix"):
            raise Unreadable(f"the environment {name}")
        rows: list[list[Answer]] = [[]]
        while True:
            rows[-1].append(self.item())
            if self.is_next("&"):
                self.take()
            elif self.is_next(ROW):
                self.take()
                if self.is_next("finish"):
                    break
                rows.append([])
            else:
                break
        if self.expect("finish").value != name or len({len(row) for row in rows}) != 1:
            raise Unreadable("a matrix that is not closed or not rectangular")
        return Matrix("determinant" if name == "vmatrix" else "matrix", tuple(map(tuple, rows)))
