"""Every protocol whose rows are at hand, asked of two real models by one command."""

import json
import time
from pathlib import Path

import pytest

from posttrain.cli import main as command_line
from posttrain.evaluation.run import SCORES
from posttrain.evaluation.suites import PUBLISHED, TASKS, VARIANTS
from posttrain.recipe.load import load_recipe
from tests.evaluation.mirror import mirror

RECIPE = Path(__file__).parents[2] / "recipes" / "every-task.yaml"
MINUTES = 15
SHOTS = ("examples/popqa", "examples/truthfulqa", "EleutherAI/drop train")  # worked examples that are not at hand
ABSENT = {  # task → the set that it waits for
    "alpaca_eval": "tatsu-lab/alpaca_eval",
    "wildguardtest": "allenai/wildguardmix",
    "wildjailbreak_harmful": "allenai/wildjailbreak",
    "wildjailbreak_benign": "allenai/wildjailbreak",
    "mmlu_pro": "TIGER-Lab/MMLU-Pro",
    "gpqa": "Idavidrein/gpqa",
    "bigcodebench_hard": "bigcode/bigcodebench-hard",
    "ifeval_ood": "valpy/ifeval_ood3",
    "href": "allenai/href",
}


def test_the_recipe_mirrors_what_these_tests_do(data_dir, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_TEST_DATA", str(data_dir))
    recipe = load_recipe(RECIPE)
    given = {name: str(Path(path).resolve()) for name, path in recipe.hub_mirror.items() if "stories" not in name}
    assert given == {name: str(Path(path).resolve()) for name, path in mirror(data_dir).items()}


@pytest.mark.long
def test_every_task_whose_rows_are_at_hand_runs_on_two_models(data_dir, nltk_data, tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_TEST_DATA", str(data_dir))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    began = time.monotonic()
    assert command_line.main(["run", str(RECIPE), "--runs", str(tmp_path)]) == 0
    seconds = time.monotonic() - began
    scored = {}
    for suite in ("development", "unseen"):
        [path] = (tmp_path / "every-task" / suite).glob(f"*/{SCORES}")
        told = json.loads(path.read_text())["models"]
        assert list(told) == ["stories260K", "nano"]
        for model in told.values():
            assert list(model["tasks"]) and set(model["tasks"]) == {
                task.name for task in (*PUBLISHED[suite], *VARIANTS[suite])
            }
            for name, task in model["tasks"].items():
                benchmark = TASKS[name].chat.task
                if benchmark in ABSENT:
                    assert task["status"] == "not run" and ABSENT[benchmark] in task["reason"], name
                elif TASKS[name].chat.shots_from.startswith(SHOTS):
                    assert task["status"] == "not run" and TASKS[name].chat.shots_from.split()[0] in task["reason"], (
                        name
                    )
                else:
                    judged = "not judged" if TASKS[name].chat.judge else "scored"
                    assert (task["status"], task["n"], task["errors"]) == (judged, 20, 0), (name, task)
                    scored[name] = task["n"] - task["over_context"]
    print(f"{len(scored)} protocols in {seconds:.0f} s: {scored}")
    assert seconds <= MINUTES * 60
