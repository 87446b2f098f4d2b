"""A model behind a chat endpoint as the evaluated policy."""

import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.cli import main as command_line
from posttrain.evaluation.judging import judge_records
from posttrain.evaluation.over_chat import score_endpoint, unaskable
from posttrain.evaluation.protocol import Instance
from posttrain.evaluation.run import Limits, records_file
from posttrain.evaluation.suites import TASKS
from posttrain.inference.budget import BudgetReached
from posttrain.inference.protocols import ChatAnswer, ChatFailure
from posttrain.recipe.data_settings import Endpoint
from posttrain.stages import chat_models
from tests.evaluation.mirror import mirror

NANO = [TASKS["nano_problems@nano"], TASKS["nano_facts@nano"]]
SERVER = Path(__file__).parents[1] / "inference" / "fault_server.py"


def knows(tasks, failing=()):
    """An endpoint that answers with the gold; ``failing``: place among the requests → reason of a failure."""
    golds = {f"{task.chat.name}/{i.id}": i.gold for task in tasks for i in task.load(task.chat, {}, None)}

    def ask(requests):
        for number, request in enumerate(requests):
            if number in failing:
                yield ChatFailure(request, failing[number], "the server said so")
            else:
                usage = {"prompt_tokens": 7, "completion_tokens": 5}
                yield ChatAnswer(request, golds[request.id], "stop", usage)

    return ask


def score(tasks, ask, tmp_path, given=()):
    told = {"label": "served", "output": tmp_path, "judge_journals": tmp_path, "hub_mirror": dict(given)}
    found = score_endpoint("served-model", ask, tasks, limits=Limits(instances=5, response_tokens=9), **told)
    return found, [row for _, row in read_jsonl(tmp_path / records_file("served"))]


def test_an_endpoint_that_knows_every_answer_scores_one(tmp_path):
    found, records = score(NANO, knows(NANO), tmp_path)
    assert {task["mean"] for task in found["tasks"].values()} == {1.0}
    assert (found["model"], found["format"], len(records)) == ("served-model", "chat", 10)
    assert {(record["prompt_tokens"], record["response_tokens"]) for record in records} == {(7, 5)}


def test_a_refused_prompt_is_wrong_and_a_lost_one_leaves_its_task_incomplete(tmp_path):
    found, records = score(NANO, knows(NANO, {1: "refused", 6: "gave_up"}), tmp_path)
    problems, facts = (found["tasks"][task.name] for task in NANO)
    assert (problems["status"], problems["mean"]) == ("scored", 0.8)
    assert (facts["status"], facts["errors"]) == ("incomplete", 1)
    assert "the server said so" in facts["reason"]
    assert [record["finish_reason"] for record in records].count("stop") == 8


def test_what_an_endpoint_cannot_be_asked_is_not_run(tmp_path, data_dir):
    names = ["truthfulqa@clean", "mmlu@released", "drop@paper", "humaneval@paper"]
    assert {name: unaskable(TASKS[name].chat) for name in names} == {
        "truthfulqa@clean": "needs log-probabilities",
        "mmlu@released": "needs log-probabilities",
        "drop@paper": "needs a plain prompt",
        "humaneval@paper": "needs answers that go on from a given beginning",
    }
    tasks = [*NANO, *(TASKS[name] for name in names if name != "drop@paper")]
    found, _ = score(tasks, knows(NANO), tmp_path, mirror(data_dir))
    assert found["average"]["missing"] == dict.fromkeys([*names[:2], names[3]], "not run")
    assert len(found["average"]["tasks"]) == 2


@pytest.fixture
def server():
    process = subprocess.Popen([sys.executable, SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    process.kill()
    process.wait()


def test_a_served_model_is_evaluated_by_one_command(server, tmp_path, capsys):
    options = ["--task", "nano_problems", "--limit", "4", "--max-tokens", "8"]
    options += ["--runs", str(tmp_path), "--device", "cpu"]
    assert command_line.main(["evaluate", f"{server}#echo", *options]) == 0
    told = capsys.readouterr().out
    assert "echo" in told and "nano_problems" in told
    folder = Path(told.splitlines()[-1].split(": ", 1)[1])
    records = [row for _, row in read_jsonl(folder / records_file("echo"))]
    assert len(records) == 4 and all(record["response"].startswith("re: ") for record in records)
    assert command_line.main(["evaluate", server, *options]) == 2
    assert f"write {server}#NAME" in capsys.readouterr().err


def test_a_judge_spends_no_more_than_its_budget_over_all_runs(server, tmp_path):
    settings = Endpoint(base_url=server, model="m", completion_price=1e6, budget=300.0)  # 5 an answer, 128 at most
    chat = TASKS["xstest@paper"].chat
    asked = [(chat, Instance(str(i), "p", (), told=(("prompt", f"p{i}"), ("expected", "no")))) for i in range(60)]
    for _ in range(2):
        records = [{"task": "xstest", "id": one.id, "response": "r", "finish_reason": "stop"} for _, one in asked]
        with pytest.raises(BudgetReached, match="the budget of 300 does not cover another"):
            judge_records(records, asked, {"wildguard": chat_models.server(settings)}, tmp_path)
        answers = [row["answer"] for _, row in read_jsonl(tmp_path / "judge-wildguard.jsonl")]
        assert sum(answer["usage"]["cost"] for answer in answers) == 175  # 5 × 35, and 128 more would pass it
