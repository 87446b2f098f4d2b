"""Settings of what makes rows (sources, mixtures, generators, preferences) and asks models; and what all share.

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


class Endpoint(Strict):
    """A model behind an OpenAI-compatible server. Its answers and what they cost stand in a journal of its own."""

    base_url: str
    model: str  # as the server calls it
    name: str | None = None  # in journals and rows, must tell these weights from others; None: model
    api_key_env: str | None = None  # the environment variable with the key; None: a server without keys
    prompt_price: float = Field(0.0, ge=0)  # money per million tokens
    completion_price: float = Field(0.0, ge=0)
    cached_price: float | None = Field(None, ge=0)
    budget: float | None = Field(None, ge=0)  # most money for this model in this stage, over all runs (preferences.md)
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
