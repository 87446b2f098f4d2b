import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import PosttrainError
from posttrain.recipe.load import load_recipe, validate_scales
from posttrain.recipe.references import order, references, stages_of

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))

BASE = """
name: tiny
seed: 3
scales:
  smoke: {stages.sft.epochs: 1, stages.world.sft: 10}
hub_mirror: {org/a: ./a.jsonl}
stages:
  world: {kind: synthesize, sft: 100}
  mix:
    kind: mixture
    sources:
      - {data: "stage:world/sft.jsonl", fraction: 0.5}
  sft:
    kind: sft
    model: nano
    data: stage:mix
    learning_rate: 1e-5
    epochs: 2
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="tiny.yaml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def load(path, overrides=()) -> Any:  # whose stages have the attributes of their kind
    return load_recipe(path, overrides)


def fault(path, overrides=()):
    with pytest.raises(PosttrainError) as caught:
        load(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_is_valid_at_every_scale(path, monkeypatch):
    assert validate_scales(path)


def test_a_recipe_is_typed(write, tmp_path):
    recipe = load(write(BASE))
    assert recipe.stages["sft"].learning_rate == 1e-5
    assert recipe.stages["mix"].sources[0].fraction == 0.5
    assert recipe.hub_mirror == {"org/a": str(tmp_path / "a.jsonl")}


def test_precedence_rises_from_base_to_file_to_scale_to_override(write):
    write(BASE)
    child = write("extends: tiny.yaml\nstages:\n  sft: {epochs: 5}\n", "child.yaml")
    assert load(write(BASE)).stages["sft"].epochs == 2
    assert load(child).stages["sft"].epochs == 5
    assert load(child, ["scale=smoke"]).stages["sft"].epochs == 1
    both = load(child, ["scale=smoke", "stages.sft.epochs=7", "seed=9"])
    assert (both.stages["sft"].epochs, both.stages["world"].sft, both.seed) == (7, 10, 9)


def test_another_scale_or_seed_never_takes_the_place_of_the_full_run(write):
    path = write(BASE)
    names = [load(path, overrides).name for overrides in ([], ["scale=smoke"], ["seed=2"], ["scale=smoke", "seed=2"])]
    assert names == ["tiny", "tiny-smoke", "tiny-seed2", "tiny-smoke-seed2"]


def test_an_extending_recipe_keeps_the_order_adds_its_own_and_has_its_own_name(write):
    write(BASE)
    path = write(
        """
        extends: ./tiny.yaml
        stages:
          control: {kind: sft, model: "stage:sft", data: "stage:mix", learning_rate: 1e-5}
          mix: {shuffle: false}
        """,
        "child.yaml",
    )
    recipe = load(path)
    assert recipe.name == "child"
    assert list(recipe.stages) == ["world", "mix", "sft", "control"]
    assert recipe.stages["mix"].shuffle is False
    assert recipe.stages["mix"].sources[0].fraction == 0.5


def test_null_removes_an_inherited_stage_and_another_kind_replaces_it_whole(write):
    write(BASE)
    path = write(
        "extends: tiny.yaml\nstages:\n  sft: null\n  mix: {kind: synthesize}\n",
        "child.yaml",
    )
    recipe = load(path)
    assert list(recipe.stages) == ["world", "mix"]
    assert recipe.stages["mix"].kind == "synthesize"


def test_extends_in_a_circle_is_refused(write):
    write("extends: b.yaml\nstages: {}", "a.yaml")
    assert "circle" in fault(write("extends: a.yaml\nstages: {}", "b.yaml"))


@given(epochs=st.integers(1, 99), rate=st.floats(1e-9, 1, allow_nan=False))
def test_an_override_is_the_same_as_writing_it_into_the_file(tmp_path_factory, epochs, rate):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "a.yaml").write_text(BASE)
    written = BASE.replace("1e-5", repr(rate)).replace("epochs: 2", f"epochs: {epochs}")
    (folder / "b.yaml").write_text(written)
    overridden = load(folder / "a.yaml", [f"stages.sft.epochs={epochs}", f"stages.sft.learning_rate={rate!r}"])
    assert overridden == load(folder / "b.yaml")


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("epochs: 2", "epoch: 2", ["tiny.yaml:18", "stages.sft.epoch", "'epochs'"]),
        ("seed: 3", "sede: 3", ["tiny.yaml:3", "sede", "'seed'"]),
        ("fraction: 0.5", "fractoin: 0.5", ["tiny.yaml:12", "sources.0.fractoin", "'fraction'"]),
        ("learning_rate: 1e-5", "weight_decay: 0", ["tiny.yaml:13", "stages.sft.learning_rate", "required"]),
        ("kind: sft", "kind: stf", ["tiny.yaml:13", "stf", "'sft'"]),
        ("kind: mixture", "rows: preference", ["tiny.yaml:9", "stages.mix", "kind"]),
        ("fraction: 0.5", "fraction: 500", ["tiny.yaml:12", "share", "count: 500"]),
        ("fraction: 0.5", "count: 0.5", ["tiny.yaml:12", "whole number", "fraction: 0.5"]),
        ("fraction: 0.5", "count: 1.0", ["tiny.yaml:12", "whole number"]),
        ("fraction: 0.5", "count: 5, fraction: 0.5", ["tiny.yaml:12", "at most one"]),
        ("stage:mix", "stage:mic", ["tiny.yaml:16", "stages.sft.data", "'mix'"]),
        ("model: nano", "model: mix", ["tiny.yaml:15", "stage:mix"]),
        ("epochs: 2", "epochs: 0", ["tiny.yaml:18", "stages.sft.epochs", "greater than 0"]),
        ("epochs: 2", "batch_size: -1", ["tiny.yaml:18", "stages.sft.batch_size", "greater than 0"]),
        ("learning_rate: 1e-5", "learning_rate: 0", ["tiny.yaml:17", "stages.sft.learning_rate", "greater than 0"]),
        ("fraction: 0.5", "limit: 0", ["tiny.yaml:12", "sources.0.limit", "greater than 0"]),
        ("epochs: 2", "epochs: two", ["tiny.yaml:18", "stages.sft.epochs", "'two'"]),
        ("epochs: 2", "epochs: 2\n    epochs: 3", ["tiny.yaml:19", "twice", "tiny.yaml:18"]),
        ("seed: 3", "seed: [3", ["tiny.yaml", "not YAML"]),
        ("seed: 3", "seed: !!python/name:os.system x", ["tiny.yaml:3", "tag"]),
        ("learning_rate: 1e-5", "learning_rate: ${NOT_SET_ANYWHERE}", ["tiny.yaml:17", "NOT_SET_ANYWHERE"]),
        ("  sft:\n", "  s/t:\n", ["tiny.yaml:13", "letters"]),
        ("stage:world/sft.jsonl", "stage:sft", ["tiny.yaml", "circle", "mix → sft → mix"]),
    ],
)
def test_a_fault_names_file_line_key_and_what_was_meant(write, old, new, wanted):
    assert old in BASE
    message = fault(write(BASE.replace(old, new, 1)))
    assert all(part in message for part in wanted), message


def test_all_faults_are_told_at_once(write):
    message = fault(write(BASE.replace("epochs: 2", "epoch: 2").replace("seed: 3", "sede: 3")))
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("stages.stf.epochs=1", "'sft'"),
        ("stages.sft.epoch=1", "'epochs'"),
        ("scale=smok", "'smoke'"),
        ("stages.sft.epochs", "key=value"),
        ("stages.mix.sources.7.count=1", "index"),
        ("stages.sft.epochs.x=1", "holds no keys"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(write, override, wanted):
    message = fault(write(BASE), [override])
    assert f"--set {override}" in message and wanted in message


def test_an_override_reaches_list_items_and_ids_with_dots(write):
    recipe = load(write(BASE), ["stages.mix.sources.0.limit=4", "hub_mirror.org/v3.1-x=/data/x.jsonl"])
    assert recipe.stages["mix"].sources[0].limit == 4
    assert recipe.hub_mirror["org/v3.1-x"] == "/data/x.jsonl"


def test_scalars_are_those_of_yaml_1_2(write):
    recipe = load(write("stages:\n  a: {kind: pretrain, tokens: 5_000_000, learning_rate: 1e-3}\ndescription: no\n"))
    assert (recipe.stages["a"].tokens, recipe.stages["a"].learning_rate) == (5_000_000, 1e-3)
    assert (recipe.description, recipe.name) == ("no", "tiny")


def test_environment_variables_are_expanded(write, monkeypatch):
    monkeypatch.setenv("MODELS", "/models")
    path = write(
        BASE.replace("model: nano", "model: ${MODELS}/base").replace("{org/a", "{org/b: '${NOPE:-/x}/b', org/a")
    )
    recipe = load(path)
    assert recipe.stages["sft"].model == "/models/base"
    assert recipe.hub_mirror["org/b"] == "/x/b"


def test_a_missing_file_is_a_clear_error(tmp_path):
    assert "no such recipe file" in fault(tmp_path / "none.yaml")
    assert "folder" in fault(tmp_path)


@given(st.text(max_size=80))
def test_any_text_gives_a_recipe_or_a_clear_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("recipe") / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        load(path)
    except PosttrainError as error:
        assert "any.yaml" in str(error)


def test_references_are_found_wherever_they_nest(write):
    path = write(
        """
        stages:
          a: {kind: synthesize}
          p:
            kind: preferences
            prompts: stage:a/x.jsonl
            policy: nano
            pool: [{model: org/m}, {model: "stage:a"}]
          e: {kind: evaluate, suite: development, models: {A: "stage:p", B: "stage:a"}}
        """
    )
    recipe = load(path)
    found = [(use.where, use.reference, use.stage) for use in references(recipe.stages["p"])]
    assert found == [
        (("prompts",), "stage:a/x.jsonl", "a"),
        (("policy",), "nano", None),
        (("pool", 0, "model"), "org/m", None),
        (("pool", 1, "model"), "stage:a", "a"),
    ]
    assert stages_of(recipe.stages["e"]) == ["p", "a"]


def test_the_order_is_as_written_where_nothing_forces_another(write):
    recipe = load(
        write(
            """
            stages:
              last: {kind: evaluate, suite: development, models: {A: "stage:middle"}}
              free: {kind: synthesize}
              middle: {kind: sft, model: nano, data: "stage:first", learning_rate: 1}
              first: {kind: synthesize}
            """
        )
    )
    assert order(recipe.stages) == ["first", "middle", "last", "free"]


def test_a_stage_like_another_follows_it_through_scales_and_overrides(write):
    path = write(
        """
        extends: tiny.yaml
        stages:
          control: {like: sft, model: "stage:sft", weight_decay: 0.5}
          again: {like: control, weight_decay: 0.25}
        """,
        "child.yaml",
    )
    write(BASE)
    stages = load(path, ["scale=smoke", "stages.sft.learning_rate=3e-4"]).stages
    assert (stages["control"].epochs, stages["control"].learning_rate) == (1, 3e-4)
    assert (stages["again"].model, stages["again"].weight_decay) == ("stage:sft", 0.25)
    assert load(path, ["stages.control.epochs=9"]).stages["control"].epochs == 9


@pytest.mark.parametrize(("like", "wanted"), [("stf", "'sft'"), ("control", "circle")])
def test_a_stage_like_nothing_is_refused(write, like, wanted):
    write(BASE)
    message = fault(write(f"extends: tiny.yaml\nstages:\n  control: {{like: {like}}}\n", "child.yaml"))
    assert "child.yaml:3" in message and wanted in message


def test_the_unseen_suite_waits_for_all_training_named_or_not(write):
    recipe = load(
        write(
            BASE
            + """  unseen: {kind: evaluate, suite: unseen, unseal: final, models: {base: nano}}
  later: {kind: sft, model: nano, data: "stage:mix", learning_rate: 1}
"""
        )
    )
    assert order(recipe.stages) == ["world", "mix", "sft", "later", "unseen"]


def test_a_fault_inside_settings_of_several_kinds_names_the_key_as_it_is_written(tmp_path):
    """Pydantic tells of every kind that it tried, each with its own name between the keys."""
    text = (Path(__file__).parents[2] / "recipes" / "preferences-table15.yaml").read_text(encoding="utf-8")
    for right, wrong, told in (
        (
            "prompt_price: 0.2",
            "promt_price: 0.2",
            "endpoint.promt_price: unknown key. Did you mean 'prompt_price'?",
        ),
        ("policy: {base_url", "policy: {base_ur", "policy.base_url: this key is required and missing"),
        ("take: all, count: 41635", "tak: all, count: 41635", "prompts.parts.3.tak: unknown key. Did you mean 'take'?"),
        ("limit_field", "limit_fild", "judge.model.limit_fild: unknown key. Did you mean 'limit_field'?"),
    ):
        path = tmp_path / "broken.yaml"
        path.write_text(text.replace(right, wrong), encoding="utf-8")
        with pytest.raises(PosttrainError) as raised:
            load_recipe(path)
        assert told in str(raised.value) and "PoolMember" not in str(raised.value), str(raised.value)
