"""Every common layout says the same as the published one, from every format."""

import csv
import json

import pytest

from posttrain.data.layouts import Layout
from posttrain.data.readers import read_rows
from posttrain.data.rejects import Rejects
from posttrain.errors import PosttrainError

QUESTION, ANSWER = (
    {"role": "user", "content": 'What, "now"?\n2 lines'},
    {"role": "assistant", "content": "That.\t\\frac"},
)
SYSTEM = {"role": "system", "content": "Be brief."}


def one(tmp_path, columns, kind, layout=Layout()):  # noqa: B008 — frozen
    (tmp_path / "rows.jsonl").write_text(json.dumps(columns) + "\n", encoding="utf-8")
    [row] = read_rows(tmp_path / "rows.jsonl", kind, layout=layout)
    return row


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": [QUESTION, ANSWER]},
        {
            "conversations": [
                {"from": "human", "value": QUESTION["content"]},
                {"from": "gpt", "value": ANSWER["content"]},
            ]
        },
        {"instruction": QUESTION["content"], "input": "", "output": ANSWER["content"]},
        {"instruction": 'What, "now"?\n2 lines', "output": ANSWER["content"]},
        {"prompt": QUESTION["content"], "completion": ANSWER["content"]},
        {"prompt": [QUESTION], "response": [ANSWER]},
    ],
)
def test_a_conversation_is_the_same_in_every_layout(columns, tmp_path):
    row = one(tmp_path, columns | {"kept": 3}, "conversation")
    assert row.messages == (QUESTION, ANSWER) and row.extra == {"kept": 3}


def test_a_system_column_and_an_alpaca_input_are_part_of_the_prompt(tmp_path):
    columns = {"system": "Be brief.", "instruction": "Add.", "input": "1, 2", "output": "3"}
    row = one(tmp_path, columns, "conversation")
    assert row.messages == (SYSTEM, {"role": "user", "content": "Add.\n\n1, 2"}, {"role": "assistant", "content": "3"})


@pytest.mark.parametrize(
    "columns",
    [
        {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, SYSTEM | {"role": "assistant"}]},
        {"prompt": QUESTION["content"], "chosen": ANSWER["content"], "rejected": "Be brief."},
        {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [SYSTEM | {"role": "assistant"}]},
        {"instruction": QUESTION["content"], "chosen": ANSWER["content"], "rejected": "Be brief."},
    ],
)
def test_a_pair_is_the_same_in_every_layout(columns, tmp_path):
    row = one(tmp_path, columns, "preference")
    assert row.prompt == QUESTION["content"] and row.chosen == (QUESTION, ANSWER)
    assert row.rejected == (QUESTION, {"role": "assistant", "content": "Be brief."}) and row.extra == {}


def test_a_sharegpt_prompt_to_verify_ends_before_its_answer(tmp_path):
    turns = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]
    row = one(tmp_path, {"conversations": turns, "ground_truth": "2", "dataset": "gsm8k"}, "verifiable")
    assert row.messages == ({"role": "user", "content": "1+1?"},) and row.checks == (("gsm8k", "2"),)


def test_columns_of_any_name_are_mapped_and_missing_ones_given(tmp_path):
    layout = Layout(columns={"prompt": "question", "ground_truth": "answer"}, values={"dataset": "gsm8k"})
    row = one(tmp_path, {"question": "1+1?", "answer": "#### 2", "level": 1}, "verifiable", layout)
    assert row.messages == ({"role": "user", "content": "1+1?"},)
    assert row.checks == (("gsm8k", "#### 2"),) and row.extra == {"level": 1}


def test_a_column_that_moved_in_the_middle_of_a_file_is_reported_by_line_and_the_rest_goes_on(tmp_path):
    rows = [{"q": str(n), "a": "b"} for n in range(5)] + [{"question": "5", "a": "b"}] + [{"q": "6", "a": "b"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rejects = Rejects(tmp_path / "rejected.jsonl")
    layout = Layout(columns={"prompt": "q", "response": "a"})
    assert len(list(read_rows(tmp_path / "rows.jsonl", "conversation", rejected=rejects, layout=layout))) == 6
    entry = json.loads((tmp_path / "rejected.jsonl").read_text())
    assert entry["line"] == 6 and 'column "q"' in entry["reason"] and entry["row"] == rows[5]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"prompt": "hi"}, "without a response"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "from 'tool'"),
        ({"conversations": "text"}, "not a list of turns"),
        ({"chosen": "a", "rejected": "b"}, 'column "messages" is missing'),
    ],
)
def test_what_is_no_known_layout_is_refused(columns, reason, tmp_path):
    with pytest.raises(Exception, match=reason):
        one(tmp_path, columns, "conversation")


def test_delimited_files_give_the_rows_of_the_jsonl_file(tmp_path, data_dir):
    published = list(read_rows(data_dir / "tulu3/sft_sample.jsonl", "conversation"))
    with open(tmp_path / "rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "messages", "source"])
        for row in published:
            writer.writerow([row.id, json.dumps([dict(m) for m in row.messages], ensure_ascii=False), row.source])
    assert list(read_rows(tmp_path / "rows.csv", "conversation")) == published


def test_the_tsv_files_of_flan_have_no_header_and_no_quotes(data_dir):
    for name, count in (("aqua", 2728), ("qasc", 1084), ("strategyqa", 2061)):
        file = data_dir / f"instructions/{name}_train.tsv"
        raw = file.read_text(encoding="utf-8").split("\n")[:-1]
        layout = Layout(columns={"prompt": "question", "response": "why"}, header=("question", "answer", "why"))
        rows = list(read_rows(file, "conversation", layout=layout))
        assert len(rows) == len(raw) == count
        for line, row in zip(raw, rows, strict=True):
            assert line.split("\t") == [row.messages[0]["content"], row.extra["answer"], row.messages[1]["content"]]


def test_bad_lines_of_a_csv_file_are_set_aside_with_their_first_line_and_raw_text(tmp_path):
    raw = b'prompt,response\na,b\n"two\nlines",c\nonly one\n\nd,\xe9\ne,f\n"never closed,g\nh,i\n'
    (tmp_path / "rows.csv").write_bytes(raw)
    rejects = Rejects(tmp_path / "rejected.jsonl")
    rows = list(read_rows(tmp_path / "rows.csv", "conversation", rejected=rejects))
    assert [row.messages[0]["content"] for row in rows] == ["a", "two\nlines", "e"]
    entries = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["line"] for entry in entries] == [5, 7, 9]
    for entry, reason in zip(entries, ("1 fields where", "not UTF-8", "never closed (all to line 10"), strict=True):
        assert reason in entry["reason"]
    assert entries[0]["row"] == "only one" and entries[2]["row"] == '"never closed,g\nh,i'


def test_a_row_of_fifty_megabytes_is_read_whole_from_every_text_format(tmp_path):
    text = "word " * 10_000_000
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": text, "response": "b"}) + "\n")
    (tmp_path / "rows.csv").write_text(f"prompt,response\n{text},b\n")
    for name in ("rows.jsonl", "rows.csv"):
        [row] = read_rows(tmp_path / name, "conversation")
        assert row.messages[0]["content"] == text


def delimited(path, *rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize("text", ["[1, 2, 3]", '{"a": 1}', "[]", "[0, 1.50]", '[{"b": 1}]', '["a", "b"]', "[not JSON"])
def test_a_cell_that_looks_like_json_is_the_text_that_it_is(text, tmp_path):
    names = ("instruction", "input", "output", "note")
    [row] = read_rows(delimited(tmp_path / "a.csv", names, ("Say it.", text, text, text)), "conversation")
    assert [message["content"] for message in row.messages] == [f"Say it.\n\n{text}", text]
    assert row.extra == {"note": text}
    [row] = read_rows(delimited(tmp_path / "b.csv", ("prompt", "chosen", "rejected"), (text, text, "no")), "preference")
    assert [turn["content"] for turn in row.chosen] == [text, text] and row.rejected[-1]["content"] == "no"
    [row] = read_rows(
        delimited(tmp_path / "c.csv", ("prompt", "dataset", "ground_truth"), (text, "code", text)), "verifiable"
    )
    assert row.checks == (("code", text),) and row.messages[0]["content"] == text


@pytest.mark.parametrize(
    "columns",
    [
        {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]},
        {"prompt": [QUESTION], "response": [ANSWER]},
        {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, SYSTEM | {"role": "assistant"}]},
        {"messages": [QUESTION], "dataset": ["gsm8k", "code"], "ground_truth": ["2", ["assert f(1) == 1"]]},
    ],
)
def test_turns_and_parallel_labels_in_cells_are_read_as_from_json_lines(columns, tmp_path):
    kind = "verifiable" if "dataset" in columns else "preference" if "chosen" in columns else "conversation"
    cells = [json.dumps(value, ensure_ascii=False) for value in columns.values()]
    named = Layout(columns={name: f"my {name}" for name in columns})
    expected = one(tmp_path, columns, kind)
    for names, layout in ((list(columns), Layout()), (list(named.columns.values()), named)):
        [row] = read_rows(delimited(tmp_path / "rows.csv", names, cells), kind, layout=layout, source="rows.jsonl")
        assert row == expected


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "header.csv"])
def test_a_column_that_is_there_twice_is_refused_since_one_would_be_lost(name, tmp_path):
    import pyarrow
    from pyarrow import parquet

    names = ["prompt", "response", "prompt"]
    delimited(tmp_path / "rows.csv", names, ["a", "b", "c"])
    delimited(tmp_path / "header.csv", ["a", "b", "c"])
    arrays = [pyarrow.array([text]) for text in "abc"]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, names), tmp_path / "rows.parquet")
    layout = Layout(header=tuple(names)) if name == "header.csv" else Layout()
    with pytest.raises(PosttrainError, match=f"{name}: more than one column is named 'prompt'"):
        list(read_rows(tmp_path / name, "conversation", layout=layout))
