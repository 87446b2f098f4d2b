"""The preference stage on endpoints: every label leads back to its request, and nothing is paid for twice."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.readers import read_rows
from posttrain.errors import PosttrainError
from posttrain.inference.budget import BudgetReached
from posttrain.inference.openai import EndpointDown
from posttrain.recipe.schema import Preferences
from posttrain.stages import preferences
from posttrain.stages.chat_models import at_once

SERVER = Path(__file__).parents[1] / "inference" / "fault_server.py"


@pytest.fixture
def server(tmp_path):
    log = tmp_path / "server.log"
    with open(log, "wb") as out:
        process = subprocess.Popen([sys.executable, str(SERVER)], stdout=out)
    while not log.read_text().endswith("\n"):
        assert process.poll() is None
        time.sleep(0.01)
    yield f"http://127.0.0.1:{log.read_text().split()[0]}/v1", log
    process.kill()
    process.wait()


@pytest.fixture
def made(server, write_lines):
    url, _ = server
    rows = [
        {
            "id": f"q{i}",
            "messages": [{"role": "user", "content": f"say the number {i}"}, {"role": "assistant", "content": "ok"}],
        }
        for i in range(12)
    ]
    rows.append({**rows[0], "id": "again"})
    path, sft = write_lines("prompts.jsonl", rows), write_lines("sft.jsonl", rows[:5])

    def make(judge="judge", **changes) -> Preferences:
        def endpoint(model: str, **more):
            return {"base_url": url, "model": model, "patience": 1.0, "attempts": 3} | more

        content = {
            "kind": "preferences",
            "prompts": {"sft": sft, "parts": [{"data": path, "take": "reused"}, {"data": path, "take": "unused"}]},
            "policy": endpoint("policy"),
            "pool": [{"endpoint": endpoint(name)} for name in ("a", "b", "judge")],
            "responses": 4,
            "on_policy": 1,
            "judge": {"model": endpoint(judge), "swap": True},
        }
        return Preferences.model_validate(content | changes)

    return make


def asked(log: Path) -> int:
    return len(log.read_text().splitlines()) - 1


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_label_leads_back_to_its_request(run_stage, made, server, tmp_path):
    result, output, _ = run_stage(preferences, made())
    assert result["metrics"]["parts"].popitem()[1] == {"available": 7, "repeated": 0, "used": 7}
    assert result["rows"]["prompts"] == 12
    journal = {line["key"]: line["answer"] for path in (tmp_path / "journals").glob("*.jsonl") for line in lines(path)}
    for row in lines(output / "candidates.jsonl"):
        for place, one in enumerate(row["candidates"]):
            assert journal[one["request"]]["text"] == one["text"]
            assert one["self_judged"] == (one["model"] == "judge") and one["judge"] == "judge"
            for aspect, score in one["aspects"].items():
                assert len(score["requests"]) == 2 and score["ratings"][0] == score["ratings"][1] == score["rating"]
                told = [json.loads(journal[key]["text"]) for key in score["requests"]]
                assert all(score["ratings"][0] in [text[aspect]["rating"] for text in texts.values()] for texts in told)
            if place == row["chosen"]:
                assert one["rating"] == max(c["rating"] for c in row["candidates"])
    assert len(list(read_rows(output / "data.jsonl", "preference"))) == result["rows"]["pairs"]
    figures = result["metrics"]["judge"]
    assert figures["calls"] == 12 * 4 * 2 and figures["orders_agree"]["equal"] == 1.0
    assert result["metrics"]["endpoints"]["policy"]["answers"] == 12

    before = asked(server[1])
    other, replayed, _ = run_stage(preferences, made(), "b")  # another key of the stage: nothing is asked again
    judge = made().judge.model_copy(update={"recorded": True})
    _, recorded, _ = run_stage(preferences, made().model_copy(update={"judge": judge}), "c")
    assert asked(server[1]) == before
    for folder in (replayed, recorded):
        assert (folder / "data.jsonl").read_bytes() == (output / "data.jsonl").read_bytes()


def test_the_pairs_load_as_the_published_sets_do(run_stage, made, data_dir, tmp_path):
    import datasets

    def load(*files: Path) -> Any:
        return datasets.load_dataset("json", data_files=list(map(str, files)), cache_dir=str(tmp_path / "hf"))["train"]

    result, output, _ = run_stage(preferences, made())
    ours, published = load(output / "data.jsonl"), load(data_dir / "tulu3" / "preference_sample.jsonl")
    names = published.column_names
    assert set(names) == {"id", "source", "prompt", "chosen", "rejected"} <= set(ours.column_names)
    shared = ours.select_columns(names)
    assert shared.features == published.features
    both: Any = datasets.concatenate_datasets([published, shared])
    assert len(both) == 100 + result["rows"]["pairs"]
    for row in both:
        assert [turn["role"] for turn in row["chosen"]][-2:] == ["user", "assistant"]
        assert row["chosen"][:-1] == row["rejected"][:-1] and row["chosen"][0]["content"] == row["prompt"]
    path = tmp_path / "both.jsonl"
    path.write_bytes(
        (data_dir / "tulu3" / "preference_sample.jsonl").read_bytes() + (output / "data.jsonl").read_bytes()
    )
    assert [row.chosen[-1]["content"] for row in read_rows(path, "preference")] == [
        r["chosen"][-1]["content"] for r in both
    ]


def test_a_kill_costs_nothing_and_the_bytes_are_the_same(run_stage, made, server, tmp_path):
    for task, at in (("answers", 7), ("answers", 30), ("ratings", 20)):
        run_stage(preferences, made(), "killed", kill_at=at, task=task)
    _, output, _ = run_stage(preferences, made(), "killed")
    keys = [line["key"] for path in (tmp_path / "journals").glob("*.jsonl") for line in lines(path)]
    assert len(keys) == len(set(keys)) == 12 * 4 + 12 * 8
    for path in (tmp_path / "journals").glob("*.jsonl"):
        path.rename(path.with_suffix(".old"))
    _, straight, _ = run_stage(preferences, made(), "straight")
    assert (output / "data.jsonl").read_bytes() == (straight / "data.jsonl").read_bytes()


def test_a_budget_reached_on_the_way_is_told_and_the_run_goes_on_with_more(run_stage, made, tmp_path):
    def priced(budget: float) -> Preferences:
        policy = made().policy.model_copy(update={"completion_price": 1e6, "budget": budget})
        return made(policy=policy.model_dump(), max_response_tokens=8)

    with pytest.raises(BudgetReached, match="raise the budget and run the command again"):
        run_stage(preferences, priced(30.0))  # an answer costs 5, at most 8
    before = len(lines(tmp_path / "journals" / "policy.jsonl"))
    assert 4 <= before <= 6
    assert len(lines(tmp_path / "journals" / "a.jsonl")) == 12  # the others were not kept from answering
    result, _, _ = run_stage(preferences, priced(1000.0))
    costs = result["metrics"]["endpoints"]["policy"]
    assert costs["answers"] == 12 and costs["cost"] == 60.0 and costs["asked"]["answers"] == 12 - before


def test_endpoints_answer_at_once():
    """Each waits for the other's first answer; asked one after the other they would never end."""
    told, failed = [], {}

    def answers(name: str, other: str):
        yield "first"
        while other not in told:
            yield None
        yield from ("second",) * 1000

    def dying(name: str):
        yield None
        yield "first"
        raise EndpointDown("gone")

    streams: Any = {"a": answers("a", "b"), "b": answers("b", "a"), "c": dying("c")}
    for name, _ in at_once(streams, failed):
        told.append(name)
    assert Counter(told) == {"a": 1001, "b": 1001, "c": 1} and str(failed.pop("c")) == "gone" and not failed


def test_one_model_down_lets_the_others_answer_first(run_stage, made, server):
    down = {"base_url": "http://127.0.0.1:9/v1", "model": "gone", "patience": 0.3}
    broken = made(pool=[{"endpoint": down}, made().pool[0].model_dump()])
    with pytest.raises(EndpointDown, match=r"36 of 48 answers are there, but 1 of 3 models answer no more"):
        run_stage(preferences, broken.model_copy(update={"on_policy": 2}))


def test_prompts_over_a_models_context_are_counted_and_the_others_make_pairs(run_stage, made, write_lines):
    wide = [{"role": "user", "content": "say " + "a very long " * 5}, {"role": "assistant", "content": "ok"}]
    rows = [
        {"id": f"w{i}", "messages": [wide[0] | {"content": wide[0]["content"] + str(i)}, wide[1]]} for i in range(3)
    ]
    rows += [{"id": f"q{i}", "messages": [{"role": "user", "content": f"say {i}"}, wide[1]]} for i in range(9)]
    pool = [{"endpoint": made().pool[0].endpoint.model_dump() | {"model": name}} for name in ("short", "b", "c")]
    prompts = {"parts": [{"data": write_lines("wide.jsonl", rows)}]}
    result, output, _ = run_stage(preferences, made(prompts=prompts, pool=pool))
    assert result["metrics"]["unanswered"] == {"short": {"refused": 3}}
    answers = {row["id"]: len(row["candidates"]) for row in lines(output / "candidates.jsonl")}
    assert answers == {f"w{i}": 3 for i in range(3)} | {f"q{i}": 4 for i in range(9)}
    with pytest.raises(EndpointDown, match=r"refused all of the first 20 requests: .*maximum context length"):
        run_stage(preferences, made("short", prompts=prompts, pool=pool), "b")


def test_bad_settings_are_refused_in_words(run_stage, made):
    with pytest.raises(PosttrainError, match="the judge never told two answers apart"):
        run_stage(preferences, made(judge="tie"))
    with pytest.raises(PosttrainError, match="pool is empty"):
        run_stage(preferences, made(pool=[]))
    with pytest.raises(PosttrainError, match="no prompt is left"):
        run_stage(preferences, made(max_prompt_tokens=1))
    with pytest.raises(PosttrainError, match="judge rules needs prompts with checks"):
        run_stage(preferences, made().model_copy(update={"judge": "rules"}))
    judge = made("never").judge.model_copy(update={"recorded": True})
    with pytest.raises(PosttrainError, match="recorded answers are to be replayed, but there is no"):
        run_stage(preferences, made().model_copy(update={"judge": judge}))
