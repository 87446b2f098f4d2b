"""Whatever a row holds, it is read or set aside with its line, and the rest goes on."""

import datetime
import json
import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.data.readers import read_rows
from posttrain.data.rejects import Rejects
from posttrain.data.rows import Conversation
from posttrain.data.rows_on_disk import RowsOnDisk

USER, ANSWER = {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."}
GOOD = {
    "conversation": {"id": "a", "messages": [USER, ANSWER]},
    "preference": {"id": "a", "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "Nine."}]},
    "verifiable": {"id": "a", "messages": [USER], "dataset": "gsm8k", "ground_truth": "2"},
}
NAN, HALF = float("nan"), "\ud800"
DEEP = json.loads("[" * 700 + "]" * 700)


def lines(path):
    return list(map(json.loads, path.read_bytes().splitlines())) if path.exists() else []


def kept(tmp_path, kind, *odd):
    """(rows, rejects) of a file that holds the odd rows between two good ones; the rows have been to the disk."""
    rows = [GOOD[kind], *odd, GOOD[kind]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_rows(tmp_path / "rows.jsonl", kind, rejected=tmp_path / "rejected.jsonl")
    rows = list(RowsOnDisk(tmp_path / "kept.jsonl", kind, read))
    assert list(read_rows(tmp_path / "kept.jsonl", kind)) == rows
    return rows[1:-1], lines(tmp_path / "rejected.jsonl")


@pytest.mark.parametrize(
    ("kind", "odd", "reason"),
    [
        ("verifiable", {"ground_truth": NAN}, '"ground_truth" holds a number that is not finite'),
        ("verifiable", {"ground_truth": {"answer": [NAN]}}, "not finite"),
        ("verifiable", {"ground_truth": {"answer": HALF}}, '"ground_truth" holds half of a surrogate pair'),
        ("verifiable", {"ground_truth": {HALF: 1}}, '"ground_truth" holds half of a surrogate pair'),
        ("conversation", {"id": [HALF]}, '"id" holds half of a surrogate pair'),
        ("conversation", {"id": NAN}, '"id" holds a number that is not finite'),
        ("conversation", {"messages": [USER], f"note{HALF}": HALF}, "no assistant turn"),
        ("conversation", {"messages": None, f"message{HALF}": 1}, '"messages" is empty'),
        ("conversation", {"deep": DEEP}, "nested too deeply"),
        ("conversation", {"messages": None, "conversations": [{"from": ["human"], "value": "x"}]}, "is from"),
        ("conversation", {"messages": None, "instruction": "a", "input": NAN, "output": "b"}, '"input" holds float'),
    ],
)
def test_a_row_that_cannot_be_kept_is_set_aside_with_its_line(kind, odd, reason, tmp_path):
    rows, [entry] = kept(tmp_path, kind, GOOD[kind] | odd)
    assert rows == [] and entry["line"] == 2 and re.search(reason, entry["reason"])


@pytest.mark.parametrize(
    ("kind", "odd", "extra"),
    [
        ("conversation", {f"note{HALF}": 1, "note\udc00": 2}, {"note\\ud800": 1, "note\\udc00": 2}),
        ("conversation", {"note": {f"a{HALF}": HALF}}, {"note": {"a\\ud800": "?"}}),
        ("verifiable", {"constraint": NAN}, {"constraint": "nan"}),
        ("verifiable", {"constraint": [HALF], "constraint_type": {HALF: 1}}, None),
    ],
)
def test_what_a_row_holds_besides_is_kept_as_text(kind, odd, extra, tmp_path):
    [row], rejected = kept(tmp_path, kind, GOOD[kind] | odd)
    assert rejected == [] and row.extra == (extra or {"constraint": ["?"], "constraint_type": {"\\ud800": 1}})


def test_messages_without_an_id_may_hold_what_json_does_not_know(tmp_path):
    import pyarrow
    from pyarrow import parquet

    [row], _ = kept(tmp_path, "conversation", {"messages": [{**USER, "weight": NAN}, ANSWER]})
    assert isinstance(row, Conversation) and len(row.id) == 16 and row.messages[0]["weight"] == "nan"
    turns = [{**turn, "at": datetime.datetime(2023, 4, 1, 12)} for turn in (USER, ANSWER)]
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": turns}]), tmp_path / "rows.parquet")
    [row] = RowsOnDisk(tmp_path / "kept.jsonl", "conversation", read_rows(tmp_path / "rows.parquet", "conversation"))
    assert isinstance(row, Conversation) and len(row.id) == 16 and row.messages[0]["at"] == "2023-04-01T12:00:00"


texts = st.text(st.characters() | st.sampled_from([HALF, "\udfff", "é", "\x00"]), max_size=4)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
turns = st.dictionaries(st.sampled_from(["role", "content", "from", "value", "x"]), values, max_size=3)
turns |= st.sampled_from([USER, ANSWER, {"from": "human", "value": "a"}])
columns = st.dictionaries(
    st.sampled_from("id source messages conversations prompt system chosen rejected response".split())
    | st.sampled_from("instruction input output dataset ground_truth constraint".split())
    | texts,
    values | st.lists(turns, max_size=3),
    max_size=5,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(GOOD)), st.lists(columns, min_size=1, max_size=4), st.booleans())
def test_any_row_is_read_or_set_aside_and_none_is_lost(tmp_path, kind, odd, completed):
    odd = [GOOD[kind] | one if completed else one for one in odd]
    rows, rejected = kept(tmp_path, kind, *odd)
    assert len(rows) + len(rejected) == len(odd)


def test_three_thousand_bad_values_are_one_short_reason(tmp_path):
    odd = [{"messages": [{"role": f"{n}" * 200, "content": "x"}, ANSWER]} for n in range(3000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [GOOD["conversation"], *odd]))
    rejects = Rejects(tmp_path / "rejected.jsonl")
    assert len(list(read_rows(tmp_path / "rows.jsonl", "conversation", rejected=rejects))) == 1
    [(reason, count)] = rejects.reasons.items()
    assert count == 3000 and len(reason) < 100
    assert max(len(entry["reason"]) for entry in lines(rejects.path)) < 200


@pytest.mark.parametrize("odd", [{"dataset": ["x", 1] * 50_000}, {"x" * 100_000: 1, "dataset": None}])
def test_a_reason_is_short_whatever_the_row_holds(odd, tmp_path):
    _, [entry] = kept(tmp_path, "verifiable", GOOD["verifiable"] | odd)
    assert len(entry["reason"]) < 400


def test_no_file_makes_more_than_a_hundred_and_one_reasons(tmp_path):
    odd = [{f"column{n}": 1} for n in range(500)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [GOOD["conversation"], *odd]))
    rejects = Rejects(None)
    list(read_rows(tmp_path / "rows.jsonl", "conversation", rejected=rejects))
    assert len(rejects.reasons) == 101 and rejects.reasons["another reason"] == 400 and rejects.count == 500


def test_broken_lines_are_counted_by_what_is_wrong_and_told_with_its_place(tmp_path):
    broken = ['{"a": ' + " " * n + "x" for n in range(50)]
    (tmp_path / "rows.jsonl").write_text("\n".join([json.dumps(GOOD["conversation"]), *broken]))
    rejects = Rejects(tmp_path / "rejected.jsonl")
    list(read_rows(tmp_path / "rows.jsonl", "conversation", rejected=rejects))
    assert dict(rejects.reasons) == {"not JSON: Expecting value": 50}
    assert [entry["reason"] for entry in lines(rejects.path)] == [
        f"not JSON: Expecting value (column {n + 7})" for n in range(50)
    ]


def test_bad_rows_of_an_earlier_reading_do_not_stay(tmp_path):
    (tmp_path / "rejected.jsonl").write_text('{"file": "of before"}\n')
    kept(tmp_path, "conversation", {"messages": []})
    assert len(lines(tmp_path / "rejected.jsonl")) == 1
    kept(tmp_path, "conversation")
    assert not (tmp_path / "rejected.jsonl").exists()


def test_an_unclosed_quote_takes_time_in_proportion_to_the_file(tmp_path):
    """A string that grows by each line took 35 s of 3 MB; ten times as much is read here."""
    (tmp_path / "rows.csv").write_text('prompt,response\na,b\n"never closed,' + "word word word\n" * 2_000_000)
    begun = time.process_time()
    assert len(list(read_rows(tmp_path / "rows.csv", "conversation", rejected=tmp_path / "rejected.jsonl"))) == 1
    assert time.process_time() - begun < 15
    [entry] = lines(tmp_path / "rejected.jsonl")
    assert entry["line"] == 3 and len(entry["row"]) > 29_000_000
