"""A recipe from YAML: inheritance, scales and overrides, then types. Every fault names its file, line and key."""

import copy
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from posttrain.errors import PosttrainError
from posttrain.recipe.document import Document, Keys, read_document, read_value
from posttrain.recipe.faults import describe, nearest
from posttrain.recipe.references import Cycle, order, references
from posttrain.recipe.schema import Evaluate, Recipe

_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def load_recipe(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe with all that it extends.

    A stage with ``like: other`` takes that stage's settings, as they stand in the end, and puts its own over them.
    ``overrides``: ``stages.sft.epochs=1``, ``seed=2``, ``scale=smoke``; values are YAML. Precedence, rising: the file
    that is extended, the file, the block of ``scales`` that ``scale`` names, ``overrides``. Another scale, and a seed
    among the overrides, become part of the recipe's name: each has its own folder and report; equal stages are shared.
    Raises PosttrainError with one line for every fault found.
    """
    document = _inherited(Path(path), ())
    given = [_override(text) for text in overrides]
    _apply(document, given)
    scale = document.values.get("scale", "full")
    scales = document.values.get("scales") or {}
    if isinstance(scales, dict) and isinstance(scale, str):
        if scale != "full" and scale not in scales:
            known = ["full", *scales]
            raise PosttrainError(
                f"{document.place(('scale',))}: scale: {scale}: this recipe has no such scale. "
                f"{nearest(scale, known)}There are: {', '.join(known)}."
            )
        block = scales.get(scale)
        if isinstance(block, dict):
            _apply(document, [_scaled(document, scale, dotted, value) for dotted, value in block.items()])
            _apply(document, given)
    _copy_alike(document)
    recipe = _typed(document)
    if recipe.scale != "full":  # never under the name of the full run: it would replace its report
        recipe = recipe.model_copy(update={"name": f"{recipe.name}-{recipe.scale}"})
    if any(keys == ("seed",) for keys, _, _ in given):
        recipe = recipe.model_copy(update={"name": f"{recipe.name}-seed{recipe.seed}"})
    return recipe


def validate_scales(path: str | PathLike[str], overrides: Sequence[str] = ()) -> list[str]:
    """Loads the recipe at full scale and at each of its scales; returns their names. Raises PosttrainError."""
    names = ["full", *load_recipe(path, [*overrides, "scale=full"]).scales]
    for name in names[1:]:
        load_recipe(path, [*overrides, f"scale={name}"])
    return names


def _inherited(path: Path, below: tuple[Path, ...]) -> Document:
    document = read_document(path)
    resolved = path.resolve()
    if resolved in below:
        way = " → ".join(p.name for p in (*below, resolved))
        raise PosttrainError(f"{document.place(('extends',))}: extends goes in a circle: {way}.")
    own_name = document.values.get("name", path.stem)
    document.places.setdefault(("name",), f"{path}:1")
    base = document.values.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise PosttrainError(f"{document.place(('extends',))}: extends: one file name is wanted, not {base!r}.")
        # "./other.yaml" was made relative to the working directory when it was read, "other.yaml" was not.
        other = next((found for found in (path.parent / base, Path(base)) if found.is_file()), None)
        if other is None:
            raise PosttrainError(f"{document.place(('extends',))}: extends: {path.parent / base}: no such file.")
        document = _merged(_inherited(other, (*below, resolved)), document)
    document.values["name"] = own_name  # never inherited: two recipes under one name would share their report
    return document


def _merged(base: Document, over: Document) -> Document:
    result = Document(copy.deepcopy(base.values), dict(base.places))
    _merge_into(result, over, result.values, over.values, ())
    return result


def _merge_into(result: Document, over: Document, old: dict[str, Any], new: Mapping[str, Any], keys: Keys) -> None:
    for key, value in new.items():
        here = (*keys, key)
        removes = value is None and keys in (("stages",), ("hub_mirror",))
        if removes:
            old.pop(key, None)
            result.forget(here)
            continue
        if isinstance(value, dict) and isinstance(old.get(key), dict) and not _other_kind(here, old[key], value):
            result.places[here] = over.place(here)
            _merge_into(result, over, old[key], value, here)
            continue
        result.forget(here)
        result.places.update({known: place for known, place in over.places.items() if known[: len(here)] == here})
        old[key] = copy.deepcopy(value)


def _other_kind(keys: Keys, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """A stage that changes its kind replaces the old one whole: the settings of one kind mean nothing to another."""
    return len(keys) == 2 and keys[0] == "stages" and "kind" in new and new["kind"] != old.get("kind")


_Assignment = tuple[Keys, Any, str]  # the way, the value, the place to name in errors


def _override(text: str) -> _Assignment:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise PosttrainError(f"--set {text}: write key=value, for example --set stages.sft.epochs=1.")
    place = f"--set {text}"
    return _keys(dotted.strip()), read_value(value, place), place


def _scaled(document: Document, scale: str, dotted: str, value: Any) -> _Assignment:
    return _keys(dotted), value, document.place(("scales", scale, dotted))


def _keys(dotted: str) -> Keys:
    top, _, rest = dotted.partition(".")
    if top == "hub_mirror" and rest:
        return (top, rest)  # hub ids have dots of their own
    return tuple(dotted.split("."))


def _apply(document: Document, assignments: Sequence[_Assignment]) -> None:
    for keys, value, place in assignments:
        _assign(document, keys, value, place)


def _assign(document: Document, keys: Keys, value: Any, place: str) -> None:
    dotted = ".".join(map(str, keys))
    stages = document.values.get("stages")
    if len(keys) > 1 and keys[0] == "stages" and isinstance(stages, dict) and keys[1] not in stages:
        if not (len(keys) == 2 and isinstance(value, dict)):
            raise PosttrainError(
                f"{place}: {dotted}: there is no stage {keys[1]}. {nearest(str(keys[1]), list(stages))}"
                f"Stages: {', '.join(stages)}."
            )
    holder: Any = document.values
    way: list[str | int] = []
    for key in keys[:-1]:
        index = _index(holder, key, place, dotted)
        way.append(index)
        if isinstance(holder, dict) and holder.get(index) is None:
            holder[index] = {}
        holder = holder[index]
        if not _holds_keys(holder):
            raise PosttrainError(f"{place}: {dotted}: {'.'.join(map(str, way))} is {holder!r}, which holds no keys.")
    last = _index(holder, keys[-1], place, dotted)
    holder[last] = copy.deepcopy(value)
    document.forget((*way, last))
    document.places[*way, last] = place


def _holds_keys(value: Any) -> bool:
    return isinstance(value, dict | list)


def _index(holder: Any, key: str | int, place: str, dotted: str) -> str | int:
    if isinstance(holder, dict):
        return key
    text = str(key)
    if not text.isdigit() or int(text) >= len(holder):
        raise PosttrainError(
            f"{place}: {dotted}: a list of {len(holder)}; name an item by its index from 0, not {key}."
        )
    return int(text)


def _copy_alike(document: Document) -> None:
    stages = document.values.get("stages")
    if not isinstance(stages, dict):
        return
    for name in list(stages):
        _copy_pattern(document, stages, name, ())


def _copy_pattern(document: Document, stages: dict[str, Any], name: str, around: tuple[str, ...]) -> None:
    stage = stages[name]
    if not isinstance(stage, dict) or "like" not in stage:
        return
    other, place = str(stage["like"]), document.place(("stages", name, "like"))
    if other not in stages:
        known = f"{nearest(other, stages)}Stages: {', '.join(stages)}."
        raise PosttrainError(f"{place}: stages.{name}.like: there is no stage {other}. {known}")
    if other in (*around, name):
        way = " → ".join((*around, name, other))
        raise PosttrainError(f"{place}: stages.{name}.like: goes in a circle: {way}.")
    _copy_pattern(document, stages, other, (*around, name))
    own = {key: value for key, value in stage.items() if key != "like"}
    copied = Document({"stages": {name: stages[other]}}, {("stages", name): place})
    stages[name] = _merged(copied, Document({"stages": {name: own}}, document.places)).values["stages"][name]


def _typed(document: Document) -> Recipe:
    faults = _amounts(document) + _names(document)
    if faults:
        raise PosttrainError("\n".join(faults))
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        raise PosttrainError("\n".join(describe(error, document))) from None
    faults = _dangling(recipe, document)
    if faults:
        raise PosttrainError("\n".join(faults))
    try:
        order(recipe.stages)
    except Cycle as cycle:
        place = document.place(("stages", cycle.names[0]))
        raise PosttrainError(f"{place}: stages wait for each other in a circle: {cycle}.") from None
    return recipe


def _amounts(document: Document) -> list[str]:
    """`count: 1.0` would pass for 1: whoever writes a decimal means a share."""
    faults = []
    stages = document.values.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        sources = stage.get("sources") if isinstance(stage, dict) else None
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            for key in ("count", "repeat", "limit"):
                value = source.get(key) if isinstance(source, dict) else None
                if isinstance(value, float):
                    keys = ("stages", name, "sources", index, key)
                    faults.append(
                        f"{document.place(keys)}: {'.'.join(map(str, keys))}: a whole number is wanted, not {value}. "
                        "A share of the rows is written `fraction: 0.5`, a number of rows `count: 500`."
                    )
    return faults


def _names(document: Document) -> list[str]:
    stages = document.values.get("stages")
    if isinstance(stages, dict) and not stages:
        return [f"{document.place(('stages',))}: stages: the recipe has none."]
    return [
        f"{document.place(('stages', name))}: stages.{name}: a stage's name holds letters, digits, _ and - only."
        for name in (stages if isinstance(stages, dict) else ())
        if not _STAGE_NAME.fullmatch(name)
    ]


def _dangling(recipe: Recipe, document: Document) -> list[str]:
    faults = []
    for name, settings in recipe.stages.items():
        for use in references(settings):
            place = document.place(("stages", name, *use.where))
            dotted = ".".join(map(str, ("stages", name, *use.where)))
            if use.stage is not None and use.stage not in recipe.stages:
                faults.append(
                    f"{place}: {dotted}: {use.reference}: there is no stage {use.stage}. "
                    f"{nearest(use.stage, list(recipe.stages))}Stages: {', '.join(recipe.stages)}."
                )
            elif use.stage is None and use.reference in recipe.stages:
                faults.append(f"{place}: {dotted}: {use.reference} is a stage; write stage:{use.reference}.")
    for name, settings in recipe.stages.items():
        if settings.kind != "report":
            continue
        for index, use in enumerate(settings.evaluations):
            stage = use.removeprefix("stage:")
            if stage in recipe.stages and recipe.stages[stage].kind != "evaluate":
                keys = ("stages", name, "evaluations", index)
                faults.append(f"{document.place(keys)}: {'.'.join(map(str, keys))}: {use} is no evaluate stage.")
        scored = [recipe.stages.get(use.removeprefix("stage:")) for use in settings.evaluations]
        labels = {label for stage in scored if isinstance(stage, Evaluate) for label in stage.models}
        for index, pair in enumerate(settings.compare):
            keys = ("stages", name, "compare", index)
            for label in dict.fromkeys(pair):
                if label not in labels and all(isinstance(stage, Evaluate) for stage in scored):
                    faults.append(
                        f"{document.place(keys)}: {'.'.join(map(str, keys))}: {label}: no evaluation scores it. "
                        f"{nearest(label, labels)}Labels: {', '.join(sorted(labels))}."
                    )
    return faults
