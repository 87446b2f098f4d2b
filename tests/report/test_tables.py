"""The report's tables, from made-up records whose answers are known."""

import json
from dataclasses import replace

import pytest

from posttrain.errors import PosttrainError
from posttrain.evaluation.protocol import Decoding, Format, Protocol, Task
from posttrain.evaluation.scores import not_run, suite_average, task_score
from posttrain.evaluation.suites import TASKS
from posttrain.report.markdown import render
from posttrain.report.tables import Evaluated, suites


def protocol(task, format: Format = "chat"):
    return Protocol(task, "test", "made up", "1", "test", format, Decoding(8), "exact_match", "strict")


@pytest.fixture(autouse=True)
def made_up_tasks(monkeypatch):
    for task in ("sums", "facts"):
        register(monkeypatch, task)


def register(monkeypatch, task, combine=None, **fields):
    asked = [replace(protocol(task, format), **fields) for format in ("chat", "plain")]
    made_up = Task(asked[0], asked[1], lambda *_: [], lambda _: [], combine=combine)
    monkeypatch.setitem(TASKS, f"{task}@test", made_up)
    return asked[0]


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


def of_task(asked, answers, within="", combine=None):
    """An evaluation of one task: label → records."""
    scored = {}
    for label, own in answers.items():
        tasks = {asked.name: task_score(asked, own, combine) | ({"within": within} if within else {})}
        scored[label] = {"model": label, "note": "", "tasks": tasks}
    return Evaluated({"suite": "development", "limits": {}, "models": scored}, answers)


def with_fields(answers, **columns):
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(answers)]


def subtracted(found):
    """The report's difference of A and B beside that of the figures it shows of them."""
    (pair,) = found["compare"]
    for task, figures in pair["per_task"].items():
        shown = found["tasks"][task]
        assert figures["difference"] == pytest.approx(shown["A"]["mean"] - shown["B"]["mean"])
    assert pair["difference"] == pytest.approx(found["average"]["A"]["mean"] - found["average"]["B"]["mean"])
    return pair


def test_differences_over_groups_are_those_of_the_scores_shown(monkeypatch):
    asked = register(monkeypatch, "sums", averaged="groups")
    group = ["a"] * 90 + ["b"] * 10
    ours = with_fields(records("sums", [1.0] * 45 + [0.0] * 45 + [1.0] * 10), group=group)
    theirs = with_fields(records("sums", [1.0] * 45 + [0.0] * 55), group=group)
    found = suites([of_task(asked, {"A": ours, "B": theirs})], [("A", "B")])["development"]
    pair = subtracted(found)
    assert pair["difference"] == pytest.approx(0.5)
    assert pair["bootstrap_low"] <= 0.5 <= pair["bootstrap_high"]


def test_differences_of_pass_at_k_are_those_of_the_scores_shown(monkeypatch):
    asked = register(monkeypatch, "sums", metric="pass@k", samples=10, k=10)
    ours = records("sums", [1.0] * 20) + 9 * records("sums", [0.0] * 20)
    theirs = 10 * records("sums", [0.0] * 20)
    found = suites([of_task(asked, {"A": ours, "B": theirs})], [("A", "B")])["development"]
    pair = subtracted(found)
    assert pair["difference"] == pytest.approx(1.0)
    assert pair["per_task"]["sums@test"]["mcnemar"]["only_a"] == 20


def test_the_interval_of_a_difference_knows_clusters():
    """Twenty passages of ten questions that stand or fall together tell as much as twenty questions."""
    ours, theirs = [float(i % 2) for i in range(20)], [float(i % 5 == 0) for i in range(20)]
    cluster = [str(i // 10) for i in range(200)]
    many = {
        label: with_fields(records("sums", [score for score in scores for _ in range(10)]), cluster=cluster)
        for label, scores in (("A", ours), ("B", theirs))
    }
    few = {"A": records("sums", ours), "B": records("sums", theirs)}
    pairs = [
        subtracted(suites([of_task(protocol("sums"), answers)], [("A", "B")])["development"]) for answers in (many, few)
    ]
    for name in ("difference", "low", "high", "bootstrap_low", "bootstrap_high"):
        assert pairs[0][name] == pytest.approx(pairs[1][name], abs=1e-9)


def test_a_component_counts_once_in_the_average_of_differences(monkeypatch):
    evaluations = [of_task(protocol("sums"), {"A": records("sums", [1.0, 1.0]), "B": records("sums", [0.0, 1.0])})]
    for task, score in (("first", 0.0), ("second", 1.0), ("third", 1.0)):
        asked = register(monkeypatch, task)
        answers = {"A": records(task, [1.0, 1.0]), "B": records(task, [score, score])}
        evaluations.append(of_task(asked, answers, within="safety"))
    pair = subtracted(suites(evaluations, [("A", "B")])["development"])
    assert pair["difference"] == pytest.approx((0.5 + 1 / 3) / 2)


def test_a_task_that_is_no_mean_of_its_instances_is_compared_by_its_figure(monkeypatch):
    def combine(own, _):
        mean = 0.3 if own[0]["score"] else 0.2
        return {"mean": mean, "low": mean - 0.03, "high": mean + 0.04}

    asked = register(monkeypatch, "sums", combine)
    answers = {"A": records("sums", [1.0, 1.0]), "B": records("sums", [0.0, 1.0])}
    found = suites([of_task(asked, answers, combine=combine)], [("A", "B")])
    pair = subtracted(found["development"])
    assert (pair["low"], pair["high"]) == pytest.approx((0.1 - 0.05, 0.1 + 0.05))
    assert "| sums@test | 2 | **+10.0 [+5.0, +15.0]** |  |  |" in render(report(suites=found))


def test_an_answer_that_could_not_be_judged_leaves_the_others_compared():
    asked = replace(protocol("sums"), judge="j")
    ours = records("sums", [1.0, 0.0]) + with_fields(
        records("sums", [0.0, 0.0, 0.0], outcome="left out")[2:], outcome=["left out"]
    )
    theirs = records("sums", [0.0, 1.0, 1.0])
    found = suites([of_task(asked, {"A": ours, "B": theirs})], [("A", "B")])
    figures = found["development"]["compare"][0]["per_task"]["sums@test"]
    assert (figures["n"], figures["left_out"], figures["difference"]) == (2, 1, 0.0)
    assert "- A − B leaves out 1 instances of sums@test" in render(report(suites=found))
    alone = suites(
        [of_task(asked, {"A": [r | {"outcome": "left out"} for r in ours[:2]] + theirs[2:], "B": ours})], [("A", "B")]
    )
    assert alone["development"]["compare"][0]["missing"] == ["sums@test"]


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
