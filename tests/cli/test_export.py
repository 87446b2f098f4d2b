"""`posttrain export`: others load it and get the same tokens, and its card says what the run knows."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from posttrain.artifacts.atomic import write_json
from posttrain.cli.main import main
from posttrain.data.chat import prepare_tokenizer
from posttrain.inference.local import LocalSampler
from posttrain.inference.protocols import SampleRequest, SamplingParameters
from posttrain.models.load import fit_vocabulary, load_policy, load_tokenizer, save_model
from posttrain.models.release import release
from posttrain.nano import BASE_MODEL
from posttrain.report.card import model_card
from tests.report.made_up import HOSTILE, artifact, made_up_run

QUESTIONS = ("There are 16 rings with Ben. Ben buys 38 more. How many rings does Ben have?", "Describe the cow.")
TOKENS = 24


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A made-up run whose DPO stage holds the shipped model, and what `posttrain export` makes of it."""
    run = made_up_run(tmp_path_factory.mktemp("runs"))
    tokenizer, model = prepare_tokenizer(load_tokenizer(BASE_MODEL), "tulu"), load_policy(BASE_MODEL)
    fit_vocabulary(model, tokenizer)
    shutil.rmtree(run / "dpo")
    settings = {
        "settings": {"learning_rate": 5e-7, "model": "stage:sft"},
        "seed": 3,
        "metrics": {"trained_tokens": 4567},
    }
    dpo = artifact(run, "dpo", "dpo", inputs=("sft", "preferences"), **settings)
    save_model(model, tokenizer, dpo)
    (dpo / "metrics.jsonl").write_text("{}\n")
    development = json.loads((run / "development" / "key-of-development" / "manifest.json").read_text())
    development["settings"] = {"models": {"SFT": "stage:sft", "DPO": "stage:dpo"}}
    (run / "development" / "key-of-development" / "manifest.json").write_text(json.dumps(development))
    out = run.parent.parent / "out" / "lamp-1"
    assert main(["export", str(run / "dpo"), "--out", str(out)]) == 0
    return dpo, out


def prompts(tokenizer):
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


def greedy_here(folder, prompts, eos):
    return greedy(LocalSampler(load_policy(folder), pad_token_id=0, slots=2), prompts, eos)


def greedy(sampler, prompts, eos):
    sampling = SamplingParameters(temperature=0.0, max_tokens=TOKENS, stop_token_ids=(eos,))
    requests = [SampleRequest(str(n), 0, tuple(prompt), sampling) for n, prompt in enumerate(prompts)]
    drawn = {sample.request.prompt_id: list(sample.token_ids) for sample in sampler.generate(requests)}
    return [drawn[str(n)] for n in range(len(prompts))]


def test_transformers_gives_the_tokens_of_the_local_engine_on_the_artifact(exported):
    dpo, out = exported
    tokenizer = load_tokenizer(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    asked = prompts(tokenizer)
    ours = greedy_here(dpo, asked, tokenizer.eos_token_id)
    for prompt, expected in zip(asked, ours, strict=True):
        answer = model.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)
        assert answer[0, len(prompt) :].tolist() == expected
    assert len(ours[0]) > 3
    assert greedy_here(out, asked, tokenizer.eos_token_id) == ours


@pytest.mark.long
def test_vllm_gives_the_same_tokens(exported):
    pytest.importorskip("vllm", reason="run by `make test-vllm`")
    from posttrain.inference.vllm import VllmSampler

    dpo, out = exported
    tokenizer = load_tokenizer(out)
    asked = prompts(tokenizer)
    sampler = VllmSampler(out, context_length=256)
    drawn = greedy(sampler, asked, tokenizer.eos_token_id)
    sampler.close()
    assert drawn == greedy_here(dpo, asked, tokenizer.eos_token_id)


def test_only_what_loads_the_model_is_in_the_folder(exported):
    _, out = exported
    names = {path.name for path in out.iterdir()}
    assert {"README.md", "config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= names
    assert not names & {"manifest.json", "metrics.jsonl"}


def test_the_card_tells_data_licences_contamination_results_and_peeks(exported):
    _, out = exported
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert "# lamp-1" in card and "from some/model" in card
    assert "MIT (99)" in card
    assert "overlaps with development/nano_problems@nano 1 of 4; 1 rows left out" in card
    assert "| nano_problems@nano | 40 | 75.0 [" in card
    assert "The unseen suite was not looked at in this run." in card
    assert card.index("scores above") > card.index("## Results") and "below" not in card
    assert "4,567" in card and HOSTILE not in card


def test_half_the_bytes_on_request_and_no_folder_is_overwritten(exported, tmp_path, capsys):
    dpo, out = exported
    assert main(["export", str(dpo), "--out", str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert half.dtype == torch.bfloat16
    size = {folder: sum(f.stat().st_size for f in folder.glob("*.safetensors")) for folder in (out, tmp_path / "half")}
    assert size[tmp_path / "half"] < 0.55 * size[out]
    assert main(["export", str(dpo), "--out", str(tmp_path / "half")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "no finished stage" in capsys.readouterr().err


def test_a_card_names_the_model_that_training_began_with_and_no_path_of_this_machine(tmp_path):
    """Neither a judge nor the pool nor a data set is a base."""
    asked = dict.fromkeys(["Qwen/Qwen2.5-7B", "01-ai/Yi-34B-Chat", "allenai/tulu-3-wildchat"], "h")
    artifact(tmp_path / "run", "preferences", "preferences", references=asked)
    private, public = str(tmp_path / "private" / "rows.jsonl"), "allenai/tulu-3-sft-mixture"
    mixture = artifact(tmp_path / "run", "mixture", "mixture", references={private: "h", public: "h"})
    sources = [{"source": source, "used": 3} for source in (private, public, "data/rows.jsonl")]
    write_json(mixture / "mixture.json", {"sources": sources})
    base = "meta-llama/Llama-3.1-8B"
    artifact(tmp_path / "run", "sft", "sft", inputs=("mixture",), references={base: "h"}, settings={"model": base})
    about = {"seed": 1, "settings": {"model": "stage:sft"}}
    made = artifact(tmp_path / "run", "dpo", "dpo", inputs=("sft", "preferences"), **about)
    card = model_card("lamp-1", made, "Tests.")
    assert f'base_model: "{base}"\n' in card and f"from {base}.\n" in card
    assert f'datasets: ["{public}"]\n' in card
    assert str(tmp_path) not in card and "| rows.jsonl |" in card
    assert "Yi-34B" not in card


def test_a_local_folder_whose_name_looks_like_a_hub_id_is_not_told_as_somebody_elses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("models/my-base", "sets/my-rows"):
        (tmp_path / folder).mkdir(parents=True)
    mixture = artifact(tmp_path / "run", "mixture", "mixture")
    write_json(mixture / "mixture.json", {"sources": [{"source": "sets/my-rows", "used": 3}]})
    about = {"seed": 1, "settings": {"model": "models/my-base"}}
    card = model_card("lamp-1", artifact(tmp_path / "run", "sft", "sft", inputs=("mixture",), **about), "Tests.")
    assert "base_model" not in card and "datasets" not in card
    assert "from my-base." in card and "| my-rows |" in card and "models/" not in card


def test_the_index_of_several_files_tells_the_bytes_that_are_there(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(BASE_MODEL, folder)
    (folder / "model.safetensors").unlink()
    load_policy(BASE_MODEL).save_pretrained(folder, max_shard_size="1MB")
    release(folder, tmp_path / "out", "bfloat16")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    tensors = [t for file in (tmp_path / "out").glob("*.safetensors") for t in load_file(file).values()]
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors)


class Hub:
    """In place of huggingface_hub.HfApi: keeps what it is told."""

    told: list[tuple] = []
    refuses = False

    def create_repo(self, name, *, private, exist_ok):
        if self.refuses:
            raise OSError("401 Unauthorized")
        self.told.append((name, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path):
        self.told.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
        return f"https://huggingface.co/{repo_id}"


@pytest.mark.parametrize("refuses", [False, True])
def test_a_push_takes_the_folder_with_its_card_to_a_private_repository(
    exported, tmp_path, monkeypatch, capsys, refuses
):
    dpo, _ = exported
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "refuses", refuses)
    monkeypatch.setattr(Hub, "told", [])
    out = tmp_path / "out"
    code = main(["export", str(dpo), "--out", str(out), "--push", "me/lamp-1"])
    if refuses:
        said = capsys.readouterr().err
        assert code == 2 and "401" in said and "hf upload me/lamp-1" in said and (out / "README.md").is_file()
        return
    assert code == 0 and "https://huggingface.co/me/lamp-1" in capsys.readouterr().out
    assert Hub.told[0] == ("me/lamp-1", True, True)
    assert Hub.told[1] == ("me/lamp-1", sorted(path.name for path in out.iterdir()))
    assert {"README.md", "model.safetensors"} <= set(Hub.told[1][1])
