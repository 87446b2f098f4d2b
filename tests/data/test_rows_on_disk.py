import pytest

from posttrain.data.readers import read_rows
from posttrain.data.rows import Conversation, PreferencePair, VerifiablePrompt
from posttrain.data.rows_on_disk import RowsOnDisk

USER, ANSWER = {"role": "user", "content": "zwei\u2028Zeilen 🙂"}, {"role": "assistant", "content": "ja\n"}
ROWS = {
    "conversation": [Conversation(f"c{n}", (USER, ANSWER), "s", {"score": n, "tags": ["a"]}) for n in range(5)],
    "preference": [PreferencePair("p", "zwei", (USER, ANSWER), (USER, {**ANSWER, "content": "nein"}), "s")],
    "verifiable": [
        VerifiablePrompt("v", (USER,), "4", "gsm8k", "s"),
        VerifiablePrompt("w", (USER,), ("4", "5"), ("gsm8k", "math"), "s", {"constraint": "x", "constraint_type": "y"}),
    ],
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_come_back_as_they_were(tmp_path, kind):
    kept = RowsOnDisk(tmp_path / "rows.jsonl", kind, iter(ROWS[kind]))
    assert list(kept) == ROWS[kind] and kept.ids == [row.id for row in ROWS[kind]] and len(kept) == len(ROWS[kind])
    assert list(read_rows(tmp_path / "rows.jsonl", kind)) == ROWS[kind]


def test_any_rows_are_kept_in_any_order_and_again(tmp_path):
    rows = ROWS["conversation"]
    kept = RowsOnDisk(tmp_path / "rows.jsonl", "conversation", rows).kept([4, 0, 0, 2])
    assert list(kept) == [rows[4], rows[0], rows[0], rows[2]] and kept.ids == ["c4", "c0", "c0", "c2"]
    assert list(kept.kept([3, 0])) == [rows[2], rows[4]] == [kept[3], kept[0]]
