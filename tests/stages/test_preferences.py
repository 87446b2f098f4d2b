"""The preference stage on a tiny model: rows, counts, and the same bytes after a kill."""

import json
from collections import Counter
from pathlib import Path

import pytest

from posttrain.data.readers import read_rows
from posttrain.errors import PosttrainError
from posttrain.recipe.data_settings import PoolMember, Preferences
from posttrain.stages import chat_models, preferences


@pytest.fixture
def prompts(write_lines) -> str:
    """Forty prompts that ask for an "e" somewhere; a random model over bytes meets some of them some of the time."""
    rows = [
        {
            "id": f"q{i}",
            "messages": [{"role": "user", "content": f"say {i}"}],
            "ground_truth": json.dumps(sorted({chr(97 + (3 * i + k) % 26) for k in range(9)})),
            "dataset": "substring",
        }
        for i in range(40)
    ]
    rows.append({**rows[0], "id": "again"})
    rows.append({**rows[0], "id": "long", "messages": [{"role": "user", "content": "x" * 90}]})
    return write_lines("prompts.jsonl", [*rows, '{"id": "broken"'])


@pytest.fixture
def settings(tiny_model, prompts) -> Preferences:
    return Preferences(
        kind="preferences",
        prompts=prompts,
        policy=str(tiny_model),
        pool=(PoolMember(model=str(tiny_model)), PoolMember(model=str(tiny_model), temperature=0.5)),
        max_response_tokens=24,
        max_prompt_tokens=60,
        chat_template="tulu",
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_prompt_is_accounted_for(run_stage, settings):
    result, output, _ = run_stage(preferences, settings)
    rows, figures = result["rows"], result["metrics"]
    assert rows["prompts"] == 40 and rows["repeated"] == 1 and rows["over_max_prompt_tokens"] == 1
    assert rows["rejected"] == 1
    assert rows["pairs"] + sum(figures["no_pair"].values()) == 40 and rows["pairs"] > 0
    assert Counter(row["reason"] for row in lines(output / "set_aside.jsonl")) == {
        "repeated": 1,
        "over_max_prompt_tokens": 1,
    }
    candidates = {row["id"]: row for row in lines(output / "candidates.jsonl")}
    assert len(candidates) == 40
    for row in candidates.values():
        assert len(row["candidates"]) == 4
        assert sum(one["on_policy"] for one in row["candidates"]) == 2
        assert sorted(one["temperature"] for one in row["candidates"]) == [0.5, 1.0, 1.0, 1.0]
        assert len({one["text"] for one in row["candidates"]}) == 4, "answers that share random numbers"
    pairs = list(read_rows(output / "data.jsonl", "preference"))
    assert len(pairs) == rows["pairs"]
    for pair in pairs:
        row = candidates[pair.id]
        chosen, rejected = row["candidates"][row["chosen"]], row["candidates"][row["rejected"]]
        assert pair.chosen[-1]["content"] == chosen["text"] and pair.rejected[-1]["content"] == rejected["text"]
        assert chosen["rating"] == max(one["rating"] for one in row["candidates"] if one["text"].strip())
        assert chosen["rating"] > rejected["rating"]


def test_a_stage_killed_again_and_again_ends_in_the_same_bytes(run_stage, settings, monkeypatch):
    monkeypatch.setattr(chat_models, "BLOCK", 64)
    _, expected, _ = run_stage(preferences, settings, "straight")
    for kill_at in (1, 37, 64, 159):
        run_stage(preferences, settings, "killed", kill_at=kill_at, task="answers")
    _, output, _ = run_stage(preferences, settings, "killed")
    for name in ("data.jsonl", "candidates.jsonl", "set_aside.jsonl"):
        assert (output / name).read_bytes() == (expected / name).read_bytes()


def test_a_judge_that_always_ties_is_reported_with_the_way_out(run_stage, settings, write_lines):
    row = {
        "id": "q",
        "messages": [{"role": "user", "content": "hi"}],
        "ground_truth": "never said",
        "dataset": "substring",
    }
    tied = settings.model_copy(update={"prompts": write_lines("tied.jsonl", [row])})
    with pytest.raises(PosttrainError, match=r"none of 1 prompts made a pair.*all_equal"):
        run_stage(preferences, tied)


def test_unknown_verifiers_and_empty_pools_are_refused_before_anything_is_generated(run_stage, settings, write_lines):
    row = {"id": "q", "messages": [{"role": "user", "content": "hi"}], "ground_truth": "x", "dataset": "substrin"}
    unknown = settings.model_copy(update={"prompts": write_lines("unknown.jsonl", [row])})
    with pytest.raises(PosttrainError, match="substring"):
        run_stage(preferences, unknown)
    with pytest.raises(PosttrainError, match="pool is empty"):
        run_stage(preferences, settings.model_copy(update={"pool": ()}))
    with pytest.raises(PosttrainError, match="no prompt is left"):
        run_stage(preferences, settings.model_copy(update={"max_prompt_tokens": 5}))
