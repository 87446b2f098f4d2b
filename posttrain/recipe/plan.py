"""What a recipe needs on given GPUs: memory, tokens, time, cost and disk of each stage. Imports no torch.

FLOPs: 6 for each parameter and trained token, 2 for each token that only goes forward, 2 more where activations are
made again. Memory: fp32 masters, gradients and Adam's two moments, shared evenly over the ranks (FSDP), a micro-batch's
activations in the stage's dtype, what is gathered, a chunk of logits, and RLVR's engine. Disk: the model, and three
checkpoints: two are kept while a third is written.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from posttrain.errors import PosttrainError
from posttrain.recipe.references import TRAINING, order
from posttrain.recipe.schema import Mixture, Recipe
from posttrain.recipe.tables import TABLES, table

GIB = 2**30
USABLE = 0.92  # of a GPU's memory: the rest is CUDA's context and the allocator's waste
LOGITS = 2**24  # of one chunk, as training/logprobs.py has it
CHECKPOINTS = 3  # on disk at once
VLLM = 0.45  # of a GPU that it shares with the learner, as rl/engines.py has it
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Machine:
    """``gpus`` of one kind; of each: ``memory`` in GiB, ``peak`` in FLOP/s, ``price`` in US dollars an hour."""

    name: str
    gpus: int
    memory: float
    peak: float
    price: float

    @property
    def usable(self) -> float:
        return self.memory * USABLE


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, by which its parameters are counted."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool
    head_size: int

    @property
    def layer(self) -> int:
        """Parameters of one layer: attention, gated MLP, two norms."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.key_value_heads)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer + self.hidden


@dataclass(frozen=True)
class StagePlan:
    """``memory`` in GiB of each GPU, ``seconds``, ``gpu_hours``, ``cost`` in dollars, ``disk`` in GiB.

    ``tokens``: through the model, over all epochs. ``advice``: what to do where it cannot fit, "" where it fits.
    """

    name: str
    kind: str
    gpus: int
    memory: float
    tokens: int
    seconds: float
    cost: float
    disk: float
    advice: str = ""
    episodes: int = 0  # of RLVR

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.seconds / 3600


def machine(text: str, price: float | None = None) -> Machine:
    """``8xH100`` → the machine. Raises PosttrainError for another form, an unknown GPU or a negative price."""
    found = re.fullmatch(r"(?:(\d+)x)?([A-Za-z0-9-]+)", text)
    gpus = {name.lower(): (name, figures) for name, figures in known()["gpus"].items()}
    if found is None or found[2].lower() not in gpus or int(found[1] or 1) < 1:
        raise PosttrainError(f"--gpus {text}: write NUMBERxKIND, such as 8xH100. Kinds: {', '.join(known()['gpus'])}.")
    if price is not None and not 0 <= price < math.inf:
        raise PosttrainError(f"--price {price:g}: dollars for an hour of one GPU are wanted, at least 0.")
    name, (memory, peak, usual) = gpus[found[2].lower()]
    return Machine(name, int(found[1] or 1), memory, peak, usual if price is None else price)


def plan(
    recipe: Recipe,
    on: Machine,
    config_of: Callable[[str], Config | None],
    rows_of: Callable[[str], int | None] = lambda reference: None,
    *,
    efficiency: float | None = None,
) -> list[StagePlan]:
    """The training stages in running order.

    ``config_of``: a model's config.json, None where it is not here. ``rows_of``: the rows of a local file.
    ``efficiency``: the share of peak FLOP/s in place of the published runs'. Raises PosttrainError for a share
    that is none, and for a model or a data set of unknown size.
    """
    if efficiency is not None and not 0 < efficiency <= 1:
        raise PosttrainError(f"--efficiency {efficiency:g}: a share above 0 and up to 1 is wanted, such as 0.35.")
    planned: list[StagePlan] = []
    for name in order(recipe.stages):
        settings: Any = recipe.stages[name]
        if settings.kind not in TRAINING:
            continue
        tokens = None
        if getattr(settings, "tokens_of", ()):
            tokens = _tokens_of(recipe, settings.tokens_of, planned)
        made = _stage(recipe, name, settings, on, config_of, rows_of, efficiency, tokens)
        refused = _refused(settings, made.gpus)
        if refused or made.memory > on.usable:
            made = replace(made, advice=refused or _advice(recipe, name, settings, on, config_of))
        planned.append(made)
    return planned


def _tokens_of(recipe: Recipe, references: Collection[str], planned: Collection[StagePlan]) -> int:
    """At most what those stages learn from, over their epochs: of RLVR the responses, of others prompts as well.

    SFT then reads as many tokens of its own responses, and their prompts beside them, which nothing here can count.
    """
    found = {}
    for stage in planned:
        settings: Any = recipe.stages[stage.name]
        learned = stage.episodes * _response(settings) * settings.epochs if stage.kind == "rlvr" else stage.tokens
        found[f"stage:{stage.name}"] = learned
    for unknown in set(references) - set(found):
        raise PosttrainError(f"tokens_of: {unknown} is no stage that has a plan.")
    return sum(found[reference] for reference in references)


def _response(settings: Any) -> int:
    """Tokens of an RLVR stage's response."""
    return min(known()["tokens"]["response"], settings.max_response_tokens)


def _needs_one(settings: Any) -> list[str]:
    """By what a stage trains in a single process: its options or its kind."""
    eight_bit, actors = getattr(settings, "optimizer", "") == "adamw_8bit", getattr(settings, "rollout_actors", 0)
    found = {"lora": getattr(settings, "lora", None), "adamw_8bit": eight_bit, "rollout_actors": actors}
    found["pretrain"] = settings.kind == "pretrain"
    return [name for name, given in found.items() if given]


def _refused(settings: Any, gpus: int) -> str:
    """Why the trainer would not start, "" where it would."""
    replicas = getattr(settings, "replicas", 1)
    if gpus == 1 and (replicas > 1 or getattr(settings, "cpu_offload", False)):
        return "replicas and cpu_offload are for several GPUs: leave them"
    return f"replicas: {replicas} does not divide {gpus} GPUs" if gpus % replicas else ""


def shape_of(reference: str, config_of: Callable[[str], Config | None]) -> Shape:
    """A model's sizes from its config.json, or from what is known of it by its hub id. Raises PosttrainError."""
    config = config_of(reference)
    if config is None:
        if reference not in known()["models"]:
            raise PosttrainError(
                f"{reference}: its sizes are unknown here. Name a local folder with its config.json under hub_mirror."
            )
        return Shape(*known()["models"][reference])
    config = config.get("text_config", config)  # of a model that reads pictures as well
    wanted = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if missing := [key for key in wanted if key not in config]:
        raise PosttrainError(f"{reference}: its config.json has no {', '.join(missing)}: its sizes are unknown here.")
    heads = config["num_attention_heads"]
    return Shape(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
    )


def state_bytes(shape: Shape, ranks: int, *, eight_bit: bool = False) -> float:
    """Of one rank: masters, gradients and moments (of one byte each with 8-bit AdamW)."""
    return shape.parameters * (10 if eight_bit else 16) / ranks


def activation_bytes(shape: Shape, tokens: int, *, again: bool, gathered: bool = True, number: int = 2) -> float:
    """Of a micro-batch of ``tokens``. ``again``: only the layers' inputs are kept, and one layer's inside.

    ``gathered``: with the whole head and its gradient in fp32, and two layers, which ranks gather. ``number``: bytes of
    one in the forward's dtype.
    """
    inside = number * tokens * (8 * shape.hidden + 4 * shape.intermediate)
    kept = number * tokens * shape.hidden * shape.layers + inside if again else inside * shape.layers
    logits = 2 * 4 * min(tokens * shape.vocabulary, LOGITS)
    whole = 2 * 4 * shape.hidden * shape.vocabulary + 2 * number * shape.layer
    return kept + logits + (whole if gathered else 0)


def vllm_bytes(weights: float, memory: float) -> float:
    """Of a GPU of ``memory`` bytes that it shares: all it sets aside, and where ``weights`` do not go into that, more
    than the GPU has."""
    return VLLM * memory if weights < VLLM * memory else weights / VLLM


def complaint(stage: StagePlan, on: Machine) -> str:
    """Why a stage with advice cannot run on that machine, and the advice."""
    short = f"{stage.memory:.1f} GiB do not fit into the {on.usable:.1f} GiB that are usable of {on.memory:g}; "
    return f"{stage.name}: {short if stage.memory > on.usable else ''}{stage.advice}."


def published_error(recipe: Recipe, stage: StagePlan) -> tuple[float, float] | None:
    """The paper's H100-hours of a stage, and by what share the plan for as much work is above them; None if unknown.

    RLVR's published runs were stopped early, so the plan is taken for their episodes.
    """
    hours = known()["published"].get(recipe.name, {}).get(stage.name)
    if hours is None:
        return None
    share = known()["episodes"][recipe.name] / stage.episodes if stage.episodes else 1.0
    return hours, stage.gpu_hours * share / hours - 1


@cache
def known() -> dict[str, Any]:
    """known.yaml: models, GPUs, sizes of data sets, what published runs took."""
    return yaml.safe_load(Path(__file__).with_name("known.yaml").read_text(encoding="utf-8"))


def _stage(
    recipe: Recipe,
    name: str,
    settings: Any,
    on: Machine,
    config_of: Callable[[str], Config | None],
    rows_of: Callable[[str], int | None],
    efficiency: float | None,
    given: int | None = None,
) -> StagePlan:
    """``given``: the tokens that it trains on, where its rows do not tell."""
    gpus = 1 if _needs_one(settings) else on.gpus
    shape = _shape(recipe, f"stage:{name}", config_of)
    per_row, P, episodes = known()["tokens"], shape.parameters, 0
    again = getattr(settings, "activation_checkpointing", False)
    lora = getattr(settings, "lora", None)
    # Frozen weights have no gradient. RLVR: as the published runs did, whose share of peak is taken.
    trained = (6 if lora is None else 4) + 2 * (again or settings.kind == "rlvr")
    held = [(shape, True)]
    if settings.kind == "rlvr":
        episodes = settings.steps * settings.prompts_per_step * settings.samples_per_prompt
        response = _response(settings)
        tokens = episodes * (min(per_row["verifiable"], settings.max_prompt_tokens) + response)
        forward = 2 * P * (2 if settings.beta else 1)
        learn = trained * P * settings.epochs
        if settings.beta:
            held.append((shape, False))
        if settings.reward_model:
            judge = _shape(recipe, settings.reward_model, config_of)
            forward += 2 * judge.parameters
            held.append((judge, False))
        if settings.value_model and settings.algorithm == "ppo":
            value = _shape(recipe, settings.value_model, config_of)
            learn, forward = learn + trained * value.parameters * settings.epochs, forward + 2 * value.parameters
            held.append((value, True))
        flops = tokens * (learn + forward) + 2 * P * episodes * response
    elif settings.kind == "pretrain":
        tokens = settings.tokens // settings.batch_tokens * settings.batch_tokens
        flops = tokens * P * trained
    else:
        per = per_row["conversation" if settings.kind == "sft" else "preference"]
        tokens = given or _rows(recipe, settings.data, rows_of) * settings.epochs * per
        flops = tokens * P * (trained + 2 * (settings.kind == "dpo"))  # the reference's pass
    sharing = max(1, gpus // getattr(settings, "replicas", 1))
    memory = sum(
        state_bytes(model, sharing, eight_bit=getattr(settings, "optimizer", "") == "adamw_8bit")
        if learns
        else 4 * model.parameters / sharing
        for model, learns in held
    )
    if lora is not None:
        memory = P * (1 if lora.four_bit else 4)
    if getattr(settings, "cpu_offload", False) and gpus > 1:
        memory = 0.0
    number = 4 if settings.dtype == "float32" else 2
    batch = settings.batch_tokens if settings.kind == "pretrain" else settings.micro_batch_tokens
    activations = activation_bytes(shape, batch, again=again, gathered=gpus > 1, number=number)
    if settings.kind == "rlvr" and settings.engine == "vllm" and not settings.rollout_actors:  # asleep while it learns
        memory += max(activations, vllm_bytes(number * P, on.memory * GIB))
    elif settings.kind == "rlvr" and gpus > 1:  # each rank's engine holds all weights; one process samples its own
        memory += activations + 4 * P
    else:
        memory += activations
    share = known()["efficiency"][settings.kind] if efficiency is None else efficiency
    seconds = flops / (gpus * on.peak * share)
    learned = sum(model.parameters for model, learns in held if learns)
    disk = 4 * learned + (12 * learned * CHECKPOINTS if lora is None else 0)
    paid = gpus + math.ceil(getattr(settings, "rollout_actors", 0) * getattr(settings, "gpus_per_actor", 0))
    cost = paid * seconds / 3600 * on.price
    made = StagePlan(name, settings.kind, paid, memory / GIB, tokens, seconds, cost, disk / GIB)
    return replace(made, episodes=episodes)


def _advice(recipe: Recipe, name: str, settings: Any, on: Machine, config_of: Callable[[str], Config | None]) -> str:
    """What would fit: an option if one does, else more GPUs."""

    def fits(changed: Any, gpus: int) -> bool:
        made = _stage(recipe, name, changed, replace(on, gpus=gpus), config_of, lambda reference: 1, None, given=1)
        return made.memory <= on.usable and not _refused(changed, gpus)

    alone = _needs_one(settings)
    if settings.kind == "pretrain":
        return f"does not fit on one {on.name}, and several cannot share it: lower batch_tokens"
    options: list[dict[str, Any]] = [{"activation_checkpointing": True}]
    if settings.kind == "rlvr":
        longest = settings.max_prompt_tokens + settings.max_response_tokens
        options.append(options[0] | {"engine": "vllm", "micro_batch_tokens": longest})
    else:
        if on.gpus == 1 or alone:
            options.append({"optimizer": "adamw_8bit"})
            options.append(options[0] | options[1])
        options.append({"activation_checkpointing": True, "micro_batch_tokens": settings.max_tokens})
    for option in options:
        if fits(settings.model_copy(update=option), on.gpus):
            return "would fit with " + _told(option)
    if alone:
        return f"does not fit on one {on.name}, and with {' and '.join(alone)} several cannot share it"
    changed = settings.model_copy(update=options[-1])
    for gpus in (2**power for power in range(int(math.log2(on.gpus)) + 1, 14)):
        if fits(settings, gpus):
            return f"would fit on {gpus} × {on.name}"
        if fits(changed, gpus):
            return f"would fit on {gpus} × {on.name} with {_told(options[-1])}"
    return f"does not fit on any number of {on.name}; of RLVR every GPU's engine holds the whole policy"


def _told(option: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {str(value).lower()}" for key, value in option.items())


def _shape(recipe: Recipe, reference: str, config_of: Callable[[str], Config | None]) -> Shape:
    """Of the model outside of the recipe that a reference leads back to, or of a stage that makes one from nothing."""
    while reference.startswith("stage:"):
        settings: Any = recipe.stages[reference.removeprefix("stage:").split("/")[0]]
        if settings.kind == "pretrain":
            sizes = (settings.hidden, settings.intermediate, settings.layers, settings.heads, settings.heads)
            return Shape(*sizes, settings.vocabulary, True, settings.hidden // settings.heads)
        if not hasattr(settings, "model"):
            raise PosttrainError(f"{reference}: a {settings.kind} stage makes no model.")
        reference = settings.model
    return shape_of(reference, config_of)


def _rows(recipe: Recipe, reference: str, rows_of: Callable[[str], int | None]) -> int:
    """At most so many: what is dropped on the way is not known."""
    settings: Any = recipe.stages[reference.removeprefix("stage:").split("/")[0]] if reference[:6] == "stage:" else None
    if isinstance(settings, Mixture):
        return sum(_source_rows(recipe, source, rows_of) for source in settings.sources)
    if settings is not None and settings.kind == "preferences":
        if not isinstance(settings.prompts, str):
            return sum(part.count or _rows(recipe, part.data, rows_of) for part in settings.prompts.parts)
        return _rows(recipe, settings.prompts, rows_of)
    if settings is not None and settings.kind == "synthesize":
        if settings.generator == "nano":
            found = settings.model_dump().get(reference.partition("/")[2].removesuffix(".jsonl") or "sft")
            return found if isinstance(found, int) else _known_rows(reference, rows_of)
        made = settings.generator.model_dump()
        given = made.get("count") or made.get("limit")
        return given or _rows(recipe, made.get("data") or made["prompts"], rows_of)
    return _known_rows(reference, rows_of)


def _source_rows(recipe: Recipe, source: Any, rows_of: Callable[[str], int | None]) -> int:
    if source.count:
        return source.count
    if source.row_sources:
        rows = sum(_known_rows(name, rows_of) for name in source.row_sources)
    else:
        try:
            rows = _rows(recipe, source.data, rows_of)
        except PosttrainError:
            if not source.limit:
                raise
            rows = source.limit
    return math.ceil(min(rows, source.limit or rows) * (source.fraction or source.repeat or 1))


def _known_rows(reference: str, rows_of: Callable[[str], int | None]) -> int:
    tables = {table(name).mixture: table(name).total for name in TABLES}
    parts = {key: part.used for name in TABLES for part in table(name).parts for key in (part.id, part.row_source)}
    found = tables.get(reference) or known()["rows"].get(reference) or parts.get(reference) or rows_of(reference)
    if found is None:
        raise PosttrainError(f"{reference}: how many rows it has is unknown here. Give the source a count or a limit.")
    return found
