"""LaTeX answers cut into tokens, with what is only typography taken off first. Bounded in size; nothing is
evaluated."""

import re
from dataclasses import dataclass

MAX_CHARACTERS = 1000
DOLLAR = "\x06"  # stands for the currency
AND = "\x05"  # stands for an "and" or "or" that separates answers
ROW = "\x04"  # stands for the \\\\ that ends a matrix row


class TooLarge(Exception):
    """The answer is beyond the bounds on size, depth or magnitude: the answer's own limit, not a failure of the
    verifier."""


class Unreadable(Exception):
    """The text is no answer that the grammar knows; it can equal another by its text alone."""


@dataclass(frozen=True)
class Token:
    """``kind`` is number, letters, command, text, end or a sign."""

    kind: str
    value: str


_UNICODE = str.maketrans(
    {
        **{
            "−": "-",
            "–": "-",
            "×": r"\times ",
            "·": r"\cdot ",
            "÷": r"\div ",
            "π": r"\pi ",
            "∞": r"\infty ",
            "√": r"\sqrt ",
        },
        **{
            "≤": r"\le ",
            "≥": r"\ge ",
            "≠": r"\ne ",
            "±": r"\pm ",
            "∪": r"\cup ",
            "∩": r"\cap ",
            "∈": r"\in ",
            "°": r"^\circ ",
        },
        **{"²": "^2", "³": "^3", "’": "'", "\u00a0": " ", "θ": r"\theta ", "⟨": r"\langle ", "⟩": r"\rangle "},
    }
)

_TYPOGRAPHY = [
    (re.compile(r"\\(?:left|right)\s*\.(?!\d)"), ""),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|rm|bf|it)(?![a-zA-Z])"), ""),
    (re.compile(r"(?<=\d)\s*(?:,\\!|\\!,|\{,\}|,\s*\\!)\s*(?=\d)"), ","),
    (re.compile(r"(?<=\d)(?:\\,|\\;|~|\\ )(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\h?phantom\{[^{}]*\}"), ""),
    (re.compile(r"\\(?:quad|qquad)(?![a-zA-Z])|\\[,;: ]|~"), " "),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac "),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])"), r"\\degree "),
    (re.compile(r"(?<!\\)\$((?:[^$\\]|\\.)*)\$"), r"\1"),
    (re.compile(r"\\\$|\$(?=\s*[\d.])"), DOLLAR),
    (re.compile(r"\$"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:lvert|rvert|vert)(?![a-zA-Z])"), "|"),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\leq(?:slant)?(?![a-zA-Z])"), r"\\le "),
    (re.compile(r"\\geq(?:slant)?(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\\neq(?![a-zA-Z])"), r"\\ne "),
]
_TEXT_COMMAND = re.compile(
    r"\\(?:text|mbox|mathrm|textrm|textbf|textit|textnormal|texttt|textsf|hbox|operatorname)\s*\{([^{}]*)\}"
)
_FONT_COMMAND = re.compile(r"\\(?:mathbf|boldsymbol|mathit|bm|mathbb|mathcal)\s*(?:\{([^{}]*)\}|([A-Za-z]))")
_FUNCTION_NAMES = frozenset("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp sqrt pi lg".split())
_AND = re.compile(r"^(?:,?\s*(?:and|or)\s*,?)$", re.IGNORECASE)

_SCAN = re.compile(
    r"\s*(?:"
    r"(?P<repeating>\d*\.\d*)\\overline\s*\{(?P<period>\d+)\}"
    r"|(?P<thousands>(?<!\d,)[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?)"
    r"|(?P<number>\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<begin>\\(?:begin|end)\s*\{\s*(?P<environment>[a-zA-Z]+)\*?\s*\}(?P<columns>\s*\{[lcr|\s]*\})?)"
    r"|\x02(?P<text>[^\x03]*)\x03"
    r"|(?P<command>\\[a-zA-Z]+)"
    r"|(?P<escaped>\\[{}|]|\x04|\x06)"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<sign>[-+*/^_=<>()\[\]{}|,;:!&'%])"
    r")"
)


def bare(answer: str) -> str:
    """The answer without typography: no ``\\left``, thin spaces, math delimiters, a trailing full stop; texts between
    \\x02 and \\x03, the currency as DOLLAR.

    Raises TooLarge above MAX_CHARACTERS.
    """
    if len(answer) > MAX_CHARACTERS:
        raise TooLarge(f"{len(answer)} characters; {MAX_CHARACTERS} are allowed")
    text = re.sub(r"[\x00-\x1f]", " ", answer).translate(_UNICODE).strip()
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    text = text.replace("\\\\", ROW)  # before "\\ " is taken for a space
    # Texts first, so that a dollar or a space within them is not taken for typography.
    text = _TEXT_COMMAND.sub(_as_text, text)
    text = re.sub(rf"\s*,?\s*(?:{AND}|\s(?:and|or)\s)\s*", " , ", text)
    for pattern, replacement in _TYPOGRAPHY:
        text = pattern.sub(replacement, text)
    text = _FONT_COMMAND.sub(lambda m: f" {m[1] or m[2] or ''} ", text)
    text = " ".join(text.split())
    if re.search(r"(?<!\.)\.$", text):
        text = text[:-1].rstrip()
    whole = re.fullmatch(r"\x02([^\x02\x03]*)\x03", text)
    return whole[1].strip().rstrip(".") if whole else text


def _as_text(match: re.Match[str]) -> str:
    content = match[1].strip()
    if _AND.match(content):
        return AND
    if content in _FUNCTION_NAMES:
        return f"\\{content} "
    if re.fullmatch("[A-Z]", match[1]):
        return f" {content} "  # the choice \text{B}; a unit has a space before it
    if not content:
        return " "
    return f"\x02{' '.join(content.split())}\x03"


def canonical(bare_text: str) -> str:
    """The text without DOLLAR and without white space that LaTeX would not show: kept only between two digits or two
    letters."""
    without = re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", bare_text.replace(DOLLAR, ""))
    return re.sub(r"(?<=[A-Za-z])\s+(?=\d)|(?<=\d)\s+(?=[A-Za-z])", "", without).replace("\\frac ", "\\frac")


def tokens(bare_text: str) -> list[Token]:
    """The tokens, an ``end`` last. Commas without spaces group thousands, but not within brackets: (100,200) is a pair.

    Raises Unreadable at a character that belongs to no token.
    """
    found: list[Token] = []
    position = depth = 0
    while position < len(bare_text):
        match = _SCAN.match(bare_text, position)
        if match is None:
            if not bare_text[position:].strip():
                break
            raise Unreadable(f"at {bare_text[position : position + 20]!r}")
        if match["thousands"] and depth:
            match = _SCAN_NO_THOUSANDS.match(bare_text, position)
            assert match is not None
        position = match.end()
        token = _token(match)
        depth += (token.kind in ("(", "[", r"\{")) - (token.kind in (")", "]", r"\}"))
        found.append(token)
    return [*found, Token("end", "")]


_SCAN_NO_THOUSANDS = re.compile(_SCAN.pattern.replace(r"|(?P<thousands>", r"|(?!)(?P<thousands>"))


def _token(match: re.Match[str]) -> Token:
    if match["period"]:
        return Token("repeating", f"{match['repeating']}|{match['period']}")
    if number := match["thousands"] or match["number"]:
        return Token("number", number.replace(",", ""))
    if match["begin"]:
        return Token("begin" if match["begin"].startswith("\\b") else "finish", match["environment"])
    if match["text"] is not None:
        return Token("text", match["text"])
    if match["command"]:
        return Token("command", match["command"][1:])
    if match["letters"]:
        return Token("letters", match["letters"])
    sign = match["escaped"] or match["sign"]
    return Token(sign, sign)
