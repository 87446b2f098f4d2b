"""The stages by kind. Nothing is imported before it is asked for."""

import importlib
from typing import cast

from posttrain.errors import PosttrainError
from posttrain.stages.base import Stage

MODULES = {
    kind: f"posttrain.stages.{kind}"
    for kind in (
        "pretrain",
        "convert",
        "synthesize",
        "mixture",
        "sft",
        "preferences",
        "dpo",
        "reward_model",
        "rlvr",
        "evaluate",
        "report",
    )
}


def load_stage(kind: str) -> Stage:
    """The module that runs stages of this kind. An unknown kind raises PosttrainError with those there are."""
    if kind not in MODULES:
        raise PosttrainError(f"{kind}: no such kind of stage. There are: {', '.join(MODULES)}.")
    return cast(Stage, importlib.import_module(MODULES[kind]))
