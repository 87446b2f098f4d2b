"""The endpoint against a server that fails on purpose: every request answered once, nothing paid for lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.errors import PosttrainError
from posttrain.inference.budget import Budget, BudgetReached, Price, most_prompt_tokens
from posttrain.inference.journal import Journal, ask, stream
from posttrain.inference.openai import EndpointDown, OpenAIEndpoint, Server
from posttrain.inference.protocols import ChatAnswer, ChatFailure, ChatRequest, SamplingParameters

SERVER = Path(__file__).with_name("fault_server.py")


def requests(count: int, max_tokens: int = 8) -> list[ChatRequest]:
    parameters = SamplingParameters(max_tokens=max_tokens)
    return [ChatRequest(f"r{i}", ({"role": "user", "content": f"q{i}"},), parameters) for i in range(count)]


@pytest.fixture
def start(tmp_path):
    """start(*arguments) → (base_url, path of what the server logged)."""
    running = []

    def begin(*arguments: str) -> tuple[str, Path]:
        log = tmp_path / f"server{len(running)}.log"
        with open(log, "wb") as out:
            process = subprocess.Popen([sys.executable, str(SERVER), *arguments], stdout=out)
        running.append(process)
        while not (text := log.read_text()).endswith("\n"):
            assert process.poll() is None
            time.sleep(0.01)
        return f"http://127.0.0.1:{text.split()[0]}/v1", log

    yield begin
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def endpoint():
    made = []

    def make(url: str, budget: Budget | None = None, **options) -> OpenAIEndpoint:
        made.append(OpenAIEndpoint(Server(url, "m", **options), budget))
        return made[-1]

    yield make
    for one in made:
        one.close()


def sent_whole(log: Path) -> Counter[str]:
    return Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("ok"))


def test_every_request_is_answered_exactly_once_through_all_faults(start, endpoint, tmp_path):
    url, log = start("--share", "0.25", "--storms", "--down-every", "0.7")
    made = endpoint(url, seconds=4.0, attempts=30)
    with Journal(tmp_path / "j.jsonl") as journal:
        answers = list(stream(made, requests(120), journal))
    assert Counter(one.request.id for one in answers if one) == Counter(f"r{i}" for i in range(120))
    assert all(isinstance(one, ChatAnswer) and one.text == f"re: q{one.request.id[1:]}" for one in answers)
    assert set(sent_whole(log).values()) == {1}
    assert made.account.answers == 120 and made.account.completion_tokens == 600
    assert {"429", "500", "malformed", "broken"} <= set(made.account.failures)
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["key"] for line in lines}) == 120


CLIENT = """
import sys
from posttrain.inference.journal import Journal, stream
from posttrain.inference.openai import OpenAIEndpoint, Server
from posttrain.inference.protocols import ChatRequest, SamplingParameters
url, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
made = OpenAIEndpoint(Server(url, "m", seconds=2.0, attempts=50, concurrency=32))
limit = SamplingParameters(max_tokens=8)
asked = (ChatRequest(f"r{i}", ({"role": "user", "content": f"q{i}"},), limit) for i in range(count))
with Journal(path) as journal:
    answers = [(one.request.id, one.text) for one in stream(made, asked, journal)]
assert sorted(answers) == sorted((f"r{i}", f"re: q{i}") for i in range(count)), len(answers)
made.close()
"""


def killed_again_and_again(start, tmp_path, count: int, kills: int, share: str) -> None:
    """kill -9 as the journal grows; what stands in it at a kill is never asked again."""
    url, log = start("--share", share, "--delay", "0.002", "--storms", "--down-every", "2")
    journal, command = tmp_path / "j.jsonl", [sys.executable, "-c", CLIENT, url, str(tmp_path / "j.jsonl"), str(count)]

    def written() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    asked_before, stored = 0, set()
    for kill in range(1, kills + 1):
        client = subprocess.Popen(command)
        while written() < count * kill // (kills + 1):
            assert client.poll() is None, "the client ended before it was killed"
            time.sleep(0.01)
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        time.sleep(0.2)  # what flew lands
        seen = log.read_text().splitlines()
        assert not {line.split()[-1] for line in seen[asked_before:]} & stored, "asked again after success"
        stored = {json.loads(line)["answer"]["text"].removeprefix("re: ") for line in whole_lines(journal)}
        asked_before = len(seen)
    assert subprocess.run(command, timeout=500).returncode == 0
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == count
    assert sum(sent_whole(log).values()) <= count + kills * 64, "more asked twice than flew at the kills"


def whole_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_kills_lose_nothing_and_nothing_stored_is_asked_again(start, tmp_path):
    killed_again_and_again(start, tmp_path, count=300, kills=2, share="0.05")


@pytest.mark.long
def test_ten_thousand_requests_survive_ten_kills(start, tmp_path):
    killed_again_and_again(start, tmp_path, count=10_000, kills=10, share="0.03")


def test_concurrency_adapts_to_the_server(start, endpoint, tmp_path):
    url, _ = start("--delay", "0.02")
    made = endpoint(url, concurrency=24)
    with Journal(tmp_path / "j.jsonl") as journal:
        assert len(list(stream(made, requests(300), journal))) == 300
    assert made._admission.limit == 24  # grew from 8 to its limit
    assert not made.account.failures


def test_a_server_that_is_down_ends_the_run_in_words_and_keeps_what_was_answered(start, endpoint, tmp_path):
    url, _ = start("--share", "1")
    made = endpoint(url, seconds=0.3, attempts=10_000, patience=1.0, concurrency=4)
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(EndpointDown, match="run the command again"):
        list(stream(made, requests(20), journal))
    refused = endpoint("http://127.0.0.1:9/v1", patience=0.3)
    with Journal(tmp_path / "k.jsonl") as journal, pytest.raises(EndpointDown, match="not one answer in 0.3 s"):
        list(stream(refused, requests(3), journal))
    assert set(refused.account.failures) == {"refused"} and refused.budget.presumed == 0


def test_a_request_that_always_fails_costs_only_itself(start, endpoint, tmp_path):
    url, _ = start("--share", "1", "--seed", "5")
    made = endpoint(url, seconds=0.2, attempts=2)
    with Journal(tmp_path / "j.jsonl") as journal:
        found = list(stream(made, requests(3), journal))
        assert all(isinstance(one, ChatFailure) and one.reason == "gave_up" for one in found) and len(journal) == 0
        with pytest.raises(PosttrainError, match=r"left 3 of 3 requests.*\(gave_up: 2 attempts; the last: "):
            list(ask(made, requests(3), journal))


def test_a_refused_request_says_why_in_the_servers_own_words(start, endpoint, tmp_path):
    url, log = start("--context", "2")  # "q0" to "q9" fit
    made = endpoint(url)
    with Journal(tmp_path / "j.jsonl") as journal:
        found = list(stream(made, requests(12), journal))
        refused = [one for one in found if isinstance(one, ChatFailure)]
        assert {(one.request.id, one.reason) for one in refused} == {("r10", "refused"), ("r11", "refused")}
        assert all("maximum context length is 2" in one.detail for one in refused) and len(journal) == 10
        reason = r"left 2 of 2 requests .* 'r1[01]' \(refused: .*maximum context length is 2"
        with pytest.raises(PosttrainError, match=reason):
            list(ask(endpoint(url), requests(12), journal))
        late = [ChatRequest(f"r{i}", ({"role": "user", "content": f"q{i}"},)) for i in range(100, 140)]
        with pytest.raises(EndpointDown, match="refused all of the first 20 requests: .*maximum context length"):
            list(stream(endpoint(url), late, journal))
    slow = endpoint(url)  # looked at when all is over: the refusals of the first come together with the end of it
    assert all(map(slow.submit, late))
    while slow.account.failures.get("400", 0) < len(late):
        time.sleep(0.01)
    with pytest.raises(EndpointDown, match="refused all of the first 20"):
        while slow.outstanding:
            slow.collect()
    assert sum(sent_whole(log).values()) == 10 and made.account.attempts == 12


def test_the_budget_is_never_passed_and_the_run_goes_on_with_more(start, endpoint, tmp_path):
    url, log = start()
    price = Price(prompt=1e5, completion=1e6)  # an answer costs 10 × 0.1 + 5 × 1 = 6, at most 18 × 0.1 + 8 = 9.8
    with Journal(tmp_path / "j.jsonl") as journal:
        made = endpoint(url, Budget(100.0), price=price)
        with pytest.raises(BudgetReached, match="budget of 100"):
            list(stream(made, requests(40), journal))
        answered = len(journal)
        assert 90 / 6 <= answered <= 100 / 6 and made.budget.spent == pytest.approx(6 * answered)
        assert made.budget.reserved == pytest.approx(0)
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.cost == pytest.approx(6 * answered)
        more = endpoint(url, Budget(300.0, spent=journal.cost), price=price)
        assert len(list(stream(more, requests(40), journal))) == 40
    assert more.budget.spent == pytest.approx(240) and set(sent_whole(log).values()) == {1}


def test_no_broken_attempt_passes_the_budget_nor_is_forgotten_by_the_next_run(start, endpoint, tmp_path):
    url, log = start("--share", "0.7")
    price = Price(prompt=1e5, completion=1e6)  # as above: an answer costs 6, a broken attempt may have cost 9.8

    def spend(limit: float) -> float:
        """What counts as spent, over all runs, once the budget is reached: no less than the server may bill."""
        with Journal(tmp_path / "j.jsonl") as journal:
            made = endpoint(url, journal.budget(limit), price=price, seconds=0.5, attempts=100)
            with pytest.raises(BudgetReached, match="presumed for attempts without an answer"):
                list(stream(made, requests(40), journal))
            assert made.budget.reserved == pytest.approx(0) and made._resting == 0
        lines = [line.split()[:-1] for line in log.read_text().splitlines()[1:]]
        billed = sum(6.0 if line == ["ok"] else 9.8 * (line[1] not in ("429", "500")) for line in lines)
        counted = made.budget.spent + made.budget.presumed
        assert billed <= counted + 1e-6
        return counted

    assert 90 < spend(100.0) <= 100
    sent = len(log.read_text().splitlines())
    assert spend(100.0) <= 100 and len(log.read_text().splitlines()) == sent
    assert 140 < spend(150.0) <= 150


def test_another_attempt_waits_for_the_money_that_others_leave_over(endpoint, tmp_path, monkeypatch):
    made = endpoint("http://127.0.0.1:9/v1", Budget(32.0), price=Price(prompt=1e5, completion=1e6))
    asked = []

    async def post(request: ChatRequest) -> ChatAnswer:
        asked.append(request.id)
        if asked == ["r0"]:
            raise TimeoutError
        await asyncio.sleep(0.6)  # longer than the first rests: 9.8 presumed and 19.6 reserved leave no 9.8
        return ChatAnswer(request, "x", "stop", {"prompt_tokens": 10, "completion_tokens": 5, "cost": 6.0})

    monkeypatch.setattr(made, "_post", post)
    with Journal(tmp_path / "j.jsonl") as journal:
        assert all(isinstance(one, ChatAnswer) for one in stream(made, requests(3), journal))
    assert asked == ["r0", "r1", "r2", "r0"] and made.budget.taken == pytest.approx(3 * 6 + 9.8)


def test_a_schema_counts_towards_the_most_that_a_request_can_cost():
    plain = requests(1)[0]
    schema = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(50)}}
    more = most_prompt_tokens(replace(plain, json_schema=schema)) - most_prompt_tokens(plain)
    assert more >= len(json.dumps(schema))


def test_raising_max_tokens_asks_again_only_what_was_cut(tmp_path):
    class Cutting:
        model = "cutting"

        def __init__(self):
            self.asked = []

        def chat(self, requests):
            for one in requests:
                self.asked.append(one.id)
                needs = int(one.id[1:])
                reason = "stop" if needs <= one.sampling.max_tokens else "length"
                yield ChatAnswer(one, "x", reason, {"completion_tokens": min(needs, one.sampling.max_tokens)})

        def close(self):
            pass

    with Journal(tmp_path / "j.jsonl") as journal:

        def asked(limit: int) -> list[str]:
            endpoint = Cutting()
            answers = list(ask(endpoint, requests(10, max_tokens=limit), journal))
            assert len(answers) == 10
            for one in answers:
                assert (one.finish_reason == "stop") == (int(one.request.id[1:]) <= limit)
            return endpoint.asked

        assert asked(5) == [f"r{i}" for i in range(10)]
        assert asked(7) == ["r6", "r7", "r8", "r9"]
        assert asked(5) == asked(7) == []  # both are on the disk
        assert asked(3) == ["r4", "r5"] + ["r6", "r7"] + ["r8", "r9"]
        assert asked(20) == ["r8", "r9"]


def test_keys_come_from_the_environment_and_stay_out_of_errors(start, endpoint, monkeypatch):
    url, _ = start()
    with pytest.raises(PosttrainError, match="POSTTRAIN_TEST_KEY is empty"):
        endpoint(url, api_key_env="POSTTRAIN_TEST_KEY")
    monkeypatch.setenv("POSTTRAIN_TEST_KEY", "sk-very-secret")
    made = endpoint(url, api_key_env="POSTTRAIN_TEST_KEY")
    assert "sk-very-secret" not in repr(made.server) + made._clean("server says: bad key sk-very-secret")
    assert "sk-" not in made._clean("x" * 295 + "sk-very-secret")
    with pytest.raises(PosttrainError, match="base_url holds a password"):
        endpoint("http://me:secret@127.0.0.1:1/v1")


INSTANT = """
import resource, sys
from posttrain.inference.journal import Journal, stream
from posttrain.inference.protocols import ChatAnswer, ChatRequest

class Instant:
    model = "instant"
    flying = []
    outstanding = property(lambda self: len(self.flying))

    def submit(self, request):
        if len(self.flying) < 512:
            self.flying.append(request)
            return True
        return False

    def collect(self, *, wait=True):
        found, self.flying = self.flying, []
        return [ChatAnswer(one, "x" * 200, "stop", {"completion_tokens": 5}) for one in found]

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

count = int(sys.argv[2])
asked = (ChatRequest(f"r{i}", ({"role": "user", "content": f"q{i}" * 20},)) for i in range(count))
with Journal(sys.argv[1]) as journal:
    for number, _ in enumerate(stream(Instant(), asked, journal), start=1):
        if number == count // 20:
            early = megabytes()
assert number == count
print(megabytes() - early)
"""


def growth(tmp_path, count: int) -> float:
    """Megabytes of memory that the last 95 % of the requests added to the first 5 %."""
    command = [sys.executable, "-c", INSTANT, str(tmp_path / f"{count}.jsonl"), str(count)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def test_memory_does_not_grow_with_the_number_of_requests(tmp_path):
    """Held, the answers alone would take 8 MB, with their requests 50."""
    assert growth(tmp_path, 40_000) < 3.0


@pytest.mark.long
def test_memory_is_constant_for_a_million_requests(tmp_path):
    assert growth(tmp_path, 1_000_000) < 3.0
