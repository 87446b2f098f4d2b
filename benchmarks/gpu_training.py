"""Full fine-tuning of randomly initialised Llama 3.1 shapes on one GPU, rows packed to 4096 tokens: ours beside TRL.

fp32 masters, bf16 forward, the same rows, attention and activation checkpointing on both sides, each in a process of
its own. Prints tokens/s, MFU (`posttrain.training.flops`: 6N and causal attention, nothing counted twice) and peak
memory. Needs a CUDA card and `pip install posttrain[bench]`.

    python benchmarks/gpu_training.py [--shapes 1B,8B] [--attention flex_attention] [--checkpointing]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = {  # Llama 3.2 1B, Llama 3.1 8B
    "1B": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, head_dim=64),
    "8B": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, head_dim=128),
}
TARGET_MFU = {"1B": 0.45, "8B": 0.35}
TARGET_RATIO = 1.3
VOCABULARY, WINDOW = 128256, 4096
STEPS, UNTIMED, WINDOWS = 12, 4, 4  # optimizer steps of so many windows each


def documents() -> list[list[int]]:
    """Lengths of the documents in each window, as uneven as a chat mixture's; every window is full."""
    rng = np.random.default_rng(1)
    windows = []
    for _ in range(STEPS * WINDOWS):
        lengths: list[int] = []
        while (left := WINDOW - sum(lengths)) > 0:
            lengths.append(min(left, max(16, int(rng.lognormal(6.0, 1.0)))))
        if lengths[-1] < 2:  # a document of one token trains nothing
            lengths[-2:] = [sum(lengths[-2:])]
        windows.append(lengths)
    return windows


def build(shape: str, attention: str) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        num_key_value_heads=8,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=shape == "1B",
        **SHAPES[shape],
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    with torch.device("cuda"):
        return LlamaForCausalLM(config).float().eval()


def told(model: Any, seconds: float, windows: list[list[int]]) -> dict[str, Any]:
    import torch

    from posttrain.training.flops import peak_flops, training_flops

    lengths = [length for window in windows[UNTIMED * WINDOWS :] for length in window]
    peak = peak_flops()
    mfu = training_flops(model, lengths) / seconds / peak if peak else None
    memory = torch.cuda.max_memory_allocated() / 2**30
    return {"tokens_per_second": sum(lengths) / seconds, "mfu": mfu, "memory_gib": memory}


def ours(shape: str, attention: str, checkpointing: bool, compiled: bool) -> dict[str, Any]:
    import torch

    from posttrain.data.batches import pad_batch
    from posttrain.data.tokenize import Tokenized
    from posttrain.pipeline.progress import Silent
    from posttrain.recipe.schema import SFT
    from posttrain.training.logprobs import response_logprobs
    from posttrain.training.loop import TrainingLoop
    from posttrain.training.losses import token_loss_sum
    from posttrain.training.precision import forward_precision
    from posttrain.training.sharding import scaled_loss

    windows = documents()
    model = build(shape, attention)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    if compiled:
        for layer in model.base_model.layers:
            layer.compile(dynamic=True)
    rng = np.random.default_rng(2)

    def row(length: int) -> Tokenized:
        return Tokenized("r", rng.integers(0, VOCABULARY, length).astype(np.int32), np.ones(length, bool))

    rows = [[row(length) for length in window] for window in windows]
    plan = [list(range(step * WINDOWS, (step + 1) * WINDOWS)) for step in range(STEPS)]
    settings = SFT(kind="sft", model="", data="", learning_rate=1e-5, checkpoint_every=10**6)
    began = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        ids = [str(window) for window in range(len(rows))]
        loop = TrainingLoop(model, plan, settings, "cuda", ids=ids, checkpoints=Path(scratch), progress=Silent())
        for step in loop.steps("training"):
            if loop.step == UNTIMED:
                torch.cuda.synchronize()
                began = time.perf_counter()
            tokens = sum(len(r) - 1 for window in step for r in rows[window])
            for window in step:
                batch = pad_batch(rows[window], 0)
                with forward_precision("cuda", "bfloat16"):
                    logp_BT = response_logprobs(model, batch.input_ids_BT, batch.attention_mask_BT, batch.trained_BT)
                scaled_loss(token_loss_sum(logp_BT, batch.trained_BT.cuda()), tokens).backward()
            loop.update(tokens=tokens, lengths=[len(r) for window in step for r in rows[window]], loss=0.0)
        torch.cuda.synchronize()
        return told(model, time.perf_counter() - began, windows)


def trl(shape: str, attention: str, checkpointing: bool, compiled: bool) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    windows = documents()
    model = build(shape, attention)
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), eos_token="w1", pad_token="w2", unk_token="w0"
    )
    rng = np.random.default_rng(2)
    rows = [rng.integers(0, VOCABULARY, length).tolist() for window in windows for length in window]
    stamps: list[float] = []

    class Stamps(TrainerCallback):
        def on_step_end(self, *_, **__):
            torch.cuda.synchronize()
            stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch,
            packing=True,
            max_length=WINDOW,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=WINDOWS,
            max_steps=STEPS,
            learning_rate=1e-5,
            bf16=True,
            gradient_checkpointing=checkpointing,
            torch_compile=compiled,
            report_to="none",
            save_strategy="no",
            logging_steps=STEPS + 1,
        )
        dataset = Dataset.from_dict({"input_ids": rows})
        trainer = SFTTrainer(model, config, train_dataset=dataset, processing_class=tokenizer)
        trainer.add_callback(Stamps())
        trainer.train()
    return told(model, stamps[-1] - stamps[UNTIMED - 1], windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1B,8B")
    parser.add_argument(
        "--attention", default="flex_attention", choices=["sdpa", "flex_attention", "flash_attention_2"]
    )
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        who, *arguments = json.loads(args.work)
        print(json.dumps({"ours": ours, "trl": trl}[who](*arguments)))
        return
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no CUDA card is to be seen: this benchmark measures one")
    print(f"{torch.cuda.get_device_name()}, {args.attention}, activation checkpointing: {args.checkpointing}")
    print("shape who    tokens/s     MFU   GiB")
    figures, targets = {}, {}
    for shape in args.shapes.split(","):
        found = {}
        for who in ("ours", "trl"):
            work = json.dumps([who, shape, args.attention, args.checkpointing, args.compile])
            done = subprocess.run([sys.executable, __file__, "--work", work], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{who} {shape} failed:\n{done.stderr[-3000:]}")
            found[who] = json.loads(done.stdout.splitlines()[-1])
            mfu = found[who]["mfu"]
            print(
                f"{shape:5} {who:5} {found[who]['tokens_per_second']:9,.0f} {'?' if mfu is None else f'{mfu:7.1%}'}"
                f" {found[who]['memory_gib']:5.0f}",
                flush=True,
            )
        figures[f"mfu_{shape}"] = found["ours"]["mfu"]
        figures[f"speed_vs_trl_{shape}"] = found["ours"]["tokens_per_second"] / found["trl"]["tokens_per_second"]
        targets |= {f"mfu_{shape}": TARGET_MFU[shape], f"speed_vs_trl_{shape}": TARGET_RATIO}
    met = all(figures[name] is not None and figures[name] >= target for name, target in targets.items())
    print(json.dumps({"bench": "gpu-training", "figures": figures, "targets": targets, "met": met}))


if __name__ == "__main__":
    main()
