"""What is shipped is not refused: every recipe at each scale, every variant, passes what its stages check."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.pipeline.resolve import check, check_device
from posttrain.recipe.ablation import load_ablation, variant_recipe
from posttrain.recipe.load import load_recipe, validate_scales
from posttrain.stages import load_stage

RECIPES = Path(__file__).parents[2] / "recipes"


def refuse_nothing(recipe):
    """On a machine with a GPU, where the recipe takes it."""
    check(recipe, recipe.stages, load_stage)
    nodes: list[Any] = [
        SimpleNamespace(name=name, settings=settings, stage=load_stage(settings.kind), artifact=None)
        for name, settings in recipe.stages.items()
    ]
    check_device(nodes, "cpu" if recipe.device == "cpu" else "cuda")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_stage_refuses_a_shipped_recipe_at_any_scale(path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_TEST_DATA", "nowhere")
    for scale in validate_scales(path):
        refuse_nothing(load_recipe(path, [f"scale={scale}"]))


@pytest.mark.parametrize("path", sorted((RECIPES / "ablations").glob("*.yaml")), ids=lambda path: path.stem)
def test_no_stage_refuses_a_shipped_variant(path):
    ablation = load_ablation(path)
    for name in ablation.variants:
        refuse_nothing(variant_recipe(ablation, name, 1))
