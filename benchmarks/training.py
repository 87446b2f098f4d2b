"""SFT and length-normalised DPO side by side: our stages, TRL at its fastest, a bare transformers loop. On a CPU.

Same initial model, same rows in the same optimizer steps, fp32, one thread. Each contender runs in a process of its
own. TRL (`pip install posttrain[bench]`) is tried in several settings and the fastest counts; the bare loop sorts rows
by length and scores trained rows only, as we do. Memory is the peak RSS of training less the RSS when model and
optimizer stood (AdamW's moments, made later, are counted as standing). Times are CPU seconds of the one thread, so
that a busy machine does not count; the first two steps are left out.

    python benchmarks/training.py [--cell 3M-8k,25M-32k] [--steps 6] [--repeats 1] [--jobs 1] [--out FILE]
"""

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

BODIES = {"3M": (192, 512, 6, 6), "25M": (512, 1376, 8, 8)}  # hidden, intermediate, layers, heads; without embeddings
VOCABULARIES = {"8k": 8192, "32k": 32768}
CELLS = [f"{body}-{vocabulary}" for body in BODIES for vocabulary in VOCABULARIES]
ROWS = 16  # of an optimizer step: sequences, or rows of 8 pairs
MAX_TOKENS = 512
BUDGET = {"sft": MAX_TOKENS, "dpo": 2 * MAX_TOKENS}  # padded tokens of a forward of the bare loop
OUR_BUDGET = {"sft": MAX_TOKENS, "dpo": MAX_TOKENS * 3 // 2}  # tokens of a forward of ours: a prompt and two responses
SPLIT_BUDGET = MAX_TOKENS  # of DPO: pairs over it are split, one graph at a time
LEARNING_RATE, BETA = 1e-3, 5.0
UNTIMED = 2  # steps
# Rows (pairs) per forward, padding-free. More rows at once were two to four times slower still: at 3M-8k 16 padded rows
# 556 tokens/s beside 1,629 of one row, 8 pairs 1.8 pairs/s beside 5.1.
TRL_SETTINGS = {
    "sft": [(4, True), (1, True)],
    "dpo": [(2, False), (1, False)],
}
TARGETS = {
    "sft_speed_vs_trl": 1.5,
    "sft_memory_vs_trl": 0.6,
    "dpo_speed_vs_trl": 2.0,
    "dpo_memory_vs_trl": 0.5,
    "worst_cell_speed": 1.1,
    "sft_speed_vs_bare_loop": 1.0,
    "loss_difference": 1e-4,
}
AT_MOST = {"sft_memory_vs_trl", "dpo_memory_vs_trl", "loss_difference"}


def write_model(folder: Path, cell: str) -> None:
    """A random Llama with tied embeddings and a tokenizer of as many words."""
    import torch
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    body, vocabulary = cell.split("-")
    hidden, intermediate, layers, heads = BODIES[body]
    size = VOCABULARIES[vocabulary]
    words = ["<unk>", "</s>", "<pad>", "<|user|>", "<|assistant|>"]
    words += [f"w{i}" for i in range(size - len(words))]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_rows(file: Path, kind: str, count: int, vocabulary: int) -> None:
    """Random words in lengths as uneven as those of the published mixtures, an order of magnitude shorter."""
    rng = np.random.default_rng(1)

    def text(median: float) -> str:
        length = int(np.clip(rng.lognormal(math.log(median), 0.9), 8, MAX_TOKENS // 2 - 8))
        return " ".join(f"w{i}" for i in rng.integers(0, vocabulary - 5, length))

    with file.open("w") as out:
        for number in range(count):
            user = {"role": "user", "content": text(70)}
            if kind == "sft":
                row = {"id": str(number), "messages": [user, {"role": "assistant", "content": text(70)}], "source": "b"}
            else:
                chosen, rejected = ([user, {"role": "assistant", "content": text(70)}] for _ in range(2))
                prompt = user["content"]
                row = {"id": str(number), "prompt": prompt, "chosen": chosen, "rejected": rejected, "source": "b"}
            out.write(json.dumps(row) + "\n")


class Meter:
    """Peak memory over a baseline, and a time stamp per step, in CPU seconds of the only thread: others may be busy."""

    def __init__(self):
        self.stamps: list[float] = []
        self.peak = 0

    def start(self, model: Any) -> None:
        _warm_up()
        for parameter in model.parameters():  # from_pretrained maps the file: make the weights stand in memory
            parameter.data = parameter.data.clone()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what loading left behind would hide growth
        Path("/proc/self/clear_refs").write_text("5")
        self.base = _status("VmRSS")
        self.stamps.append(time.process_time())

    def step(self) -> None:
        self.stamps.append(time.process_time())
        self.peak = _status("VmHWM")

    def told(self, losses: list[float], moments: int) -> dict[str, Any]:
        seconds = np.diff(self.stamps)[UNTIMED:]
        return {"seconds": float(seconds.sum()), "memory": self.peak - self.base - moments, "losses": losses}


def _warm_up() -> None:
    """A step of a model of nothing: the libraries' code comes into memory before the baseline."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape))
    ids = torch.zeros((2, 8), dtype=torch.long)
    model(ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.AdamW(model.parameters(), fused=True).step()


def _status(name: str) -> int:
    """Bytes, from /proc/self/status."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":")]
    return 1024 * int(line.split()[1])


def tokenized(kind: str, folder: Path) -> tuple[Any, list[Any]]:
    """The tokenizer and the rows (or pairs) that every contender learns from."""
    from posttrain.data.chat import prepare_tokenizer
    from posttrain.data.training_rows import tokenized_conversations, tokenized_pairs
    from posttrain.models.load import load_tokenizer

    tokenizer = prepare_tokenizer(load_tokenizer(folder), "tulu")
    read: Any = tokenized_conversations if kind == "sft" else tokenized_pairs
    rows, _ = read(
        folder / f"{kind}.jsonl", tokenizer, max_tokens=MAX_TOKENS, train_on="last_turn", rejected=folder / "rejected"
    )
    return tokenizer, rows


def steps_of(kind: str, rows: list[Any]) -> list[list[int]]:
    """The plan that the stages make."""
    from posttrain.data.batches import epoch_order
    from posttrain.training.plan import plan_steps

    return plan_steps([epoch_order(len(rows), 1, 0)], ROWS if kind == "sft" else ROWS // 2)


def ours(kind: str, folder: Path, budget: int | None = None) -> dict[str, Any]:
    """The shipped stage, whole; what precedes its first step and follows its last is not counted."""
    from posttrain.pipeline.progress import Silent
    from posttrain.recipe.schema import DPO, SFT
    from posttrain.stages import dpo, sft
    from posttrain.stages.base import StageContext
    from posttrain.training.loop import TrainingLoop

    meter = Meter()

    class Metered(TrainingLoop):
        def steps(self, description: str) -> Iterator[Any]:
            meter.start(self.model)
            yield from super().steps(description)

        def update(self, **figures: Any) -> None:
            super().update(**figures)
            meter.step()

    stage, schema = (sft, SFT) if kind == "sft" else (dpo, DPO)
    settings = schema.model_validate(
        dict(
            kind=kind,
            model=str(folder),
            data=str(folder / f"{kind}.jsonl"),
            unchecked="random words",
            chat_template="tulu",
            learning_rate=LEARNING_RATE,
            schedule="constant",
            warmup_fraction=0,
            batch_size=ROWS if kind == "sft" else ROWS // 2,
            micro_batch_tokens=budget or OUR_BUDGET[kind],
            max_tokens=MAX_TOKENS,
            dtype="float32",
            attention="packed",
            checkpoint_every=10**6,
        )
        | ({"beta": BETA} if kind == "dpo" else {"train_on": "last_turn"})
    )
    vars(stage)["TrainingLoop"] = Metered
    with tempfile.TemporaryDirectory() as scratch:
        output, checkpoints = Path(scratch, "output"), Path(scratch, "checkpoints")
        output.mkdir(), checkpoints.mkdir()
        stage.run(StageContext("bench", settings, {}, output, checkpoints, Silent(), 1, "cpu", {}))
        curve = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return meter.told([row["loss"] for row in curve], 8 * parameters(folder))


def parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())


def bare(kind: str, folder: Path, _setting: None = None) -> dict[str, Any]:
    """What one would write by hand on a transformers model."""
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM

    from posttrain.data.batches import micro_batches, pad_batch

    tokenizer, rows = tokenized(kind, folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()

    def forward(group: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """−log p of every trained token [N], and each one's row [N]."""
        batch = pad_batch(group, tokenizer.pad_token_id)
        trained = batch.trained_BT[:, 1:]
        hidden = model.model(batch.input_ids_BT, use_cache=False).last_hidden_state[:, :-1][trained]
        loss = F.cross_entropy(model.lm_head(hidden), batch.input_ids_BT[:, 1:][trained], reduction="none")
        return loss, trained.nonzero()[:, 0]

    def means(group: list[Any]) -> torch.Tensor:
        both = [pair.chosen for pair in group] + [pair.rejected for pair in group]
        loss, row = forward(both)
        counts = torch.bincount(row, minlength=len(both))
        return torch.zeros(len(both)).index_add(0, row, -loss) / counts

    reference = {}
    if kind == "dpo":
        with torch.no_grad():
            for pair in rows:
                reference[pair.id] = means([pair])

    def loss_of(group: list[Any], step: list[Any]) -> torch.Tensor:
        if kind == "sft":
            return forward(group)[0].sum() / sum(int(row.trained[1:].sum()) for row in step)
        chosen, rejected = means(group).chunk(2)
        reference_chosen, reference_rejected = torch.stack([reference[pair.id] for pair in group]).T
        return -F.logsigmoid(BETA * (chosen - reference_chosen - rejected + reference_rejected)).sum() / len(step)

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    meter, losses = Meter(), []
    meter.start(model)
    for indices in steps_of(kind, rows):
        step = [rows[i] for i in indices]
        lengths = [len(row) * (1 if kind == "sft" else 2) for row in step]
        total = torch.zeros(())
        for group in micro_batches(lengths, BUDGET[kind]):
            loss = loss_of([step[i] for i in group], step)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total))
        meter.step()
    return meter.told(losses, 8 * parameters(folder))


def trl(kind: str, folder: Path, setting: tuple[int, bool]) -> dict[str, Any]:
    """TRL's trainer, fed rows that are already tokenised, in order; within a step the longest first."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    per_device, padding_free = setting
    tokenizer, rows = tokenized(kind, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    plan = [sorted(step, key=lambda i: (-len(rows[i]), i)) for step in steps_of(kind, rows)]
    ordered = [rows[i] for step in plan for i in step]
    common = dict(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=len(plan[0]) // per_device,
        max_steps=len(plan),
        max_length=None,  # all rows are short enough, and padding_free would not have it
        learning_rate=LEARNING_RATE,
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
    meter = Meter()

    class Stamps(TrainerCallback):
        def on_train_begin(self, *_, model: Any, **__):
            meter.start(model)

        def on_step_end(self, *_, **__):
            meter.step()

    if kind == "sft":
        columns = {
            "input_ids": [row.input_ids.tolist() for row in ordered],
            "completion_mask": [row.trained.astype(int).tolist() for row in ordered],
        }
        config: Any = SFTConfig(completion_only_loss=True, padding_free=padding_free, **common)
        trainer_class: Any = SFTTrainer
    else:
        columns = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
        for pair in ordered:
            begin = int(pair.chosen.trained.argmax())
            columns["prompt_ids"].append(pair.chosen.input_ids[:begin].tolist())
            columns["chosen_ids"].append(pair.chosen.input_ids[begin:].tolist())
            columns["rejected_ids"].append(pair.rejected.input_ids[begin:].tolist())
        config = DPOConfig(
            loss_type=["sigmoid_norm"], beta=BETA, precompute_ref_log_probs=True, disable_dropout=True, **common
        )

        class Ready(DPOTrainer):
            def _prepare_dataset(self, dataset, *_, **__):
                return dataset

        trainer_class = Ready
    trainer = trainer_class(
        model=model, args=config, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer
    )
    trainer.add_callback(Stamps())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return meter.told(losses, 8 * parameters(folder))


CONTENDERS: dict[str, Callable[..., dict[str, Any]]] = {"ours": ours, "bare": bare, "trl": trl}


def work(contender: str, kind: str, folder: str, setting: Any) -> None:
    """In a process of its own: prints what it measured as its last line."""
    import torch

    torch.set_num_threads(1)
    print(json.dumps(CONTENDERS[contender](kind, Path(folder), setting)))


def measured(contender: str, kind: str, folder: Path, setting: Any = None) -> dict[str, Any]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    command = [sys.executable, __file__, "--work", json.dumps([contender, kind, str(folder), setting])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender} {kind} {setting} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest of several, with the least memory."""
    return {**min(runs, key=lambda run: run["seconds"]), "memory": min(run["memory"] for run in runs)}


def compare(kind: str, folder: Path, repeats: int) -> dict[str, dict[str, Any]]:
    """Contender → its figures; the TRL setting that is fastest in a first run is the one that is repeated."""
    trials = {setting: measured("trl", kind, folder, setting) for setting in TRL_SETTINGS[kind]}
    fastest = min(trials, key=lambda setting: trials[setting]["seconds"])
    runs: dict[str, list] = {"ours": [], "bare": [], "trl": [trials[fastest]]}
    for repeat in range(repeats):
        for contender in runs:
            if contender != "trl" or repeat:
                runs[contender].append(measured(contender, kind, folder, fastest if contender == "trl" else None))
    found = {contender: best(of) for contender, of in runs.items()}
    if kind == "dpo":
        found["split"] = measured("ours", kind, folder, SPLIT_BUDGET)
        found["split"]["setting"] = f"ours, long pairs split by a budget of {SPLIT_BUDGET} tokens"
    found["trl"]["setting"] = f"{fastest[0]} a forward{', padding-free' if fastest[1] else ''}"
    return found


def rows_of_table(cell: str, kind: str, found: dict[str, dict[str, Any]], amount: int) -> Iterator[str]:
    for contender, figures in found.items():
        yield (
            f"{cell:8} {kind:4} {contender:5} {amount / figures['seconds']:9.1f} {figures['memory'] / 2**20:8.0f}"
            f"   {figures.get('setting', '')}"
        )


def apart(found: dict[str, dict[str, Any]]) -> float:
    """Largest relative difference of our loss curve from TRL's."""
    pairs = list(zip(found["ours"]["losses"], found["trl"]["losses"], strict=True))
    return max(abs(a - b) / abs(b) for a, b in pairs)


def compared(cell: str, steps: int, repeats: int) -> dict[str, Any]:
    """What is measured of one cell: of SFT and of DPO each contender's figures, told as soon as they are there."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-training-") as scratch:
        folder = Path(scratch)
        write_model(folder, cell)
        for kind in ("sft", "dpo"):
            count = steps * (ROWS if kind == "sft" else ROWS // 2)
            write_rows(folder / f"{kind}.jsonl", kind, count, VOCABULARIES[cell.split("-")[1]])
            _, rows = tokenized(kind, folder)
            timed = [rows[i] for step in steps_of(kind, rows)[UNTIMED:] for i in step]
            amount = sum(map(len, timed)) if kind == "sft" else len(timed)
            result[kind] = found = compare(kind, folder, repeats)
            print("\n".join(rows_of_table(cell, kind, found, amount)), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", "--cells", default=",".join(reversed(CELLS)), help="some of " + ", ".join(CELLS))
    parser.add_argument("--steps", type=int, default=6, help="of which the first two are not timed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, a core each")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(*json.loads(args.work))
    cells = args.cell.split(",")
    if unknown := set(cells) - set(CELLS):
        parser.error(f"--cell: no {', '.join(sorted(unknown))}; there are {', '.join(CELLS)}")
    if args.steps <= UNTIMED:
        parser.error(f"--steps: more than {UNTIMED}, which are not timed")

    import transformers.models.llama  # noqa: F401  its lazy imports are not safe in two threads at once

    print("cell     kind  who   per sec.      MiB   (SFT: tokens, DPO: pairs)", flush=True)
    with ThreadPoolExecutor(args.jobs) as jobs:
        found = list(jobs.map(lambda cell: compared(cell, args.steps, args.repeats), cells))

    def ratios(kind: str, over: str, under: str, of: str) -> list[float]:
        return [cell[kind][over][of] / cell[kind][under][of] for cell in found]

    speed = {kind: ratios(kind, "trl", "ours", "seconds") for kind in ("sft", "dpo")}
    speed["bare"] = ratios("sft", "bare", "ours", "seconds")
    memory = {kind: ratios(kind, "ours", "trl", "memory") for kind in ("sft", "dpo")}
    figures = {
        "sft_speed_vs_trl": geometric_mean(speed["sft"]),
        "sft_memory_vs_trl": geometric_mean(memory["sft"]),
        "dpo_speed_vs_trl": geometric_mean(speed["dpo"]),
        "dpo_memory_vs_trl": geometric_mean(memory["dpo"]),
        "worst_cell_speed": min(speed["sft"] + speed["dpo"]),
        "sft_speed_vs_bare_loop": geometric_mean(speed["bare"]),
        "loss_difference": max(apart(cell[kind]) for cell in found for kind in ("sft", "dpo")),
        "dpo_split_price": geometric_mean(ratios("dpo", "split", "ours", "seconds")),
        "dpo_split_memory": geometric_mean(ratios("dpo", "split", "ours", "memory")),
    }
    met = all(figures[n] <= t if n in AT_MOST else figures[n] >= t for n, t in TARGETS.items())
    if args.out:
        args.out.write_text(json.dumps({"cells": dict(zip(cells, found, strict=True)), "figures": figures}) + "\n")
    print(json.dumps({"bench": "training", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
