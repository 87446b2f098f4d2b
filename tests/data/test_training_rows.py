"""Rows that leave nothing to train on are set aside under the line on which they stand."""

import gzip
import json

import pytest

from posttrain.data.training_rows import tokenized_conversations, tokenized_pairs

SHORT, LONG = "two apples", "two apples " * 50


def row(text, kind):
    question = {"role": "user", "content": text}
    sides = [[question, {"role": "assistant", "content": answer}] for answer in ("Yes.", "No.")]
    return {"messages": sides[0]} if kind == "conversation" else {"chosen": sides[0], "rejected": sides[1]}


def columns(text, kind):
    return {"prompt": text} | (
        {"response": "Yes."} if kind == "conversation" else {"chosen": "Yes.", "rejected": "No."}
    )


@pytest.mark.parametrize("kind", ["conversation", "preference"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv"])
def test_a_row_set_aside_by_the_trainer_is_told_by_its_line(kind, name, byte_tokenizer, tmp_path):
    if name == "rows.csv":
        lines = [",".join(columns("", kind)), "", '"a\nb",' + "c," * len(columns("", kind))]
        lines += ["", *(",".join(columns(text, kind).values()) for text in (SHORT, LONG))]
        bad, too_long = 3, 7  # a record of two lines, the blank ones, the header
    else:
        lines = ["", json.dumps(row(SHORT, kind)), "", "{broken", "", json.dumps(row(LONG, kind)), ""]
        bad, too_long = 4, 6
    text = "\n".join(lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    read = tokenized_conversations if kind == "conversation" else tokenized_pairs
    aside = tmp_path / "rejected.jsonl"
    rows, counts = read(tmp_path / name, byte_tokenizer, max_tokens=100, train_on="last_turn", rejected=aside)
    assert len(rows) == counts.used == 1 and counts.set_aside == 2
    entries = [json.loads(line) for line in aside.read_text().splitlines()]
    assert [entry["line"] for entry in entries] == [bad, too_long]
    assert "max_tokens 100" in entries[1]["reason"]
