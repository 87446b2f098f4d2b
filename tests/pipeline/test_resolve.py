from types import SimpleNamespace

import pytest

from posttrain.errors import PosttrainError
from posttrain.pipeline.progress import Silent
from posttrain.pipeline.runner import plan_recipe, run_recipe
from posttrain.recipe.faults import KINDS
from posttrain.stages import MODULES
from tests.pipeline.fakes import Fakes, recipe

UNSEEN = {"kind": "evaluate", "suite": "unseen", "models": {"SFT": "stage:sft"}}


def plan(folder, stages, table=None):
    return plan_recipe(recipe(stages=stages), runs=folder, stages=table or Fakes().table)


def test_every_kind_of_the_schema_has_a_module():
    assert set(KINDS) == set(MODULES)


def test_the_unseen_suite_stays_sealed_without_a_reason(tmp_path):
    for reason in (None, "", "  "):
        with pytest.raises(PosttrainError, match="sealed"):
            plan(tmp_path, {"unseen": {**UNSEEN, "unseal": reason}})
    plan(tmp_path, {"unseen": {**UNSEEN, "unseal": "final table"}})


def test_nothing_but_a_report_may_use_a_result_on_the_unseen_suite(tmp_path):
    unseen = {**UNSEEN, "unseal": "final table"}
    peek = {"kind": "mixture", "sources": [{"data": "stage:unseen/scores.json"}], "decontamination": None}
    with pytest.raises(PosttrainError, match="stages.peek: refers to unseen"):
        plan(tmp_path, {"unseen": unseen, "peek": peek})
    plan(tmp_path, {"unseen": unseen, "report": {"evaluations": ["stage:development", "stage:unseen"]}})


def test_every_fault_is_told_before_anything_runs(tmp_path):
    def refuse(settings):
        raise PosttrainError("no such verifier")

    fakes = Fakes()
    table = fakes.table | {"sft": SimpleNamespace(VERSION=1, run=fakes.run, check=refuse)}
    with pytest.raises(PosttrainError) as caught:
        plan(tmp_path, {"unseen": UNSEEN, "development": {"tasks": ["nano_fact"]}}, table)
    told = str(caught.value)
    assert "stages.sft: no such verifier" in told
    assert "stages.unseen" in told and "stages.development" in told and "nano_facts" in told
    assert fakes.ran == []


def test_what_cannot_run_on_this_device_is_told_before_anything_runs_and_can_be_planned(tmp_path):
    def refuse(settings, device):
        raise PosttrainError(f"not on a {device}")

    fakes = Fakes()
    table = fakes.table | {"sft": SimpleNamespace(VERSION=1, run=fakes.run, check_device=refuse)}
    with pytest.raises(PosttrainError, match="stages.sft: not on a cpu"):
        run_recipe(recipe(), runs=tmp_path, stages=table, progress=Silent())
    assert fakes.ran == []
    plan(tmp_path, {}, table)  # perhaps for another machine
    run_recipe(recipe(), runs=tmp_path, stages=fakes.table, progress=Silent())
    run_recipe(recipe(), runs=tmp_path, stages=table, progress=Silent())  # what is finished is not asked


def test_a_missing_file_is_told_before_anything_runs(tmp_path):
    with pytest.raises(PosttrainError, match=r"stages\.sft: .*absent/model"):
        plan(tmp_path, {"sft": {"model": "./absent/model"}})
