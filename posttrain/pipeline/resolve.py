"""What can be known to be wrong before anything runs."""

from collections.abc import Callable, Collection

from posttrain.errors import PosttrainError
from posttrain.pipeline.graph import Node
from posttrain.recipe.references import stages_of
from posttrain.recipe.schema import Recipe
from posttrain.stages.base import Stage
from posttrain.stages.names import check_names


def check(recipe: Recipe, names: Collection[str], load: Callable[[str], Stage]) -> None:
    """Checks the named stages: kinds, each stage module's own ``check``, the seal of the unseen suite.

    Every fault is collected; they are raised as one PosttrainError. That references lead somewhere is found while the
    keys are computed.
    """
    faults: list[str] = []
    for name in names:
        settings = recipe.stages[name]
        try:
            check_names(settings)
            own_check = getattr(load(settings.kind), "check", None)
            if own_check is not None:
                own_check(settings)
        except PosttrainError as error:
            faults.append(f"stages.{name}: {error}")
        faults += _broken_seal(recipe, name)
    if faults:
        raise PosttrainError("\n".join(faults))


def check_device(nodes: Collection[Node], device: str) -> None:
    """Asks each stage that is to run whether it can on ``device``; faults are raised as `check` raises them."""
    faults: list[str] = []
    for node in nodes:
        own_check = getattr(node.stage, "check_device", None)
        if node.artifact is not None or own_check is None:
            continue
        try:
            own_check(node.settings, device)
        except PosttrainError as error:
            faults.append(f"stages.{node.name}: {error}")
    if faults:
        raise PosttrainError("\n".join(faults))


def _broken_seal(recipe: Recipe, name: str) -> list[str]:
    """The unseen suite is opened with a reason, and nothing but a report may look at the result.

    That it is opened after all training needs no check: the order of stages sees to it.
    """
    settings = recipe.stages[name]
    if settings.kind != "evaluate" or settings.suite != "unseen":
        return []
    if not (settings.unseal or "").strip():
        return [f'stages.{name}: the unseen suite is sealed. Give the reason to open it: unseal: "final table".']
    faults = []
    for other, its_settings in recipe.stages.items():
        if name in stages_of(its_settings) and its_settings.kind != "report":
            faults.append(
                f"stages.{other}: refers to {name}, an evaluation on the unseen suite. "
                "Nothing but a report may use it: choose data and settings on the development suite."
            )
    return faults
