"""The plan of a run: every stage with its key, what it waits for, and whether it is already done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.artifacts.store import Artifact, Store
from posttrain.errors import PosttrainError
from posttrain.pipeline.keys import stage_key
from posttrain.recipe.faults import nearest
from posttrain.recipe.references import order, stages_of, waits_for
from posttrain.recipe.schema import Recipe
from posttrain.stages.base import Stage


@dataclass(frozen=True)
class Node:
    """One stage of a plan. ``artifact`` is what an earlier run left, None when the stage has to run."""

    name: str
    settings: Any
    stage: Stage
    needs: tuple[str, ...]
    key: str
    identities: Mapping[str, str]  # what the references that are no stages stood for
    artifact: Artifact | None
    started: bool  # an unfinished attempt left checkpoints


def wanted(recipe: Recipe, until: str | None) -> list[str]:
    """Stage names in running order; with ``until``, that stage and what it needs, nothing else."""
    names = order(recipe.stages)
    if until is None:
        return names
    if until not in recipe.stages:
        close = nearest(until, names)
        raise PosttrainError(f"--until {until}: no such stage in {recipe.name}. {close}Stages: {', '.join(names)}.")
    needed = {until} | needed_by(recipe, until)
    return [name for name in names if name in needed]


def needed_by(recipe: Recipe, name: str) -> set[str]:
    """Every stage that must be finished before ``name`` can run."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        for needed in waits_for(recipe.stages, ahead.pop()):
            if needed not in found:
                found.add(needed)
                ahead.append(needed)
    return found


def plan(
    recipe: Recipe,
    store: Store,
    load: Callable[[str], Stage],
    *,
    until: str | None = None,
    device: str,
    threads: int,
) -> list[Node]:
    """Computes every key without running anything. ``load`` gives the stage module of a kind."""
    nodes: list[Node] = []
    keys: dict[str, str] = {}
    for name in wanted(recipe, until):
        settings = recipe.stages[name]
        stage = load(settings.kind)
        try:
            key, identities = stage_key(
                settings,
                version=stage.VERSION,
                input_keys=keys,
                hub_mirror=recipe.hub_mirror,
                seed=recipe.seed,
                device=device,
                threads=threads,
            )
        except PosttrainError as error:
            raise PosttrainError(f"stages.{name}: {error}") from error
        keys[name] = key
        artifact, started = store.find(name, key), store.has_checkpoints(name, key)
        nodes.append(Node(name, settings, stage, tuple(stages_of(settings)), key, identities, artifact, started))
    return nodes
