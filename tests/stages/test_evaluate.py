"""The evaluate stage: the same instances for every model, sealed suite, resume."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.artifacts.atomic import write_json
from posttrain.artifacts.jsonl import read_jsonl
from posttrain.data.chat import TEMPLATES
from posttrain.errors import PosttrainError
from posttrain.evaluation.run import SCORES, records_file
from posttrain.evaluation.sealed import LOG, count_unsealings
from posttrain.inference.local import LocalSampler
from posttrain.recipe.schema import Evaluate
from posttrain.stages import evaluate
from posttrain.stages.base import StageContext
from posttrain.stages.names import check_names


class Quiet:
    def start(self, description, total, unit, done=0): ...

    def advance(self, amount=1, **shown): ...

    def note(self, message): ...


def save_model(folder, seed, chat_template=TEMPLATES["tulu"]):
    torch.manual_seed(seed)
    vocabulary = {t: i for i, t in enumerate(["<eos>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = chat_template
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def context(tmp_path, attempt="", **settings):
    given = {"suite": "development", "tasks": ("nano_problems", "nano_facts"), "limit": 3, "max_response_tokens": 4}
    output, checkpoints = tmp_path / "runs" / "made-up" / "stage" / f".building{attempt}", tmp_path / "checkpoints"
    output.mkdir(parents=True)
    checkpoints.mkdir(exist_ok=True)
    typed = Evaluate.model_validate({"kind": "evaluate", **given, **settings})
    return StageContext("development", typed, {}, output, checkpoints, Quiet(), 1, "cpu", {})


def test_every_model_answers_the_same_instances_and_the_scores_lie_beside_the_records(tmp_path):
    models = {"base": save_model(tmp_path / "base", 0, None), "SFT / 1": save_model(tmp_path / "sft", 1)}
    stage = context(tmp_path, models=models)
    told = evaluate.run(stage)
    scores = json.loads((stage.output / SCORES).read_text())
    kept = {label: [row for _, row in read_jsonl(stage.output / records_file(label))] for label in models}
    assert [r["id"] for r in kept["base"]] == [r["id"] for r in kept["SFT / 1"]]
    assert [r["task"] for r in kept["base"]] == [r["task"] for r in kept["SFT / 1"]]
    assert scores["models"]["base"]["format"] == "plain"
    assert scores["models"]["SFT / 1"]["format"] == "chat"
    assert scores["limits"]["instances"] == 3
    assert told["rows"] == {"base": 6, "SFT / 1": 6}
    assert scores["models"]["base"]["model"] != scores["models"]["SFT / 1"]["model"]


def test_a_killed_stage_goes_on_and_writes_what_it_would_have_written(tmp_path, monkeypatch):
    models = {"a": save_model(tmp_path / "a", 0), "b": save_model(tmp_path / "b", 1)}
    whole = context(tmp_path, "-whole", models=models)
    evaluate.run(whole)
    expected = {p.name: p.read_bytes() for p in whole.output.iterdir()}
    for journal in (tmp_path / "checkpoints").iterdir():
        journal.unlink()

    generate, asked = LocalSampler.generate, []

    def dying(self, requests):
        for sample in generate(self, requests):
            if len(asked) == 8:  # in the middle of the second model
                raise KeyboardInterrupt
            asked.append(sample.request.prompt_id)
            yield sample

    monkeypatch.setattr(LocalSampler, "generate", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(context(tmp_path, "-killed", models=models))
    asked.append("the one in flight")
    resumed = context(tmp_path, "-resumed", models=models)
    evaluate.run(resumed)
    assert {p.name: p.read_bytes() for p in resumed.output.iterdir()} == expected
    assert len(asked) == 8 + 1 + 4  # of twelve


@pytest.mark.parametrize(("suite", "task"), [("development", "nano_problms"), ("development", "nano_facts_unseen")])
def test_a_wrong_task_is_refused_before_anything_runs(suite, task):
    with pytest.raises(PosttrainError, match="nano_"):
        check_names(Evaluate(kind="evaluate", suite=suite, models={}, tasks=(task,)))


def test_the_unseen_suite_is_not_run_without_a_reason(tmp_path):
    models = {"a": save_model(tmp_path / "a", 0)}
    with pytest.raises(PosttrainError, match="sealed"):
        evaluate.run(context(tmp_path, suite="unseen", tasks=("nano_facts_unseen",), models=models))


def test_a_look_at_the_unseen_suite_is_logged_once_in_every_run_it_concerns(tmp_path):
    runs = tmp_path / "runs"
    model = runs / "another" / "sft" / "k1"
    save_model(model, 0)
    write_json(model / "manifest.json", {"stage": "sft", "key": "k1"})
    shipped = save_model(tmp_path / "shipped", 1)  # carries the manifest of the run that made it, elsewhere
    write_json(tmp_path / "shipped" / "manifest.json", {"stage": "pretrain", "key": "k0"})
    given = {"suite": "unseen", "tasks": ("nano_facts_unseen",), "unseal": "a test"}
    for attempt in ("-first", "-again"):
        evaluate.run(context(tmp_path, attempt, models={"a": str(model), "b": shipped}, **given))
    logs = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob(LOG))
    assert logs == ["runs/another/unsealed.jsonl", "runs/made-up/unsealed.jsonl"]
    assert count_unsealings([runs / "another"]) == count_unsealings([runs / "another", runs / "made-up"]) == 1
    evaluate.run(context(tmp_path, "-other", models={"a": str(model)}, **given))
    assert count_unsealings([runs / "made-up"]) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 2},
        {"max_response_tokens": 3},
        {"max_prompt_tokens": 400},
        {"chat_template": "tulu"},
        {"rope_positions": 600},
    ],
    ids=str,
)
def test_asking_in_any_other_way_is_another_look(tmp_path, change):
    model = save_model(tmp_path / "model", 0)
    given = {"suite": "unseen", "tasks": ("nano_facts_unseen",), "unseal": "a test", "models": {"a": model}, "limit": 1}
    evaluate.run(context(tmp_path, "-first", **given))
    evaluate.run(context(tmp_path, "-other", **(given | change)))
    assert count_unsealings([tmp_path / "runs" / "made-up"]) == 2
