"""GRPO of a 1B shape on one GPU with the local engine: tokens a second, time split, what overlap could save.

    python benchmarks/gpu_rl.py [--steps 4] [--prompts 32] [--samples 8] [--response 512]
    python benchmarks/gpu_rl.py --tiny    # a small shape on a CPU, which shows only that all of it runs

Random weights in Llama 3.2 1B's shape: speed does not depend on what they say. Every answer runs to its limit.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rl import write_inputs
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.models.load import load_tokenizer
from posttrain.pipeline.progress import Silent
from posttrain.recipe.schema import RLVR
from posttrain.stages import rlvr
from posttrain.stages.base import StageContext

SHAPE = dict(
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128_256,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
)
TINY = SHAPE | dict(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=2048,
    max_position_embeddings=256,
)
GAP_BOUND = {"bfloat16": 0.02, "float32": 1e-5}
PARTS = ("generate", "verify", "learn", "sync")


def write_model(folder: Path, shape: dict[str, Any], device: str) -> None:
    write_inputs(folder)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(folder / "model")
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**shape))
    model.cpu().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--response", type=int, default=512)
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with 2 prompts, 2 samples and 16 tokens")
    args = parser.parse_args()
    device, dtype, shape = "cuda", "bfloat16", SHAPE
    if args.tiny:
        device, dtype, shape = "cpu", "float32", TINY
        args.steps, args.prompts, args.samples, args.response = 2, 2, 2, 16
    elif not torch.cuda.is_available():
        raise SystemExit("gpu_rl needs a CUDA device, and torch sees none; --tiny shows on a CPU that it runs")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-rl-") as scratch:
        folder = Path(scratch)
        write_model(folder, shape, device)
        settings = RLVR.model_validate(
            dict(
                kind="rlvr",
                model=str(folder / "model"),
                data=str(folder / "prompts.jsonl"),
                unchecked="a benchmark's random words",
                algorithm="grpo",
                steps=args.steps + 1,
                prompts_per_step=args.prompts,
                samples_per_prompt=args.samples,
                max_prompt_tokens=64,
                max_response_tokens=args.response,
                learning_rate=1e-7,
                schedule="constant",
                beta=0.0,
                epochs=1,
                micro_batch_tokens=32768,
                dtype=dtype,
                checkpoint_every=10**6,
            )
        )
        output, checkpoints = folder / "output", folder / "checkpoints"
        output.mkdir(), checkpoints.mkdir()
        rlvr.run(StageContext("bench", settings, {}, output, checkpoints, Silent(), 1, device, {}))
        rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()][1:]
    tokens = rows[0]["response_tokens"] * args.prompts * args.samples
    seconds = {part: median(row["seconds"][part] for row in rows) for part in PARTS}
    step = sum(seconds.values())
    print(f"{'a CPU' if args.tiny else torch.cuda.get_device_name()}, {tokens:.0f} response tokens a step")
    for part in PARTS:
        print(f"{part:10} {seconds[part]:8.2f} s  {seconds[part] / step:5.0%}")
    figures = {
        "response_tokens_per_second": tokens / step,
        "generated_tokens_per_second": tokens / seconds["generate"],
        "learned_tokens_per_second": tokens / seconds["learn"],
        "generate_share": seconds["generate"] / step,
        # One batch ahead on a second GPU, a step takes as long as the longer of drawing and learning.
        "overlap_bound": step / max(seconds["generate"], step - seconds["generate"]),
        "logp_gap": max(row["logp_gap"] for row in rows),
    }
    if not args.tiny:
        figures["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    targets = {"logp_gap": GAP_BOUND[dtype]}
    rounded = {name: float(f"{value:.3g}") for name, value in figures.items()}
    print(
        json.dumps(
            {"bench": "gpu_rl", "figures": rounded, "targets": targets, "met": figures["logp_gap"] <= GAP_BOUND[dtype]}
        )
    )


if __name__ == "__main__":
    main()
