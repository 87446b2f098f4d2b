"""What a run shows for itself: its report, and the artifacts that stand for its stages, wherever they were made."""

import json
from pathlib import Path
from typing import Any

from posttrain.artifacts.manifest import NAME as MANIFEST
from posttrain.artifacts.manifest import read_manifest
from posttrain.errors import PosttrainError
from posttrain.report.lineage import artifact_folder


def report_file(run: Path, name: str) -> Path:
    """report.json or report.md of a run. Raises PosttrainError where it is not there."""
    if not run.is_dir():
        raise PosttrainError(f"{run}: no such folder. A run's folder is runs/<recipe name>.")
    if not (run / name).is_file():
        raise PosttrainError(f"{run / name}: this run has no report yet. Finish it with `posttrain run RECIPE`.")
    return run / name


def read_report(run: Path) -> dict[str, Any]:
    """What a run's report.json holds. Raises PosttrainError where it is not there or damaged."""
    path = report_file(run, "report.json")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or "stages" not in report:
            raise ValueError("no report's JSON")
    except ValueError as error:
        raise PosttrainError(f"{path}: damaged ({error}). `posttrain run RECIPE` writes it anew.") from error
    return report


def artifacts_of(run: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Stage → (folder, manifest) in the order of their making: of the latest artifact in a run's folder, or else of the
    one that its report names, which a sibling recipe may have made."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in run.glob(f"*/*/{MANIFEST}"):
        manifest, stage = read_manifest(path.parent), path.parent.parent.name
        if stage not in found or manifest["started"] > found[stage][1]["started"]:
            found[stage] = path.parent, manifest
    if (run / "report.json").is_file():
        for stage, figures in read_report(run)["stages"].items():
            folder = artifact_folder(run, stage, figures["key"])
            if stage not in found and (folder / MANIFEST).is_file():
                found[stage] = folder, read_manifest(folder)
    return dict(sorted(found.items(), key=lambda item: item[1][1]["started"]))
