"""What a preference set will cost, and how one is looked at."""

import json
from pathlib import Path

import pytest

from posttrain.cli.main import main
from posttrain.inference.budget import Price
from posttrain.preferences.estimate import Lengths, estimate

RECIPE = str(Path(__file__).parents[2] / "recipes" / "preferences-table15.yaml")


def test_the_papers_set_is_estimated_in_calls_tokens_money_and_hours(capsys):
    assert main(["preferences", "build", RECIPE, "--estimate"]) == 0
    told = capsys.readouterr().out
    assert "354,192 prompts, 4 answers each" in told
    [judge] = [line.split() for line in told.splitlines() if line.strip().startswith("judge")]
    assert judge[2] == "1,416,768"  # four aspects
    assert float(judge[5].replace(",", "")) == pytest.approx(
        (float(judge[3].replace(",", "")) * 2.5 + float(judge[4].replace(",", "")) * 10) / 1e6, rel=1e-4
    )
    [everything] = [line.split() for line in told.splitlines() if line.strip().startswith("all")]
    assert everything[1] == f"{354_192 * 8:,}"
    assert sum(line.strip().startswith("pool") for line in told.splitlines()) == 22


def test_an_estimate_is_the_plain_product():
    lengths = Lengths(prompt=100, answer=200, rating=50)
    model = ("m", Price(1, 2), 10)
    settings = dict(policy=model, pool=[model, model], judge=model, responses=4, on_policy=1, lengths=lengths)
    policy, a, b, judge = estimate(
        1000,
        aspects=("honesty", "truthfulness"),
        single_call=False,
        swap=True,
        **settings,  # type: ignore[arg-type]
    )
    assert (policy.calls, a.calls, b.calls, judge.calls) == (1000, 1500, 1500, 4000)
    assert (policy.prompt_tokens, policy.completion_tokens) == (100_000, 200_000) and policy.cost == 0.5
    assert policy.hours(20) == pytest.approx(200_000 / 20 / 10 / 3600)
    assert judge.completion_tokens == 2000 * 4 * 2 * 50
    assert judge.prompt_tokens > 4000 * (100 + 4 * 200)


@pytest.mark.parametrize(
    ("generator", "more", "calls", "money"),
    [
        ({"make": "personas", "data": "p", "licence": "l", "task": "hard_math", "count": 100}, [], 2400, 24.0),
        (
            {"make": "personas", "data": "p", "licence": "l", "task": "python", "count": 9, "candidates": 10},
            [],
            30,
            0.3,
        ),
        ({"make": "best_of", "prompts": "p", "samples": 5}, ["--prompts", "20"], 100, 1.0),
        ({"make": "completions", "data": "p"}, ["--prompts", "20"], 40, 0.4),
    ],
)
def test_synthesis_is_estimated_at_its_most(tmp_path, capsys, generator, more, calls, money):
    endpoint = {"base_url": "http://h/v1", "model": "m", "prompt_price": 40, "completion_price": 60}
    stage = {"kind": "synthesize", "generator": generator | {"model": endpoint}}
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({"name": "r", "stages": {"s": stage}}))
    command = ["synthesize", str(recipe), "--estimate", "--prompt-tokens", "100", "--answer-tokens", "100"]
    assert main(command + more) == 0
    [everything] = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("all")]
    assert everything[1:5] == [f"{calls:,}", f"{calls * 100:,}", f"{calls * 100:,}", f"{money:.2f}"]
    if more:
        assert main(command) == 2 and "--prompts N" in capsys.readouterr().err


def test_wrong_names_are_told(capsys):
    assert main(["preferences", "build", RECIPE, "--stage", "prefs", "--estimate"]) == 2
    assert "no preferences stage of the recipe; it has: preferences" in capsys.readouterr().err
    assert main(["synthesize", RECIPE]) == 2
    assert "0 synthesize stages" in capsys.readouterr().err


def test_inspect_and_report_show_what_the_labels_came_from(tmp_path, capsys):
    score = {"rating": 4.0, "ratings": [4], "rationales": ["Clear."], "requests": ["k1"]}
    one = {
        "model": "a",
        "on_policy": True,
        "text": "Yes.",
        "rating": 4.0,
        "outcomes": [],
        "aspects": {"honesty": score},
    }
    two = one | {"model": "b", "on_policy": False, "text": "No.", "rating": 2.0, "request": "k2"}
    messages = [{"role": "user", "content": "Well?"}]
    row = {"id": "p", "source": "s", "messages": messages, "candidates": [one, two]}
    row |= {"chosen": 0, "rejected": 1, "reason": None}
    (tmp_path / "candidates.jsonl").write_text(json.dumps(row) + "\n")
    used = {"answers": 3, "prompt_tokens": 4000, "completion_tokens": 20, "cost": 0.25}
    endpoints = {
        "a": used | {"asked": {"answers": 1, "attempts": 4, "failures": {"429": 3}}},
        "judge b": used | {"asked": {"answers": 3, "attempts": 3, "failures": {}}},
    }
    metrics = {"judge": {"longer_wins": 0.5, "orders_agree": None}, "endpoints": endpoints}
    manifest = {"rows": {"pairs": 1}, "metrics": metrics}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert main(["preferences", "inspect", str(tmp_path), "--id", "p"]) == 0
    told = capsys.readouterr().out
    for part in ("-- 0 chosen a, on-policy: rating 4.0", "-- 1 rejected b", "Clear.", "requests: k1", "request: k2"):
        assert part in told
    assert main(["preferences", "inspect", str(tmp_path), "--id", "q"]) == 2
    assert main(["preferences", "report", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "judge / longer_wins   0.5" in told and "judge / orders_agree  none" in told
    words = [line.split() for line in told.splitlines()]
    assert ["a", "3", "4,000", "20", "0.25", "1", "4", "3", "429"] in words
    assert ["all", "6", "8,000", "40", "0.5", "4", "7"] in words
