"""MATH equivalence as published: lenient, string-mangling and sympy-parsed, kept for comparable numbers alone.

Two published metrics share these parts and differ in what they normalise:

* ``verify_tulu3``: the RLVR reward of Tülu 3 (open-instruct ``verify_math_sample`` at 9c2d44b, its main-thread
  behaviour).
* ``verify_olmes``: OLMES "flex" exact match, the paper's MATH evaluation metric.

Known to be wrong in both directions ("3,4" equals "3", "even" equals "neve"; spec/verifiers.md §3 and §7): never a
reward outside a reproduction; ``math.verify_strict`` is that. The published 5 s SIGALRM limit is the pool's here.
Equality of strings is tried before sympy, which cannot change a disjunction.
"""

import re
from functools import cache
from typing import Any

from posttrain.verifiers.boxed import last_boxed, without_box
from posttrain.verifiers.verdict import Verdict

VERSION = 1

# Above this sympy's parser takes longer than the published 5 s, which counted as "different".
MAX_SYMPY_CHARACTERS = 3000

# Lewkowycz et al. 2022, appendix D.
SUBSTITUTIONS = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    (r"\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
)
# Removed wherever they stand, also within a command: "ft" turns \left into \le, and \infty into \iny.
REMOVED = (
    *(
        "square",
        "ways",
        "integers",
        "dollars",
        "mph",
        "inches",
        "ft",
        "hours",
        "km",
        "units",
        "\\ldots",
        "sue",
        "points",
    ),
    *("feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students"),
    *(
        "childrentickets",
        "multiples",
        "\\text{s}",
        "\\text{.}",
        "\\text{\ns}",
        "\\text{}^2",
        "\\text{}^3",
        "\\text{\n}",
    ),
    *("\\text{}", r"\mathrm{th}", r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", '"', "\\dots"),
)
FINAL_ANSWER = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")


def minerva_answer(text: str) -> str | None:
    """What stands between "The final answer is" and ". I hope it is correct.", which is appended first; None without
    it."""
    match = FINAL_ANSWER.search(text + "I hope it is correct.")
    return match[1].strip() if match else None


def minerva_normalized(answer: str) -> str:
    """Minerva's normal form of a final answer."""
    answer = answer.split("=")[-1]
    for before, after in SUBSTITUTIONS:
        answer = answer.replace(before, after)
    for expression in REMOVED:
        answer = answer.replace(expression, "")
    answer = re.sub(r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$", answer)
    for command in ("text", "textbf", "overline"):
        answer = re.sub(rf"(\\{command}\{{)(.*?)(\}})", r"\2", answer)
    answer = re.sub(r"(\\boxed\{)(.*)(\})", r"\2", answer)
    answer = re.sub(r"(frac)([^{])(.)", r"frac{\2}{\3}", answer)
    answer = re.sub(r"(sqrt)([^{])", r"sqrt{\2}", answer)
    answer = answer.replace("$", "")
    return answer.replace(",", "") if answer.replace(",", "").isdigit() else answer


def between_last_dollars(text: str) -> str | None:
    """The text between the last two dollar signs; None when there are fewer."""
    parts = text.rsplit("$", 2)
    return parts[1] if len(parts) == 3 else None


def hendrycks_equal(first: str, second: str) -> bool:
    """Equality of Hendrycks' stripped strings, of the strings themselves where stripping fails."""
    try:
        return hendrycks_stripped(first) == hendrycks_stripped(second)
    except (IndexError, ValueError):  # "\frac" or "\sqrt" at the end, two units, "a/b" of letters
        return first == second


def hendrycks_stripped(text: str) -> str:
    """Hendrycks et al. 2021's normal form. Raises IndexError or ValueError on what the published code fails on."""
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "")
    if "\\text{ " in text:  # units on the right
        text, _unit = text.split("\\text{ ")  # ValueError when there are two
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _braced_roots(text).replace(" ", "")
    text = _braced_fractions(text)
    return _slash_as_fraction("\\frac{1}{2}" if text == "0.5" else text)


def _braced_roots(text: str) -> str:
    first, *rest = text.split("\\sqrt")
    return first + "".join("\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}") for part in rest)


def _braced_fractions(text: str) -> str:
    first, *rest = text.split("\\frac")
    made = first
    for part in rest:
        if part[0] == "{":
            made += "\\frac" + part
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            made += f"\\frac{{{part[0]}}}{part[1:]}"
        else:
            made += f"\\frac{{{part[0]}}}{{{part[1]}}}{part[2:]}"
    return made


def _slash_as_fraction(text: str) -> str:
    parts = text.split("/")
    if len(parts) != 2:
        return text
    a, b = int(parts[0]), int(parts[1])
    return f"\\frac{{{a}}}{{{b}}}" if text == f"{a}/{b}" else text


def sympy_equal(first: str, second: str) -> bool:
    """Whether sympy's ANTLR parser reads both (it reads prefixes) and ``simplify`` finds their difference to be 0."""
    if max(len(first), len(second)) > MAX_SYMPY_CHARACTERS:
        return False
    sympy, parse_latex = _sympy()
    try:
        return bool(sympy.simplify(parse_latex(first) - parse_latex(second)) == 0)
    except (MemoryError, RecursionError):
        raise  # the response hit a limit: the caller's verdict is "timeout", as the published score 0
    except Exception:  # the published rule: whatever sympy raises (dozens of types) means "different"
        return False


@cache
def _sympy() -> tuple[Any, Any]:
    import sympy
    from sympy.parsing.latex import parse_latex

    return sympy, parse_latex


def flex_equal(first: str, second: str) -> bool:
    """Equal by strings or by sympy."""
    return hendrycks_equal(first, second) or sympy_equal(first, second)


def verify_tulu3(response: str, label: str) -> Verdict:
    """The RLVR reward: the last box as it stands and Minerva's answer; without either what the last two $ enclose, or
    all."""
    text = response.split("<|assistant|>\n")[-1].strip()
    boxed = last_boxed(text)
    answers = [inside] if boxed is not None and (inside := without_box(boxed)) is not None else []
    final = minerva_answer(text)
    # The published code compares the normalised text with "[invalidanswer]", so an answer that reads so is none.
    if final is not None and minerva_normalized(final) != "[invalidanswer]":
        answers.append(minerva_normalized(final))
    if not answers:
        enclosed = between_last_dollars(text)
        answers = [minerva_normalized(text if enclosed is None else enclosed)]
    return _verdict(answers, label)


def verify_olmes(response: str, label: str) -> Verdict:
    """OLMES flex: every candidate is Minerva-normalised, the label too."""
    boxed = last_boxed(response)
    found = [
        minerva_answer(response),
        without_box(boxed) if boxed is not None else None,
        between_last_dollars(response),
    ]
    candidates = [one for one in found if one is not None] or [response]
    return _verdict([minerva_normalized(one) for one in dict.fromkeys(candidates)], minerva_normalized(label))


def _verdict(answers: list[str], label: str) -> Verdict:
    right = any(hendrycks_equal(answer, label) for answer in answers) or any(sympy_equal(a, label) for a in answers)
    return Verdict("correct" if right else "wrong", float(right), f"read {' | '.join(answers)[:200]!r}", VERSION)


def warm(labels: object = ()) -> None:
    """Import sympy and build its parser (about 0.5 s), outside any response's time limit."""
    sympy_equal("1", "1")
