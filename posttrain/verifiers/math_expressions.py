"""The grammar of expressions within math answers: recursive descent that evaluates nothing, bounded in depth.

Where LaTeX readers would disagree it refuses (raises Unreadable): ``x2``, ``2 3``, ``1/2x``, ``f(x)``, ``\\sqrt12``. A
letter run is a product only up to three letters.
"""

from fractions import Fraction

from posttrain.verifiers.math_tokens import Token, TooLarge, Unreadable
from posttrain.verifiers.math_tree import Expression, Number, Operation, Symbol
from posttrain.verifiers.math_units import is_unit

MAX_DEPTH = 40
MAX_DIGITS = 200

CONSTANTS = {"pi": "pi", "infty": "infinity", "infinity": "infinity", "inf": "infinity"}
FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp det".split())
CLOSING = {"(": ")", "[": "]", r"\{": r"\}", "langle": "rangle", "lfloor": "rfloor", "lceil": "rceil"}
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell".split()
)
_PRODUCTS = frozenset(["*", "cdot", "times"])
_QUOTIENTS = frozenset(["/", "div"])
# Applied to what follows in brackets these are functions, not factors.
_APPLIED = frozenset("fghPQ")


class ExpressionReader:
    """Reads tokens from left to right; ``sum`` reads one expression and leaves what follows it."""

    def __init__(self, tokens: list[Token]):
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0  # open | signs
        self.arguments = 0  # functions whose argument is being read
        # Groups read while looking for a tuple: where each began, what it holds, where it ended. Without this, nested
        # brackets would be read twice a level.
        self.groups: dict[int, tuple[Expression, int]] = {}

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def is_next(self, *names: str) -> bool:
        """Whether the next token is one of these signs or commands."""
        token = self.next
        return token.kind in names or (token.kind == "command" and token.value in names)

    def expect(self, name: str) -> Token:
        if not self.is_next(name):
            raise Unreadable(f"{self.next.value or 'the end'!r} where {name!r} should be")
        return self.take()

    def group_text(self) -> str:
        """One token, or what braces hold, as text."""
        if self.is_next("end"):
            raise Unreadable("nothing behind _ or ^")
        if not self.is_next("{"):
            return self.take().value
        self.take()
        written = []
        while not self.is_next("}"):
            if self.is_next("end", "{"):
                raise Unreadable("an unclosed brace")
            written.append(self.take().value)
        self.take()
        return "".join(written)

    def sum(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"nested deeper than {MAX_DEPTH}")
        total: Expression | None = None
        while True:
            if self.is_next("+", "-", "pm", "mp"):
                token = self.take()
                sign = token.value
            elif total is None:
                sign = "+"
            else:
                break
            term = self.product()
            if sign == "-":
                term = Operation("neg", (term,))
            elif sign in ("pm", "mp"):
                term = Operation("*", (Symbol("±"), term))
                term = Operation("neg", (term,)) if sign == "mp" else term
            total = term if total is None else Operation("+", (total, term))
        self.depth -= 1
        return total

    def product(self) -> Expression:
        result = self.power()
        divided = False
        while True:
            if self.is_next(*_PRODUCTS):
                self.take()
                negative = self.is_next("-") and bool(self.take())
                factor = self.power()
                result = Operation("*", (result, Operation("neg", (factor,)) if negative else factor))
                divided = False
            elif self.is_next(*_QUOTIENTS):
                if self.is_next("/") and self.tokens[self.at + 1].kind == "text":
                    return result  # miles/hour
                self.take()
                result = Operation("/", (result, self.power()))
                divided = True
            elif self.is_factor():
                if divided:
                    raise Unreadable("a factor after a quotient: 1/2x")
                result = self.times(result)
            else:
                return result

    def is_factor(self) -> bool:
        """Whether a factor follows without a sign."""
        token = self.next
        if token.kind == "letters":
            return not (is_unit(token.value) and self.ends_as_unit())
        if token.kind == "command":
            return token.value in FUNCTIONS | _GREEK | CONSTANTS.keys() | {"frac", "sqrt", "binom", "lfloor", "lceil"}
        if token.kind == "|":
            return not self.bars
        return token.kind in ("(", "{", "[")

    def ends_as_unit(self) -> bool:
        """Whether only words, powers of them and signs of division follow, up to the end of the item."""
        position = self.at
        while self.tokens[position].kind in ("letters", "text", "^", "/", "{", "}", "number"):
            position += 1
        return self.tokens[position].kind in ("end", ",", ";", ")", "]")

    def times(self, left: Expression) -> Expression:
        right_starts = self.next
        right = self.power()
        if right_starts.kind == "command" and right_starts.value == "frac" and isinstance(left, Number):
            parts = right.operands if isinstance(right, Operation) and right.name == "/" else ()
            if len(parts) == 2 and all(isinstance(one, Number) for one in parts):
                if left.value.denominator == 1 and 0 < parts[0].value < parts[1].value:  # type: ignore[union-attr]
                    return Operation("+", (left, right))  # a mixed number
                raise Unreadable("a number before an improper fraction")
        return Operation("*", (left, right))

    def power(self) -> Expression:
        base = self.base()
        while True:
            if self.is_next("!"):
                self.take()
                base = Operation("factorial", (base,))
            elif self.arguments and self.is_next("degree"):
                self.take()
                base = Operation("*", (base, Operation("/", (Symbol("pi"), Number(Fraction(180))))))
            elif self.is_next("^"):
                self.take()
                base = Operation("^", (base, self.exponent()))
                if self.is_next("^"):
                    raise Unreadable("a double power")
            else:
                return base

    def exponent(self) -> Expression:
        negative = self.is_next("-") and bool(self.take())
        if self.next.kind == "letters" and len(self.next.value) > 1:
            raise Unreadable("letters behind ^ without braces")
        base = self.base()
        return Operation("neg", (base,)) if negative else base

    def base(self) -> Expression:
        if self.at in self.groups:
            inner, self.at = self.groups[self.at]
            return inner
        token = self.take()
        if token.kind == "number":
            return self.number(token)
        if token.kind == "repeating":
            return Number(_repeating(token.value))
        if token.kind == "letters":
            return self.letters(token)
        if token.kind in ("(", "[", "{"):
            return self.group({"(": ")", "[": "]", "{": "}"}[token.kind])
        if token.kind == "|":
            self.bars += 1
            inner = self.sum()
            self.expect("|")
            self.bars -= 1
            return Operation("abs", (inner,))
        if token.kind == "command":
            return self.command(token.value)
        raise Unreadable(f"{token.value or 'the end'!r} where a value should be")

    def group(self, closing: str) -> Expression:
        bars, self.bars = self.bars, 0
        inner = self.sum()
        self.expect(closing)
        self.bars = bars
        return inner

    def number(self, token: Token) -> Expression:
        if len(token.value) > MAX_DIGITS:
            raise TooLarge(f"a number of {len(token.value)} digits")
        if self.is_next("_"):
            self.take()
            base = self.group_text()
            if not base.isdigit() or "." in token.value:
                raise Unreadable("a number with a subscript that is no base")
            return Symbol(f"{token.value.lstrip('0') or '0'} base {base}")
        if self.next.kind in ("number", "repeating"):
            raise Unreadable("two numbers in a row")
        return Number(Fraction(token.value))

    def letters(self, token: Token) -> Expression:
        run = token.value
        if run in CONSTANTS:
            return Symbol(CONSTANTS[run])
        if run == "sqrt" or run in FUNCTIONS:
            return self.command(run)
        if len(run) > 3:
            return Symbol(run)
        # "xy^2": the power, the subscript and a call belong to the last letter alone.
        if len(run) > 1:
            self.at -= 1
            self.tokens[self.at] = Token("letters", run[1:])
            first: Expression = Symbol(run[0])
            return Operation("*", (first, self.power()))
        name = run
        if self.is_next("_"):
            self.take()
            name += f"_{self.group_text()}"
        while self.is_next("'"):
            self.take()
            name += "'"
        if self.next.kind == "(" and name[0] in _APPLIED:
            raise Unreadable(f"{name}(…) may be a function or a product")
        if self.next.kind in ("number", "repeating"):
            raise Unreadable("a number behind a letter")
        return Symbol(name)

    def command(self, name: str) -> Expression:
        if name in CONSTANTS:
            return Symbol(CONSTANTS[name])
        if name in _GREEK:
            subscript = ""
            if self.is_next("_"):
                self.take()
                subscript = f"_{self.group_text()}"
            return Symbol(name + subscript)
        if name == "frac":
            top = self.argument()
            return Operation("/", (top, self.argument(last=True)))
        if name == "binom":
            top = self.argument()
            return Operation("binom", (top, self.argument(last=True)))
        if name == "sqrt":
            index: Expression = Number(Fraction(2))
            if self.is_next("["):
                self.take()
                index = self.group("]")
            inner = self.base_in_brackets() if self.is_next("(") else self.argument(last=True)
            return Operation("root", (inner, index))
        if name in ("lfloor", "lceil"):
            return Operation({"lfloor": "floor", "lceil": "ceil"}[name], (self.group(CLOSING[name]),))
        if name in FUNCTIONS:
            return self.function(name)
        raise Unreadable(f"\\{name}")

    def base_in_brackets(self) -> Expression:
        self.take()
        return self.group(")")

    def argument(self, last: bool = False) -> Expression:
        """``{...}``, or one digit or letter as TeX takes it: ``\\frac12``. More digits behind the last are
        ambiguous."""
        if self.is_next("{"):
            self.take()
            return self.group("}")
        token = self.take()
        if token.kind in ("number", "letters"):
            one, rest = token.value[0], token.value[1:]
            if one == "." or (last and token.kind == "number" and rest):
                raise Unreadable("more than one digit without braces")
            if rest:
                self.at -= 1
                self.tokens[self.at] = Token(token.kind, rest)
            return Number(Fraction(one)) if token.kind == "number" else Symbol(one)
        if token.kind == "command":
            return self.command(token.value)
        raise Unreadable("an argument without braces")

    def function(self, name: str) -> Expression:
        """``\\sin x``, ``\\sin^2 x``, ``\\log_2 (x+1)``: applied to brackets or to the factors that follow."""
        base: Expression | None = None
        exponent: Expression | None = None
        if name in ("log", "lg") and self.is_next("_"):
            self.take()
            base = self.argument()
        if self.is_next("^"):
            self.take()
            exponent = self.exponent() if not self.is_next("{") else self.argument()
        inner = self.applied()
        if exponent in (Operation("neg", (Number(Fraction(1)),)), Number(Fraction(-1))):
            if name not in _INVERSES:
                raise Unreadable(f"the power -1 of {name}")
            return Operation(_INVERSES[name], (inner,))
        if name in ("log", "lg"):
            value = Operation("log", (inner, base or Number(Fraction(10))))
        else:
            value = Operation(name, (inner,))
        return value if exponent is None else Operation("^", (value, exponent))

    def applied(self) -> Expression:
        if self.is_next("("):
            self.take()
            self.arguments += 1
            inner = self.group(")")
            self.arguments -= 1
            return inner
        self.arguments += 1
        result = self.power()
        while self.is_factor() and not (self.next.kind == "command" and self.next.value in FUNCTIONS):
            if self.next.kind == "(":
                raise Unreadable("brackets behind a function's bare argument")
            result = self.times(result)
        self.arguments -= 1
        return result


def _repeating(written: str) -> Fraction:
    """0.1(6) as digits|period: exact."""
    digits, period = written.split("|")
    if len(digits) + len(period) > MAX_DIGITS:
        raise TooLarge("a number of many digits")
    whole, _, tail = digits.partition(".")
    start = Fraction(int(whole or "0")) + Fraction(int(tail or "0"), 10 ** len(tail))
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(tail))
