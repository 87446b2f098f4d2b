"""Turns a base language model into an assistant by the Tülu 3 recipe (arXiv 2411.15124), whole.

What the commands do, as calls: `run`, `verify`, `decontaminate`. Everything else is imported from its room.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # without typing, whose import is a tenth of the sandbox's cold start
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from posttrain.data.rows import Row
    from posttrain.decontamination.dataset import Decontaminated
    from posttrain.decontamination.profiles import ProfileName
    from posttrain.decontamination.report import Policy
    from posttrain.pipeline.runner import RunResult
    from posttrain.recipe.schema import Recipe
    from posttrain.verifiers.verdict import Verdict


def run(
    recipe: str | os.PathLike[str] | Recipe,
    overrides: Sequence[str] = (),
    *,
    runs: str | os.PathLike[str] = "runs",
    until: str | None = None,
) -> RunResult:
    """Runs a recipe (a file, or one made in Python) as ``posttrain run`` does; what is finished is not run again.

    ``overrides``: ``["scale=smoke", "stages.sft.epochs=1"]``, for a file. Raises PosttrainError for anything the caller
    can mend.
    """
    from posttrain.pipeline.runner import run_recipe
    from posttrain.recipe.load import load_recipe
    from posttrain.recipe.schema import Recipe

    if isinstance(recipe, Recipe):
        if overrides:
            raise TypeError("overrides are for recipe files; use recipe.model_copy(update=...) for one made in Python")
        return run_recipe(recipe, runs=runs, until=until)
    return run_recipe(load_recipe(recipe, overrides), runs=runs, until=until)


def verify(verifier: str, response: str, label: str, *, mode: str = "strict") -> Verdict:
    """The verdict of one verifier on one response, in this process. Raises PosttrainError for an unknown verifier."""
    from posttrain.verifiers import registry

    return registry.verify(verifier, response, label, mode=mode)


def decontaminate(
    prompts: Sequence[str | Sequence[str] | Row],
    evaluations: Mapping[str, Iterable[str | Sequence[str]]] | Sequence[str] = ("development", "unseen"),
    *,
    profile: ProfileName = "strict",
    policy: Policy = "drop_rows",
    item_threshold: float | None = None,
    set_threshold: float = 0.02,
    hub_mirror: Mapping[str, str] | None = None,
    processes: int = 1,
) -> Decontaminated:
    """Training prompts against evaluation prompts, by shared 8-grams (paper §3.2): ``kept``, ``report``, ``decision``.

    ``prompts``: texts, sequences of user turns, or rows. ``evaluations``: task → items, each a text or several that are
    scored apart; or names of suites, whose data sets that are not there (neither in ``hub_mirror`` nor on the hub) are
    left out. ``processes``: beyond one they are started by spawn, so a script needs ``if __name__ == "__main__"``.
    Raises PosttrainError for an unknown suite.
    """
    from collections.abc import Mapping

    from posttrain.decontamination.dataset import decontaminate as check
    from posttrain.decontamination.dataset import evaluation_items
    from posttrain.stages.suite_items import suite_items

    if isinstance(evaluations, Mapping):
        items = evaluation_items(evaluations)
    else:
        items, _ = suite_items(evaluations, hub_mirror or {})
    return check(
        prompts,
        items,
        profile=profile,
        policy=policy,
        item_threshold=item_threshold,
        set_threshold=set_threshold,
        processes=processes,
    )
