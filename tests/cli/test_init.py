"""`posttrain init`: the recipe it writes is valid, fits what it was planned for, and trains every family it names."""

import json

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.cli.main import main
from posttrain.errors import PosttrainError
from posttrain.models.load import load_tokenizer
from posttrain.nano import BASE_MODEL
from posttrain.pipeline.runner import run_recipe
from posttrain.recipe.init import Wish, first_recipe
from posttrain.recipe.load import load_recipe
from posttrain.recipe.plan import machine, plan

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "olmo2": {},
    "gemma3_text": {"head_dim": 8},
}
TURNS = [{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "The answer is 5."}]
ROWS = {
    "conversation": {"messages": TURNS},
    "preference": {
        "prompt": "What is 2 + 3?",
        "chosen": TURNS,
        "rejected": [TURNS[0], {"role": "assistant", "content": "6"}],
    },
    "verifiable": {"messages": TURNS[:1], "ground_truth": "5", "dataset": "gsm8k"},
}


def data(folder, kind, count=12):
    path = folder / f"{kind}.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": f"{kind}{n}", "source": "made-up"} | ROWS[kind]).replace("2 +", f"{n} +") + "\n"
            for n in range(count)
        )
    )
    return str(path)


QUICK = ("llama", "gemma3_text")  # the others take seconds each


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in QUICK else pytest.mark.long) for f in FAMILIES])
def test_a_first_recipe_trains_a_tiny_model_of_every_family(family, tmp_path, capsys):
    tokenizer = load_tokenizer(BASE_MODEL)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    sizes = SIZES | {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    torch.manual_seed(0)
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **sizes, **FAMILIES[family], **special)
    ).save_pretrained(base)
    tokenizer.save_pretrained(base)
    out = tmp_path / "mine.yaml"
    files = [data(tmp_path, "conversation"), data(tmp_path, "preference")]
    given = [argument for file in files for argument in ("--data", file)]
    assert main(["init", "--base", str(base), *given, "--out", str(out)]) == 0
    assert "checked" in capsys.readouterr().out
    done = run_recipe(load_recipe(out), runs=tmp_path / "runs", until="dpo")
    assert {"sft", "dpo"} <= set(done.stages)


def wish(kinds, gpus=None, base="meta-llama/Llama-3.1-8B", **changes):
    given = {kind: f"{kind}.jsonl" for kind in kinds}
    rows = {kind: 100_000 for kind in kinds}
    on = machine(gpus) if gpus else None
    return Wish("mine", base, given, "tulu", 131072, rows, None, on, **changes)


@pytest.mark.parametrize("gpus", ["1xH100", "8xH100", "RTX4090", "64xH200"])
@pytest.mark.parametrize("base", ["meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"])
def test_what_it_writes_for_a_machine_fits_that_machine(gpus, base, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(first_recipe(wish(["conversation", "preference"], gpus, base))[0])
    planned = plan(load_recipe(path), machine(gpus), lambda reference: None, lambda reference: 1000)
    assert [stage.advice for stage in planned] == ["", ""]


@pytest.mark.parametrize(("base", "gpus"), [("1B", "A100-40"), ("1B", "8xRTX4090"), ("8B", "8xH100"), ("8B", "8xL40S")])
def test_rlvr_fits_where_an_option_makes_it_fit(base, gpus, tmp_path):
    base = {"1B": "meta-llama/Llama-3.2-1B", "8B": "meta-llama/Llama-3.1-8B"}[base]
    path = tmp_path / "mine.yaml"
    text, unfit = first_recipe(wish(["verifiable"], gpus, base))
    path.write_text(text)
    (rlvr,) = plan(load_recipe(path), machine(gpus), lambda reference: None, lambda reference: 1000)
    assert (rlvr.advice, unfit) == ("", [])


@pytest.mark.parametrize(
    ("base", "kind", "gpus"),
    [("Llama-3.2-1B", "verifiable", "RTX4090"), ("Llama-3.1-70B", "conversation", "RTX4090")],
)
def test_what_fits_by_no_option_is_said_and_not_called_checked(base, kind, gpus, tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    files = ["--data", data(tmp_path, kind), "--out", str(out)]
    assert main(["init", "--base", f"meta-llama/{base}", "--gpus", gpus, *files]) == 0
    told = capsys.readouterr().out
    planned = plan(load_recipe(out), machine(gpus), lambda reference: None, lambda reference: 12)
    assert planned[0].advice and planned[0].advice in told and planned[0].advice in out.read_text()
    assert "does not fit on 1 × RTX4090" in told and "checked" not in told


@pytest.mark.parametrize(
    ("kinds", "stages"),
    [
        (["conversation"], ["sft"]),
        (["preference"], ["dpo"]),
        (["conversation", "preference", "verifiable"], ["sft", "dpo", "rlvr"]),
    ],
)
def test_the_stages_follow_the_data(kinds, stages):
    made = yaml.safe_load(first_recipe(wish(kinds))[0])["stages"]
    assert [name for name in made if made[name]["kind"] in ("sft", "dpo", "rlvr")] == stages
    trained = [made[name] for name in stages]
    assert "chat_template" in trained[0] and all("chat_template" not in later for later in trained[1:])


@pytest.mark.parametrize("file", ["My Recipe.yaml", "Tülu №3.yaml", "_.yaml", "数.yaml"])
def test_any_file_name_gives_a_recipe_that_loads(file, tmp_path):
    out = tmp_path / file
    assert main(["init", "--base", "nano", "--data", data(tmp_path, "conversation"), "--out", str(out)]) == 0
    assert load_recipe(out).stages


def test_a_faulty_recipe_is_not_written(tmp_path, monkeypatch):
    def refuse(*args):
        raise PosttrainError("no such task")

    monkeypatch.setattr("posttrain.pipeline.resolve.check", refuse)
    out = tmp_path / "mine.yaml"
    assert main(["init", "--base", "nano", "--data", data(tmp_path, "conversation"), "--out", str(out)]) == 2
    assert not out.exists()


def test_a_model_of_unknown_size_is_wanted_as_a_folder(tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    given = ["--base", "Qwen/Qwen2.5-0.5B", "--data", data(tmp_path, "conversation"), "--out", str(out)]
    assert main(["init", *given]) == 2
    said = capsys.readouterr().err
    assert "--base FOLDER" in said and "hub_mirror" not in said


def test_unknown_columns_and_existing_files_are_told(tmp_path, capsys):
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"instruction": "x"}\n')
    assert main(["init", "--base", "nano", "--data", str(strange), "--out", str(tmp_path / "a.yaml")]) == 2
    assert "has the columns instruction" in capsys.readouterr().err
    (tmp_path / "a.yaml").write_text("")
    assert (
        main(["init", "--base", "nano", "--data", data(tmp_path, "conversation"), "--out", str(tmp_path / "a.yaml")])
        == 2
    )
    assert "is there already" in capsys.readouterr().err


def test_a_model_that_no_loss_here_can_train_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"final_logit_softcapping": 30.0}))
    assert main(["init", "--base", str(tmp_path), "--data", data(tmp_path, "conversation")]) == 2
    assert "caps its logits" in capsys.readouterr().err
