"""Kill -9 in the middle of an evaluation by the local engine: nothing is asked twice, nothing comes out otherwise."""

import signal
import subprocess
import sys
import time

import pytest

from posttrain.artifacts.jsonl import read_jsonl, write_jsonl
from posttrain.evaluation.run import Limits, evaluate
from posttrain.evaluation.suites import TASKS
from posttrain.evaluation.tasks import truthfulqa
from posttrain.inference.journal import Journal, request_key
from posttrain.inference.opening import open_local
from posttrain.nano import BASE_MODEL

INSTANCES = 20  # of each task
CHOICES = 3
RUN = "import sys; from tests.evaluation.test_kill import whole; whole(*sys.argv[1:])"


class Counting:
    """The local engine, and what it was given."""

    def __init__(self, sampler):
        self.sampler, self.context_length = sampler, sampler.context_length
        self.asked, self.scored = [], 0

    def generate(self, requests):
        self.asked += requests
        return self.sampler.generate(requests)

    def score(self, sequences):
        self.scored += len(sequences)
        return self.sampler.score(sequences)

    def update_weights(self, tensors, version):
        raise NotImplementedError

    def close(self):
        self.sampler.close()


def whole(journal, rows):
    """Two tasks of generated answers, and one whose choices are weighed. Two answers at once, so that a kill falls
    among them."""
    sampler, tokenizer = open_local(BASE_MODEL, slots=2, listed=True)
    counting = Counting(sampler)
    tasks = [TASKS["nano_problems@nano"], TASKS["nano_facts@nano"], TASKS["truthfulqa@clean"]]
    limits, mirror = Limits(instances=INSTANCES, response_tokens=24), {truthfulqa.DATA: str(rows)}
    given = {"journal": journal, "hub_mirror": mirror, "limits": limits}
    return counting, *evaluate("nano", counting, tokenizer, tasks, format="plain", **given)


def lines(journal):
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(rows of TruthfulQA, what a run that nobody killed makes of them)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    rows = folder / "truthfulqa.jsonl"
    true = {"choices": [f"choice {i}" for i in range(CHOICES)], "labels": [1, 0, 1]}
    asked = [{"question": f"What is {i} and {i}?", "mc1_targets": true, "mc2_targets": true} for i in range(INSTANCES)]
    write_jsonl(rows, asked)
    counting, *found = whole(folder / "journal.jsonl", rows)
    assert (len(counting.asked), counting.scored) == (2 * INSTANCES, CHOICES * INSTANCES)
    return rows, found


@pytest.mark.parametrize("answers", [INSTANCES // 2, 2 * INSTANCES])
def test_a_killed_evaluation_asks_nothing_twice_and_scores_the_same(undisturbed, tmp_path, answers):
    """Killed among the generated answers, and among the choices."""
    rows, expected = undisturbed
    journal = tmp_path / "killed.jsonl"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(journal), str(rows)])
    deadline = time.monotonic() + 300
    while lines(journal) < answers:
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    Journal(journal).close()  # cuts off a line that the kill tore
    held = {row["key"] for _, row in read_jsonl(journal)}
    resumed, *found = whole(journal, rows)
    asked_again = [request_key("nano", request) for request in resumed.asked]
    assert len(held) >= answers and not held & set(asked_again)
    assert len(asked_again) == 2 * INSTANCES - min(len(held), 2 * INSTANCES)
    assert resumed.scored == (0 if len(held) > 2 * INSTANCES else CHOICES * INSTANCES)
    assert found == expected
