"""A model of a foreign format made a folder that every other stage can load."""

from typing import Any

from posttrain.models.convert import convert_llama2c
from posttrain.stages.base import StageContext

VERSION = 1


def run(context: StageContext) -> dict[str, Any]:
    settings = context.settings
    folder = context.resolve(settings.model)
    convert_llama2c(folder / settings.weights, folder / settings.tokenizer, context.output)
    return {"rows": {}, "metrics": {}}
