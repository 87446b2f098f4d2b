"""Pydantic's complaints in the recipe writer's terms: file, line, dotted key, what was meant."""

import difflib
from collections.abc import Iterable
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from posttrain.recipe.data_settings import STANDS_FOR_SOURCES, Mixture
from posttrain.recipe.document import Document, Keys
from posttrain.recipe.schema import Recipe, StageSettings

KINDS: dict[str, type[BaseModel]] = {
    get_args(settings.model_fields["kind"].annotation)[0]: settings for settings in get_args(get_args(StageSettings)[0])
}


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """``Did you mean 'x'? `` or nothing."""
    close = difflib.get_close_matches(wrong, list(valid), n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'? " if close else ""


def describe(error: ValidationError, document: Document) -> list[str]:
    """One line for every fault, in the order of the schema."""
    faults = [(fault, *_way(fault, document)) for fault in error.errors(include_url=False)]
    best = _best_branches([(keys, branches) for _, keys, branches in faults])
    lines = []
    for fault, keys, branches in faults:
        if all(best[where] == tag for where, tag in branches):
            place, dotted = document.place(keys), ".".join(map(str, keys)) or "recipe"
            lines.append(f"{place}: {dotted}: {_reason(fault, keys, document)}")
    return lines


Branches = tuple[tuple[Keys, str | int], ...]
"""Where a setting may be of several kinds, and which of them a fault is about."""


def _way(fault: Any, document: Document) -> tuple[Keys, Branches]:
    """The keys as written in the file, and the branches of unions that pydantic puts between them."""
    location = _without_tag(fault["loc"])
    keys: list[str | int] = []
    branches: list[tuple[Keys, str | int]] = []
    holder: Any = document.values
    for place, key in enumerate(location):
        missing = place == len(location) - 1 and fault["type"] == "missing"
        there = key in holder if isinstance(holder, dict) else isinstance(holder, list) and isinstance(key, int)
        if there or missing:
            keys.append(key)
            holder = None if missing else holder[key]
        else:
            branches.append((tuple(keys), key))
    return tuple(keys), tuple(branches)


def _best_branches(faults: list[tuple[Keys, Branches]]) -> dict[Keys, str | int]:
    """By place the branch that was most likely meant: not one of another type, fewest faults, the deepest ones."""
    found: dict[Keys, dict[str | int, list[int]]] = {}
    for keys, branches in faults:
        for where, tag in branches:
            found.setdefault(where, {}).setdefault(tag, []).append(len(keys))

    def unlikely(where: Keys, depths: list[int]) -> tuple[bool, int, int]:
        return max(depths) == len(where), len(depths), -max(depths)

    return {where: min(tags, key=lambda tag: unlikely(where, tags[tag])) for where, tags in found.items()}


def _reason(fault: Any, keys: Keys, document: Document) -> str:
    kind, value = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        valid = _valid_keys(keys[:-1], document)
        return f"unknown key. {nearest(str(keys[-1]), valid)}Valid here: {', '.join(valid)}."
    if kind == "missing":
        return "this key is required and missing."
    if kind == "union_tag_not_found":
        return f"a stage needs its kind, one of: {', '.join(KINDS)}."
    if kind == "union_tag_invalid":
        given = str(value.get("kind"))
        return f"{given} is no kind of stage. {nearest(given, KINDS)}There are: {', '.join(KINDS)}."
    if keys[-1] == "fraction":
        return f"a share above 0 and up to 1 is wanted, not {value!r}. For a number of rows write `count: {value}`."
    if keys[-1] in ("count", "repeat"):
        return (
            f"a whole number of at least 1 is wanted, not {value!r}. "
            "A share of the rows is written `fraction: 0.5`, a number of rows `count: 500`."
        )
    if kind == "literal_error":
        allowed = fault["ctx"]["expected"]
        return f"{value!r} is none of: {allowed}."
    message = fault["msg"].removeprefix("Value error, ").replace("Input should", "should")
    shown = "" if isinstance(value, dict | list) else f", not {value!r}"
    return f"{message}{shown}."


def _without_tag(location: tuple[str | int, ...]) -> Keys:
    """Pydantic puts the kind of a stage into the way to its fields: ("stages", "a", "sft", "epochs")."""
    if len(location) > 2 and location[0] == "stages" and location[2] in KINDS:
        return (*location[:2], *location[3:])
    return location


def _valid_keys(keys: Keys, document: Document) -> list[str]:
    if len(keys) < 2 or keys[0] != "stages":
        return list(Recipe.model_fields)
    value: Any = document.values["stages"][keys[1]]
    model = KINDS[value["kind"]]
    for place, key in enumerate(keys[2:], start=2):
        value = value[key]
        if isinstance(key, str):
            item = keys[place + 1] if place + 1 < len(keys) else None
            written = value[item] if isinstance(value, list) and isinstance(item, int) else value
            model = _model_within(get_type_hints(model)[key], written) or model
    return [*model.model_fields, *(STANDS_FOR_SOURCES if model is Mixture else ())]


def _model_within(hint: Any, written: Any) -> type[BaseModel] | None:
    """The settings class inside ``X``, ``X | Y | None`` or ``tuple[X, ...]`` that knows most of the keys written."""
    if get_origin(hint) is None:
        return hint if isinstance(hint, type) and issubclass(hint, BaseModel) else None
    found = [model for part in get_args(hint) if (model := _model_within(part, written))]
    return max(found, key=lambda model: len(model.model_fields.keys() & written), default=None)
