"""Word problems whose answer is a number: the last number of the response counts.

``tulu3`` is the published rule with its quirks (an integer loses its sign, "3.0" differs from "3"); ``strict`` compares
values. Source: spec/verifiers.md §7, open-instruct ``verify_gsm8k_sample``.
"""

import re
from collections import deque
from fractions import Fraction

from posttrain.errors import PosttrainError
from posttrain.verifiers.verdict import Verdict

VERSION = 2

# As trained for Tülu 3: the sign binds to decimals alone, so "-3" is read as "3".
TULU3_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")
# As changed on 2026-03-20 (open-instruct #1530): the sign binds to integers too, so "5-12" is read as "-12".
LATER_NUMBER = re.compile(r"[-+]?(?:\d*\.\d+|\d+)")

COMMA_BETWEEN_DIGITS = re.compile(r"(\d),(\d)")

_AMOUNT = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# Not inside a word ("CO2") and not behind a dot; "1/2" is one number.
STRICT_NUMBER = re.compile(rf"(?<![\w.])(?P<value>{_AMOUNT})(?:/(?P<divisor>[0-9]+))?")
# The power of a unit ("72 cm^2", "m^{2}"), which the search passes over; that of anything else is not the answer.
_UNIT_POWER = re.compile(r"(?:[A-Za-z]{2}|(?<![A-Za-z])m)\}?(?:\^|\*\*)\{?-?$")
_POWER = re.compile(r"(?:\^|\*\*)\{?-?$")
# A minus is a sign where no operand touches it: "is -3" but not "5-12". The currency mark may stand on either side.
_SIGN = re.compile(r"(?:^|[^\w)\]}%$])(?:\\?\$)?([-+−])(?:\\?[$€£])?$")
_MAX_DIGITS = 100  # no answer is longer; a longer number is wrong without being computed


def verify_tulu3(response: str, label: str) -> Verdict:
    """The published rule: string equality of the label with the last number, else with the whole response."""
    return _published(response, label, TULU3_NUMBER)


def verify_later(response: str, label: str) -> Verdict:
    """The published rule with the later regular expression."""
    return _published(response, label, LATER_NUMBER)


def _published(response: str, label: str, number: re.Pattern[str]) -> Verdict:
    text = COMMA_BETWEEN_DIGITS.sub(r"\1\2", response.split("<|assistant|>\n")[-1].strip())
    numbers = number.findall(text)
    answer = numbers[-1] if numbers else text
    right = answer.lower() == label.lower()
    return Verdict("correct" if right else "wrong", float(right), f"read {answer[:80]!r}", VERSION)


def last_number(text: str) -> Fraction | None:
    """The value of the last number of a text: signs, thousands commas, decimals and fractions; None when there is
    none."""
    found = (one for one in STRICT_NUMBER.finditer(text) if not _UNIT_POWER.search(_before(one, text)))
    last = deque(found, maxlen=1)
    return _signed(last[0], text) if last else None


def _before(number: re.Match[str], text: str) -> str:
    return text[max(0, number.start() - 6) : number.start()]


def _signed(last: re.Match[str], text: str) -> Fraction | None:
    before = _before(last, text)
    digits = last["value"].replace(",", "")
    if _POWER.search(before) or len(last[0]) > _MAX_DIGITS:
        return None
    value = Fraction(digits)
    if last["divisor"]:
        if not int(last["divisor"]):
            return None
        value /= int(last["divisor"])
    sign = _SIGN.search(before)
    return -value if sign and sign[1] != "+" else value


def verify_strict(response: str, label: str) -> Verdict:
    """Whether the last number of the response has the label's value.

    Raises PosttrainError when the label holds no number.
    """
    wanted = last_number(label)
    if wanted is None:
        raise PosttrainError(f"gsm8k label {label[:80]!r} holds no number; give the bare answer, such as '72'")
    found = last_number(response)
    right = found == wanted
    return Verdict(
        "correct" if right else "wrong", float(right), "no number" if found is None else f"read {found}", VERSION
    )
