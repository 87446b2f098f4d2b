"""Prompts become preference pairs: a pool of models answers, a judge rates, the best answer meets a worse one.

Writes data.jsonl (published preference layout), candidates.jsonl (every answer with its model, ratings and verdicts,
and why a prompt made no pair) and, if there are any, set_aside.jsonl (prompts not used) and rejected.jsonl (bad rows).
Answers of endpoints, and what they cost, stand in journals/ beside the artifact: one file a model, one line an answer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import torch

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.artifacts.shelf import Numbered, Shelf
from posttrain.data.chat import prepare_tokenizer
from posttrain.data.readers import write_rows
from posttrain.data.rejects import Rejects
from posttrain.data.rows import VerifiablePrompt
from posttrain.data.tokenize import tokenize_prompt
from posttrain.errors import PosttrainError
from posttrain.inference.budget import BudgetReached
from posttrain.inference.journal import request_key
from posttrain.inference.openai import EndpointDown
from posttrain.inference.protocols import ChatAnswer, ChatFailure, ChatRequest
from posttrain.models.load import load_config, load_tokenizer
from posttrain.preferences.answers import as_candidate, requests_to
from posttrain.preferences.aspect_judge import JudgeOptions, judge_by_aspects
from posttrain.preferences.bias import judge_figures
from posttrain.preferences.binarize import Pairing, Policy, choose_pair, preference_pair, prompt_record
from posttrain.preferences.figures import preference_figures
from posttrain.preferences.judge import Candidate, Judged, judge_by_rules
from posttrain.preferences.paper_pool import POOLS
from posttrain.preferences.parts import Part, Taken, fingerprint, gather
from posttrain.preferences.pool import Draw, Member, check_pool, draw_members
from posttrain.preferences.prompts import Tokenization, estimated, select_prompts
from posttrain.recipe.data_settings import AspectJudge, Endpoint, NamedPool, PoolMember, Preferences, PromptSelection
from posttrain.stages.base import StageContext
from posttrain.stages.chat_models import Remote, at_once, name_of, open_model
from posttrain.stages.prompt_rows import read_prompts
from posttrain.synthesis.constraints import augment
from posttrain.training.determinism import make_deterministic
from posttrain.verifiers.pool import VerifierPool
from posttrain.verifiers.registry import check_names

VERSION = 3
VERIFIER_SECONDS = 10.0  # for one answer; one that takes longer has itself to blame: outcome timeout

Models = dict[str, str | Endpoint]
Answered = tuple[VerifiablePrompt, list[Candidate]]


def check(settings: Preferences) -> None:
    """Refuses settings by which no prompt could be answered, or none told from others."""
    pool = [Member(name_of(model), temperature) for model, temperature in pool_of(settings)]
    check_pool(pool, settings.responses, settings.on_policy)
    selection = settings.prompts
    if not isinstance(selection, str) and selection.sft is None and any(p.take != "all" for p in selection.parts):
        raise PosttrainError("prompts.sft is needed to tell reused prompts from unused ones")


def run(context: StageContext) -> dict[str, Any]:
    settings, progress = context.settings, context.progress
    check(settings)
    make_deterministic(context.seed)
    models: Models = {name_of(settings.policy): settings.policy}
    policy = Member(name_of(settings.policy), on_policy=True)
    pool = []
    for model, temperature in pool_of(settings):
        models[name_of(model)] = model
        pool.append(Member(name_of(model), temperature))

    rejects = Rejects(context.output / "rejected.jsonl")
    prompts, set_aside, parts = load_prompts(context, models, rejects)
    check_names({verifier for prompt in prompts for verifier, _ in prompt.checks})
    if settings.judge == "rules" and (bare := [prompt.id for prompt in prompts if not prompt.checks]):
        raise PosttrainError(
            f"judge rules needs prompts with checks, but {len(bare)} have none (the first: "
            f"{bare[0]}). Take verifiable rows or add constraints to them, or let a model judge"
        )

    def draw(prompt_id: str) -> tuple[Draw, ...]:
        """Who answers the prompt: settled before anything is generated."""
        shares = {"responses": settings.responses, "on_policy": settings.on_policy}
        return draw_members(prompt_id, context.seed, policy, pool, **shares)

    progress.start("answers", len(prompts) * settings.responses, "answers")
    answered, unanswered, costs = ask_pool(context, models, prompts, draw)

    figures: dict[str, Any] = {}
    with VerifierPool(torch.get_num_threads(), VERIFIER_SECONDS, "strict") as verifiers:
        if isinstance(settings.judge, AspectJudge):
            judged, figures = judge_by_model(context, settings.judge, answered, verifiers, costs)
            binarize = Policy(settings.judge.rejected, settings.judge.margin, settings.judge.verified)
        else:
            judged, binarize = Shelf.of(judge_by_rules(answered, verifiers), context.checkpoints), Policy()
    pairings = [choose_pair(p.id, context.seed, rated, binarize) for p, rated in zip(prompts, judged, strict=True)]

    def made() -> Iterator[tuple[VerifiablePrompt, tuple[Judged, ...], Pairing]]:
        return zip(prompts, judged, pairings, strict=True)

    write_jsonl(context.output / "candidates.jsonl", (prompt_record(*one) for one in made()))
    pairs = write_rows(context.output / "data.jsonl", (preference_pair(*one) for one in made() if not one[2].reason))
    metrics = preference_figures(judged, pairings) | figures
    if costs:
        metrics["unanswered"], metrics["endpoints"] = unanswered, costs
    if parts:
        metrics["parts"] = parts
    if not pairs:
        raise PosttrainError(
            f"none of {len(prompts)} prompts made a pair ({metrics['no_pair']}): the judge never "
            "told two answers apart. Draw from models that differ more, raise the temperature or max_response_tokens"
        )
    progress.note(f"{pairs} pairs from {len(prompts)} prompts; without a pair: {metrics['no_pair'] or 'none'}")
    rows = {"prompts": len(prompts), "pairs": pairs, "rejected": rejects.count, **set_aside}
    return {"rows": rows, "metrics": metrics}


def pool_of(settings: Preferences) -> list[tuple[str | Endpoint, float]]:
    """Every pool member with its temperature, named pools written out."""
    pool: list[tuple[str | Endpoint, float]] = []
    for member in settings.pool:
        if isinstance(member, PoolMember):
            pool.append((member.model, member.temperature))
        elif isinstance(member, NamedPool):
            for hub_id in POOLS[member.named]:
                served = member.endpoint.model.replace("{model}", hub_id)
                pool.append((member.endpoint.model_copy(update={"model": served, "name": hub_id}), member.temperature))
        else:
            pool.append((member.endpoint, member.temperature))
    return pool


def ask_pool(
    context: StageContext,
    models: Models,
    prompts: Numbered[VerifiablePrompt],
    draw: Callable[[str], Sequence[Draw]],
) -> tuple[Shelf[Answered], dict[str, dict[str, int]], dict[str, Any]]:
    """The prompts with their answers; requests without one, by model and why; what endpoints cost.

    Endpoints answer at once, local models one after another: one is in memory at a time. An endpoint that is down or
    has spent its budget does not keep the others from answering; then the stage stops, to be run again.
    """
    settings = context.settings
    count = settings.responses
    numbers = {prompt.id: number for number, prompt in enumerate(prompts)}
    used = {one.member.model for prompt_id in numbers for one in draw(prompt_id)}
    candidates: Shelf[Candidate] = Shelf(context.checkpoints)  # by number of the prompt and sample index
    unanswered: dict[str, dict[str, int]] = {}
    costs: dict[str, Any] = {}
    failed: dict[str, PosttrainError] = {}

    def wanted(name: str) -> Iterator[ChatRequest]:
        limits = {"top_p": settings.top_p, "max_tokens": settings.max_response_tokens}
        return requests_to(name, prompts, draw, seed=context.seed, **limits)

    def take(name: str, one: ChatAnswer | ChatFailure) -> None:
        if isinstance(one, ChatFailure):
            reasons = unanswered.setdefault(name, {})
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
        else:
            key = request_key(name, one.request) if isinstance(models[name], Endpoint) else None
            by = draw(one.request.id)[one.request.sample_index]
            candidates.put(numbers[one.request.id] * count + by.sample_index, as_candidate(by, one, key))
        context.progress.advance()

    with ExitStack() as stack:
        remote = {
            name: stack.enter_context(closing(Remote(context, reference)))
            for name, reference in models.items()
            if isinstance(reference, Endpoint) and name in used
        }
        for name, one in at_once({name: model.stream(wanted(name)) for name, model in remote.items()}, failed):
            take(name, one)
        costs |= {name: model.costs() for name, model in remote.items()}
    for name, reference in models.items():
        if isinstance(reference, str) and name in used and not failed:
            with closing(open_model(context, reference, settings)) as model:
                for one in model.ask(wanted(name)):
                    take(name, one)
    if len(failed) == 1 and isinstance(error := next(iter(failed.values())), BudgetReached):
        raise error
    if failed:
        wished = len(prompts) * count
        raise EndpointDown(
            f"{sum(number in candidates for number in range(wished))} of {wished} answers are there, "
            f"but {len(failed)} of {len(models)} models answer no more:\n" + "\n".join(map(str, failed.values()))
        )
    rows = (
        (prompt, [one for i in range(count) if (one := candidates.get(number * count + i)) is not None])
        for number, prompt in enumerate(prompts)
    )
    return Shelf.of(rows, context.checkpoints), unanswered, costs


def judge_by_model(
    context: StageContext,
    judge: AspectJudge,
    answered: Numbered[Answered],
    verifiers: VerifierPool,
    costs: dict[str, Any],
) -> tuple[Shelf[tuple[Judged, ...]], dict[str, Any]]:
    """Ratings by aspect, with the verdicts of the prompts' own checks beside them, and the judge's figures."""
    options = JudgeOptions(
        judge.aspects,
        judge.single_call,
        judge.swap,
        judge.attempts,
        judge.temperature,
        judge.max_tokens,
        judge.rationale_letters,
        context.seed,
    )
    model = open_model(context, judge.model, context.settings, recorded=judge.recorded)
    calls = len(answered) * (1 if judge.single_call else len(judge.aspects)) * (1 + judge.swap)
    context.progress.start("ratings", calls, "calls")

    def ask(requests):
        for one in model.ask(requests):
            context.progress.advance()
            yield one

    try:
        rated, tally = judge_by_aspects(answered, ask, model.name, options, context.checkpoints)
    finally:
        model.close()
    if (spent := model.costs()) is not None:
        costs[f"judge {model.name}"] = spent
    checked = judge_by_rules(answered, verifiers)
    rows = (
        tuple(replace(one, verdicts=by_code.verdicts) for one, by_code in zip(row, codes, strict=True))
        for row, codes in zip(rated, checked, strict=True)
    )
    judged = Shelf.of(rows, context.checkpoints)
    return judged, {"judge": judge_figures(judged, tally, model.name)}


def load_prompts(
    context: StageContext, models: Models, rejects: Rejects
) -> tuple[Shelf[VerifiablePrompt], dict[str, int], dict[str, dict[str, int]]]:
    """The prompts that all models can take; how many are set aside, by reason; what each part gave."""
    settings = context.settings
    tokenizations = []
    for model in models.values():
        if not isinstance(model, str):
            continue
        folder = context.resolve(model)
        tokenizer = prepare_tokenizer(load_tokenizer(folder), settings.chat_template)
        positions = load_config(folder, settings.rope_positions).get_text_config().max_position_embeddings
        tokenizations.append(Tokenization(lambda turns, t=tokenizer: len(tokenize_prompt(t, turns)), positions))
    taken: list[Taken] = []
    if isinstance(settings.prompts, PromptSelection):
        rows = selected(context, settings.prompts, rejects, taken)
    else:
        rows = read(context, settings.prompts, "verifiable", rejects)
    set_aside: dict[str, list[str]] = {}
    prompts: Shelf[VerifiablePrompt] = Shelf(context.checkpoints)
    for prompt, reason in select_prompts(rows, tokenizations or [estimated()], max_tokens=settings.max_prompt_tokens):
        if reason is None:
            prompts.put(len(prompts), prompt)
        else:
            set_aside.setdefault(reason, []).append(prompt.id)
    counts = {reason: len(ids) for reason, ids in set_aside.items()}
    if set_aside:
        write_jsonl(
            context.output / "set_aside.jsonl",
            ({"id": prompt_id, "reason": reason} for reason, ids in set_aside.items() for prompt_id in ids),
        )
        context.progress.note(f"prompts set aside in set_aside.jsonl: {counts}")
    if not prompts:
        raise PosttrainError(
            f"no prompt is left ({counts}); raise max_prompt_tokens, or load the models with more rope_positions"
        )
    if not isinstance(settings.prompts, PromptSelection):
        return prompts, counts, {}
    names = [f"{number}: {part.data} {part.take}" for number, part in enumerate(settings.prompts.parts)]
    return prompts, counts, {name: asdict(one) for name, one in zip(names, taken, strict=True)}


def selected(
    context: StageContext, selection: PromptSelection, rejects: Rejects, taken: list[Taken]
) -> Iterator[VerifiablePrompt]:
    """What each part gave is put into ``taken``."""
    used: set[str] = set()
    if selection.sft is not None and any(part.take != "all" for part in selection.parts):
        used = {fingerprint(p.messages) for p in read(context, selection.sft, "conversation", rejects)}
    parts = []
    for part in selection.parts:
        change = None
        if part.constraints is not None:
            least, most = part.constraints
            change = partial(augment, seed=context.seed, least=least, most=most)
        parts.append(Part(read(context, part.data, part.rows, rejects), part.take, part.count, change))
    return gather(parts, used, context.seed, taken, context.checkpoints)


def read(
    context: StageContext, reference: str, rows: Literal["conversation", "verifiable"], rejects: Rejects
) -> Iterator[VerifiablePrompt]:
    return read_prompts(context.training_data(reference), rows, rejects, context.hub_mirror)
