"""A set of variants of one recipe: what differs in each, on which seeds, and whose score is compared."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from posttrain.errors import PosttrainError
from posttrain.recipe.document import read_document
from posttrain.recipe.load import load_recipe
from posttrain.recipe.schema import Recipe, Strict

GIVEN = {"seed": "the set's `seeds`, or --seeds,", "name": "the set and the variant"}  # not for a variant to set


class Variant(Strict):
    """``set``: dotted overrides of the base. ``model``: the label that is scored, None for the set's."""

    set: dict[str, Any] = {}
    model: str | None = None
    against: str | None = None  # the variant it is compared with; None: the first
    source: str = ""  # where its settings are stated


class Ablation(Strict):
    """``base``: a recipe, relative to this file. ``evaluation``: its stage whose records are compared."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    base: str
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1)
    evaluation: str = "development"
    model: str
    variants: dict[str, Variant] = Field(min_length=1)


def load_ablation(path: str | PathLike[str]) -> Ablation:
    """Reads the file and loads every variant once, so that all faults show before anything runs."""
    path = Path(path)
    document = read_document(path)
    try:
        found = Ablation.model_validate({"name": path.stem} | document.values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        keys = tuple(fault["loc"])
        raise PosttrainError(f"{document.place(keys)}: {'.'.join(map(str, keys))}: {fault['msg']}.") from None
    base = path.parent / found.base if not Path(found.base).is_file() else Path(found.base)
    found = found.model_copy(update={"base": str(base)})
    for name, variant in found.variants.items():
        if variant.against is not None and variant.against not in found.variants:
            raise PosttrainError(f"{path}: variants.{name}.against: {variant.against} is no variant of this set.")
        for key in GIVEN.keys() & variant.set.keys():
            place = document.place(("variants", name, "set", key))
            raise PosttrainError(f"{place}: variants.{name}.set.{key}: {GIVEN[key]} decide the {key}. Leave it out.")
        variant_recipe(found, name, found.seeds[0])
    return found


def result_file(ablation: Ablation, recipe: Recipe, names: Sequence[str], seeds: Sequence[int]) -> Path:
    """Under the runs folder, without an ending. Neither another scale nor a selection replaces the whole set's table.

    ``recipe``: of any of its variants. Variants are named by their places in the file, from 1.
    """
    file = "ablation"
    if len(names) < len(ablation.variants):
        file += "-variants" + "".join(f"-{place}" for place, name in enumerate(ablation.variants, 1) if name in names)
    if sorted(seeds) != sorted(ablation.seeds):
        file += "-seeds" + "".join(f"-{seed}" for seed in sorted(seeds))
    return Path(_scaled_name(ablation, recipe), file)


def variant_recipe(ablation: Ablation, name: str, seed: int, overrides: Sequence[str] = ()) -> Recipe:
    """One variant on one seed. ``overrides``: of every variant, before its own, such as ``scale=smoke``.

    Its evaluation asks the one model that is compared, and nothing beyond it is run.
    """
    variant = ablation.variants[name]
    label = variant.model or ablation.model
    own = [f"{key}={_yaml(value)}" for key, value in variant.set.items()]
    recipe = load_recipe(ablation.base, [*overrides, *own, f"seed={seed}"])
    evaluation: Any = recipe.stages.get(ablation.evaluation)
    if evaluation is None or label not in getattr(evaluation, "models", {}):
        raise PosttrainError(f"{ablation.base}: it has no evaluation {ablation.evaluation} of a model {label!r}.")
    only = evaluation.model_copy(update={"models": {label: evaluation.models[label]}})
    stages = {stage: settings for stage, settings in recipe.stages.items() if settings.kind != "report"}
    plain = "".join(character if character.isalnum() else "-" for character in name.lower()).strip("-")
    name = f"{_scaled_name(ablation, recipe)}-{plain}-seed{seed}"
    return recipe.model_copy(update={"stages": stages | {ablation.evaluation: only}, "name": name})


def _scaled_name(ablation: Ablation, recipe: Recipe) -> str:
    return ablation.name if recipe.scale == "full" else f"{ablation.name}-{recipe.scale}"


def scored_stage(ablation: Ablation, name: str, recipe: Recipe) -> str:
    """The stage whose model a variant's score is of; the reference itself where that is no stage."""
    evaluation: Any = recipe.stages[ablation.evaluation]
    return evaluation.models[ablation.variants[name].model or ablation.model].removeprefix("stage:")


def _yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
