"""A first recipe for somebody's own model and data: the paper's settings for the nearest size, and options that fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from posttrain.recipe.plan import Config, Machine, complaint, plan, shape_of
from posttrain.recipe.schema import Recipe

# parameters up to which → learning rates of SFT and DPO, and whose they are
RATES = (
    (4e9, 3.0e-5, 2.5e-6, "OLMo 2 1B"),
    (30e9, 5.0e-6, 5.0e-7, "Tülu 3 8B"),
    (float("inf"), 2.0e-6, 2.0e-7, "Tülu 3 70B"),
)
# Tried in this order, for each stage, until it fits.
OPTIONS: tuple[Mapping[str, Any], ...] = (
    {},
    {"activation_checkpointing": True},
    {"activation_checkpointing": True, "micro_batch_tokens": 4096},
    {"activation_checkpointing": True, "micro_batch_tokens": 4096, "optimizer": "adamw_8bit"},
    {"activation_checkpointing": True, "micro_batch_tokens": 4096, "lora": {"rank": 64, "alpha": 128.0}},
    {
        "activation_checkpointing": True,
        "micro_batch_tokens": 4096,
        "lora": {"rank": 64, "alpha": 128.0, "four_bit": True},
    },
)
RLVR_OPTIONS: tuple[Mapping[str, Any], ...] = (
    {},
    {"activation_checkpointing": True},
    {"activation_checkpointing": True, "micro_batch_tokens": 4096},
    {"activation_checkpointing": True, "micro_batch_tokens": 4096, "engine": "vllm"},
)
MAX_TOKENS = {"sft": 4096, "dpo": 2048}


@dataclass(frozen=True)
class Wish:
    """``data``: kind of rows (conversation, preference, verifiable) → file or hub id, at least one of the first two.

    ``chat_template``: None where the tokenizer has its own. ``context``: the model's positions. ``rows``: of each kind.
    """

    name: str
    base: str
    data: Mapping[str, str]
    chat_template: str | None
    context: int
    rows: Mapping[str, int]
    config: Config | None
    machine: Machine | None = None  # None: a CPU


def first_recipe(wish: Wish) -> tuple[str, list[str]]:
    """The recipe's YAML: SFT for conversations, DPO for pairs and GRPO for verifiable prompts, as data is given.

    With it a line for every stage that no option makes fit the machine; it has those that take least memory.
    Raises PosttrainError for a model of unknown size.
    """
    shape = shape_of(wish.base, lambda reference: wish.config)
    _, sft_rate, dpo_rate, whose = next(row for row in RATES if shape.parameters <= row[0])
    made = _recipe(wish, sft_rate, dpo_rate)
    note, unfit = "on a CPU", []
    if wish.machine is not None:
        unfit = _fit(made, wish, wish.machine)
        note = f"on {wish.machine.gpus} × {wish.machine.name}"
    head = [
        f"# Written by `posttrain init` for {wish.base} ({shape.parameters / 1e9:.2g}B parameters) {note}.",
        f"# Learning rates are those of {whose}; batch sizes, lengths, schedules and losses are Tülu 3's.",
        *(f"# {line}" for line in unfit),
    ]
    return "\n".join(head) + "\n" + yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=120), unfit


def _fit(made: dict[str, Any], wish: Wish, on: Machine) -> list[str]:
    """Puts options into each stage that trains; what to do about those that fit with none."""
    unfit = []
    stages = made["stages"]
    for name in [name for name in stages if stages[name]["kind"] in ("sft", "dpo", "rlvr")]:
        tried = []
        for options in RLVR_OPTIONS if name == "rlvr" else OPTIONS:
            changed = stages[name] | options
            recipe = Recipe.model_validate(made | {"stages": stages | {name: changed}})
            planned = plan(recipe, on, lambda reference: wish.config, lambda reference: 1)
            tried.append((next(stage for stage in planned if stage.name == name), changed))
            if not tried[-1][0].advice:
                break
        best, stages[name] = min(tried, key=lambda one: (one[0].advice != "", one[0].memory))
        if best.advice:
            unfit.append(complaint(best, on))
    return unfit


def _recipe(wish: Wish, sft_rate: float, dpo_rate: float) -> dict[str, Any]:
    stages: dict[str, Any] = {}
    on_cpu = {"dtype": "float32"} if wish.machine is None else {}
    models: dict[str, str] = {}
    latest = wish.base
    template = {"chat_template": wish.chat_template} if wish.chat_template else {}

    def mixture(kind: str) -> str:
        stages[f"{kind}_mixture"] = {"kind": "mixture", "rows": kind, "sources": [{"data": wish.data[kind]}]}
        return f"stage:{kind}_mixture"

    def batch(kind: str) -> int:
        """128, or of a small set so much that an epoch has about 20 steps."""
        return max(4, min(128, wish.rows.get(kind, 10**9) // 20))

    def training(kind: str, rate: float, warmup: float, epochs: int, batch_size: int) -> dict[str, Any]:
        steps = {"learning_rate": rate, "warmup_fraction": warmup, "epochs": epochs, "batch_size": batch_size}
        return steps | {"max_tokens": min(MAX_TOKENS[kind], wish.context)} | on_cpu

    if "conversation" in wish.data:
        data = mixture("conversation")
        steps = training("sft", sft_rate, 0.03, 2, batch("conversation"))
        stages["sft"] = {"kind": "sft", "model": latest, "data": data, **template, **steps}
        latest, models["SFT"], template = "stage:sft", "stage:sft", {}
    if "preference" in wish.data:
        data = mixture("preference")
        steps = training("dpo", dpo_rate, 0.1, 1, batch("preference"))
        stages["dpo"] = {"kind": "dpo", "model": latest, "data": data, "beta": 5.0, **template, **steps}
        latest, models["DPO"], template = "stage:dpo", "stage:dpo", {}
    if "verifiable" in wish.data:
        half = max(1, wish.context // 2)
        lengths = {"max_prompt_tokens": min(2048, half), "max_response_tokens": min(2048, half)}
        group = {"steps": 200, "prompts_per_step": 16, "samples_per_prompt": 8, "epochs": 1, "no_eos_reward": 0.0}
        rates = {"learning_rate": 5.0e-7, "schedule": "constant", "beta": 0.01}
        dtype = "float32" if wish.machine is None else "bfloat16"
        stages["rlvr"] = {
            "kind": "rlvr",
            "model": latest,
            "data": mixture("verifiable"),
            "algorithm": "grpo",
            **template,
        }
        stages["rlvr"] |= rates | group | lengths | {"dtype": dtype}
        models["RLVR"] = "stage:rlvr"
    stages["development"] = {"kind": "evaluate", "suite": "development", "models": models}
    stages["development"] |= {"tasks": ["gsm8k@paper", "ifeval@paper"]}
    labels = list(models)
    compare = [[b, a] for a, b in zip(labels, labels[1:], strict=False)]
    stages["report"] = {"kind": "report", "evaluations": ["stage:development"], "compare": compare}
    device = {"device": "cpu"} if wish.machine is None else {}
    return {
        "name": wish.name,
        "description": f"{wish.base} on {', '.join(wish.data.values())}.",
        **device,
        "stages": stages,
    }
