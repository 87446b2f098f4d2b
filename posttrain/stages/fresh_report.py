"""Training refuses rows that were not checked against the evaluations, or were changed since."""

import json
from collections.abc import Mapping
from pathlib import Path

from posttrain.artifacts.hashing import digest_file
from posttrain.artifacts.store import Artifact
from posttrain.data.training_rows import data_file
from posttrain.decontamination.dataset import digest_of
from posttrain.errors import PosttrainError
from posttrain.evaluation.suites import SUITES
from posttrain.stages.suite_items import suite_items

REPORT = "decontamination.json"


def require_fresh_report(
    reference: str, path: Path, inputs: Mapping[str, Artifact], hub_mirror: Mapping[str, str]
) -> None:
    """Raises PosttrainError unless ``path``, which ``reference`` stands for, was checked as it is, with both suites.

    A mixture has its report beside its rows, of just these bytes; its key holds the evaluations. Pairs that a stage
    made have a mixture's prompts, for that stage asked the same. Any other file needs the report that
    `posttrain data decontaminate --out` writes, of these bytes and of the evaluations as they are now.
    """
    stage = inputs.get(reference.removeprefix("stage:").partition("/")[0]) if reference.startswith("stage:") else None
    kind = stage.manifest["kind"] if stage else None
    if kind == "preferences":
        return
    rows = data_file(path)
    report = rows.with_name(REPORT)
    if not report.is_file():
        why = "its mixture sets decontamination: null" if kind == "mixture" else f"no {REPORT} lies beside it"
        raise _refused(reference, f"was not checked against the evaluations ({why})")
    made_for = json.loads(report.read_text(encoding="utf-8"))
    if made_for.get("data_sha256") != digest_file(rows):
        raise _refused(reference, f"has changed since its {REPORT} was made")
    checked = made_for.get("suites", ())
    if missing := [name for name in SUITES if name not in checked]:
        raise _refused(reference, f"was not checked against the {' and '.join(missing)} suite")
    if kind == "mixture":
        return
    evaluations, _ = suite_items(checked, hub_mirror)
    if made_for.get("evaluations_sha256") != digest_of(evaluations):
        raise _refused(reference, "was checked against other evaluations than there are now")


def _refused(reference: str, fault: str) -> PosttrainError:
    return PosttrainError(
        f"data {reference} {fault}. Let it pass through a mixture stage, or make a checked copy with `posttrain data "
        'decontaminate FILE --out FOLDER`, or give the reason in the recipe: unchecked: "why".'
    )
