"""Runs a recipe: finished stages are skipped, the others run in order, an interrupted one goes on."""

import datetime
import gc
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.artifacts.manifest import hardware, package_versions
from posttrain.artifacts.store import Artifact, Building, Store
from posttrain.errors import PosttrainError
from posttrain.pipeline.failures import explained
from posttrain.pipeline.graph import Node, plan, wanted
from posttrain.pipeline.launch import Crew, Shared, crew, local_ranks, scratch_output
from posttrain.pipeline.progress import Display, Silent, display, duration
from posttrain.pipeline.resolve import check, check_device
from posttrain.recipe.schema import Recipe
from posttrain.stages import load_stage
from posttrain.stages.base import Stage, StageContext


@dataclass(frozen=True)
class Finished:
    """One stage of a finished run. ``seconds`` is what it took when it ran, now or earlier."""

    artifact: Artifact
    kind: str
    seconds: float
    ran: bool


@dataclass(frozen=True)
class RunResult:
    """A finished run. ``report``: the Markdown report, None for a recipe (or a part of one) without a report stage."""

    stages: Mapping[str, Finished]
    report: Path | None


def run_recipe(
    recipe: Recipe,
    *,
    runs: str | os.PathLike[str] = "runs",
    until: str | None = None,
    stages: Mapping[str, Stage] | None = None,
    progress: Display | None = None,
) -> RunResult:
    """Brings every stage (or ``until`` and what it needs) to a finished artifact under ``runs/<recipe>/``.

    ``stages``: kind → module in place of the shipped ones. Raises PosttrainError for whatever its user can mend; any
    other exception is a defect and passes. Whenever it stops, the same call goes on from there. Under torchrun every
    rank calls it and training stages are shared (`pipeline.launch`).
    """
    ranks = crew()
    if ranks is not None and ranks.rank > 0:
        _follow(ranks, recipe, _loader(stages))
        nodes, _ = plan_recipe(recipe, runs=runs, until=until, stages=stages)
        made = [(node, node.artifact) for node in nodes if node.artifact is not None]
        return RunResult(
            {n.name: Finished(a, n.settings.kind, a.manifest["seconds"], ran=False) for n, a in made}, None
        )
    shown = progress or display()
    nodes, store = plan_recipe(recipe, runs=runs, until=until, stages=stages)
    device, threads = device_of(recipe), threads_of(recipe)
    check_device(nodes, device)  # not when it is planned: that may be on another machine
    _set_threads(threads)
    finished: dict[str, Finished] = {}
    for number, node in enumerate(nodes, 1):
        title = f"[{number}/{len(nodes)}] {node.name} ({node.settings.kind})"
        if node.artifact is not None:
            store.drop_checkpoints(node.name, node.key)
            seconds = node.artifact.manifest["seconds"]
            shown.note(f"{title}: done before ({duration(seconds)})")
            finished[node.name] = Finished(node.artifact, node.settings.kind, seconds, ran=False)
            continue
        shown.note(f"{title}: {'goes on' if node.started else 'runs'}")
        inputs = {name: finished[name].artifact for name in node.needs}
        try:
            finished[node.name] = _run_stage(node, recipe, store, inputs, shown, device, threads, ranks)
        except OSError as error:  # outside the stage's own work: a folder or a lock that could not be written
            raise explained(error, node.name, node.settings, store.folder) or error from error
        finally:
            shown.close()
        shown.note(f"{title}: finished in {duration(finished[node.name].seconds)}")
        gc.collect()  # models of one stage must not outlive it
    report = None
    for node in nodes:
        if hasattr(node.stage, "publish"):
            report = node.stage.publish(finished[node.name].artifact.path, store.folder)
    if ranks is not None:
        ranks.call(None)
    return RunResult(finished, report)


def plan_recipe(
    recipe: Recipe,
    *,
    runs: str | os.PathLike[str] = "runs",
    until: str | None = None,
    stages: Mapping[str, Stage] | None = None,
) -> tuple[list[Node], Store]:
    """Checks the recipe and says what would run; nothing is written."""
    load = _loader(stages)
    store = Store(runs, recipe.name)
    check(recipe, wanted(recipe, until), load)
    return plan(recipe, store, load, until=until, device=device_of(recipe), threads=threads_of(recipe)), store


def device_of(recipe: Recipe) -> str:
    """``cpu`` or ``cuda``; ``auto`` takes what is there. Asking for an absent GPU raises PosttrainError."""
    if recipe.device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if recipe.device == "cuda":
        raise PosttrainError("device: cuda: torch sees no CUDA device here. Use --set device=cpu or device=auto.")
    return "cpu"


def threads_of(recipe: Recipe) -> int:
    """CPU threads: the recipe's number, else every core this process may use."""
    if recipe.threads is not None:
        return recipe.threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _loader(stages: Mapping[str, Stage] | None) -> Callable[[str], Stage]:
    if stages is None:
        return load_stage

    def load(kind: str) -> Stage:
        if kind not in stages:
            raise PosttrainError(f"{kind}: no such kind of stage. There are: {', '.join(stages)}.")
        return stages[kind]

    return load


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(max(1, threads // local_ranks()))


def _follow(ranks: Crew, recipe: Recipe, load: Callable[[str], Stage]) -> None:
    """What a rank other than the first does: its part of every shared stage, until rank 0 is done."""
    device = device_of(recipe)
    _set_threads(threads_of(recipe))
    while shared := ranks.called():
        settings = recipe.stages[shared.stage]
        with ranks.together(device), scratch_output() as output:
            context = StageContext(
                name=shared.stage,
                settings=settings,
                inputs=shared.inputs,
                output=output,
                checkpoints=shared.checkpoints,
                progress=Silent(),
                seed=recipe.seed,
                device=device,
                hub_mirror=recipe.hub_mirror,
            )
            load(settings.kind).run(context)
        gc.collect()


def _run_stage(
    node: Node,
    recipe: Recipe,
    store: Store,
    inputs: Mapping[str, Artifact],
    shown: Display,
    device: str,
    threads: int,
    ranks: Crew | None,
) -> Finished:
    with store.build(node.name, node.key) as building:
        meanwhile = store.find(node.name, node.key)
        if meanwhile is not None:  # another process finished it between our plan and our lock
            return Finished(meanwhile, node.settings.kind, meanwhile.manifest["seconds"], ran=False)
        started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
        shared_by = ranks if getattr(node.stage, "RANKS", False) else None
        if shared_by:
            shared_by.call(Shared(node.name, inputs, building.checkpoints.absolute()))
        with shared_by.together(device) if shared_by else nullcontext():
            told = _told(node, recipe, building, inputs, shown, device)
        seconds = round(time.monotonic() - clock, 3)
        manifest = {
            "kind": node.settings.kind,
            "version": node.stage.VERSION,
            "settings": node.settings.model_dump(mode="json"),
            "inputs": {name: artifact.key for name, artifact in inputs.items()},
            "references": dict(node.identities),
            "seed": recipe.seed,
            "started": started.isoformat(timespec="seconds"),
            "seconds": seconds,
            "hardware": {**hardware(device, threads), "ranks": shared_by.size if shared_by else 1},
            "packages": package_versions(),
            "rows": told.get("rows", {}),
            "metrics": told.get("metrics", {}),
        }
        artifact = store.finish(building, manifest)
    return Finished(artifact, node.settings.kind, seconds, ran=True)


def _told(
    node: Node, recipe: Recipe, building: Building, inputs: Mapping[str, Artifact], shown: Display, device: str
) -> dict[str, Any]:
    context = StageContext(
        name=node.name,
        settings=node.settings,
        inputs=inputs,
        output=building.output,
        checkpoints=building.checkpoints,
        progress=shown,
        seed=recipe.seed,
        device=device,
        hub_mirror=recipe.hub_mirror,
    )
    try:
        return node.stage.run(context) or {}
    except PosttrainError as error:
        raise PosttrainError(f"stage {node.name}: {error}") from error
    except (OSError, MemoryError, RuntimeError, ValueError) as error:  # what libraries make of a full disk or memory
        clear = explained(error, node.name, node.settings, building.output)
        if clear is None:
            raise
        raise clear from error
