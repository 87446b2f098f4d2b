"""The card of an exported model: what it was made of, how it did, how often the sealed suite was opened, its limits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.artifacts.hub import looks_like_hub_id
from posttrain.artifacts.manifest import read_manifest
from posttrain.evaluation.sealed import count_unsealings
from posttrain.report.lineage import artifact_folder, decontamination, lineage
from posttrain.report.markdown import interval, looked_at, not_checked, table, text
from posttrain.report.published import read_report

FILES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".gz", ".zst")
LIMITS = (
    "It can state falsehoods with confidence, and repeat what is wrong or unfair in the data above.",
    "The scores above are of the suites named; they say nothing of other tasks, languages or prompts.",
    "What no verifier checks was not rewarded: style and honesty were only trained by examples.",
)


def model_card(name: str, model: Path, intended: str) -> str:
    """The README.md of a model that a run made. ``model``: its artifact's folder. ``intended``: one sentence."""
    made = lineage([model])
    folder, manifest = list(made.values())[-1]
    run = folder.parent.parent
    base = _base(made, manifest)
    parts = [
        _front(base, made),
        f"# {text(name)}",
        f"Made by posttrain (after [Tülu 3](https://arxiv.org/abs/2411.15124)), recipe `{run.name}`, "
        f"stage `{manifest['stage']}`, "
        f"artifact `{manifest['key']}`, seed {manifest['seed']}, from {text(_shown(base)) or 'nothing'}.",
        "## Intended use",
        text(intended),
        "## Training",
        table(["stage", "kind", "trained tokens", "learning rate", "artifact"], _training(made)),
        "## Data",
        table(["stage", "source", "rows", "licences"], _sources(made)),
        "A mixture's licence is that of its strictest part. Read each part's own before use.",
        "## Contamination",
        _contamination(made),
        "## Results",
        *_results(run, manifest["key"]),
        "## Limits",
        "\n".join(f"- {limit}" for limit in LIMITS),
    ]
    return "\n\n".join(parts) + "\n"


def _base(made: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The model outside of the run that the training began with, "" where it began with none."""
    while (reference := manifest["settings"].get("model") or "").startswith("stage:"):
        _, manifest = made[reference.removeprefix("stage:").partition("/")[0]]
    return reference


def _front(base: str, made: Mapping[str, Any]) -> str:
    """The block that the hub reads."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "license: other", "tags: [posttrain]"]
    if _on_hub(base):
        lines.append(f"base_model: {json.dumps(base)}")
    if sets := sorted({source["source"] for _, source in _mixtures(made) if _on_hub(source["source"])}):
        lines.append(f"datasets: {json.dumps(sets)}")
    return "\n".join(["---", *lines, "---"])


def _on_hub(reference: str) -> bool:
    local = reference.endswith(FILES) or Path(reference).expanduser().exists()  # a run would take that first
    return looks_like_hub_id(reference) and not local


def _shown(reference: str) -> str:
    """What others may know of it: of a place on this machine its last part alone."""
    return reference if _on_hub(reference) or reference.startswith("stage:") else Path(reference).name


def _mixtures(made: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = []
    for stage, (folder, _) in made.items():
        if (folder / "mixture.json").is_file():
            mixture = json.loads((folder / "mixture.json").read_text(encoding="utf-8"))
            found += [(stage, source) for source in mixture["sources"]]
    return found


def _training(made: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for stage, (_, manifest) in made.items():
        if (rate := manifest["settings"].get("learning_rate")) is not None:
            tokens = manifest["metrics"].get("trained_tokens")
            rows.append([stage, manifest["kind"], f"{tokens:,}" if tokens else "–", f"{rate:g}", manifest["key"][:12]])
    return rows


def _sources(made: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for stage, source in _mixtures(made):
        licences = ", ".join(f"{name} ({count:,})" for name, count in source.get("licences", {}).items())
        rows.append([stage, _shown(source["source"]), f"{source['used']:,}", licences or "not recorded"])
    return rows


def _contamination(made: Mapping[str, Any]) -> str:
    checks = {stage: check for stage, (folder, _) in made.items() if (check := decontamination(folder))}
    if not checks:
        return "The training data was not checked against any evaluation."
    lines = []
    for stage, check in checks.items():
        for source in check["sources"]:
            overlaps = [f"{task} {of['overlapping']} of {of['items']}" for task, of in source["overlaps"].items()]
            found = (
                f"overlaps with {', '.join(overlaps)}" if overlaps else "no overlap with what it was checked against"
            )
            lines.append(f"- {stage}, {text(_shown(source['source']))}: {found}; {source['dropped']:,} rows left out.")
    unchecked = dict.fromkeys(stage for stage, _ in _mixtures(made) if stage not in checks)
    lines += [f"- {stage}: not checked against any evaluation." for stage in unchecked]
    return "\n\n".join(filter(None, ("\n".join(lines), not_checked(checks.values()))))


def _results(run: Path, key: str) -> list[str]:
    """Scores of this artifact in the run's report, whatever its label there."""
    peeks = f"The unseen suite was {looked_at(count_unsealings([run]))} in this run."
    if not (run / "report.json").is_file():
        return ["No evaluation of it is recorded in its run.", peeks]
    report, found = read_report(run), []
    for suite, of_suite in report["suites"].items():
        labels = [label for label in of_suite["average"] if _made(run, report, label) == key]
        for label in labels[:1]:
            rows = [
                [task, str(by[label]["n"]), interval(by[label])]
                if by[label]["status"] == "scored"
                else [task, "–", by[label]["status"]]
                for task, by in of_suite["tasks"].items()
                if label in by
            ]
            rows.append(["**average**", "", interval(of_suite["average"][label])])
            found += [
                f"{suite.capitalize()} suite, in percent, with 95 % intervals:",
                table(["task", "n", "score"], rows),
            ]
    return [*(found or ["No evaluation of it is recorded in its run's report."]), peeks]


def _made(run: Path, report: Mapping[str, Any], label: str) -> str | None:
    """The key of the artifact that a label of the report stands for."""
    for stage, figures in report["stages"].items():
        if figures["kind"] == "evaluate":
            manifest = read_manifest(artifact_folder(run, stage, figures["key"]))
            reference = manifest["settings"].get("models", {}).get(label, "")
            if isinstance(reference, str) and reference.startswith("stage:"):  # else a model behind a server
                return manifest["inputs"].get(reference.removeprefix("stage:"))
    return None
