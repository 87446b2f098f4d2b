"""Oracle and negative tests of the sets that are gated or not at hand, on rows of our own in the hub's columns."""

import pytest

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.evaluation.suites import TASKS
from posttrain.evaluation.tasks import bigcodebench, mmlu_pro
from tests.evaluation.test_benchmarks import gold, judged, scores, turns

UNUSED = dict.fromkeys(("N", "keyword", "reference_text", "min_words", "max_words"))


def load(name, rows, tmp_path):
    task = TASKS[name]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return task, task.load(task.chat, {task.chat.data: str(tmp_path / "rows.jsonl")}, None)


@pytest.mark.parametrize("mode", ["paper", "released", "clean"])
def test_mmlu_pro_asks_for_one_of_as_many_letters_as_a_row_has(mode, tmp_path):
    rows = [
        {
            "question_id": 70 + i,
            "question": f"What is {i} + {i}?",
            "options": [str(2 * j) for j in range(10 - i % 7)],
            "answer_index": i % 3,
            "category": ("law", "math")[i % 2],
        }
        for i in range(12)
    ]
    task, instances = load(f"mmlu_pro@{mode}", rows, tmp_path)
    assert {instance.group for instance in instances} == {"law", "math"}
    by_id = {instance.id: instance for instance in instances}
    ten, four = (turns(by_id[id])[0]["content"] for id in ("mmlu_pro-70", "mmlu_pro-76"))
    assert "(J)" in ten and "(D)" in four and "(E)" not in four
    assert scores(task, instances, gold) == [1.0] * 12
    assert scores(task, instances, lambda _: "") == [0.0] * 12
    assert scores(task, instances, lambda _: "Therefore, the answer is (J)") == [0.0] * 12
    # A later letter of the sentence counts, as the released reader has it.
    assert scores(task, instances, lambda i: f"Therefore, the answer is (J). No. {i.gold}") == [1.0] * 12
    assert mmlu_pro.TASKS[0].fields({task.chat.data: str(tmp_path / "rows.jsonl")})[0][1] == ("What is 0 + 0?",)


PROGRAM = {
    "task_id": "BigCodeBench/1",
    "instruct_prompt": "Write a function that sums the squares of a list.",
    "code_prompt": "import math\ndef task_func(numbers):\n",
    "canonical_solution": "    return sum(math.pow(n, 2) for n in numbers)\n",
    "test": "import unittest\n\nclass TestCases(unittest.TestCase):\n"
    "    def setUp(self):\n        self.numbers = [1, 2, 3]\n"
    "    def test_sum(self):\n        self.assertEqual(task_func(self.numbers), 14)\n"
    "    def test_empty(self):\n        self.assertEqual(task_func([]), 0)\n",
    "entry_point": "task_func",
}
WRONG = {
    "empty": "",
    "half right": "def task_func(numbers):\n    return 14\n",
    "raises": "def task_func(numbers):\n    raise ValueError\n",
    "leaves early": "import os\nos._exit(0)\n",
    "skips the tests": "import sys\nsys.exit(0)\n",
}


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_bigcodebench_runs_the_tests_of_its_rows(mode, tmp_path):
    task, [instance] = load(f"bigcodebench_hard@{mode}", [PROGRAM], tmp_path)
    right = [instance.gold, "def task_func(numbers):\n    return sum(n * n for n in numbers)\n"]
    assert [record["score"] for record in judged(task, [instance] * 2, right)] == [1.0, 1.0]
    found = judged(task, [instance] * len(WRONG), list(WRONG.values()))
    assert {name: record["score"] for name, record in zip(WRONG, found, strict=True)} == dict.fromkeys(WRONG, 0.0)
    assert "error" not in {record["outcome"] for record in found}


def test_bigcodebench_asked_plainly_goes_on_from_the_signature(tmp_path):
    _, _ = load("bigcodebench_hard@paper", [PROGRAM], tmp_path)
    task = bigcodebench.TASKS[0]
    [instance] = task.load(task.plain, {task.chat.data: str(tmp_path / "rows.jsonl")}, None)
    assert instance.prompt == PROGRAM["code_prompt"]
    assert scores(task, [instance], lambda i: i.gold) == [1.0]


CONSTRAINTS = [  # of IFEval-OOD: kinds that IFBench kept, and the three that it dropped
    ("count:word_count_range", {"min_words": 3, "max_words": 5}, "One two three four.", "One two."),
    ("count:countries", {"N": 2}, "From Peru to Chad.", "From Peru to the sea."),
    ("format:camel_case", {}, "thisIsCamelCase", "this is not"),
    ("count:levenshtein", {"reference_text": "kitten", "N": 3}, "sitting", "a whole other sentence"),
]


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_ifeval_ood_wants_every_constraint_of_a_prompt(mode, tmp_path):
    rows = [
        {"key": i, "prompt": f"Prompt {i}", "instruction_id_list": [kind], "kwargs": [UNUSED | given]}
        for i, (kind, given, _, _) in enumerate(CONSTRAINTS)
    ]
    both = {"instruction_id_list": [rows[0]["instruction_id_list"][0], rows[1]["instruction_id_list"][0]]}
    both |= {"key": 9, "prompt": "Both", "kwargs": [rows[0]["kwargs"][0], rows[1]["kwargs"][0]]}
    task, instances = load(f"ifeval_ood@{mode}", [*rows, both], tmp_path)
    right = [*(right for _, _, right, _ in CONSTRAINTS), "From Peru to Chad."]
    wrong = [*(wrong for _, _, _, wrong in CONSTRAINTS), "From Peru to the sea, and far beyond."]
    assert [record["score"] for record in judged(task, instances, right)] == [1.0] * 5
    assert [record["score"] for record in judged(task, instances, wrong)] == [0.0] * 5
    assert scores(task, instances, lambda _: "") == [0.0] * 5
