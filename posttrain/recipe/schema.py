"""The recipe: every setting of a run, typed. Imports neither torch nor transformers.

A *reference* is a string: ``stage:NAME`` (that stage's artifact), ``stage:NAME/file``, ``nano`` (the shipped base
model), a local path, or a hub id (looked up in ``hub_mirror`` first).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from posttrain.recipe.tables import TABLES, VARIANTS, sources_of, table

Reference = Annotated[str, "reference"]  # the mark by which recipe/references.py finds them in typed settings
Count = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
# Not written while unset: a setting that came later must not change the keys of finished stages.
Unset: Any = Field(None, exclude_if=lambda value: value is None)
Empty: Any = Field((), exclude_if=lambda value: not value)


def later(default: Any, **options: Any) -> Any:
    """As `Unset`, for a setting whose default is a value."""
    return Field(default, exclude_if=lambda value: value == default, **options)


NanoTask = Literal["problems", "instructions", "facts", "requests"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


class ModelOptions(Strict):
    chat_template: str | None = (
        None  # a name in data/chat.py or a path; None: the tokenizer's own, an error if it has none
    )
    rope_positions: int | None = None  # load with this many positions instead of the model's own


class Learning(Strict):
    """What learns from data: it refuses rows without a fresh decontamination report."""

    unchecked: str | None = Unset  # the reason to take them all the same; recorded


class ColumnLayout(Strict):
    """How a source departs from the layouts that are known by their columns (data/layouts.py)."""

    columns: dict[str, str] = {}  # our column → the file's, such as {prompt: question, ground_truth: answer}
    values: dict[str, str] = {}  # columns that the file does not have, such as {dataset: gsm8k}
    header: tuple[str, ...] = ()  # of a CSV or TSV file without a header line


class Source(Strict):
    """One part of a mixture. At most one of ``fraction``, ``count``, ``repeat``; ``limit``: only the first rows."""

    data: Reference
    revision: str | None = None
    split: str = "train"
    licence: str | None = Unset  # SPDX; None: what the paper's tables know of the source or of the row's
    layout: ColumnLayout | None = Unset
    row_sources: tuple[str, ...] = Empty  # only rows whose `source` column is one of these
    limit: Count | None = None
    fraction: float | None = Field(None, gt=0, le=1)
    count: Count | None = None
    repeat: Count | None = None

    @model_validator(mode="after")
    def one_amount(self):
        if sum(x is not None for x in (self.fraction, self.count, self.repeat)) > 1:
            raise ValueError("give at most one of fraction, count and repeat")
        return self


class Decontamination(Strict):
    profile: Literal["paper", "strict"] = "strict"
    suites: tuple[Literal["development", "unseen"], ...] = ("development", "unseen")
    item_threshold: float | None = Field(None, ge=0, lt=1)  # of an item's tokens in one row; the profile's, if none
    set_threshold: float = Field(0.02, ge=0, lt=1)  # share of an evaluation's items
    on_contamination: Literal["drop_rows", "drop_set", "keep"] = "drop_rows"


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


class Endpoint(Strict):
    """A model behind an OpenAI-compatible server. Its answers and what they cost stand in a journal of its own."""

    base_url: str
    model: str  # as the server calls it
    name: str | None = None  # in journals and rows, must tell these weights from others; None: model
    api_key_env: str | None = None  # the environment variable with the key; None: a server without keys
    prompt_price: float = Field(0.0, ge=0)  # money per million tokens
    completion_price: float = Field(0.0, ge=0)
    cached_price: float | None = Field(None, ge=0)
    budget: float | None = Field(None, ge=0)  # most money for this model in this stage, over all runs
    concurrency: Count = 64
    seconds: Rate = 600.0  # for one attempt
    attempts: Count = 6
    patience: Rate = 600.0  # seconds without any answer until the server counts as down; before its first: 60 at most
    structured: Literal["json_schema", "json_object", "prompt"] = "json_schema"  # how JSON is asked for
    seeds: bool = True  # whether the server takes a seed
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, Any] = {}


class Generation(ModelOptions):
    """What generators that ask a model have in common."""

    model: Reference | Endpoint
    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: Count = 1024


class Personas(Generation):
    """Prompts from personas, answers checked by code: ``count`` accepted rows, from ``candidates`` tries at most.

    ``precise_if_pairs``: preference pairs whose chosen answer obeys all constraints and whose rejected one does not.
    """

    make: Literal["personas"]
    data: Reference  # rows with a column persona, one each
    licence: str  # of the personas; Persona Hub's are CC-BY-NC-SA-4.0. Goes into the manifest and every row
    task: Literal["hard_math", "grade_school_math", "algebra", "python", "precise_if", "precise_if_pairs"]
    count: Count
    candidates: Count | None = None  # None: four times count
    votes: Count = 5  # solutions to a maths problem, of which more than half must agree
    constraints: tuple[Count, Count] = (1, 3)  # from, to
    near_duplicates: float = Field(0.8, gt=0, le=1)  # a prompt as like an earlier one as this is dropped


class BestOf(Generation):
    """Rejection sampling: of several answers the best becomes an SFT row, if its prompt's checks take it."""

    make: Literal["best_of"]
    prompts: Reference
    rows: Literal["conversation", "verifiable"] = "verifiable"
    by: Literal["verifier", "judge", "reward_model"] = "verifier"
    judge: Reference | Endpoint | None = None
    reward_model: Reference | None = None
    samples: Count = 8


class Completions(Generation):
    """Answers to the prompts of SFT rows. ``keep``: sources whose answers are human or strong, and stay if not weak."""

    make: Literal["completions"]
    data: Reference
    rows: Literal["conversation", "verifiable"] = "conversation"
    keep: tuple[str, ...] = ()
    attempts: Count = 2  # for an answer that is dropped


class Safety(Generation):
    """Harmful prompts answered by refusals, benign ones that look alike answered in full."""

    make: Literal["safety"]
    data: Reference
    layout: Literal["coconot", "wildguardmix", "wildjailbreak"]
    judge: Reference | Endpoint | None = None  # answers WildGuard's question; None: refusals are told by phrases
    keep: bool = True  # published responses that fit stay
    limit: Count | None = None
    attempts: Count = 2


class Synthesize(Strict):
    """Rows made by a generator. ``nano``: the generated world (sft.jsonl, preference_prompts.jsonl, rlvr.jsonl).

    The counts and shares below it are the nano world's; the other generators have settings of their own.
    """

    kind: Literal["synthesize"]
    generator: Literal["nano"] | Annotated[Personas | BestOf | Completions | Safety, Field(discriminator="make")] = (
        "nano"
    )
    sft: int = 2000
    preference_prompts: int = 2000
    rlvr: int = 4000
    sft_shares: dict[NanoTask, float] = {"problems": 0.3, "instructions": 0.4, "facts": 0.1, "requests": 0.2}
    preference_shares: dict[NanoTask, float] = {"problems": 0.35, "instructions": 0.45, "facts": 0.05, "requests": 0.15}
    rlvr_shares: dict[NanoTask, float] = {"problems": 0.4, "instructions": 0.6}


class MixtureStatistics(Strict):
    """Lengths in the manifest, per source, of the rows that are used. Without a tokenizer: turns and characters."""

    tokenizer: Reference | None = None
    chat_template: str | None = None
    train_on: Literal["all_assistant_turns", "last_turn"] = "all_assistant_turns"


class Mixture(Strict):
    """``table``, ``variant`` and ``without`` (parts of it) may stand for rows and sources: written out when read."""

    kind: Literal["mixture"]
    rows: Literal["conversation", "preference", "verifiable"] = "conversation"
    sources: tuple[Source, ...]
    decontamination: Decontamination | None = Decontamination()
    near_duplicates: Literal["report", "drop"] | None = Unset  # rows of at least 0.8 of their 5-word shingles alike
    statistics: MixtureStatistics | None = Unset
    shuffle: bool = True

    @model_validator(mode="before")
    @classmethod
    def written_out(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not {"table", "variant"} & content.keys():
            return content
        content = dict(content)
        if content.get("table", "") is None:  # a recipe that extends one with a table names sources instead
            del content["table"]
            return content
        name, variant = content.pop("table", None), content.pop("variant", "full")
        without = content.pop("without", ())
        for key, value, known in (("table", name, TABLES), ("variant", variant, VARIANTS)):
            if value not in known:
                raise ValueError(f"{key} is {value!r}, not one of {', '.join(known)}")
        sources = [*sources_of(name, variant, without), *(content.get("sources") or ())]
        return {"rows": table(name).rows} | content | {"sources": sources}


class SFT(Optimization, ModelOptions, Learning):
    kind: Literal["sft"]
    model: Reference
    data: Reference
    loss: Literal["token", "sum_tulu3", "mean_of_means"] = "token"
    train_on: Literal["all_assistant_turns", "last_turn"] = "all_assistant_turns"
    tokens_of: tuple[Reference, ...] = ()  # train for as many tokens as these stages did, instead of `epochs`


class PoolMember(Strict):
    model: Reference
    temperature: float = 1.0


class PoolEndpoint(Strict):
    endpoint: Endpoint
    temperature: float = 1.0


class NamedPool(Strict):
    """A published pool behind one server; ``{model}`` in the endpoint's model stands for the hub id of each."""

    named: Literal["tulu3"]  # the 22 models of the paper's Table 38
    endpoint: Endpoint
    temperature: float = 1.0


class PromptPart(Strict):
    """Some of the prompts. ``reused``: those that SFT trained on; ``unused``: the others."""

    data: Reference
    rows: Literal["conversation", "verifiable"] = "conversation"  # of a conversation, what comes before its last answer
    take: Literal["all", "reused", "unused"] = "all"
    count: Count | None = None
    constraints: tuple[Count, Count] | None = None  # add so many checkable constraints to each (from, to)


class PromptSelection(Strict):
    parts: tuple[PromptPart, ...]
    sft: Reference | None = None  # what SFT trained on, for reused and unused


class AspectJudge(Strict):
    """A chat model rates every answer from 1 to 5 by aspect."""

    model: Reference | Endpoint
    recorded: bool = False  # replay: the journal must hold every answer, nothing is asked
    aspects: tuple[Literal["helpfulness", "instruction_following", "honesty", "truthfulness"], ...] = (
        "helpfulness",
        "instruction_following",
        "honesty",
        "truthfulness",
    )
    single_call: bool = False  # all aspects in one request
    swap: bool = False  # each order also reversed, ratings averaged
    attempts: Count = 3  # for an answer that cannot be read
    temperature: float = 0.1
    max_tokens: Count | None = None  # None: room for every rationale at its full length
    rationale_letters: Count = 600  # longest rationale, where the server holds the model to the schema
    rejected: Literal["random", "worst"] = "random"  # among those rated lower
    margin: float = Field(0.0, ge=0)  # how much lower
    verified: bool = True  # prompts with checks: the chosen must pass all, the rejected fail one


class Preferences(ModelOptions, Learning):
    kind: Literal["preferences"]
    prompts: Reference | PromptSelection
    policy: Reference | Endpoint  # its answers are the on-policy ones
    pool: tuple[PoolMember | PoolEndpoint | NamedPool, ...]
    responses: Count = 4
    on_policy: int = 2  # of the responses, how many come from the policy
    judge: Literal["rules"] | AspectJudge = "rules"
    max_response_tokens: Count = 256
    max_prompt_tokens: Count = 2048
    top_p: float = 1.0


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
    beta: float = 0.05  # KL coefficient: in the reward (ppo, rloo) or in the loss (grpo); online_dpo: its β
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2
    clip_range_high: float | None = None  # how far above 1 the ratio may go; None: clip_range
    value_clip_range: float = 0.2
    value_coefficient: float = 0.1
    epochs: Count = 4  # passes over a rollout batch
    minibatches: Count = 1
    verification_reward: float = 10.0
    no_eos_reward: float = -10.0
    verifier_weights: dict[str, float] | None = Unset  # None: a row's checks must all pass; else Σ weight · score
    verifier_error_bound: float = later(0.05)  # share of a step's answers that may fail to be judged without alarm
    engine: Literal["local", "vllm"] = later("local")
    rollout_actors: int = later(0, ge=0)  # Ray actors that sample; 0: the stage's own process does
    gpus_per_actor: float = later(0.0, ge=0)
    staleness: int = later(0, ge=0)  # how many steps old the weights that draw a batch may be; above 0 needs actors
    importance_bound: Rate | None = later(2.0)  # truncated importance sampling, where sampler and learner may differ
    whiten_advantages: bool = True
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
