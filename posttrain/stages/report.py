"""The report of a run: report.json for programs, report.md for people."""

import json
from pathlib import Path
from typing import Any

from posttrain.artifacts.atomic import write_json, write_text
from posttrain.artifacts.jsonl import read_jsonl
from posttrain.evaluation.run import SCORES, records_file
from posttrain.evaluation.sealed import count_unsealings
from posttrain.report import markdown
from posttrain.report.lineage import decontamination, lineage, stage_figures
from posttrain.report.tables import Evaluated, suites
from posttrain.stages.base import StageContext

VERSION = 1


def run(context: StageContext) -> dict[str, Any]:
    settings = context.settings
    recipe = context.output.parent.parent
    folders = [context.resolve(reference) for reference in settings.evaluations]
    made = lineage(folders)
    checks = {stage: decontamination(folder) for stage, (folder, _) in made.items()}
    report = {
        "recipe": recipe.name,
        "seed": context.seed,
        "suites": suites([evaluated(folder) for folder in folders], settings.compare),
        "unsealed": count_unsealings([recipe, *(folder.parent.parent for folder in folders)]),
        "stages": {stage: stage_figures(manifest) for stage, (_, manifest) in made.items()},
        "decontamination": {stage: check for stage, check in checks.items() if check},
        "notes": list(settings.notes),
    }
    write_json(context.output / "report.json", report)
    write_text(context.output / "report.md", markdown.render(report))
    return {"rows": {}, "metrics": {"unsealed": report["unsealed"]}}


def evaluated(folder: Path) -> Evaluated:
    """An evaluation's scores and its records by model."""
    scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    records = {label: [row for _, row in read_jsonl(folder / records_file(label))] for label in scores["models"]}
    return Evaluated(scores, records)
