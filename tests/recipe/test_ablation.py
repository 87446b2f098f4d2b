"""Ablations: each variant differs from its base by what it says, and the table pairs instances."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli.ablate import markdown, table_rows
from posttrain.cli.main import main
from posttrain.errors import PosttrainError
from posttrain.evaluation.compare import Scored
from posttrain.evaluation.protocol import Protocol
from posttrain.evaluation.scores import task_score
from posttrain.evaluation.suites import TASKS
from posttrain.recipe.ablation import load_ablation, result_file, variant_recipe
from posttrain.recipe.references import order, references

ABLATIONS = sorted((Path(__file__).parents[2] / "recipes" / "ablations").glob("*.yaml"))
NANO = [path for path in ABLATIONS if path.stem.startswith("nano-")]
TINY = """
base: {base}
seeds: [1]
model: SFT
variants:
  base: {{}}
  higher: {{set: {{stages.sft.learning_rate: 1.0e-3}}}}
"""


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_variant_differs_from_its_base_by_what_it_sets_alone(path):
    ablation = load_ablation(path)
    first, *others = ablation.variants
    for name in others:
        variant = ablation.variants[name]
        recipe = variant_recipe(ablation, name, 7).model_dump(mode="json")
        other = variant.against or first
        base = variant_recipe(ablation, other, 7).model_dump(mode="json")
        sets = [*variant.set, *ablation.variants[other].set]
        keys = {key.split(".")[1] for key in sets if key.startswith("stages.")}
        changed = {s for s in recipe["stages"] if recipe["stages"][s] != base["stages"].get(s)}
        assert changed - {ablation.evaluation} <= keys
        assert changed - {ablation.evaluation} or recipe["stages"] != base["stages"]


def test_leaving_a_group_out_leaves_out_its_rows():
    ablation = load_ablation(ABLATIONS[0].parent / "table10.yaml")
    mixture: Any = variant_recipe(ablation, "without Persona", 1).stages["sft_mixture"]
    rows = mixture.sources[0].row_sources
    assert len(rows) == 14 and not [name for name in rows if "persona" in name]


def test_what_is_no_variant_or_no_model_is_told(tmp_path):
    path = tmp_path / "mine.yaml"
    base = ABLATIONS[0].parents[1] / "quickstart.yaml"
    path.write_text(TINY.format(base=base).replace("model: SFT", "model: Sft"))
    with pytest.raises(PosttrainError, match="no evaluation development of a model 'Sft'"):
        load_ablation(path)
    path.write_text(TINY.format(base=base).replace("higher: {", "higher: {against: lower, "))
    with pytest.raises(PosttrainError, match="lower is no variant"):
        load_ablation(path)


def test_a_set_without_variants_or_seeds_and_a_variant_that_sets_what_is_given_are_refused(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    whole = TINY.format(base=ABLATIONS[0].parents[1] / "quickstart.yaml")
    path.write_text(whole.partition("variants:")[0] + "variants: {}\n")
    with pytest.raises(PosttrainError, match=r"mine.yaml:5: variants: .*at least 1"):
        load_ablation(path)
    path.write_text(whole.replace("seeds: [1]", "seeds: []"))
    with pytest.raises(PosttrainError, match=r"mine.yaml:3: seeds: .*at least 1"):
        load_ablation(path)
    for given in ("seed: 7", "name: other"):
        path.write_text(whole.replace("higher: {set: {", f"higher: {{set: {{{given}, "))
        with pytest.raises(PosttrainError, match=rf"mine.yaml:7: variants.higher.set.{given[:4]}: .*Leave it out"):
            load_ablation(path)
        path.write_text(whole)
        assert main(["ablate", str(path), "--dry-run", "--set", given.replace(": ", "="), "--runs", str(tmp_path)]) == 2
        assert f"decide the {given[:4]}" in capsys.readouterr().err


def test_a_smoke_run_or_a_selection_replaces_no_result_of_the_whole_set():
    ablation = load_ablation(NANO[0])
    names, seeds = list(ablation.variants), list(ablation.seeds)
    full, smoke = (variant_recipe(ablation, names[0], 1, scale) for scale in ((), ("scale=smoke",)))
    assert full.name != smoke.name
    selections = itertools.product((full, smoke), (names, names[:1], names[:2]), (seeds, seeds[:1], [8]))
    files = [result_file(ablation, *selection) for selection in selections]
    assert len(set(files)) == len(files)
    assert str(files[0]) == f"{ablation.name}/ablation"
    assert result_file(ablation, full, names, seeds[::-1]) == files[0]  # the same models


def scored(label, values, groups=None, protocol: Protocol = TASKS["nano_facts@nano"].chat):
    """What one seed's model scored on one task, from each instance's score."""
    records = [
        {"task": protocol.name, "id": str(i), "prompt": "", "score": score, "outcome": "correct" if score else "wrong"}
        | {"finish_reason": "stop", "response_tokens": 1, "group": groups[i] if groups else ""}
        for i, score in enumerate(values)
    ]
    return Scored(label, {protocol.name: task_score(protocol, records)}, records)


def test_differences_are_paired_and_shown_by_seed():
    base = [scored("base", [0.0, 1.0, 0.0, 1.0])] * 2
    better = [scored("better", [1.0, 1.0, 1.0, 1.0]), scored("better", [0.0, 1.0, 1.0, 1.0])]
    besides = {"base": [{"kl": 1.0}, {"kl": 2.0}], "better": [{"kl": 3.0}, {"kl": 3.0}]}
    first, second = table_rows({"base": base, "better": better}, {"base": "base", "better": "base"}, besides)
    assert first["mean"] == 0.5 and "difference" not in first
    assert second["difference"] == pytest.approx(0.375)
    assert second["difference_by_seed"] == [0.5, 0.25]
    assert second["low"] <= 0.375 <= second["high"]
    page = markdown("Both", [1, 2], [first, second])
    assert "| better | 87.5 | 100.0, 75.0 | base |" in page
    assert "| base | 1.5 |" in page and "| better | 3 |" in page


def test_an_ablation_subtracts_the_scores_that_it_shows():
    protocol = TASKS["mmlu@paper"].chat
    assert protocol.averaged == "groups"
    groups = ["a"] * 90 + ["b"] * 10
    base = [scored("base", [1.0] * 45 + [0.0] * 55, groups, protocol)] * 2
    better = [
        scored("better", [1.0] * 45 + [0.0] * 45 + [1.0] * right + [0.0] * (10 - right), groups, protocol)
        for right in (10, 6)
    ]
    nothing = {"base": [{}, {}], "better": [{}, {}]}
    first, second = table_rows({"base": base, "better": better}, {"base": "base", "better": "base"}, nothing)
    assert second["difference"] == pytest.approx(second["mean"] - first["mean"]) == pytest.approx(0.4)
    assert second["difference_by_seed"] == pytest.approx([0.5, 0.3])


@pytest.mark.parametrize("path", NANO, ids=lambda path: path.stem)
def test_a_dry_run_runs_again_only_what_a_variant_changes_and_what_hangs_on_it(path, tmp_path, capsys):
    """Told from the recipes alone: a stage is new where its settings, or those of anything it was made from, are."""
    assert main(["ablate", str(path), "--dry-run", "--seeds", "1", "--runs", str(tmp_path)]) == 0
    listed = dict(re.findall(r"^  (.*), seed 1: (.*)$", capsys.readouterr().out, re.M))
    ablation = load_ablation(path)
    first, *others = ablation.variants
    base = variant_recipe(ablation, first, 1)
    seen = set()
    for name in others:
        recipe = variant_recipe(ablation, name, 1)
        changed: set[str] = set()
        for stage in order(recipe.stages):
            above = {use.stage for use in references(recipe.stages[stage])}
            if recipe.stages[stage] != base.stages.get(stage) or above & changed:
                changed.add(stage)
        wanted = set(listed[first].split(", ")) & changed
        assert set(listed[name].split(", ")) == wanted
        seen |= wanted
    assert "world" not in seen and "sft_mixture" not in seen


@pytest.mark.long
def test_a_set_runs_and_writes_one_table(tmp_path):
    path = tmp_path / "tiny.yaml"
    base = tmp_path / "base.yaml"
    quickstart = ABLATIONS[0].parents[1] / "quickstart.yaml"
    base.write_text(
        f"extends: {quickstart}\nstages: {{world: {{sft: 100}}, sft: {{epochs: 1}}, development: {{limit: 5}}}}\n"
    )
    path.write_text(TINY.format(base=base))
    assert main(["ablate", str(path), "--runs", str(tmp_path / "runs")]) == 0
    found = json.loads((tmp_path / "runs" / "tiny" / "ablation.json").read_text())
    assert [row["variant"] for row in found["rows"]] == ["base", "higher"]
