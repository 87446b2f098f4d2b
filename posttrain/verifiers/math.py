"""MATH: a final answer in LaTeX, compared by meaning.

``tulu3`` is the published lenient metric (``math_flex.py``, with its false positives). ``strict`` is for rewards: its
own grammar, which evaluates nothing and refuses what is ambiguous, then exact or 60-digit values (``math_compare.py``).
"""

import re
from collections import deque

from posttrain.verifiers.boxed import closing_brace
from posttrain.verifiers.math_compare import equal_answers
from posttrain.verifiers.math_tokens import TooLarge
from posttrain.verifiers.verdict import Verdict

VERSION = 3
MAX_BARE_ANSWER = 200  # a response without any mark is itself the answer only when it is this short

_BOX = re.compile(r"\\f?box(?:ed)?(?![a-zA-Z])\s*")
_ONE_TOKEN = re.compile(r"-?\d+(?:\.\d+)?|\\[a-zA-Z]+|[A-Za-z]")
_SAYS = re.compile(r"(?:answer\s*(?:is|:|=)\s*:?|####)[ \t]*(?=(?P<said>[^\n]+))", re.IGNORECASE)
_ENCLOSED = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_HOPE = re.compile(r"[.\s]*I hope it is correct\b.*$", re.IGNORECASE)


def final_answer(response: str) -> str | None:
    """The answer a response ends in: its last box; else what follows its last "answer is" (or "####"); else its last
    formula; else the whole of a short response. None where a box is left open or nothing is found."""
    box = _last(_BOX, response)
    if box is not None:
        if response[box.end() : box.end() + 1] != "{":
            token = _ONE_TOKEN.match(response, box.end())
            return token[0] if token else None
        end = closing_brace(response, box.end())
        return None if end is None else response[box.end() + 1 : end]
    said = _last(_SAYS, response)
    if said is not None:
        text = _HOPE.sub("", said["said"]).strip().strip("*").strip()
        formula = _ENCLOSED.match(text)
        return next(part for part in formula.groups() if part) if formula else text
    formula = _last(_ENCLOSED, response)
    if formula is not None:
        return next(part for part in formula.groups() if part)
    text = response.strip()
    return text if 0 < len(text) <= MAX_BARE_ANSWER and "\n" not in text else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def verify_strict(response: str, label: str) -> Verdict:
    """Whether the response's final answer means what the label means; ``timeout`` when it is beyond the bounds."""
    answer = final_answer(response)
    if answer is None:
        return Verdict("wrong", 0.0, "no final answer", VERSION)
    wanted = final_answer(label) if _BOX.search(label) else label
    try:
        right = wanted is not None and equal_answers(answer, wanted)
    except (TooLarge, RecursionError) as error:
        return Verdict("timeout", 0.0, f"the answer is too large: {error}", VERSION)
    return Verdict("correct" if right else "wrong", float(right), f"read {answer[:200]!r}", VERSION)
