"""The mixture stage on rows written here: what stays, what goes, and that all of it is accounted for."""

import json
from collections import Counter

import pytest

from posttrain.errors import PosttrainError
from posttrain.evaluation import suites
from posttrain.pipeline.runner import run_recipe
from posttrain.recipe.schema import Mixture, Recipe
from posttrain.stages import mixture

ITEMS = {
    "development": {"large": 100, "small": 10},
    "unseen": {"sealed": 10},
}


def words(name, number, count=12):
    return " ".join(f"{name}{number}w{place}" for place in range(count))


@pytest.fixture(autouse=True)
def known_evaluations(monkeypatch):
    """Items of twelve words that no other text holds."""

    def prompts(suite, hub_mirror):
        return {task: [(f"{task}-{n}", (words(task, n),)) for n in range(c)] for task, c in ITEMS[suite].items()}

    monkeypatch.setattr(suites, "prompts", prompts)


def row(id, prompt="", source="made"):
    return {
        "id": str(id),
        "messages": [
            {"role": "user", "content": prompt or f"prompt of {id}"},
            {"role": "assistant", "content": f"answer to {id}"},
        ],
        "source": source,
    }


def settings(*sources, rows="conversation", **changes):
    return Mixture.model_validate({"kind": "mixture", "rows": rows, "sources": sources} | changes)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def read(output, name):
    return json.loads((output / name).read_text(encoding="utf-8"))


def test_every_row_read_is_used_or_accounted_for(run_stage, write_lines):
    first = [*(row(n) for n in range(40)), "{", row("x", words("small", 1)), {"id": "y", "messages": []}, row(3)]
    second = [*(row(n) for n in range(100, 130)), row(7), row("z", words("large", 5))]
    parts = [
        {"data": write_lines("first.jsonl", first)},
        {"data": write_lines("second.jsonl", second), "fraction": 0.5},
    ]
    result, output, _ = run_stage(mixture, settings(*parts))
    data, manifest = lines(output / "data.jsonl"), read(output, "mixture.json")
    one, two = manifest["sources"]
    assert one["read"] == 44 and one["removed"] == {"rejected": 2, "contaminated": 1, "duplicate": 1}
    assert (one["available"], one["requested"], one["used"]) == (40, 40, 40)
    assert two["read"] == 32 and two["removed"] == {"rejected": 0, "contaminated": 0, "duplicate": 1}
    assert (two["available"], two["requested"], two["used"]) == (31, 16, 16)
    for part in (one, two):
        assert part["read"] == part["available"] + sum(part["removed"].values())
    assert result["rows"]["data"] == len(data) == manifest["rows"] == 56
    assert [entry["line"] for entry in lines(output / "rejected.jsonl")] == [41, 43]
    assert sum(manifest["rejected_reasons"].values()) == 2


def test_same_input_gives_the_same_bytes_and_another_seed_other_rows(run_stage, write_lines):
    part = {"data": write_lines("rows.jsonl", [row(n) for n in range(200)]), "count": 50}
    outputs = [run_stage(mixture, settings(part), name, seed=seed)[1] for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for file in ("data.jsonl", "mixture.json", "decontamination.json"):
        assert (outputs[0] / file).read_bytes() == (outputs[1] / file).read_bytes()
    ids = [{columns["id"] for columns in lines(output / "data.jsonl")} for output in outputs]
    assert ids[0] != ids[2] and all(len(some) == 50 for some in ids)


def test_rows_are_shuffled_unless_the_recipe_says_not(run_stage, write_lines):
    part = {"data": write_lines("rows.jsonl", [row(n) for n in range(50)])}
    orders = {
        shuffle: [
            columns["id"] for columns in lines(run_stage(mixture, settings(part, shuffle=shuffle))[1] / "data.jsonl")
        ]
        for shuffle in (True, False)
    }
    assert orders[False] == [str(n) for n in range(50)]
    assert orders[True] != orders[False] and sorted(orders[True]) == sorted(orders[False])


CONTAMINATED = [row(n) for n in range(20)] + [row(f"large {n}", words("large", n)) for n in range(2)]


@pytest.mark.parametrize(
    ("policy", "left"),
    [("drop_rows", 22), ("drop_set", 0), ("keep", 23)],
)
def test_contamination_is_answered_source_by_source_as_the_recipe_says(policy, left, run_stage, write_lines):
    """The source holds 2 % of one evaluation, which is not over the threshold, and 10 % of another, which is."""
    bad = {"data": write_lines("bad.jsonl", [*CONTAMINATED, row("small 4", f"Please: {words('small', 4)}")])}
    good = {"data": write_lines("good.jsonl", [row(n) for n in range(500, 510)] + [row("kept", words("large", 9))])}
    _, output, _ = run_stage(mixture, settings(bad, good, decontamination={"on_contamination": policy}))
    used = Counter(part["source"] for part in read(output, "mixture.json")["sources"] for _ in range(part["used"]))
    assert used == Counter({"bad.jsonl": left, "good.jsonl": 11})
    first, second = read(output, "decontamination.json")["sources"]
    rates = {
        found["task"]: (found["overlapping"], found["items"], found["contaminated"]) for found in first["evaluations"]
    }
    assert rates == {
        "development/large": (2, 100, False),
        "development/small": (1, 10, True),
        "unseen/sealed": (0, 10, False),
    }
    assert first["decision"]["action"] == policy and "development/small 10.0%" in first["decision"]["reason"]
    assert second["decision"]["action"] == "keep" and second["dropped_ids"] == []
    assert len(first["dropped_ids"]) == 23 - left


def test_the_sealed_suite_is_checked_too(run_stage, write_lines):
    part = {"data": write_lines("rows.jsonl", [row(1), row("leak", words("sealed", 3))])}
    _, output, _ = run_stage(mixture, settings(part))
    assert [columns["id"] for columns in lines(output / "data.jsonl")] == ["1"]


def test_pairs_are_checked_by_their_prompt_and_not_by_their_answers(run_stage, write_lines):
    def pair(id, prompt, chosen):
        turn = {"role": "user", "content": prompt}
        answers = ({"role": "assistant", "content": text} for text in (chosen, "no"))
        return {"id": id, "prompt": prompt} | {
            name: [turn, answer] for name, answer in zip(("chosen", "rejected"), answers, strict=True)
        }

    rows = [pair("prompt", words("small", 1), "yes"), pair("answer", "hello", words("small", 2))]
    _, output, _ = run_stage(mixture, settings({"data": write_lines("pairs.jsonl", rows)}, rows="preference"))
    assert [columns["id"] for columns in lines(output / "data.jsonl")] == ["answer"]


def test_repeated_rows_have_ids_of_their_own(run_stage, write_lines):
    part = {"data": write_lines("rows.jsonl", [row("a"), row("b")]), "repeat": 3}
    _, output, _ = run_stage(mixture, settings(part))
    data = lines(output / "data.jsonl")
    assert sorted(columns["id"] for columns in data) == ["a", "a#2", "a#3", "b", "b#2", "b#3"]
    assert Counter(columns["messages"][0]["content"] for columns in data) == {"prompt of a": 3, "prompt of b": 3}
    assert read(output, "mixture.json")["ids_made_unique"] == 4


def test_a_count_beyond_what_is_there_is_recorded(run_stage, write_lines):
    part = {"data": write_lines("rows.jsonl", [row(1), row(2)]), "count": 9}
    _, output, _ = run_stage(mixture, settings(part))
    [used] = read(output, "mixture.json")["sources"]
    assert (used["available"], used["requested"], used["used"]) == (2, 9, 2)


def test_evaluations_without_data_are_named_as_not_checked(run_stage, write_lines):
    _, output, _ = run_stage(mixture, settings({"data": write_lines("rows.jsonl", [row(1)])}))
    not_run = read(output, "decontamination.json")["not_run"]
    assert "development/gsm8k@paper" in not_run and not any("large" in task for task in not_run)


def test_no_decontamination_is_said_and_writes_no_report(run_stage, write_lines):
    part = {"data": write_lines("rows.jsonl", [row("leak", words("small", 1))])}
    result, output, _ = run_stage(mixture, settings(part, decontamination=None))
    assert result["rows"]["data"] == 1 and not (output / "decontamination.json").exists()
    manifest = read(output, "mixture.json")
    assert manifest["decontamination"] is None and "not checked" in manifest["sources"][0]["decontamination"]


def test_a_mixture_of_which_nothing_is_left_is_an_error_that_counts(run_stage, write_lines):
    part = {"data": write_lines("rows.jsonl", [row("leak", words("small", 1))])}
    with pytest.raises(PosttrainError, match="no row is left.*'contaminated': 1"):
        run_stage(mixture, settings(part))


def test_the_manifest_counts_lengths_tokens_and_trained_tokens_of_what_is_used(run_stage, write_lines, tiny_model):
    rows = [row(n, f"p{n}") for n in range(30)] + [row("long", "x" * 3000)]
    part = {"data": write_lines("rows.jsonl", rows), "repeat": 2}
    counted = {"tokenizer": str(tiny_model), "chat_template": "tulu"}
    _, output, _ = run_stage(mixture, settings(part, statistics=counted))
    [used] = read(output, "mixture.json")["sources"]
    # One byte is one token, and </s> is one: <|user|>\n…\n<|assistant|>\n…</s>
    prompts, answers = (sum(len(r["messages"][i]["content"]) for r in rows) for i in (0, 1))
    assert used["lengths"]["trained_tokens"]["total"] == 2 * (answers + len(rows))
    headers = len("<|user|>\n") + len("\n<|assistant|>\n") + 1
    assert used["lengths"]["tokens"]["total"] == 2 * (prompts + answers + headers * len(rows))
    assert used["lengths"]["rows"] == 62 and used["lengths"]["user_turns"]["histogram"] == {"<2": 62}
    assert used["lengths"]["characters"]["histogram"] == {"<16": 60, "<4096": 2}


def test_duplicates_across_sources_are_reported_and_near_ones_removable(run_stage, write_lines):
    long = words("story", 1, 80) + " "
    one = write_lines("one.jsonl", [row("a", long), row("b"), row("c")])
    same = {**row("b"), "id": "again"}
    two = write_lines("two.jsonl", [same, {**row("a", long + "indeed"), "id": "near"}, row("d")])
    for setting, left in (("report", ["a", "b", "c", "near", "d"]), ("drop", ["a", "b", "c", "d"])):
        changes = {"near_duplicates": setting, "shuffle": False}
        _, output, _ = run_stage(mixture, settings({"data": one}, {"data": two}, **changes), setting)
        assert [columns["id"] for columns in lines(output / "data.jsonl")] == left
        manifest = read(output, "mixture.json")
        second = manifest["sources"][1]
        assert second["copies_of"] == {"one.jsonl": 1} and second["near_copies_of"] == {"one.jsonl": 1}
        [pair] = manifest["near_duplicates"]["pairs"]
        assert (pair["id"], pair["like"], manifest["near_duplicates"]["found"]) == ("near", "a", 1)
        assert second["read"] == second["available"] + sum(second["removed"].values())


@pytest.mark.parametrize("near", [None, "drop"])
def test_only_a_row_that_is_used_makes_its_copies_superfluous(near, run_stage, write_lines):
    rows = [row(n, words("story", n, n + 60)) for n in range(0, 600, 60)]
    again = [{**columns, "id": f"again {n}"} for n, columns in enumerate(rows)]
    one, two = {"data": write_lines("one.jsonl", rows), "count": 3}, {"data": write_lines("two.jsonl", again)}
    _, output, _ = run_stage(mixture, settings(one, two, near_duplicates=near))
    mixed = lines(output / "data.jsonl")
    assert len({columns["messages"][0]["content"] for columns in mixed}) == len(mixed) == 10
    second = read(output, "mixture.json")["sources"][1]
    assert (second["copies_of"], second["removed"]["duplicate"], second["used"]) == ({"one.jsonl": 3}, 3, 7)


def test_licences_are_counted_and_stand_in_every_row_that_has_one(run_stage, write_lines):
    known, unknown = "ai2-adapt-dev/no_robots_converted", "made"
    rows = [row(1, source=known), row(2, source=unknown), row(3, source=unknown)]
    own = {"data": write_lines("own.jsonl", [row(4)]), "licence": "CC0-1.0"}
    parts = {"data": write_lines("rows.jsonl", rows)}, own
    _, output, _ = run_stage(mixture, settings(*parts, shuffle=False))
    first, second = read(output, "mixture.json")["sources"]
    assert first["licences"] == {"CC-BY-NC-4.0": 1, "unknown": 2} and second["licences"] == {"CC0-1.0": 1}
    assert first["row_sources"] == {known: 1, unknown: 2}
    assert [columns.get("licence") for columns in lines(output / "data.jsonl")] == [
        "CC-BY-NC-4.0",
        None,
        None,
        "CC0-1.0",
    ]


def test_the_commercial_variant_of_the_published_mixture_leaves_its_other_row_sources_out(run_stage, write_lines):
    kept, nc = "ai2-adapt-dev/oasst1_converted", "ai2-adapt-dev/no_robots_converted"
    personas = "ai2-adapt-dev/personahub_math_v5_regen_149960"
    [source] = Mixture.model_validate({"kind": "mixture", "table": "tulu3-sft", "variant": "commercial-safe"}).sources
    rows = [row(1, source=kept), row(2, source=nc), row(3, source=personas), row(4, source="never heard of")]
    part = {"data": write_lines("rows.jsonl", rows), "row_sources": source.row_sources}
    _, output, _ = run_stage(mixture, settings(part))
    assert [columns["id"] for columns in lines(output / "data.jsonl")] == ["1"]
    assert read(output, "mixture.json")["sources"][0]["removed"]["of_other_row_sources"] == 3


def test_an_edit_in_place_makes_the_mixture_anew(tmp_path, write_lines):
    path = tmp_path / "rows.jsonl"
    write_lines("rows.jsonl", [row(1), row(2)])
    stages = {"mix": {"kind": "mixture", "sources": [{"data": str(path)}], "decontamination": None}}
    recipe = Recipe.model_validate({"name": "edited", "device": "cpu", "threads": 1, "stages": stages})
    found = []
    for edit in (None, None, ("answer to 2", "Answer to 2")):
        if edit:
            path.write_text(path.read_text().replace(*edit))
        found.append(run_recipe(recipe, runs=tmp_path / "runs").stages["mix"])
    assert [stage.ran for stage in found] == [True, False, True]
    assert "Answer to 2" in (found[2].artifact.path / "data.jsonl").read_text()


def test_the_real_sets_pass_through_unchanged(run_stage, data_dir, monkeypatch):
    kinds = {"conversation": "sft", "preference": "preference", "verifiable": "rlvr"}
    for kind, name in kinds.items():
        file = data_dir / "tulu3" / f"{name}_sample.jsonl"
        _, output, _ = run_stage(mixture, settings({"data": str(file)}, rows=kind, shuffle=False), kind)
        published, written = lines(file), lines(output / "data.jsonl")
        duplicates = read(output, "mixture.json")["sources"][0]["removed"]["duplicate"]
        assert len(written) == 100 - duplicates
        seen = [json.dumps(columns, sort_keys=True) for columns in published]
        for columns in written:
            known = {column: columns[column] for column in published[0]}
            assert json.dumps(known, sort_keys=True) in seen
