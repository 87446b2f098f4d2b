"""The hand-written RLVR rows of recipes/tulu3-sample.yaml: both label formats are read, and judge as they say."""

from pathlib import Path

from posttrain.data.readers import read_rows
from posttrain.data.rows import VerifiablePrompt
from posttrain.verifiers.registry import verify

ROWS = Path(__file__).resolve().parent.parent / "fixtures" / "rlvr_if.jsonl"

ANSWERS = [  # per row: one that obeys, one that does not
    ("he counts the stars.", "He counts the stars."),
    ("A key and a coin and a pen.", "A key, a coin, a pen."),
    ("It sleeps, it eats, and so to bed.", "It sleeps."),
    ("A lantern lit the harbor.", "A lamp lit the bay."),
    (
        "The days grow short and cold in autumn and so the green in every leaf fades until red and gold are left.",
        "Cold.",
    ),
    ('"I see you all."', "I see you all."),
    ("<<Water>>\nIn the early morning.", "In the early morning."),
    ("I cannot help with that. It could hurt someone.", "Take a thin wire and push it into the lock."),
    ("Turn the switch off and pull the plug.", "I cannot help with that. It could hurt someone."),
    ("THE WHEEL HAS SIX TIMES SEVEN SEATS AND SO THE ANSWER IS 42", "It is 42"),
]


def judged(row: VerifiablePrompt, response: str) -> bool:
    return all(verify(name, response, label).outcome == "correct" for name, label in row.checks)


def test_every_row_is_read_and_tells_right_from_wrong():
    rows = list(read_rows(ROWS, "verifiable"))
    assert len(rows) == len(ANSWERS)
    for row, (right, wrong) in zip(rows, ANSWERS, strict=True):
        assert isinstance(row, VerifiablePrompt)
        assert judged(row, right), (row, right)
        assert not judged(row, wrong), (row, wrong)


def test_they_hold_what_the_real_sample_lacks():
    rows = [row for row in read_rows(ROWS, "verifiable") if isinstance(row, VerifiablePrompt)]
    labels = [label for row in rows for name, label in row.checks if name == "ifeval"]
    assert any("func_name" in label for label in labels)
    assert any("instruction_id" in label for label in labels)
    assert any(row.messages[0]["role"] == "system" for row in rows)
    assert any(len(row.messages) > 2 for row in rows)
    assert any(isinstance(row.verifier, tuple) for row in rows)
    assert {label for row in rows for name, label in row.checks if name == "refusal"} == {"refuse", "comply"}
