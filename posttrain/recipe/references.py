"""Which artifacts, models and files a stage's settings refer to, and the order of stages that follows."""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel

TRAINING = ("pretrain", "sft", "dpo", "reward_model", "rlvr")


@dataclass(frozen=True)
class Use:
    """One reference in a stage's settings: where it stands there, and the hub revision given beside it."""

    where: tuple[str | int, ...]
    reference: str
    revision: str | None = None

    @property
    def stage(self) -> str | None:
        """The stage it names, None for everything else."""
        if not self.reference.startswith("stage:"):
            return None
        return self.reference.removeprefix("stage:").partition("/")[0]


class Cycle(Exception):
    """Stages that wait for each other; ``names`` is the way round, the first repeated at the end."""

    def __init__(self, names: list[str]):
        super().__init__(" → ".join(names))
        self.names = names


def references(settings: BaseModel) -> list[Use]:
    """Every field declared as a ``Reference``, nested models, tuples and mappings included."""
    return list(_in_model(settings, ()))


def stages_of(settings: BaseModel) -> list[str]:
    """Names of the stages that these settings refer to, each once, as they come."""
    return list(dict.fromkeys(use.stage for use in references(settings) if use.stage is not None))


def waits_for(stages: Mapping[str, Any], name: str) -> list[str]:
    """The stages that must be finished before ``name`` runs: those it refers to, and for the sealed suite all training.

    An evaluation on the unseen suite waits for every stage that trains, named or not (DESIGN.md, "Sealed suite").
    """
    settings = stages[name]
    first = stages_of(settings)
    if settings.kind == "evaluate" and settings.suite == "unseen":
        first += [other for other, its in stages.items() if its.kind in TRAINING and other not in first]
    return first


def order(stages: Mapping[str, Any]) -> list[str]:
    """Every stage after those it waits for, otherwise as written. Raises Cycle; dangling names are left out."""
    done: dict[str, None] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done or name not in stages:
            return
        if name in path:
            raise Cycle([*path[path.index(name) :], name])
        path.append(name)
        for needed in waits_for(stages, name):
            visit(needed)
        path.pop()
        done[name] = None

    for name in stages:
        visit(name)
    return list(done)


def _in_model(model: BaseModel, where: tuple[str | int, ...]) -> Iterator[Use]:
    hints = get_type_hints(type(model), include_extras=True)
    revision = getattr(model, "revision", None)
    for field in type(model).model_fields:
        yield from _in_value(hints[field], getattr(model, field), (*where, field), revision)


def _in_value(hint: Any, value: Any, where: tuple[str | int, ...], revision: str | None) -> Iterator[Use]:
    if value is None:
        return
    if isinstance(value, BaseModel):
        yield from _in_model(value, where)
    elif get_origin(hint) is Annotated:
        if "reference" in hint.__metadata__:
            yield Use(where, value, revision)
    elif isinstance(value, tuple):
        items = get_args(hint)
        for index, item in enumerate(value):
            yield from _in_value(items[0 if items[-1] is ... else index], item, (*where, index), revision)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _in_value(get_args(hint)[1], item, (*where, key), revision)
    else:
        optional = [part for part in get_args(hint) if get_origin(part) is Annotated]
        if get_origin(hint) in (typing.Union, types.UnionType) and optional:
            yield from _in_value(optional[0], value, where, revision)
