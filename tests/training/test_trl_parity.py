"""Loss, gradient and weight change are TRL's, on the same rows: SFTTrainer, and DPOTrainer with `sigmoid_norm`.

Compared are gradients before clipping: Adam's first step is lr·sign(g) and would hide a wrong scale.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.data.batches import epoch_order
from posttrain.data.chat import prepare_tokenizer
from posttrain.data.training_rows import tokenized_conversations, tokenized_pairs
from posttrain.models.load import load_tokenizer
from tests.stages.conftest import conversations, pairs, tiny_model, write_lines  # noqa: F401 — fixtures
from tests.training.rank_work import first_gradients, run_stage

pytestmark = pytest.mark.long
STEPS, RATE, BETA = 20, 1e-3, 5.0
BATCH = {"sft": 7, "dpo": 5}  # they divide the number of rows


@pytest.fixture
def settings(tiny_model, conversations, pairs):  # noqa: F811
    shared = dict(model=str(tiny_model), chat_template="tulu", max_tokens=96, checkpoint_every=STEPS, dtype="float32")
    shared |= dict(
        micro_batch_tokens=192, learning_rate=RATE, schedule="constant", warmup_fraction=0.0, unchecked="a test"
    )
    return {
        "sft": {**shared, "data": conversations, "train_on": "last_turn", "batch_size": BATCH["sft"]},
        "dpo": {**shared, "data": pairs, "beta": BETA, "batch_size": BATCH["dpo"]},
    }


def rows_in_order(kind: str, settings: dict, steps: int, tmp_path) -> tuple[Any, list[Any]]:
    """The tokenizer and the rows of the first ``steps`` optimizer steps."""
    tokenizer = prepare_tokenizer(load_tokenizer(settings["model"]), "tulu")
    read: Any = tokenized_conversations if kind == "sft" else tokenized_pairs
    rows, _ = read(
        Path(settings["data"]), tokenizer, max_tokens=96, train_on="last_turn", rejected=tmp_path / "rejected.jsonl"
    )
    assert len(rows) % BATCH[kind] == 0
    order = [i for epoch in range(steps) for i in epoch_order(len(rows), 1, epoch)]
    return tokenizer, [rows[i] for i in order[: steps * BATCH[kind]]]


def trl_trainer(kind: str, settings: dict, steps: int, tmp_path) -> Any:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    tokenizer, rows = rows_in_order(kind, settings, steps, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32, attn_implementation="sdpa")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():  # as `fit_vocabulary` does
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            weight[257:] = weight[:257].mean(0)
    common: dict[str, Any] = dict(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=BATCH[kind],
        max_steps=steps,
        max_length=None,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
        logging_steps=1,
        remove_unused_columns=False,
    )
    if kind == "sft":
        columns = {
            "input_ids": [row.input_ids.tolist() for row in rows],
            "completion_mask": [row.trained.astype(int).tolist() for row in rows],
        }
        config = trl.SFTConfig(completion_only_loss=True, **common)
        return trl.SFTTrainer(model, config, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer)
    columns = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for pair in rows:
        begin = int(pair.chosen.trained.argmax())
        columns["prompt_ids"].append(pair.chosen.input_ids[:begin].tolist())
        columns["chosen_ids"].append(pair.chosen.input_ids[begin:].tolist())
        columns["rejected_ids"].append(pair.rejected.input_ids[begin:].tolist())

    class Ready(trl.DPOTrainer):
        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

    config = trl.DPOConfig(loss_type=["sigmoid_norm"], beta=BETA, precompute_ref_log_probs=True, **common)
    return Ready(model, args=config, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer)


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative L2 over all tensors together."""
    assert a.keys() == b.keys()
    difference = sum(float((a[name] - b[name]).double().square().sum()) for name in a)
    return (difference / sum(float(t.double().square().sum()) for t in b.values())) ** 0.5


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_loss_and_gradient_are_trls(tmp_path, settings, kind):
    trainer = trl_trainer(kind, settings[kind], 1, tmp_path)
    expected: dict[str, torch.Tensor] = {}

    def caught(*_, **__):
        expected.update({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
        return torch.zeros(())

    trainer.accelerator.clip_grad_norm_ = caught
    trainer.train()
    found = first_gradients(kind, settings[kind], tmp_path / "ours")
    assert apart(found, expected) < 1e-5
    run_stage(kind, settings[kind], tmp_path / "run", stop_at=1)
    first = json.loads((tmp_path / "run" / "checkpoints" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(trainer.state.log_history[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_twenty_steps_change_the_weights_as_trls_do(tmp_path, settings, kind):
    trainer = trl_trainer(kind, settings[kind], STEPS, tmp_path)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    theirs = {name: p.detach() - start[name] for name, p in trainer.model.named_parameters()}
    run_stage(kind, {**settings[kind], "epochs": STEPS}, tmp_path / "ours", stop_at=STEPS + 1)
    ours = torch.load(next((tmp_path / "ours" / "checkpoints").glob("step-*.pt")), weights_only=True)
    weights = {name: weight for name, weight in ours["modules"]["model"].items() if name in start}
    assert apart({name: weights[name] - start[name] for name in start}, theirs) < 1e-3
