"""What RLVR starts from: models that read the same tokens, prompts that fit, held-out rows; and what it refuses."""

import copy
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.data.batches import epoch_order
from posttrain.data.chat import prepare_tokenizer
from posttrain.data.rejects import Rejects
from posttrain.data.rows import VerifiablePrompt
from posttrain.data.sources import HubSource, LocalSource, find_source
from posttrain.errors import PosttrainError
from posttrain.models.fused import fuse
from posttrain.models.heads import TokenScorer, load_scorer
from posttrain.models.load import fit_vocabulary, load_policy, load_tokenizer
from posttrain.models.ranks import world_size
from posttrain.rl.prompts import Prompt, admit_prompts
from posttrain.sandbox.sandbox import Sandbox
from posttrain.stages.base import StageContext
from posttrain.training.build import sharded_judge, trained_policy
from posttrain.verifiers.registry import check_names, run_programs


@dataclass(frozen=True)
class OverRanks:
    """How a model is spread over ranks here: FSDP2 and no more."""

    rope_positions: int | None
    dtype: str
    activation_checkpointing: bool
    attention: str = "sdpa"
    lora: None = None
    compile: bool = False
    replicas: int = 1
    cpu_offload: bool = False


Models = dict[str, Any]  # "policy"; "value" in PPO; frozen: "reference" when beta > 0, "reward" when asked for
TRAINED = ("policy", "value")


def check_device(settings: Any, device: str) -> None:
    """Refuses what would run wrongly, or on the wrong device."""
    if device == "cpu" and settings.dtype != "float32":
        raise PosttrainError(
            f"dtype is {settings.dtype}, but on a CPU RLVR runs in float32, where the sampler's log-probabilities are "
            "the learner's to 1e-5"
        )
    if device == "cpu" and settings.gpus_per_actor > 0:
        raise PosttrainError(
            f"gpus_per_actor is {settings.gpus_per_actor:g}, but RLVR runs on a CPU here, and so do its actors: set it "
            "to 0, or run on a GPU"
        )
    if device == "cuda" and settings.rollout_actors > 0 and settings.gpus_per_actor == 0:
        raise PosttrainError(
            "rollout_actors without a GPU would draw on one CPU thread each while the learner's GPU waits: set "
            "gpus_per_actor (1, or a part of one that several share)"
        )


def check(settings: Any) -> None:
    """Refuses settings that would train nothing, and most that nothing would heed."""
    for heeded, reason in (
        (settings.gpus_per_actor == 0 or settings.rollout_actors > 0, "gpus_per_actor is of rollout_actors: set both"),
        (
            settings.reward_model_weight == 1 or settings.reward_model is not None,
            "reward_model_weight weighs the score of reward_model: name one",
        ),
        (
            settings.algorithm == "ppo" or settings.value_model is None,
            f"algorithm {settings.algorithm} has no value model: set value_model to null",
        ),
        (
            settings.algorithm == "ppo" or settings.value_warmup_steps == 0,
            f"algorithm {settings.algorithm} has no value model to warm up: set value_warmup_steps to 0",
        ),
    ):
        if not heeded:
            raise PosttrainError(reason)
    if settings.temperature <= 0:
        raise PosttrainError(f"temperature is {settings.temperature}: RLVR must sample; give a temperature above 0")
    if settings.algorithm in ("grpo", "rloo", "online_dpo") and settings.samples_per_prompt < 2:
        raise PosttrainError(
            f"algorithm {settings.algorithm} compares samples of one prompt: samples_per_prompt must be at least 2"
        )
    if settings.keep == "best" and settings.heldout is None:
        raise PosttrainError("keep: best needs heldout: name the rows by which the best weights are told")
    if settings.kl_bound is not None and (settings.heldout is None or settings.beta == 0):
        raise PosttrainError(
            "kl_bound bounds the KL to the reference between two looks at heldout: it needs heldout, and beta above 0"
        )
    if settings.value_initialisation == "random" and settings.algorithm != "ppo":
        raise PosttrainError(
            f"value_initialisation: random is of algorithm ppo; {settings.algorithm} has no value model"
        )
    if settings.algorithm == "online_dpo" and settings.beta == 0:
        raise PosttrainError("algorithm online_dpo scales its margins by beta: give one above 0")
    if settings.staleness > 0 and settings.rollout_actors == 0:
        raise PosttrainError(
            f"staleness is {settings.staleness}, but only actors draw while the learner learns: set rollout_actors to "
            "1 or more"
        )
    check_names(settings.verifier_weights or (), settings.verifier_mode)
    if settings.algorithm == "ppo" and settings.value_model is None:
        raise PosttrainError("algorithm ppo needs value_model: name a reward model, from which its value model starts")
    if settings.algorithm == "ppo" and settings.value_warmup_steps >= settings.steps:
        raise PosttrainError(
            f"value_warmup_steps ({settings.value_warmup_steps}) leaves none of {settings.steps} steps to train the "
            "policy; lower it, or raise steps"
        )


def load_models(context: StageContext) -> tuple[PreTrainedTokenizerBase, Models]:
    """The policy, its frozen copy as reference, and a value model that starts from the reward model."""
    settings = context.settings
    path = context.resolve(settings.model)
    options: dict[str, Any] = {"device": context.device, "rope_positions": settings.rope_positions}
    tokenizer = prepare_tokenizer(load_tokenizer(path), settings.chat_template)
    if world_size() > 1:
        return tokenizer, load_over_ranks(context, tokenizer)
    models: Models = {"policy": load_policy(path, **options)}
    fit_vocabulary(models["policy"], tokenizer)
    if settings.beta > 0:
        models["reference"] = copy.deepcopy(models["policy"]).requires_grad_(False)
    if settings.algorithm == "ppo":
        models["value"] = load_judge(context, "value_model", tokenizer, **options, seed=context.seed)
        if settings.value_initialisation == "random":
            models["value"] = models["value"].anew(context.seed)
    if settings.reward_model is not None:
        models["reward"] = load_judge(context, "reward_model", tokenizer, **options).requires_grad_(False)
    for model in (models[name] for name in TRAINED if name in models):
        causal = model.classifier if isinstance(model, TokenScorer) else model
        fuse(causal.base_model, context.device)
        if settings.activation_checkpointing:
            causal.gradient_checkpointing_enable({"use_reentrant": False})
            causal.train()  # without it transformers checkpoints nothing; dropout is 0
    return tokenizer, models


def load_over_ranks(context: StageContext, tokenizer: PreTrainedTokenizerBase) -> Models:
    """The same, all of them sharded."""
    settings, device = context.settings, context.device
    if settings.value_initialisation == "random":
        raise PosttrainError(
            "value_initialisation: random works in a single process; start this stage without torchrun"
        )
    if settings.rollout_actors > 0:
        raise PosttrainError(
            "rollout_actors need a learner of one process; under torchrun every rank draws its share: set "
            "rollout_actors and staleness to 0, or start this stage without torchrun"
        )
    how = OverRanks(settings.rope_positions, settings.dtype, settings.activation_checkpointing)
    path = context.resolve(settings.model)

    def judge(setting: str, seed: int | None = None) -> TokenScorer:
        return sharded_judge(judge_folder(context, setting, tokenizer), tokenizer, how, device, seed=seed)

    models: Models = {"policy": trained_policy(path, tokenizer, how, device)}
    if settings.beta > 0:
        models["reference"] = trained_policy(path, tokenizer, how, device).requires_grad_(False)
    if settings.algorithm == "ppo":
        models["value"] = judge("value_model", context.seed)
    if settings.reward_model is not None:
        models["reward"] = judge("reward_model").requires_grad_(False)
    return models


def check_verifiers(context: StageContext, prompts: Sequence[Prompt]) -> None:
    """All are known; and where one runs what the model wrote, namespaces keep it from this machine, or the recipe
    allows that none do."""
    settings = context.settings
    verifiers = {verifier for prompt in prompts for verifier, _ in prompt.row.checks}
    check_names(verifiers, settings.verifier_mode)
    if run_programs(verifiers):
        with Sandbox(isolation="preferred" if settings.allow_degraded_sandbox else "required") as sandbox:
            if reason := sandbox.degraded:
                context.progress.note(f"degraded sandbox: programs run without namespaces ({reason})")


def load_judge(context: StageContext, setting: str, tokenizer: PreTrainedTokenizerBase, **options: Any) -> TokenScorer:
    """The scorer that ``setting`` names, if it reads the policy's token ids."""
    scorer = load_scorer(judge_folder(context, setting, tokenizer), **options)
    fit_vocabulary(scorer.classifier, tokenizer)
    return scorer


def judge_folder(context: StageContext, setting: str, tokenizer: PreTrainedTokenizerBase) -> Path:
    path = context.resolve(getattr(context.settings, setting))
    if not load_tokenizer(path).get_vocab().items() <= tokenizer.get_vocab().items():
        raise PosttrainError(
            f"{setting} {path} reads other token ids than the policy; take a reward model that "
            "was trained from the same family"
        )
    return path


def load_heldout(
    context: StageContext, tokenizer: PreTrainedTokenizerBase, positions: int, trained_on: Set[tuple[int, ...]]
) -> list[Prompt]:
    """The held-out prompts, a seeded choice of ``heldout_prompts``; none when the recipe names none."""
    settings = context.settings
    if settings.heldout is None:
        return []
    source = find_source(context.resolve(settings.heldout, prefer="dataset"), hub_mirror=context.hub_mirror)
    prompts, too_long = admit(context, source, tokenizer, positions)
    if too_long:
        context.progress.note(f"{len(too_long)} held-out prompts are too long and never asked")
    if not prompts:
        raise PosttrainError(f"heldout {settings.heldout} holds no prompt that fits")
    if shared := sum(prompt.token_ids in trained_on for prompt in prompts):
        raise PosttrainError(
            f"{shared} of the {len(prompts)} prompts of heldout {settings.heldout} are among "
            "those trained on; hold out rows of their own"
        )
    check_verifiers(context, prompts)
    return [prompts[i] for i in epoch_order(len(prompts), context.seed, 0)[: settings.heldout_prompts]]


def admit(
    context: StageContext,
    source: LocalSource | HubSource,
    tokenizer: PreTrainedTokenizerBase,
    positions: int,
    rejects: Rejects | None = None,
) -> tuple[list[Prompt], list[dict[str, Any]]]:
    """The rows of a source that fit, and those set aside."""
    return admit_prompts(
        (row for row in source.rows("verifiable", rejects=rejects, limit=None) if isinstance(row, VerifiablePrompt)),
        tokenizer,
        max_prompt_tokens=context.settings.max_prompt_tokens,
        max_response_tokens=context.settings.max_response_tokens,
        context_length=positions,
    )


def load_prompts(
    context: StageContext, tokenizer: PreTrainedTokenizerBase, positions: int
) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts that fit, and the counts. What cannot be used is set aside beside the model."""
    settings = context.settings
    rejects = Rejects(context.output / "rejected.jsonl")
    source = find_source(context.training_data(), hub_mirror=context.hub_mirror)
    prompts, set_aside = admit(context, source, tokenizer, positions, rejects)
    if set_aside:
        write_jsonl(context.output / "set_aside.jsonl", set_aside)
        context.progress.note(
            f"{len(set_aside)} of {len(set_aside) + len(prompts)} prompts are too long and set aside in set_aside.jsonl"
        )
    if not prompts:
        raise PosttrainError(
            f"all {len(set_aside)} prompts are too long ({set_aside[0]['reason']}); raise "
            "max_prompt_tokens, lower max_response_tokens, or load the model with more rope_positions"
        )
    check_verifiers(context, prompts)
    used = {name for prompt in prompts for name, _ in prompt.row.checks}
    if unused := sorted({name.lower() for name in settings.verifier_weights or ()} - used):
        raise PosttrainError(
            f"verifier_weights names {', '.join(unused)}, which no prompt asks; they ask {', '.join(sorted(used))}"
        )
    longest = max(len(prompt.token_ids) for prompt in prompts) + settings.max_response_tokens
    if longest > settings.micro_batch_tokens:
        raise PosttrainError(
            f"a prompt and its response may take {longest} tokens, more than micro_batch_tokens "
            f"({settings.micro_batch_tokens}); raise it"
        )
    return prompts, {"prompts": len(prompts), "too_long": len(set_aside), "rejected": rejects.count}
