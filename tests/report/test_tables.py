"""The report's tables, from made-up records whose answers are known."""

import json
from dataclasses import replace

import pytest

from posttrain.errors import PosttrainError
from posttrain.evaluation.protocol import Decoding, Format, Protocol
from posttrain.evaluation.scores import not_run, suite_average, task_score
from posttrain.report.markdown import render
from posttrain.report.tables import Evaluated, suites


def protocol(task, format: Format = "chat"):
    return Protocol(task, "test", "made up", "1", "test", format, Decoding(8), "exact_match", "strict")


def records(task, scores, outcome=None):
    return [
        {
            "task": f"{task}@test",
            "id": f"{task}-{i}",
            "prompt": f"question {i}",
            "outcome": outcome or ("correct" if score else "wrong"),
            "score": score,
            "detail": "no such word list",
            "finish_reason": "stop",
            "response_tokens": 3,
        }
        for i, score in enumerate(scores)
    ]


def evaluated(suite, models, missing=(), plain=()):
    """``models``: label → task → scores. Labels in ``plain`` were asked in plain form."""
    scored, kept = {}, {}
    for label, by_task in models.items():
        asked = "plain" if label in plain else "chat"
        tasks = {f"{t}@test": task_score(protocol(t, asked), records(t, scores)) for t, scores in by_task.items()}
        tasks |= {f"{t}@test": not_run(protocol(t), "needs a set") for t in missing}
        note = "asked in plain form" if label == "base" else ""
        scored[label] = {"model": f"weights of {label}", "note": note, "tasks": tasks, "average": suite_average(tasks)}
        kept[label] = [record for t, scores in by_task.items() for record in records(t, scores)]
    limits = {"instances": None, "prompt_tokens": 2048, "response_tokens": None}
    return Evaluated({"suite": suite, "limits": limits, "unsealed": None, "models": scored}, kept)


BASE = {"sums": [1.0, 0.0, 0.0, 0.0], "facts": [0.0, 0.0]}
RLVR = {"sums": [1.0, 1.0, 1.0, 0.0], "facts": [1.0, 0.0]}


def test_a_suite_has_every_score_the_macro_average_and_the_paired_difference():
    found = suites([evaluated("development", {"base": BASE, "RLVR": RLVR})], [("RLVR", "base")])["development"]
    assert found["tasks"]["sums@test"]["RLVR"]["mean"] == 0.75
    assert found["tasks"]["sums@test"]["RLVR"]["n"] == 4
    assert found["average"]["RLVR"]["mean"] == pytest.approx((0.75 + 0.5) / 2)
    (pair,) = found["compare"]
    assert (pair["a"], pair["b"], pair["n"]) == ("RLVR", "base", 6)
    assert pair["difference"] == pytest.approx((0.5 + 0.5) / 2)
    assert pair["low"] < pair["difference"] < pair["high"]
    assert pair["per_task"]["sums@test"]["mcnemar"] == {"only_a": 2, "only_b": 0, "p": 0.5}


def test_the_difference_of_a_pair_changes_sign_with_its_order():
    found = suites([evaluated("development", {"base": BASE, "RLVR": RLVR})], [("RLVR", "base"), ("base", "RLVR")])
    one, other = found["development"]["compare"]
    assert (one["difference"], one["low"], one["high"]) == (-other["difference"], -other["high"], -other["low"])


def test_evaluations_of_one_suite_are_joined_and_suites_kept_apart():
    found = suites(
        [
            evaluated("development", {"base": BASE}),
            evaluated("development", {"RLVR": RLVR}),
            evaluated("unseen", {"base": BASE, "RLVR": RLVR}),
        ],
        [("RLVR", "base")],
    )
    assert set(found) == {"development", "unseen"}
    assert set(found["development"]["average"]) == {"base", "RLVR"}
    assert found["development"]["compare"][0]["difference"] == found["unseen"]["compare"][0]["difference"]


def test_the_tasks_of_one_label_in_two_evaluations_are_joined():
    models = {"base": BASE, "RLVR": RLVR}
    apart = [
        evaluated("development", {label: {task: by_task[task]} for label, by_task in models.items()})
        for task in ("sums", "facts")
    ]
    whole = suites([evaluated("development", models)], [("RLVR", "base")])
    assert suites(apart, [("RLVR", "base")]) == whole
    assert suites([*apart, evaluated("development", {"base": BASE})], [("RLVR", "base")]) == whole


def test_one_task_of_one_label_with_two_results_is_refused():
    other = {"sums": [0.0, 0.0, 0.0, 0.0]}
    with pytest.raises(PosttrainError, match="'base' differently on sums@test"):
        suites([evaluated("development", {"base": BASE}), evaluated("development", {"base": other})], [])


def test_evaluations_of_one_suite_under_different_limits_are_refused():
    one, other = evaluated("development", {"base": BASE}), evaluated("development", {"RLVR": RLVR})
    other.scores["limits"]["prompt_tokens"] = 64
    with pytest.raises(PosttrainError, match="different limits"):
        suites([one, other], [])
    other = replace(other, scores={**other.scores, "suite": "unseen"})
    assert set(suites([one, other], [])) == {"development", "unseen"}


def test_a_difference_between_models_asked_in_different_ways_is_marked():
    models = {"base": BASE, "SFT": RLVR, "RLVR": {"sums": RLVR["sums"]}}
    found = suites([evaluated("development", models, plain=["base"])], [("SFT", "base"), ("RLVR", "SFT")])
    other, same = found["development"]["compare"]
    assert [figures["same_protocol"] for figures in other["per_task"].values()] == [False, False]
    assert [figures["same_protocol"] for figures in same["per_task"].values()] == [True]
    page = render(report(suites=found))
    assert cells(page, "SFT − base")[1] == "average †"
    assert page.count("sums@test † |") == page.count("facts@test † |") == 1
    assert cells(page, "RLVR − SFT")[1] == "average"
    assert page.count("- † The two models were asked under different protocols") == 1
    assert "- RLVR − SFT leaves out, as only one of them was scored on it: facts@test." in page
    alike = suites([evaluated("development", {"base": BASE, "SFT": RLVR})], [("SFT", "base")])
    assert "†" not in render(report(suites=alike))


def test_a_label_for_two_models_is_refused():
    one, other = evaluated("development", {"base": BASE}), evaluated("unseen", {"base": BASE})
    other.scores["models"]["base"]["model"] = "weights of another"
    with pytest.raises(PosttrainError, match="'base' names two different models"):
        suites([one, other], [])


def test_comparing_a_model_nobody_scored_is_refused():
    with pytest.raises(PosttrainError, match="'DPO', which no evaluation scores"):
        suites([evaluated("development", {"base": BASE})], [("DPO", "base")])


def test_models_scored_on_different_instances_are_not_compared():
    fewer = {"sums": [1.0, 1.0], "facts": [1.0, 0.0]}
    joined = [evaluated("development", {"base": BASE}), evaluated("development", {"RLVR": fewer})]
    with pytest.raises(PosttrainError, match="different instances of sums@test"):
        suites(joined, [("RLVR", "base")])


def test_a_task_with_an_unverified_answer_has_no_score_and_no_part_in_the_average():
    answers = records("sums", [1.0, 1.0]) + records("sums", [0.0], outcome="error")
    tasks = {
        "sums@test": task_score(protocol("sums"), answers),
        "facts@test": task_score(protocol("facts"), records("facts", [1.0])),
    }
    assert tasks["sums@test"]["status"] == "incomplete"
    assert tasks["sums@test"]["reason"] == "1 of 3 answers could not be verified: no such word list"
    assert "mean" not in tasks["sums@test"]
    average = suite_average(tasks)
    assert (average["tasks"], average["missing"]) == (["facts@test"], {"sums@test": "incomplete"})


def report(**changes):
    pairs = [("RLVR", "base")]
    found = suites([evaluated("development", {"base": BASE, "RLVR": RLVR}, missing=["gsm8k"])], pairs)
    stage = {
        "kind": "sft",
        "key": "0123456789abcdef",
        "seconds": 12.4,
        "rows": {"data": 1600, "duplicate": 3},
        "trained_tokens": 51234,
        "metrics": {"loss": 1.25, "steps": 50},
    }
    source = {
        "source": "allenai/some-set",
        "profile": "paper",
        "rows": 100,
        "dropped": 2,
        "decision": "over 2.00% of sums",
        "overlaps": {"development/sums": {"items": 4, "overlapping": 1, "rate": 0.25, "contaminated": True}},
    }
    return {
        "recipe": "made-up",
        "seed": 3,
        "suites": found,
        "unsealed": 1,
        "stages": {"sft": stage},
        "decontamination": {"mixture": {"not_checked": ["development/gsm8k@paper"], "sources": [source]}},
        "notes": ["The judge | is <rules>."],
    } | changes


def cells(page, start):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]


def test_the_page_shows_what_the_json_holds():
    page = render(report())
    assert cells(page, "task") == ["task", "n", "base", "RLVR"]
    assert cells(page, "sums@test") == ["sums@test", "4", "25.0 [4.6, 69.9]", "75.0 [30.1, 95.4]"]
    assert cells(page, "gsm8k@test")[2:] == ["not run", "not run"]
    assert cells(page, "**average of the tasks that ran**")[3].startswith("62.5 [")
    assert cells(page, "RLVR − base")[1:3] == ["average", "6"]
    assert cells(page, "sft")[2:5] == ["12", "51,234", "data 1,600, duplicate 3"]
    assert cells(page, "mixture")[4:6] == ["2", "development/sums 1 of 4 items"]
    assert "Not checked, for want of their data: development/gsm8k@paper." in page
    assert "The unseen suite was looked at once" in page
    assert "base: asked in plain form." in page
    assert "gsm8k@test: needs a set." in page
    assert "prompt tokens 2,048" in page
    assert "- The judge \\| is &lt;rules>." in page


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    width = None
    for line in render(report()).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        count = line.replace("\\|", "/").count("|")
        assert width in (None, count)
        width = count


def test_only_an_interval_without_zero_is_bold():
    sure = {"sums": [1.0] * 30, "facts": [1.0] * 29 + [0.0]}
    never = {"sums": [0.0] * 30, "facts": [0.0] * 30}
    found = suites([evaluated("development", {"a": sure, "b": never, "c": never})], [("a", "b"), ("b", "c")])
    page = render(report(suites=found))
    assert cells(page, "a − b")[3].startswith("**+98.3 [")
    assert cells(page, "b − c")[3] == "+0.0 [-6.2, +6.2]"


def test_the_report_is_json():
    assert json.loads(json.dumps(report(), allow_nan=False)) == report()
