"""One HTML file that shows a whole run, opens without a network, and never runs what a model wrote."""

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from posttrain.artifacts.atomic import write_text
from posttrain.artifacts.jsonl import read_jsonl
from posttrain.report.curves import HEIGHT, WIDTH, curves
from posttrain.report.graph import BOX, graph
from posttrain.report.graph import HEIGHT as BOX_HEIGHT
from posttrain.report.instances import Instances
from posttrain.report.lineage import artifact_folder, lineage
from posttrain.report.markdown import OTHER_PROTOCOL, flat, looked_at, not_checked, remarks, remarks_on_differences
from posttrain.report.matches import overlaps, wanted_prompts
from posttrain.report.published import read_report

NAME = "report.html"
HERE = Path(__file__).parent
PAIRS = 60  # preference rows that are shown of a stage


def write_page(run: Path) -> Path:
    """Writes report.html into a run's folder, from its report.json and the artifacts behind it; returns its path.

    Raises PosttrainError for a folder without a whole report, and for one whose artifacts are gone.
    """
    report = read_report(run)
    folders = [artifact_folder(run, stage, figures["key"]) for stage, figures in report["stages"].items()]
    write_text(run / NAME, render(report, run, lineage(folders)))
    return run / NAME


def render(report: Mapping[str, Any], run: Path, made: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> str:
    """The page. ``report``: what report.json holds. ``made``: stage → (folder, manifest), inputs before their users."""
    folders = {stage: folder for stage, (folder, _) in made.items()}
    instances = Instances(pair for folder in folders.values() for pair in wanted_prompts(folder))
    for stage, records in report["records"].items():
        scores = json.loads((folders[stage] / "scores.json").read_text(encoding="utf-8"))
        instances.add(scores["suite"], {label: run / file for label, file in records.items()})
    drawn = {stage: curves(folder / "metrics.jsonl") for stage, folder in folders.items()}
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return _template().render(
        report=report,
        made=made,
        other_protocol=OTHER_PROTOCOL,
        curves={stage: found for stage, found in drawn.items() if found},
        box=(WIDTH, HEIGHT),
        mixtures={stage: mixture for stage, folder in folders.items() if (mixture := _mixture(folder))},
        overlaps=[found for stage, folder in folders.items() for found in overlaps(stage, folder, instances.prompts)],
        not_checked=not_checked(report["decontamination"].values()),
        pairs={stage: rows for stage, folder in folders.items() if (rows := _pairs(folder))},
        graph=_graph(made),
        graph_box=(BOX, BOX_HEIGHT),
        index=_json({"tasks": instances.index, "compare": _first_pairs(report)}),
        blocks=instances.blocks,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    environment.filters |= {"percent": _percent, "signed": _signed, "figure": _figure, "flat": flat}
    environment.filters |= {
        "breakable": _breakable,
        "looked_at": looked_at,
        "remarks": remarks,
        "difference_remarks": remarks_on_differences,
    }
    return environment.get_template("page.html")


def _first_pairs(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """suite → the two models that stand beside each other at first: those of the suite's first comparison."""
    first = {name: suite["compare"][0] for name, suite in report["suites"].items() if suite["compare"]}
    return {name: [pair["b"], pair["a"]] for name, pair in first.items()}


def _graph(made: Mapping[str, tuple[Path, Mapping[str, Any]]]):
    manifests = {stage: manifest for stage, (_, manifest) in made.items()}
    return graph(
        {stage: manifest["kind"] for stage, manifest in manifests.items()},
        {stage: list(manifest["inputs"]) for stage, manifest in manifests.items()},
        {stage: list(manifest["references"]) for stage, manifest in manifests.items()},
    )


def _mixture(folder: Path) -> dict[str, Any] | None:
    """What a mixture is made of, with a histogram of its rows' lengths over all sources; None for another artifact."""
    path = folder / "mixture.json"
    if not path.is_file():
        return None
    mixture = json.loads(path.read_text(encoding="utf-8"))
    unit, bins = "characters", {}
    for source in mixture["sources"]:
        lengths = source.get("lengths") or {}
        unit = "tokens" if "tokens" in lengths else unit
        for name, count in lengths.get(unit, {}).get("histogram", {}).items():
            bins[name] = bins.get(name, 0) + count
    ordered = dict(sorted(bins.items(), key=lambda item: int(item[0][1:])))
    return mixture | {"unit": unit, "histogram": ordered}


def _pairs(folder: Path) -> list[Mapping[str, Any]]:
    """The first preference rows of an artifact that holds some."""
    path = folder / "data.jsonl"
    if not path.is_file():
        return []
    return [row for _, row in itertools.islice(read_jsonl(path), PAIRS) if "chosen" in row and "rejected" in row]


def _json(value: Any) -> str:
    """JSON that no text in it can end the script element around it with."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _breakable(name: str) -> markupsafe.Markup:
    """A name that may be broken after its punctuation, never inside of a word."""
    return markupsafe.Markup(re.sub(r"([_@/])", r"\1<wbr>", str(markupsafe.escape(name))))


def _figure(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:,.4g}".replace("-", "−")
    return f"{value:,}" if isinstance(value, int) else str(value)
