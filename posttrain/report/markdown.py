"""The report as Markdown: what `report.json` holds, for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OTHER_PROTOCOL = " †"  # marks a difference between models that were not asked in the same way


def render(report: Mapping[str, Any]) -> str:
    """The whole page. ``report`` is what report.json holds."""
    parts = [
        f"# {text(report['recipe'])}",
        f"Seed {report['seed']}. Scores in percent with 95 % intervals. The unseen suite was "
        f"{looked_at(report['unsealed'])} in this run.",
    ]
    for name, suite in report["suites"].items():
        parts += [f"## {name.capitalize()} suite", _scores(suite), *_listed(remarks(suite))]
        if suite["compare"]:
            parts += [
                "Paired differences on the same instances, in points. An interval without 0 is in bold; *p* is "
                "McNemar's exact test.",
                _differences(suite["compare"]),
                *_listed(remarks_on_differences(suite["compare"])),
            ]
    if report["stages"]:
        parts += ["## Stages", _stages(report["stages"])]
    if report["decontamination"]:
        parts += ["## Decontamination", _decontamination(report["decontamination"])]
    if report["notes"]:
        parts += ["## Notes", "\n".join(f"- {text(note)}" for note in report["notes"])]
    return "\n\n".join(parts) + "\n"


def _scores(suite: Mapping[str, Any]) -> str:
    labels = list(suite["average"])
    rows = []
    for task, by_label in suite["tasks"].items():
        n = sorted({score["n"] for score in by_label.values() if score["status"] == "scored"})
        rows.append([task, "–".join(map(str, n)) or "–", *(_cell(by_label.get(label)) for label in labels)])
    averages = [suite["average"][label] for label in labels]
    whole = all(not average["missing"] for average in averages)
    name = "**average**" if whole else "**average of the tasks that ran**"
    rows.append([name, "", *(interval(average) for average in averages)])
    return table(["task", "n", *labels], rows)


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "not asked"
    return interval(score) if score["status"] == "scored" else score["status"]


def interval(estimate: Mapping[str, Any]) -> str:
    if estimate["mean"] is None:
        return "–"
    return f"{_percent(estimate['mean'])} [{_percent(estimate['low'])}, {_percent(estimate['high'])}]"


def remarks(suite: Mapping[str, Any]) -> list[str]:
    """What a reader must know of these scores: how each model was asked, what did not run, what was cut."""
    lines = [f"{label}: {note}." for label, note in suite["notes"].items() if note]
    limits = {name: value for name, value in suite["limits"].items() if value is not None}
    if limits:
        lines.append(
            "Limits: " + ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in limits.items()) + "."
        )
    for task, by_label in suite["tasks"].items():
        for reason in {score["reason"]: None for score in by_label.values() if score["status"] != "scored"}:
            lines.append(f"{task}: {reason}.")
        for what, key in (
            ("prompts over the context, counted as wrong", "over_context"),
            ("answers cut at the limit", "cut_at_limit"),
        ):
            counts = [f"{label} {score[key]}" for label, score in by_label.items() if score.get(key)]
            if counts:
                lines.append(f"{task}: {what}: {', '.join(counts)}.")
    return lines


def _differences(compared: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for pair in compared:
        name = f"{pair['a']} − {pair['b']}"
        mark = "" if all(figures["same_protocol"] for figures in pair["per_task"].values()) else OTHER_PROTOCOL
        rows.append([name, f"average{mark}", str(pair["n"]), _signed(pair), _bootstrap(pair), ""])
        for task, figures in pair["per_task"].items():
            p = figures["mcnemar"]["p"] if figures["mcnemar"] else None
            shown = "" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"
            mark = "" if figures["same_protocol"] else OTHER_PROTOCOL
            rows.append(["", f"{task}{mark}", str(figures["n"]), _signed(figures), _bootstrap(figures), shown])
    return table(["models", "task", "n", "difference", "bootstrap", "*p*"], rows)


def remarks_on_differences(compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know of these differences: which also measure the way of asking, and what they leave out."""
    lines = [
        f"{pair['a']} − {pair['b']} leaves out, as only one of them was scored on it: {', '.join(pair['missing'])}."
        for pair in compared
        if pair["missing"]
    ]
    lines += [
        f"{pair['a']} − {pair['b']} leaves out {figures['left_out']} instances of {task}, not judged for both of them."
        for pair in compared
        for task, figures in pair["per_task"].items()
        if figures["left_out"]
    ]
    if any(not figures["same_protocol"] for pair in compared for figures in pair["per_task"].values()):
        lines.append(
            f"{OTHER_PROTOCOL.strip()} The two models were asked under different protocols: the difference is also one "
            "of how they were asked."
        )
    return lines


def _listed(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {text(line)}" for line in lines)] if lines else []


def _signed(figures: Mapping[str, Any]) -> str:
    if figures["difference"] is None:
        return "no shared task"
    low, high = figures["low"], figures["high"]
    shown = f"{100 * figures['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"**{shown}**" if low > 0 or high < 0 else shown


def _bootstrap(figures: Mapping[str, Any]) -> str:
    if figures.get("bootstrap_low") is None:
        return ""
    return f"[{100 * figures['bootstrap_low']:+.1f}, {100 * figures['bootstrap_high']:+.1f}]"


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, stage in stages.items():
        tokens = stage["trained_tokens"]
        rows.append(
            [
                name,
                stage["kind"],
                f"{stage['seconds']:,.0f}",
                "" if tokens is None else f"{tokens:,}",
                _figures(stage["rows"]),
                _figures(stage["metrics"]),
                stage["key"][:12],
            ]
        )
    return table(["stage", "kind", "seconds", "trained tokens", "rows", "metrics", "artifact"], rows)


def _decontamination(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for stage, check in found.items():
        for source in check["sources"]:
            overlaps = [f"{task} {of['overlapping']} of {of['items']} items" for task, of in source["overlaps"].items()]
            shown = [source["profile"], f"{source['rows']:,}", f"{source['dropped']:,}", ", ".join(overlaps) or "none"]
            rows.append([stage, source["source"], *shown, source["decision"]])
    listed = table(["stage", "source", "profile", "rows", "dropped", "overlapping evaluation items", "decision"], rows)
    return "\n\n".join(filter(None, (listed, not_checked(found.values()))))


def not_checked(found: Iterable[Mapping[str, Any]]) -> str:
    """The evaluations that some data was not checked against, in one sentence; "" where there are none."""
    missing = sorted({task for check in found for task in check["not_checked"]})
    return f"Not checked, for want of their data: {', '.join(missing)}." if missing else ""


def _figures(values: Mapping[str, Any]) -> str:
    """``name value`` of every number and short text, nested names joined by dots."""
    return ", ".join(f"{name} {_number(value)}" for name, value in flat(values) if isinstance(value, int | float | str))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested names joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _number(value: int | float | str) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def looked_at(count: int) -> str:
    return {0: "not looked at", 1: "looked at once", 2: "looked at twice"}.get(count, f"looked at {count} times")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    numeric = ["---"] * len(head)
    lines = [head, numeric, *rows]
    return "\n".join("| " + " | ".join(text(cell) for cell in line) + " |" for line in lines)


def text(value: str) -> str:
    """One line that breaks neither table nor page."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
