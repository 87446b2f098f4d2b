"""Leaks that are known to stand in real data."""

import json

import pytest

from posttrain.decontamination.index import EvaluationItem
from posttrain.decontamination.report import decide, find_overlaps


def jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("profile", ["paper", "strict"])
def test_the_rows_of_math_train_that_stand_in_math_test_are_found(profile, data_dir):
    train = json.loads((data_dir / "math/math_train_answers_only.json").read_text(encoding="utf-8"))
    test = [row["problem"] for row in jsonl(data_dir / "math/math_test.jsonl")]
    squeezed = {"".join(problem.split()) for problem in test}
    leaks = [n for n, row in enumerate(train) if "".join(row["problem"].split()) in squeezed]
    assert len(leaks) == 2
    items = [EvaluationItem(str(n), (problem,)) for n, problem in enumerate(test)]
    rows = [(str(n), (row["problem"],)) for n, row in enumerate(train)]
    found = find_overlaps(rows, {"math": items}, profile=profile, pairs_shown=10)
    assert set(leaks) <= set(found.evaluations[0].row_numbers)
    assert set(leaks) <= decide(found, "drop_rows").dropped


def test_gsm8k_train_in_another_dress_is_found_in_itself(data_dir):
    """The Alpaca form holds the same questions; as evaluation and training set they must overlap all but wholly."""
    dressed = json.loads((data_dir / "instructions/gsm_8k_train.json").read_text(encoding="utf-8"))
    items = [EvaluationItem(str(n), (row["question"],)) for n, row in enumerate(jsonl(data_dir / "gsm8k/train.jsonl"))]
    rows = [(str(n), (row["instruction"],)) for n, row in enumerate(dressed)]
    found = find_overlaps(rows, {"gsm8k": items}, profile="strict", pairs_shown=10).evaluations[0]
    assert found.overlapping == len(items) == 7473


def test_the_test_split_inside_the_published_rlvr_gsm_is_caught(data_dir):
    """RLVR-GSM lists 7,473 + 1,319 rows: the test questions stand in prompts that open with worked examples."""
    questions = [row["question"] for row in jsonl(data_dir / "gsm8k/test.jsonl")]
    prompts = [
        row["messages"][0]["content"]
        for row in jsonl(data_dir / "tulu3/rlvr_sample.jsonl")
        if row["dataset"] == "gsm8k"
    ]
    examples = prompts[0].rpartition("Question:")[0]
    items = {"gsm8k": [EvaluationItem(str(n), (question,)) for n, question in enumerate(questions)]}
    clean = find_overlaps([(str(n), (prompt,)) for n, prompt in enumerate(prompts)], items, pairs_shown=10)
    assert not clean.contaminated
    rows = [(str(n), (f"{examples}Question: {question}\nAnswer:",)) for n, question in enumerate(questions)]
    leaked = find_overlaps(rows, items, pairs_shown=10)
    long_enough = sum(len(question.split()) >= 8 for question in questions)
    assert leaked.evaluations[0].overlapping >= 0.999 * long_enough
    assert len(decide(leaked, "drop_rows").dropped) >= 0.999 * long_enough
