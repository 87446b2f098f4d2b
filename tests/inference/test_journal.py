"""The journal: what is answered is kept through a kill, and never asked again."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from posttrain.artifacts.jsonl import BadLine
from posttrain.errors import PosttrainError
from posttrain.inference.journal import Journal, ask, request_key
from posttrain.inference.protocols import ChatAnswer, ChatRequest, SampleRequest, SamplingParameters


def request(name: str, text: str = "hello", index: int = 0, **sampling) -> ChatRequest:
    return ChatRequest(name, ({"role": "user", "content": text},), SamplingParameters(**sampling), index)


class Endpoint:
    """Answers with a running number and counts what it is asked."""

    model = "counting"

    def __init__(self, fails_after: int | None = None):
        self.asked: list[str] = []
        self.fails_after = fails_after

    def chat(self, requests):
        for one in requests:
            if self.fails_after is not None and len(self.asked) >= self.fails_after:
                raise ConnectionError("gone")
            self.asked.append(one.id)
            yield ChatAnswer(one, f"answer to {one.id}", "stop", {"completion_tokens": 3})

    def close(self):
        pass


def test_answers_survive_and_are_not_asked_again(tmp_path):
    requests = [request(f"r{i}", f"question {i}") for i in range(10)]
    endpoint = Endpoint(fails_after=4)
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(ConnectionError):
        list(ask(endpoint, requests, journal))
    again = Endpoint()
    with Journal(tmp_path / "j.jsonl") as journal:
        answers = list(ask(again, requests, journal))
    assert again.asked == [f"r{i}" for i in range(4, 10)]
    assert {a.request.id: a.text for a in answers} == {f"r{i}": f"answer to r{i}" for i in range(10)}
    assert all(a.usage == {"completion_tokens": 3} and a.finish_reason == "stop" for a in answers)
    third = Endpoint()
    with Journal(tmp_path / "j.jsonl") as journal:
        assert len(list(ask(third, requests, journal))) == 10
    assert third.asked == []


def test_a_block_that_is_not_whole_is_asked_whole_and_its_stored_answers_stand(tmp_path):
    requests = [request(f"r{i}", f"question {i}") for i in range(5)]
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(ConnectionError):
        list(ask(Endpoint(fails_after=2), requests, journal, as_a_whole=True))
    again = Endpoint()
    with Journal(tmp_path / "j.jsonl") as journal:
        assert len(list(ask(again, requests, journal, as_a_whole=True))) == 5
        assert again.asked == [f"r{i}" for i in range(5)]
        assert len(journal) == 5
        none = Endpoint()
        assert len(list(ask(none, requests, journal, as_a_whole=True))) == 5
    assert none.asked == []
    assert len((tmp_path / "j.jsonl").read_text().splitlines()) == 5


def test_equal_questions_are_asked_once_and_all_answered(tmp_path):
    requests = [request("a", "same"), request("b", "same"), request("c", "same", index=1), request("d", "other")]
    endpoint = Endpoint()
    with Journal(tmp_path / "j.jsonl") as journal:
        answers = {a.request.id: a.text for a in ask(endpoint, requests, journal)}
    assert endpoint.asked == ["a", "c", "d"]
    assert answers == {"a": "answer to a", "b": "answer to a", "c": "answer to c", "d": "answer to d"}


def test_the_answer_is_on_disk_before_the_caller_sees_it(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        for seen, _ in enumerate(ask(Endpoint(), [request(f"r{i}", str(i)) for i in range(3)], journal), start=1):
            assert len(path.read_text().splitlines()) == seen


def test_the_key_hangs_on_everything_but_the_id():
    base = request("a", temperature=0.5, seed=1)
    key = request_key("m", base)
    assert request_key("m", replace(base, id="b")) == key
    others = [
        request_key("n", base),
        request_key("m", replace(base, sample_index=1)),
        request_key("m", request("a", "hello!", temperature=0.5, seed=1)),
        request_key("m", request("a", temperature=0.6, seed=1)),
        request_key("m", request("a", temperature=0.5, seed=2)),
        request_key("m", request("a", temperature=0.5, seed=1, stop_strings=("x",))),
        request_key("m", SampleRequest("a", 0, (1, 2), base.sampling)),
        request_key("m", SampleRequest("a", 0, (12,), base.sampling)),
    ]
    assert len({key, *others}) == len(others) + 1


def test_an_endpoint_that_answers_too_little_is_reported(tmp_path):
    class Half(Endpoint):
        def chat(self, requests):
            yield from super().chat(list(requests)[::2])

    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(PosttrainError, match="left 1 of 3 requests"):
        list(ask(Half(), [request(f"r{i}", str(i)) for i in range(3)], journal))


def test_the_first_answer_to_a_key_stands(tmp_path):
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.put("k", {"text": "first"})
        journal.put("k", {"text": "second"})
        journal.put("ü", {"text": "€" * 1000})
        assert journal.get("k") == {"text": "first"} and journal.get("missing") is None
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.get("k") == {"text": "first"} and journal.get("ü") == {"text": "€" * 1000}
        assert "k" in journal and len(journal) == 2


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text('{"key":"a","answer":{}}\n{"wrong":1}\n{"key":"b","answer":{}}\n')
    with pytest.raises(BadLine, match=r"j.jsonl:2"):
        Journal(path)


WRITER = """
import sys
from posttrain.inference.journal import Journal
with Journal(sys.argv[1]) as journal:
    number = len(journal)
    while True:
        journal.put(f"key {number}", {"text": "x" * 3000 + str(number)})
        print(number, flush=True)
        number += 1
"""


def test_a_kill_at_any_moment_loses_no_reported_answer(tmp_path):
    """Three rounds of kill -9: every answer reported as stored is there, whole, in order, once."""
    path = tmp_path / "j.jsonl"
    reported = -1
    for round in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(30 + 17 * round):
            reported = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        reported = int(rest[-1]) if rest else reported
    with Journal(path) as journal:
        assert len(journal) >= reported + 1
        for number in range(reported + 1):
            assert journal.get(f"key {number}") == {"text": "x" * 3000 + str(number)}
    lines = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert lines == [f"key {number}" for number in range(len(lines))]


@pytest.mark.parametrize("torn", ['{"key":"b","ans', '{"key":"b","answer":{"text":"whole"}}'])
def test_a_torn_last_line_is_mended(tmp_path, torn):
    path = tmp_path / "j.jsonl"
    path.write_text('{"key":"a","answer":{"text":"1"}}\n' + torn)
    with Journal(path) as journal:
        assert ("b" in journal) == torn.endswith("}}")
        journal.put("c", {"text": "3"})
        assert journal.get("a") == {"text": "1"} and journal.get("c") == {"text": "3"}
