"""The recipe: every setting of a run, typed. Imports neither torch nor transformers."""

from typing import Annotated, Any, Literal

from pydantic import Field

from posttrain.recipe.data_settings import (
    Count,
    Endpoint,
    Learning,
    Mixture,
    ModelOptions,
    Preferences,
    Rate,
    Reference,
    Strict,
    Synthesize,
    Unset,
    later,
)


class LoRA(Strict):
    """Low-rank updates instead of full fine-tuning; the artifact holds merged weights."""

    rank: Count = 16
    alpha: Rate = 32.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    four_bit: bool = False  # QLoRA: their frozen weights in NF4


class Optimization(Strict):
    """What SFT, DPO and the reward model have in common."""

    learning_rate: Rate
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    warmup_fraction: float = 0.03
    epochs: Count = 1
    batch_size: Count = 128  # sequences (or pairs) per optimizer step
    micro_batch_tokens: Count = 16384  # padded tokens per forward
    max_tokens: Count = 4096  # longer rows are truncated
    weight_decay: float = 0.0
    clip_gradient_norm: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the forward; masters are always fp32
    checkpoint_every: Count = 50  # optimizer steps
    lora: LoRA | None = None
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"  # adamw: fused, fp32 moments
    # packed: rows without padding on a CPU, a pair's prompt read once; the last two pack rows on a GPU
    attention: Literal["sdpa", "packed", "flex_attention", "flash_attention_2"] = "sdpa"
    activation_checkpointing: bool = False  # a layer's activations are made again in its backward
    compile: bool = False  # torch.compile, layer by layer
    replicas: Count = 1  # HSDP: so many groups of ranks each hold the whole model
    cpu_offload: bool = False  # masters, gradients and moments in main memory (several ranks)


class Pretrain(ModelOptions):
    """The nano base model: a Llama, trained from scratch on raw text of the nano world."""

    kind: Literal["pretrain"]
    vocabulary: Count = 1024
    layers: Count = 6
    hidden: Count = 192
    heads: Count = 6
    intermediate: Count = 512
    context: Count = 512
    window: Count = 128  # tokens of one training row
    tokens: Count = 5_000_000
    batch_tokens: Count = 4096
    learning_rate: Rate = 4e-3
    warmup_fraction: float = 0.02
    weight_decay: float = 0.1
    clip_gradient_norm: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    checkpoint_every: Count = 50


class Convert(Strict):
    """A model of a foreign format made a folder that transformers loads."""

    kind: Literal["convert"]
    format: Literal["llama2c"]  # karpathy/llama2.c, legacy .bin
    model: Reference  # the folder that holds the two files
    weights: str
    tokenizer: str


class SFT(Optimization, ModelOptions, Learning):
    kind: Literal["sft"]
    model: Reference
    data: Reference
    loss: Literal["token", "sum_tulu3", "mean_of_means"] = "token"
    train_on: Literal["all_assistant_turns", "last_turn"] = "all_assistant_turns"
    tokens_of: tuple[Reference, ...] = ()  # train for as many tokens as these stages did, instead of `epochs`


class DPO(Optimization, ModelOptions, Learning):
    kind: Literal["dpo"]
    model: Reference
    data: Reference
    loss: Literal["dpo_norm", "dpo", "simpo", "ipo"] = "dpo_norm"
    beta: float = 5.0
    normalise_over: Literal["all_assistant_turns", "last_turn"] = "last_turn"
    swap_labels: float = Field(0.0, ge=0, le=1)  # control: share of pairs whose labels are swapped


class RewardModel(Optimization, ModelOptions, Learning):
    kind: Literal["reward_model"]
    model: Reference
    data: Reference
    holdout: float = Field(0.05, ge=0, lt=1)


class RLVR(ModelOptions, Learning):
    """PPO, GRPO, RLOO or online DPO on verified rewards.

    ``mode`` tulu3 computes advantages and losses as the published program does; its asynchrony (each batch drawn by the
    weights of one step before) is ``rollout_actors: 1`` with ``staleness: 1``. ``schedule`` constant stands for the
    published schedule: linear over a horizon of 10M episodes, of which a run sees few.
    """

    kind: Literal["rlvr"]
    model: Reference
    value_model: Reference | None = None  # a reward model; needed for ppo, which starts its value model from it
    data: Reference
    value_initialisation: Literal["given", "random"] = "given"  # random: the shape of value_model, fresh weights
    reward_model: Reference | None = None  # its score of a response is added to the verified reward
    reward_model_weight: float = 1.0
    algorithm: Literal["ppo", "grpo", "rloo", "online_dpo"] = "ppo"
    mode: Literal["clean", "tulu3"] = "clean"
    verifier_mode: Literal["tulu3", "strict"] = "strict"
    allow_degraded_sandbox: bool = False  # run programs even where no namespace keeps them from this machine
    steps: Count = 100  # rollout batches
    prompts_per_step: Count = 64
    samples_per_prompt: Count = 4
    max_prompt_tokens: Count = 2048
    max_response_tokens: Count = 2048
    temperature: float = 1.0
    learning_rate: Rate = 3e-7
    value_learning_rate: Rate | None = None  # None: the policy's
    value_warmup_steps: int = Field(0, ge=0)  # first steps that train the value model alone
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    warmup_fraction: float = 0.0
    beta: float = Field(0.05, ge=0)  # KL coefficient: in the reward (ppo, rloo), in the loss (grpo); online_dpo: its β
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2
    clip_range_high: float | None = None  # how far above 1 the ratio may go; None: clip_range
    value_clip_range: float = 0.2
    value_coefficient: float = 0.1
    epochs: Count = 4  # passes over a rollout batch
    minibatches: Count = 1
    verification_reward: float = 10.0
    no_eos_reward: float = -10.0  # replaces the score of a response that did not end, or has too few tokens
    min_response_tokens: int = later(0, ge=0)  # before EOS
    mask_truncated: bool = later(False)  # a response that did not end trains nothing
    verifier_weights: dict[str, float] | None = Unset  # None: a row's checks must all pass; else Σ weight · score
    verifier_error_bound: float = later(0.05)  # share of a step's answers that may fail to be judged without alarm
    engine: Literal["local", "vllm"] = later("local")
    rollout_actors: int = later(0, ge=0)  # Ray actors that sample; 0: the stage's own process does
    gpus_per_actor: float = later(0.0, ge=0)
    staleness: int = later(0, ge=0)  # how many steps old the weights that draw a batch may be; above 0 needs actors
    # Truncated importance sampling, where sampler and learner may differ; not in mode tulu3, nor of online_dpo.
    importance_bound: Rate | None = later(2.0)
    whiten_advantages: bool = True  # ppo; grpo: divided by the group's deviation; rloo and online_dpo have none
    clip_gradient_norm: float = 1.0
    weight_decay: float = 0.0
    micro_batch_tokens: Count = 16384
    dtype: Literal["float32", "bfloat16"] = "float32"
    activation_checkpointing: bool = later(False)  # a layer's activations are made again in its backward
    heldout: Reference | None = None  # verifiable rows that are asked, greedily, on the way
    heldout_prompts: Count = 200
    heldout_every: Count = 10  # steps
    kl_bound: float | None = None  # nats a sample; more raises the over-optimisation alarm
    keep: Literal["last", "best"] = "last"  # best: the weights that did best on the held-out prompts
    shuffle_rewards: bool = False  # control: scores permuted over the batch
    checkpoint_every: Count = 10


class Evaluate(ModelOptions):
    kind: Literal["evaluate"]
    suite: Literal["development", "unseen"]
    models: dict[str, Reference | Endpoint]  # label in the report → model; behind a server: tasks of plain messages
    tasks: tuple[str, ...] = ()  # protocols such as nano_problems@nano; empty: the whole suite
    # name of a judge → the model that plays it, local or behind a server, or a file of recorded judgements
    judges: dict[str, Reference | Endpoint] = {}
    unseal: str | None = None  # needed for the unseen suite: the reason, recorded
    limit: Count | None = None  # instances per task
    max_prompt_tokens: Count = 2048
    max_response_tokens: Count | None = None  # None: the protocol's


class Report(Strict):
    kind: Literal["report"]
    evaluations: tuple[Reference, ...]
    compare: tuple[tuple[str, str], ...] = ()  # (A, B): the paired difference A − B
    notes: tuple[str, ...] = ()  # printed as they are


StageSettings = Annotated[
    Pretrain | Convert | Synthesize | Mixture | SFT | Preferences | DPO | RewardModel | RLVR | Evaluate | Report,
    Field(discriminator="kind"),
]


class Recipe(Strict):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    seed: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None  # CPU threads; None: all cores
    scale: str = "full"
    scales: dict[str, dict[str, Any]] = {}  # scale → dotted overrides
    hub_mirror: dict[str, str] = {}  # hub id → local file or folder
    stages: dict[str, StageSettings]
