import datetime
import gzip
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.columns import RowKind, columns_from_row, row_from_columns
from posttrain.data.readers import read_rows, write_rows
from posttrain.data.rejects import BadRow, Rejects
from posttrain.data.rows import Conversation, PreferencePair, VerifiablePrompt
from posttrain.errors import PosttrainError

USER = {"role": "user", "content": "How many?"}
ANSWER = {"role": "assistant", "content": "Two."}
SFT = {"id": "a", "messages": [USER, ANSWER], "source": "s"}
FILES: dict[RowKind, str] = {"conversation": "sft", "preference": "preference", "verifiable": "rlvr"}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", FILES)
def test_published_rows_come_back_unchanged(kind, data_dir, tmp_path):
    published = data_dir / "tulu3" / f"{FILES[kind]}_sample.jsonl"
    rows = list(read_rows(published, kind, source="hub/name"))
    assert write_rows(tmp_path / "data.jsonl", rows) == 100
    for before, after in zip(lines(published), lines(tmp_path / "data.jsonl"), strict=True):
        assert {name: after[name] for name in before} == before
        assert set(after) - set(before) <= {"id", "source"}  # published RLVR rows have neither
    assert list(read_rows(tmp_path / "data.jsonl", kind)) == rows


def test_published_rlvr_names_become_verifiers(data_dir):
    rows = list(read_rows(data_dir / "tulu3/rlvr_sample.jsonl", "verifiable"))
    assert sorted({row.verifier for row in rows}) == ["gsm8k", "math"]
    assert len({row.id for row in rows}) == len({(row.messages[0]["content"], row.ground_truth) for row in rows})


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
turns = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts})
json_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(
    st.lists(turns, max_size=4),
    st.none() | texts,
    st.dictionaries(st.sampled_from(["licence", "score", "language"]), json_values),
)
def test_any_conversation_survives_the_round_trip(before, id, extra):
    columns = {"id": id, "messages": [*before, ANSWER], "source": "s", **extra}
    row = row_from_columns("conversation", columns, "default")
    written = json.loads(json.dumps(columns_from_row(row)))
    assert row_from_columns("conversation", written, "other") == row
    assert written | {"id": id} == columns


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["MATH", "gsm8k", "IFEval", "code"]), st.text() | st.integers() | st.lists(st.text())
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_any_pairing_of_verifiers_and_labels_survives_the_round_trip(checks, as_lists):
    names, truths = map(list, zip(*checks, strict=True))
    if not as_lists:
        names, truths = names[0], truths[0]
    columns = {"messages": [USER], "dataset": names, "ground_truth": truths, "constraint_type": None, "constraint": "c"}
    row = row_from_columns("verifiable", columns, "s")
    assert len(row.checks) == (len(checks) if as_lists else 1)
    assert all(isinstance(label, str) and name == name.lower() for name, label in row.checks)
    written = columns_from_row(row)
    assert {name: written[name] for name in columns} == columns
    assert row_from_columns("verifiable", written, "s") == row


def test_both_published_if_labels_are_kept_as_text():
    tulu3 = '{"func_name": "validate_lowercase", "N": null}'
    olmo3 = "[{'instruction_id': ['change_case:english_lowercase'], 'kwargs': [None]}]"
    for label in (tulu3, olmo3):
        row = row_from_columns("verifiable", {"messages": [USER], "dataset": "ifeval", "ground_truth": label}, "s")
        assert row.checks == (("ifeval", label),)


def test_ratings_of_the_405b_pairs_are_kept():
    columns = {
        "id": "p",
        "prompt": "How many?",
        "chosen": [USER, ANSWER],
        "rejected": [USER, {"role": "assistant", "content": "Nine."}],
        "source": "s",
        "chosen_rating": 4.5,
        "rejected_rating": 1.0,
        "chosen_model": "m",
        "rejected_model": None,
    }
    row = row_from_columns("preference", columns, "s")
    assert row.extra["chosen_rating"] == 4.5
    assert columns_from_row(row) == columns


def test_a_changed_verifier_is_written_and_not_the_published_one():
    row = row_from_columns("verifiable", {"messages": [USER], "dataset": "MATH", "ground_truth": "2"}, "s")
    assert columns_from_row(row)["dataset"] == "MATH"
    assert columns_from_row(replace(row, verifier="gsm8k"))["dataset"] == "gsm8k"


def test_a_missing_id_is_a_hash_that_never_changes():
    columns = {"messages": [USER, ANSWER], "source": "s"}
    assert row_from_columns("conversation", columns, "s").id == "cfc8cbcfab1be1ac"
    other = {"messages": [USER, {"role": "assistant", "content": "Three."}]}
    assert row_from_columns("conversation", other, "s").id != "cfc8cbcfab1be1ac"


BAD = {
    "not JSON": '{"id": "a", "messages": [',
    "a JSON object is wanted": "[1, 2]",
    "no assistant turn": {"messages": [USER]},
    "holds no message": {"messages": []},
    "has the role 'human'": {"messages": [{"role": "human", "content": "hi"}, ANSWER]},
    "a turn is empty (turn 2, assistant)": {"messages": [USER, {"role": "assistant", "content": " \n"}]},
    "no text under content": {"messages": [USER, {"role": "assistant", "content": None}]},
    'is it "message"?': {"message": [USER, ANSWER]},
    "not a list of messages": {"messages": "hello"},
    "surrogate": {"messages": [USER, {"role": "assistant", "content": "\ud800"}]},
    'column "id" holds half of a surrogate pair': {**SFT, "id": "\ud800"},
    'column "source" holds half of a surrogate pair': {**SFT, "source": "\ud800"},
    "not JSON that can be read": '{"id": ' + "9" * 5000 + "}",
}


def test_every_bad_row_is_set_aside_with_file_line_and_reason_and_the_rest_goes_on(tmp_path):
    file = write(tmp_path / "rows.jsonl", SFT, *BAD.values(), SFT)
    rejects = Rejects(tmp_path / "rejected.jsonl")
    assert len(list(read_rows(file, "conversation", rejected=rejects))) == 2
    assert rejects.count == len(BAD)
    for number, (entry, reason) in enumerate(zip(lines(rejects.path), BAD, strict=True), start=2):
        assert (entry["file"], entry["line"]) == (str(file), number)
        assert reason in entry["reason"]
    assert lines(rejects.path)[2]["row"] == BAD["no assistant turn"]


def test_what_json_cannot_say_in_a_message_is_kept_as_text(tmp_path):
    odd = {**SFT, "messages": [{**USER, "weight": float("nan")}, ANSWER]}
    rows = list(read_rows(write(tmp_path / "rows.jsonl", json.dumps(odd)), "conversation"))
    assert write_rows(tmp_path / "data.jsonl", rows) == 1
    assert lines(tmp_path / "data.jsonl")[0]["messages"][0]["weight"] == "nan"


def test_bytes_that_are_no_utf8_are_set_aside(tmp_path):
    good = json.dumps(SFT).encode() + b"\n"
    (tmp_path / "rows.jsonl").write_bytes(good + b'{"id": "\xff"}\n' + good)
    assert len(list(read_rows(tmp_path / "rows.jsonl", "conversation", rejected=tmp_path / "r.jsonl"))) == 2
    assert "not UTF-8" in lines(tmp_path / "r.jsonl")[0]["reason"]


def test_without_a_place_to_set_it_aside_a_bad_row_is_an_error_that_names_it(tmp_path):
    file = write(tmp_path / "rows.jsonl", SFT, {"messages": [USER]})
    with pytest.raises(BadRow, match=r"rows\.jsonl:2: .*no assistant turn"):
        list(read_rows(file, "conversation"))


def test_a_file_in_which_every_row_is_rejected_is_an_error(tmp_path):
    file = write(tmp_path / "rows.jsonl", {"text": "a"}, {"text": "b"})
    with pytest.raises(PosttrainError, match='all 2 rows were rejected.*column "messages" is missing.*rejected.jsonl'):
        list(read_rows(file, "conversation", rejected=tmp_path / "rejected.jsonl"))
    assert len(lines(tmp_path / "rejected.jsonl")) == 2


@pytest.mark.parametrize("name", ["none.jsonl", "empty.jsonl", "rows.csv", "object.json", "broken.json", "no.parquet"])
def test_a_file_without_rows_is_an_error_that_names_it(name, tmp_path):
    for other, content in {"empty.jsonl": "\n", "rows.csv": "a,b", "object.json": "{}", "broken.json": "["}.items():
        (tmp_path / other).write_text(content)
    (tmp_path / "no.parquet").write_bytes(b"PAR?")
    with pytest.raises(PosttrainError, match=name.replace(".", r"\.")):
        list(read_rows(tmp_path / name, "conversation"))


def test_all_formats_give_the_same_rows(tmp_path):
    import pyarrow
    from pyarrow import parquet

    columns = [SFT | {"id": str(number)} for number in range(5)]
    write(tmp_path / "a.jsonl", *columns)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "a.json").write_text(json.dumps(columns))
    parquet.write_table(pyarrow.Table.from_pylist(columns), tmp_path / "a.parquet")
    wanted = [row_from_columns("conversation", row, "") for row in columns]
    for suffix in ("jsonl", "jsonl.gz", "json", "parquet"):
        assert list(read_rows(tmp_path / f"a.{suffix}", "conversation")) == wanted
        assert list(read_rows(tmp_path / f"a.{suffix}", "conversation", limit=2)) == wanted[:2]


def test_a_date_in_a_parquet_column_is_written_as_text(tmp_path):
    columns = SFT | {"timestamp": datetime.datetime(2023, 4, 1, 12)}
    row = row_from_columns("conversation", columns, "")
    write_rows(tmp_path / "data.jsonl", [row])
    assert lines(tmp_path / "data.jsonl")[0]["timestamp"] == "2023-04-01T12:00:00"


@pytest.mark.parametrize("damage", ["cut off", "a byte changed"])
def test_a_damaged_gzip_loses_only_what_follows_and_says_where(damage, tmp_path):
    rows = [json.dumps(SFT | {"id": str(number), "note": str(number**9)}) + "\n" for number in range(10_000)]
    whole = gzip.compress("".join(rows).encode())
    middle = len(whole) // 2
    bad = whole[:middle] if damage == "cut off" else whole[:middle] + bytes(99) + whole[middle + 99 :]
    (tmp_path / "a.jsonl.gz").write_bytes(bad)
    good = list(read_rows(tmp_path / "a.jsonl.gz", "conversation", rejected=tmp_path / "rejected.jsonl"))
    assert 0 < len(good) < 10_000
    [*_, entry] = lines(tmp_path / "rejected.jsonl")
    assert entry["line"] > len(good) and "damaged" in entry["reason"]


@pytest.mark.parametrize("limit", range(6))
def test_a_limit_counts_lines_and_not_only_good_rows(limit, tmp_path):
    file = write(tmp_path / "rows.jsonl", SFT, "{", "{", SFT, SFT)
    rejects = Rejects(tmp_path / "rejected.jsonl")
    rows = read_rows(file, "conversation", rejected=rejects, limit=limit)
    if limit == 0:
        with pytest.raises(PosttrainError, match="no rows"):
            list(rows)
        return
    assert (len(list(rows)), rejects.count) == [(1, 0), (1, 1), (1, 2), (2, 2), (3, 2)][limit - 1]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"chosen": [USER, ANSWER], "rejected": [USER]}, "rejected does not end with an assistant turn"),
        ({"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "?"}, ANSWER]}, "differ before their last turn"),
        ({"chosen": [ANSWER], "rejected": [ANSWER]}, "no user turn"),
        ({"chosen": [USER, ANSWER]}, 'column "rejected" is missing'),
    ],
)
def test_a_pair_that_is_none_is_refused(columns, reason):
    with pytest.raises(BadRow, match=reason):
        row_from_columns("preference", columns, "s")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"messages": [USER, ANSWER], "dataset": "gsm8k", "ground_truth": "2"}, "does not end with a user turn"),
        ({"messages": [USER], "dataset": "gsm8k"}, 'column "ground_truth" is missing'),
        ({"messages": [USER], "dataset": ["gsm8k", "math"], "ground_truth": ["2"]}, "as many labels .2 verifiers"),
        ({"messages": [USER], "dataset": ["gsm8k", "math"], "ground_truth": "2"}, "as many labels .2 verifiers"),
        ({"messages": [USER], "dataset": 3, "ground_truth": "2"}, "no name of a verifier.* .3"),
    ],
)
def test_a_prompt_that_cannot_be_verified_is_refused(columns, reason):
    with pytest.raises(BadRow, match=reason):
        row_from_columns("verifiable", columns, "s")


def test_rows_built_in_memory_are_read_back_equal(tmp_path):
    rows = [
        Conversation("1", (USER, ANSWER), "s"),
        PreferencePair("2", "How many?", (USER, ANSWER), (USER, {"role": "assistant", "content": "x"}), "s"),
        VerifiablePrompt("3", (USER,), ("2", "{}"), ("gsm8k", "ifeval"), "s"),
    ]
    for row, kind in zip(rows, FILES, strict=True):
        write_rows(tmp_path / "one.jsonl", [row])
        assert list(read_rows(tmp_path / "one.jsonl", kind)) == [row]
