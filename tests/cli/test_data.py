"""`posttrain data` from the command line to the screen and the disk."""

import json
import re

import datasets
import pytest

from posttrain.cli.main import main
from posttrain.evaluation import suites


def words(name, count=20):
    return " ".join(f"{name}w{place}" for place in range(count))


@pytest.fixture(autouse=True)
def known_evaluations(monkeypatch):
    """One item a suite."""
    prompts = {"development": {"task": [("d1", (words("leak"),))]}, "unseen": {}}
    monkeypatch.setattr(suites, "prompts", lambda suite, mirror: prompts[suite])


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    prompts = ["What is 1+1?", f"Tell me. {words('leak')} \x1b[2J Now!", "What is 2+2?"]
    lines = [{"id": f"r{n}", "prompt": p, "response": f"It is {n}."} for n, p in enumerate(prompts)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    return file


def told(capsys, *arguments, code=0):
    assert main(["data", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.fixture
def copy(rows, tmp_path, capsys):
    text = told(capsys, "decontaminate", rows, "--out", tmp_path / "copy")
    assert "1 of 3 rows left out" in text and "1 bad rows are set aside" in text
    return tmp_path / "copy"


def test_the_decontaminated_copy_is_a_dataset_with_a_card(copy, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    loaded = datasets.load_dataset(str(copy), cache_dir=str(tmp_path / "cache"))["train"]
    assert list(loaded["id"]) == ["r0", "r2"]
    text = (copy / "README.md").read_text()
    assert "| development/task | 1 | 1 | 100.00% | 1 | contaminated |" in text and "2 of 3 rows" in text
    report = json.loads((copy / "decontamination.json").read_text())
    assert report["sources"][0]["dropped_ids"] == ["r1"] and report["made_of"][0]["file"] == "rows.jsonl"


def test_matches_are_shown_on_both_sides_and_nothing_steers_the_terminal(copy, rows, capsys):
    rows.write_text(rows.read_text().replace("{broken\n", ""))
    text = told(capsys, "show-matches", copy, rows)
    assert text.count(f"⟦{words('leak')}⟧") == 2 and "Tell me. ⟦" in text
    assert "1 of 1 pairs shown" in text and "\x1b" not in text


def test_another_evaluation_may_be_given_as_a_file(rows, tmp_path, capsys):
    (tmp_path / "own.csv").write_text("id,question\nq7,What is 2+2?\n")
    text = told(capsys, "decontaminate", rows, "--against", f"own={tmp_path}/own.csv:question", "--out", tmp_path / "c")
    assert re.search(r"own +1 +1 +100.00% +1 +contaminated", text) and "2 of 3 rows left out" in text
    told(capsys, "decontaminate", rows, "--against", "own=no-column", "--out", tmp_path / "c", code=2)


def test_inspect_shows_every_token_and_what_is_trained(rows, capsys):
    options = ("--tokenizer", "nano", "--chat-template", "tulu", "--id", "r2")
    text = told(capsys, "inspect", rows, *options)
    shown = text.split("\n", 2)[2].replace("|", "")
    assert "⟦It is 2.<endoftext>⟧" in shown and "What is 2+2?" in shown
    listed = [
        line for line in told(capsys, "inspect", rows, *options, "--tokens").splitlines() if re.match(" +[0-9]", line)
    ]
    trained = sum("trained" in line for line in listed)
    assert f"{len(listed)} tokens, {trained} trained" in text and 5 < trained < len(listed)


def test_stats_count_and_say_the_licences(rows, capsys):
    rows.write_text(rows.read_text().replace("{broken\n", ""))
    text = told(capsys, "stats", rows, "--tokenizer", "nano", "--chat-template", "tulu")
    assert "trained_tokens a row" in text and "unknown 3" in text and re.search(r"all +3 +3 ", text)


def test_stats_and_inspect_leave_bad_rows_out_and_tell_of_them(rows, capsys):
    rows.write_text("{broken\n" + rows.read_text())
    text = told(capsys, "stats", rows)
    assert re.search(r"all +3 ", text) and re.search(r"left out: 2 bad rows as .*rows\.jsonl:1: not JSON", text)
    options = ("--tokenizer", "nano", "--chat-template", "tulu")
    assert "row 3, after 1 bad rows, id r2" in told(capsys, "inspect", rows, *options, "--row", "3")
    assert "no row 4 (2 bad rows left out)" in told(capsys, "inspect", rows, *options, "--row", "4", code=2)
    rows.write_text("{broken\n")
    assert re.search(r"all 1 rows were rejected.*rows\.jsonl:1: not JSON", told(capsys, "stats", rows, code=2))


def test_bad_rows_of_an_earlier_check_do_not_stay_beside_the_copy(copy, rows, tmp_path, capsys):
    for _ in range(2):
        assert "1 bad rows are set aside" in told(capsys, "decontaminate", rows, "--out", copy)
        assert len((copy / "rejected.jsonl").read_text().splitlines()) == 1
    rows.write_text(rows.read_text().replace("{broken\n", ""))
    (copy / "rejected").mkdir()
    (copy / "rejected/0.jsonl").write_text("{}\n")  # of a check by Ray
    assert "bad rows" not in told(capsys, "decontaminate", rows, "--out", copy)
    assert not (copy / "rejected.jsonl").exists() and not (copy / "rejected").exists()


@pytest.mark.parametrize("option", [("--processes", "0"), ("--processes", "-1"), ("--ray", "-1")])
def test_a_number_of_workers_that_cannot_be_is_refused(option, rows, tmp_path, capsys):
    text = told(capsys, "decontaminate", rows, "--out", tmp_path / "c", *option, code=2)
    assert "--processes is a number from 1" in text and not (tmp_path / "c").exists()


def test_mix_prints_the_manifest_and_tells_whether_the_bytes_are_those_expected(rows, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: r\ndevice: cpu\nthreads: 1\nstages:\n  mix: {{kind: mixture, sources: [{{data: {rows}}}]}}\n"
    )
    text = told(capsys, "mix", recipe, "--runs", tmp_path / "runs")
    assert "1 rejected, 1 contaminated" in text
    [manifest] = (tmp_path / "runs").glob("r/mix/*/mixture.json")
    again = ("mix", recipe, "--runs", tmp_path / "other", "--expect", manifest)
    assert "the same bytes" in told(capsys, *again)
    rows.write_text(rows.read_text().replace("It is 0.", "It was 0."))
    assert "rows.jsonl: provenance is" in told(capsys, *again, code=2)


def test_a_table_of_the_paper_is_mixed_from_local_copies(tmp_path, data_dir, capsys):
    mirror = f"allenai/tulu-3-sft-mixture={data_dir}/tulu3/sft_sample.jsonl"
    text = told(capsys, "mix", "tulu3-sft", "--variant", "sample", "--mirror", mirror, "--runs", tmp_path)
    assert "sample: 100 rows" in text and "Apache-2.0 100" in text
