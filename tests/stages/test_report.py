"""The report stage: lineage, unsealings, decontamination and scores in one place."""

import json

from posttrain.artifacts.atomic import write_json
from posttrain.artifacts.jsonl import write_jsonl
from posttrain.artifacts.store import Artifact
from posttrain.evaluation.protocol import Decoding, Protocol
from posttrain.evaluation.run import SCORES, records_file
from posttrain.evaluation.scores import suite_average, task_score
from posttrain.evaluation.sealed import record_unsealing
from posttrain.recipe.schema import Report
from posttrain.stages import report
from posttrain.stages.base import StageContext

PROTOCOL = Protocol("nano_problems", "nano", "made up", "1", "test", "chat", Decoding(8), "exact_match", "strict")


class Quiet:
    def start(self, description, total, unit, done=0): ...

    def advance(self, amount=1, **shown): ...

    def note(self, message): ...


def artifact(runs, recipe, stage, kind, inputs=(), **manifest):
    folder = runs / recipe / stage / f"key-of-{stage}"
    made_from = {"inputs": {s: f"key-of-{s}" for s in inputs}, "references": {}, "settings": {}}
    given = {"seconds": 2.5, "rows": {}, "metrics": {}, **made_from, **manifest}
    write_json(folder / "manifest.json", {"stage": stage, "key": f"key-of-{stage}", "kind": kind, **given})
    return Artifact(stage, f"key-of-{stage}", folder)


def evaluation(runs, models):
    found = artifact(runs, "made-up", "development", "evaluate", inputs=("sft", "dpo"))
    scores = {}
    for label, values in models.items():
        records = [
            {
                "task": "nano_problems@nano",
                "id": str(i),
                "prompt": str(i),
                "outcome": "correct" if value else "wrong",
                "score": value,
                "finish_reason": "stop",
                "response_tokens": 1,
            }
            for i, value in enumerate(values)
        ]
        tasks = {"nano_problems@nano": task_score(PROTOCOL, records)}
        scores[label] = {"model": label, "note": "", "format": "chat", "tasks": tasks, "average": suite_average(tasks)}
        write_jsonl(found.path / records_file(label), records)
    write_json(found.path / SCORES, {"suite": "development", "limits": {}, "unsealed": None, "models": scores})
    return found


def test_the_report_leads_from_scores_to_every_stage_behind_them(tmp_path):
    runs = tmp_path / "runs"
    mixture = artifact(runs, "a-sibling", "mixture", "mixture", rows={"data": 90})  # made by another recipe, reused
    checked = {
        "source": "some-set",
        "profile": "paper",
        "rows": 100,
        "dropped_ids": ["r1"] * 10,
        "decision": {"action": "drop_rows", "reason": "over 2%"},
        "evaluations": [
            {"task": "development/sums", "items": 4, "overlapping": 2, "rate": 0.5, "contaminated": True}
            | {"pair_count": 0, "pairs": []},
            {
                "task": "development/facts",
                "items": 4,
                "overlapping": 0,
                "rate": 0.0,
                "contaminated": False,
                "pair_count": 0,
                "pairs": [],
            },
        ],
    }
    write_json(mixture.path / "decontamination.json", {"not_run": ["development/gsm8k"], "sources": [checked]})
    artifact(runs, "made-up", "sft", "sft", inputs=("mixture",), metrics={"trained_tokens": 1234, "loss": 0.5})
    artifact(runs, "made-up", "dpo", "dpo", inputs=("sft",), metrics={"trained_tokens": 567})
    scored = evaluation(runs, {"SFT": [1.0, 0.0, 0.0, 0.0], "DPO": [1.0, 1.0, 0.0, 0.0]})
    record_unsealing([runs / "made-up", runs / "a-sibling"], "final table", {"DPO": "w"}, ["t"], {})

    output = runs / "made-up" / "report" / ".building"
    output.mkdir(parents=True)
    settings = Report(
        kind="report", evaluations=("stage:development",), compare=(("DPO", "SFT"),), notes=("rule-based judge",)
    )
    report.run(StageContext("report", settings, {"development": scored}, output, tmp_path, Quiet(), 7, "cpu", {}))

    made = artifact(runs, "made-up", "report", "report", inputs=("development",))
    (output / report.TABLES).rename(made.path / report.TABLES)
    home = runs / "made-up"
    assert report.publish(made.path, home) == home / "report.md"

    found = json.loads((home / "report.json").read_text())
    assert (found["recipe"], found["seed"], found["unsealed"]) == ("made-up", 7, 1)
    assert list(found["stages"]) == ["mixture", "sft", "dpo", "development"]
    assert found["stages"]["sft"]["trained_tokens"] == 1234
    assert found["stages"]["sft"]["metrics"] == {"loss": 0.5}
    assert found["stages"]["mixture"]["rows"] == {"data": 90}
    assert found["decontamination"]["mixture"]["sources"][0]["dropped"] == 10
    assert list(found["decontamination"]["mixture"]["sources"][0]["overlaps"]) == ["development/sums"]
    assert found["suites"]["development"]["compare"][0]["difference"] == 0.25
    assert found["notes"] == ["rule-based judge"]
    answers = home / found["records"]["development"]["SFT"]
    assert answers.read_bytes() == (scored.path / records_file("SFT")).read_bytes()
    assert "rule-based judge" in (home / "report.html").read_text()
    page = (home / "report.md").read_text()
    assert page.startswith("# made-up")
    assert "rule-based judge" in page
    assert "looked at once" in page

    record_unsealing([home], "once more", {"SFT": "v"}, ["t"], {})
    report.publish(made.path, home)
    assert json.loads((home / "report.json").read_text())["unsealed"] == 2
