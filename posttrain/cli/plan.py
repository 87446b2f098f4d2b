"""What a run would do, and what it did, as text."""

from collections.abc import Sequence

from posttrain.cli.columns import table
from posttrain.pipeline.graph import Node
from posttrain.pipeline.progress import duration
from posttrain.pipeline.runner import RunResult, device_of, threads_of
from posttrain.recipe.schema import Recipe


def describe_plan(recipe: Recipe, nodes: Sequence[Node]) -> str:
    """The stage graph in running order: state, key, inputs."""
    rows = [("stage", "kind", "state", "key", "needs")]
    for node in nodes:
        state = "done" if node.artifact else "would go on" if node.started else "would run"
        rows.append((node.name, node.settings.kind, state, node.key, ", ".join(node.needs) or "-"))
    waiting = sum(node.artifact is None for node in nodes)
    where = f"device {device_of(recipe)}, {threads_of(recipe)} threads"
    return "\n".join(
        [
            f"recipe {recipe.name}, seed {recipe.seed}, scale {recipe.scale}, {where}",
            *table(rows),
            f"{len(nodes) - waiting} of {len(nodes)} stages are done, {waiting} would run.",
        ]
    )


def describe_result(result: RunResult, seconds: float) -> str:
    """The stages with their seconds, and where the report is."""
    rows = [("stage", "kind", "seconds", "")]
    for name, stage in result.stages.items():
        rows.append((name, stage.kind, f"{stage.seconds:.1f}", "ran" if stage.ran else "done before"))
    ran = sum(stage.ran for stage in result.stages.values())
    lines = ["", *table(rows), f"{ran} of {len(result.stages)} stages ran, {duration(seconds)} in all."]
    if result.report is not None:
        lines.append(f"report: {result.report} (and {result.report.with_suffix('.json').name} beside it)")
    return "\n".join(lines)
