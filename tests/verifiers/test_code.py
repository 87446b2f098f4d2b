"""Programs in responses: where they are found, how labels are read, and that every published solution is right."""

import gzip
import json
import subprocess
import sys

import pytest

from posttrain.errors import PosttrainError
from posttrain.sandbox.sandbox import Sandbox
from posttrain.verifiers import code
from posttrain.verifiers.code import extract_program, read_label, same_output
from posttrain.verifiers.pool import VerifierPool
from posttrain.verifiers.registry import run_programs, verify
from tests.sandbox.denying import DENYING

DOUBLE = "Here it is:\n```python\ndef f(x):\n    return 2 * x\n```\nIt doubles."


def judged(response, label, mode="strict"):
    return verify("code", response, json.dumps(label), mode=mode)


def test_asserts_and_their_score():
    half = {"tests": ["assert f(1) == 2", "assert f(1) == 3"], "seconds": 30}
    assert judged(DOUBLE, ["assert f(2) == 4", "assert f('a') == 'aa'"]).outcome == "correct"
    assert (judged(DOUBLE, half).outcome, judged(DOUBLE, half).score) == ("wrong", 0.0)
    assert (judged(DOUBLE, half, "tulu3").outcome, judged(DOUBLE, half, "tulu3").score) == ("wrong", 0.5)
    assert judged(DOUBLE, half | {"score": "rate"}).score == 0.5
    assert judged(DOUBLE, half | {"score": "all"}, "tulu3").score == 0.0


def test_standard_input_and_output():
    response = "```py\nprint(int(input()) ** 2)\n```"
    cases = [{"input": "3\n", "output": "9\n"}, {"input": "4\n", "output": "16"}, {"input": "5\n", "output": "24"}]
    assert judged(response, cases[:2]).outcome == "correct"
    verdict = judged(response, {"stdio": cases, "score": "rate", "seconds": 30})
    assert verdict.score == pytest.approx(2 / 3) and "case 3: another output" in verdict.detail
    assert "ValueError" in judged(response, [{"input": "x", "output": ""}]).detail


def test_a_limit_is_a_timeout_with_score_0():
    endless = "```python\ndef f(x):\n    while x: pass\n    return 1\n```"
    verdict = judged(endless, {"tests": ["assert f(0) == 1", "f(1)"], "score": "rate", "seconds": 0.5})
    assert (verdict.outcome, verdict.score) == ("timeout", 0.0)
    loop = {"stdio": [{"input": "", "output": ""}], "seconds": 0.5}
    assert judged("```python\nwhile True: pass\n```", loop).outcome == "timeout"
    great = "#" * 2**26
    assert judged(great, ["assert f() == 1"]).outcome == judged(great, loop).outcome == "timeout"


def test_labels_that_cannot_be_judged_are_refused():
    for label in (
        "",
        "3",
        "[]",
        "{}",
        '{"tests": []}',
        '{"tests": [1]}',
        '{"stdio": [{"input": ""}]}',
        '{"test": ["x"]}',
    ):
        with pytest.raises(PosttrainError, match="code label"):
            read_label(label)
    for label in (
        {"tests": ["assert f() == 1"], "score": "most"},
        {"tests": ["x"], "stdio": [{"input": "", "output": ""}]},
    ):
        with pytest.raises(PosttrainError, match="code label"):
            judged(DOUBLE, label)
    with pytest.raises(PosttrainError, match="at fault"):
        judged(DOUBLE, ["assert f(1) =="])
    assert judged("def f(n): return range(n)", ["assert f(5)[:2] == [7, 8]"]).outcome == "wrong"


def test_the_pool_answers_error_for_a_broken_label_and_runs_programs():
    items = [("code", DOUBLE, json.dumps({"tests": [f"assert f({n}) == {2 * n}"], "seconds": 30})) for n in range(5)]
    with VerifierPool(1, 60.0) as pool:
        found = pool.verify([*items, ("code", DOUBLE, '["assert ="]')])
    assert [verdict.outcome for verdict in found] == ["correct"] * 5 + ["error"]


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("x = 1", "x = 1"),
        ("```python\na\n```\nand\n```python\nb\n```", "b\n"),
        ("```python\na\n```\nwhich prints\n```\n4\n```", "a\n"),
        ("```\na\n```\n```text\nb\n```", "b\n"),
        ("```Python \na\n```", "a\n"),
        ("```python\nnever closed", "```python\nnever closed"),
        ("```python\ns = '''```'''\n```", "s = '''```'''\n"),
    ],
)
def test_the_program_is_the_last_python_block(response, program):
    assert extract_program(response) == program


def test_the_published_rule_takes_the_last_block_whatever_it_is():
    response = "```python\ndef f(): return 1\n```\n```\n1\n```"
    assert judged(response, ["assert f() == 1"]).outcome == "correct"
    assert judged(response, ["assert f() == 1"], "tulu3").outcome == "wrong"


def test_outputs_are_the_same_up_to_white_space_at_ends():
    assert same_output("1 2 \n3\n\n", "1 2\n3") and same_output("", "\n")
    assert same_output("1\t\r\n2\r\n \n", "1\n2")
    assert not same_output("1\x1c2\u20283", "1\n2\n3\n") and not same_output("1\r2", "1\n2")
    assert not same_output("1\xa0", "1") and not same_output("1", "1\x0c")
    assert not same_output("1  2", "1 2") and not same_output("1\n\n2", "1\n2") and not same_output(" 1", "1")


def test_a_degraded_sandbox_marks_every_verdict(monkeypatch):
    with Sandbox(isolation="none") as without:
        monkeypatch.setattr(code, "sandbox", lambda: without)
        assert "degraded sandbox" in judged(DOUBLE, ["assert f(1) == 2"]).detail
    assert run_programs(["gsm8k", "CODE"]) and not run_programs(["gsm8k", "math"])


@pytest.mark.parametrize(("allowed", "outcome"), [(False, "error"), (True, "correct")])
def test_without_namespaces_no_program_runs_unless_that_is_allowed(monkeypatch, tmp_path, allowed, outcome):
    (tmp_path / "sitecustomize.py").write_text(
        f"import posttrain.sandbox.jails\nposttrain.sandbox.jails._BEGIN = {DENYING!r}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # which the workers import
    with VerifierPool(1, 60.0, allow_degraded_sandbox=allowed) as pool:
        (verdict,) = pool.verify([("code", DOUBLE, '["assert f(1) == 2"]')])
    assert verdict.outcome == outcome
    assert ("degraded sandbox" if allowed else "docs/sandbox.md") in verdict.detail


def humaneval(row):
    """The prompt's helpers are the tests' too; only the entry point is the program's."""
    setup = row["prompt"] + "\n    pass\n" + row["test"]
    label = {"setup": setup, "tests": [f"check({row['entry_point']})"], "calls": [row["entry_point"]], "seconds": 120}
    return row["task_id"], row["prompt"] + row["canonical_solution"], label


def mbpp(row):
    return row["task_id"], row["code"], {"setup": row["test_setup_code"], "tests": row["test_list"], "seconds": 120}


def failures(rows):
    verdicts = ((name, judged(program, label)) for name, program, label in rows)
    return [(name, verdict) for name, verdict in verdicts if verdict.outcome != "correct"]


def read(path):
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# A part by chance of none, in every run; the whole in the long one.
@pytest.mark.parametrize(
    ("part", "rows"), [(slice(0, None, 6), 28), pytest.param(slice(None), 164, marks=pytest.mark.long)]
)
def test_humaneval_solutions_are_correct_and_no_solution_is_not(data_dir, part, rows):
    tasks = read(data_dir / "humaneval" / "HumanEval.jsonl.gz")[part]
    assert len(tasks) == rows
    assert failures(map(humaneval, tasks)) == []
    stubs = [humaneval(row | {"canonical_solution": "    pass\n"}) for row in tasks]
    assert len(failures(stubs)) == rows


# Published tests that no program passes, under plain Python either; each with the reason.
BROKEN = {"HumanEval/32": "calls _poly(*candidate(*inp), inp), where candidate returns a number"}


@pytest.mark.parametrize(
    ("part", "rows"), [(slice(0, None, 40), 5), pytest.param(slice(None), 164, marks=pytest.mark.long)]
)
def test_humaneval_plus_solutions_are_correct(data_dir, part, rows):
    tasks = read(data_dir / "humaneval" / "HumanEvalPlus-OriginFmt.jsonl.gz")[part]
    assert len(tasks) == rows
    broken = [task for task in tasks if task["task_id"] in BROKEN]
    assert [name for name, _ in failures(map(humaneval, tasks))] == [task["task_id"] for task in broken]
    for task in broken:
        whole = f"{task['prompt']}{task['canonical_solution']}\n{task['test']}\ncheck({task['entry_point']})"
        ran = subprocess.run([sys.executable, "-c", whole], capture_output=True, timeout=120)
        assert ran.returncode == 1 and b"Value after * must be an iterable" in ran.stderr


@pytest.mark.parametrize(
    ("part", "rows"), [(slice(1, None, 20), 49), pytest.param(slice(None), 974, marks=pytest.mark.long)]
)
def test_mbpp_solutions_are_correct(data_dir, part, rows):
    tasks = read(data_dir / "mbpp" / "mbpp.jsonl")[part]
    assert len(tasks) == rows
    assert failures(map(mbpp, tasks)) == []
