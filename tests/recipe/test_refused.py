"""What would fail after hours of training, or train nonsense, is refused before anything runs."""

from pathlib import Path

import pytest

from posttrain.errors import PosttrainError
from posttrain.pipeline.resolve import check
from posttrain.recipe.load import load_recipe
from posttrain.stages import load_stage

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


def fault(*overrides):
    with pytest.raises(PosttrainError) as caught:
        recipe = load_recipe(QUICKSTART, overrides)
        check(recipe, recipe.stages, load_stage)
    return str(caught.value)


def test_the_report_compares_labels_that_an_evaluation_scores():
    said = fault("stages.report.compare=[[SFT, DPO], [SFT, Foo]]")
    assert "stages.report.compare.1: Foo: no evaluation scores it." in said
    assert "Did you mean 'RLVR'?" in fault("stages.report.compare=[[RLVF, SFT]]")
    assert "evaluations: " in fault("stages.report.evaluations=[]", "stages.report.compare=[]")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("on_policy=9", "on_policy is 9, but must be between 0 and responses (4)"),
        ("responses=1", "a pair needs at least 2"),
        ("pool=[]", "the pool is empty"),
        ("prompts={parts: [{data: 'stage:world/rlvr.jsonl', take: reused}]}", "prompts.sft is needed"),
    ],
)
def test_preferences_that_no_pool_could_answer(change, said):
    assert said in fault(f"stages.preferences.{change}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("without: 5", "without: a list of names of parts is wanted, not 5"),
        ("without: WildChat", "without: a list of names of parts is wanted, not 'WildChat'"),
        ("without: [5]", "wanted, not [5]"),
        ("without: [Wild]", "without: Wild is no part of tulu3-sft"),
        ("sources: 5", "stages.mix.sources: should be a valid tuple, not 5."),
        ("wthout: [WildChat]", "unknown key. Did you mean 'without'?"),
        ("sourcs: 5", "table, variant, without"),
    ],
)
def test_what_is_wrong_in_a_mixture_from_a_table(change, said, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"name: r\nstages:\n  mix: {{kind: mixture, table: tulu3-sft, {change}}}\n")
    with pytest.raises(PosttrainError) as caught:
        load_recipe(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "threads=-4",
        "stages.world.sft=-5",
        "stages.world.rlvr_shares.problems=-1",
        "stages.sft.warmup_fraction=3",
        "stages.sft.weight_decay=-1",
        "stages.dpo.beta=-5",
        "stages.dpo.clip_gradient_norm=-1",
        "stages.preferences.top_p=7",
        "stages.preferences.on_policy=-1",
        "stages.preferences.pool.0.temperature=-1",
        "stages.rlvr.warmup_fraction=3",
        "stages.rlvr.gamma=7",
        "stages.rlvr.lam=-2",
        "stages.rlvr.clip_range=-1",
        "stages.rlvr.clip_range_high=-1",
        "stages.rlvr.value_clip_range=0",
        "stages.rlvr.value_coefficient=-0.1",
        "stages.rlvr.kl_bound=-1",
        "stages.rlvr.verifier_error_bound=2",
    ],
)
def test_numbers_outside_of_what_they_can_mean(override):
    key, _, value = override.partition("=")
    said = fault(override)
    assert key in said and "should be" in said and said.endswith(f"not {value}.")
