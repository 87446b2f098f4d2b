"""The report of a run: report.json for programs, report.md and report.html for people, every answer in records/."""

import json
from pathlib import Path
from typing import Any

from posttrain.artifacts.atomic import write_bytes, write_json, write_text
from posttrain.artifacts.jsonl import read_jsonl
from posttrain.artifacts.manifest import read_manifest
from posttrain.evaluation.run import SCORES, records_file
from posttrain.evaluation.sealed import count_unsealings
from posttrain.report import markdown
from posttrain.report.lineage import decontamination, lineage, stage_figures
from posttrain.report.page import write_page
from posttrain.report.tables import Evaluated, suites
from posttrain.stages.base import StageContext

VERSION = 3
TABLES, RECORDS = "tables.json", "records"


def run(context: StageContext) -> dict[str, Any]:
    """Makes tables.json: all of the report that its inputs decide."""
    settings = context.settings
    folders = [context.resolve(reference) for reference in settings.evaluations]
    made = lineage(folders)
    checks = {stage: decontamination(folder) for stage, (folder, _) in made.items()}
    tables = {
        "seed": context.seed,
        "suites": suites([evaluated(folder) for folder in folders], settings.compare),
        "stages": {stage: stage_figures(manifest) for stage, (_, manifest) in made.items()},
        "decontamination": {stage: check for stage, check in checks.items() if check},
        "notes": list(settings.notes),
    }
    write_json(context.output / TABLES, tables)
    return {"rows": {}, "metrics": {}}


def publish(artifact: Path, recipe: Path) -> Path:
    """Writes report.json, report.md, report.html and records/ to the top of the recipe's folder; returns report.md.

    Done at every run, also when the artifact stood before: what the tables do not hang on, the recipe's name and how
    often the unseen suite was looked at, may have changed.
    """
    evaluations = [folder for folder, manifest in lineage([artifact]).values() if manifest["kind"] == "evaluate"]
    answers: dict[str, dict[str, str]] = {}
    for folder in evaluations:
        stage = read_manifest(folder)["stage"]
        for label in json.loads((folder / SCORES).read_text(encoding="utf-8"))["models"]:
            copy = Path(RECORDS, stage, records_file(label))
            write_bytes(recipe / copy, (folder / records_file(label)).read_bytes())
            answers.setdefault(stage, {})[label] = copy.as_posix()
    published = {recipe / copy for of_stage in answers.values() for copy in of_stage.values()}
    for stale in set((recipe / RECORDS).rglob("*.jsonl")) - published:  # of a model that the recipe no longer asks
        stale.unlink()
    report = {
        "recipe": recipe.name,
        "unsealed": count_unsealings([recipe, *(folder.parent.parent for folder in evaluations)]),
        **json.loads((artifact / TABLES).read_text(encoding="utf-8")),
        "records": answers,
    }
    write_json(recipe / "report.json", report)
    write_text(recipe / "report.md", markdown.render(report))
    write_page(recipe)
    return recipe / "report.md"


def evaluated(folder: Path) -> Evaluated:
    """An evaluation's scores and its records by model."""
    scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    records = {label: [row for _, row in read_jsonl(folder / records_file(label))] for label in scores["models"]}
    return Evaluated(scores, records)
