"""GSM8K: the published rule with its quirks, the strict rule without them."""

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.errors import PosttrainError
from posttrain.verifiers.gsm8k import last_number, verify_later, verify_strict, verify_tulu3

PUBLISHED = [  # response, label, original regex, later regex; spec/verifiers.md §7
    ("The answer is 72.", "72", True, True),
    ("It is -3", "3", True, False),
    ("It is -3", "-3", False, True),
    ("It is 3.0", "3", False, False),
    ("+7", "+7", False, True),
    ("5-12", "-12", False, True),
    ("5-12", "12", True, False),
    ("He pays $18.", "18", True, True),
    ("1,000", "1,000", False, False),
    ("1,000", "1000", True, True),
    ("1,234,567", "1234567", True, True),
    ("1,2,3", "3", True, True),  # one pass: "12,3"
    ("-2.50", "-2.50", True, True),
    ("no number at all", "NO number at all", True, True),
    ("<|assistant|>\nfirst 3<|assistant|>\n 4", "4", True, True),
]


@pytest.mark.parametrize(("response", "label", "original", "later"), PUBLISHED)
def test_published_rules(response, label, original, later):
    assert (verify_tulu3(response, label).outcome == "correct") == original
    assert (verify_later(response, label).outcome == "correct") == later


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 72.", 72),
        ("is -3", -3),
        ("5-12", 12),
        ("x = 10 - 3 = 7", 7),
        ("(-3)", -3),
        ("costs $1,234.50", Fraction("1234.5")),
        ("-$5", -5),
        ("$-5", -5),
        ("a loss of −4 dollars", -4),
        ("+7", 7),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("3.0", 3),
        ("one half is 1/2", Fraction(1, 2)),
        ("6/2=3", 3),
        ("1/0", None),
        ("5,6", 6),
        ("1,2345", 2345),
        ("the CO2", None),
        ("2^3", None),
        ("10**2", None),
        ("x^2", None),
        ("(3)^{2}", None),
        ("The area is 72 cm^2.", 72),
        ("72 $cm^2$", 72),
        (r"-72 \text{ m}^{2}", -72),
        ("5 m^-2", 5),
        ("8 in**3", 8),
        ("007", 7),
        ("18kg", 18),
        ("50%", 50),
        ("nothing", None),
        ("#### -1,000", -1000),
        ("9" * 5000, None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_strict_compares_values_not_texts():
    assert verify_strict("so 1,000.00", "1000").outcome == "correct"
    assert verify_strict("so -3", "3").outcome == "wrong"
    assert verify_strict("", "3").outcome == "wrong"


def test_a_label_without_a_number_is_refused():
    with pytest.raises(PosttrainError, match="holds no number"):
        verify_strict("3", "three")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=100), st.integers(-(10**9), 10**9))
def test_any_text_before_a_plain_integer_leaves_it_the_answer(text, number):
    assert verify_strict(f"{text} is {number}", str(number)).outcome == "correct"


@settings(deadline=None)
@given(st.text(alphabet="0123456789.,/-+$^ ax", max_size=60))
def test_never_raises_on_a_response(text):
    assert verify_strict(text, "1").outcome in ("correct", "wrong")
    assert verify_tulu3(text, "1").score in (0.0, 1.0)


@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319)])
def test_every_gold_solution_verifies_against_its_own_answer(data_dir, split, rows):
    lines = (data_dir / "gsm8k" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == rows
    failures = []
    for line in lines:
        solution = json.loads(line)["answer"]
        gold = solution.split("####")[-1].strip()
        if verify_strict(solution, gold).outcome != "correct":
            failures.append(("strict", gold))
        # The published labels were made by the published extraction: no commas, no integer sign.
        if verify_tulu3(solution, gold.replace(",", "").removeprefix("-")).outcome != "correct":
            failures.append(("tulu3", gold))
    assert failures == []
