"""Prompts become preference pairs: a pool of models answers, a judge rates, the best answer meets a worse one.

Writes data.jsonl (published preference layout), candidates.jsonl (every answer with its model, ratings and verdicts,
and why a prompt made no pair) and, if there are any, set_aside.jsonl (prompts not used) and rejected.jsonl (bad rows).
Answers of endpoints, and what they cost, stand in journals/ beside the artifact: one file a model, one line an answer.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import torch

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.data.chat import prepare_tokenizer
from posttrain.data.readers import write_rows
from posttrain.data.rejects import Rejects
from posttrain.data.rows import VerifiablePrompt
from posttrain.data.tokenize import tokenize_prompt
from posttrain.errors import PosttrainError
from posttrain.inference.budget import BudgetReached
from posttrain.inference.journal import request_key
from posttrain.inference.openai import EndpointDown
from posttrain.inference.protocols import ChatAnswer, ChatFailure
from posttrain.models.load import load_config, load_tokenizer
from posttrain.preferences.answers import as_candidate, requests_to
from posttrain.preferences.aspect_judge import JudgeOptions, judge_by_aspects
from posttrain.preferences.bias import judge_figures
from posttrain.preferences.binarize import Policy, choose_pair, preference_pair, prompt_record
from posttrain.preferences.figures import preference_figures
from posttrain.preferences.judge import Candidate, Judged, judge_by_rules
from posttrain.preferences.paper_pool import POOLS
from posttrain.preferences.parts import Part, fingerprint, gather
from posttrain.preferences.pool import Draw, Member, check_pool, draw_members
from posttrain.preferences.prompts import Selection, Tokenization, estimated, select_prompts
from posttrain.recipe.schema import AspectJudge, Endpoint, NamedPool, PoolMember, Preferences, PromptSelection
from posttrain.stages.base import StageContext
from posttrain.stages.chat_models import Remote, at_once, name_of, open_model
from posttrain.stages.prompt_rows import read_prompts
from posttrain.synthesis.constraints import augment
from posttrain.training.determinism import make_deterministic
from posttrain.verifiers.pool import VerifierPool
from posttrain.verifiers.registry import check_names

VERSION = 2
VERIFIER_SECONDS = 10.0  # for one answer; one that takes longer has itself to blame: outcome timeout

Models = dict[str, str | Endpoint]


def run(context: StageContext) -> dict[str, Any]:
    settings, progress = context.settings, context.progress
    make_deterministic(context.seed)
    models: Models = {name_of(settings.policy): settings.policy}
    policy = Member(name_of(settings.policy), on_policy=True)
    pool = []
    for model, temperature in pool_of(settings):
        models[name_of(model)] = model
        pool.append(Member(name_of(model), temperature))
    check_pool(pool, settings.responses, settings.on_policy)

    rejects = Rejects(context.output / "rejected.jsonl")
    selection, parts = load_prompts(context, models, rejects)
    prompts = selection.prompts
    check_names({verifier for prompt in prompts for verifier, _ in prompt.checks})
    if settings.judge == "rules" and (bare := [prompt.id for prompt in prompts if not prompt.checks]):
        raise PosttrainError(
            f"judge rules needs prompts with checks, but {len(bare)} have none (the first: "
            f"{bare[0]}). Take verifiable rows or add constraints to them, or let a model judge"
        )

    # Who answers what is settled here, before anything is generated.
    shares = {"responses": settings.responses, "on_policy": settings.on_policy}
    draws = {prompt.id: draw_members(prompt.id, context.seed, policy, pool, **shares) for prompt in prompts}
    progress.start("answers", len(prompts) * settings.responses, "answers")
    candidates, unanswered, costs = ask_pool(context, models, prompts, draws)
    answered = [
        (p, [one for i in range(settings.responses) if (one := candidates.get((p.id, i))) is not None]) for p in prompts
    ]

    figures: dict[str, Any] = {}
    with VerifierPool(torch.get_num_threads(), VERIFIER_SECONDS, "strict") as verifiers:
        if isinstance(settings.judge, AspectJudge):
            judged, figures = judge_by_model(context, settings.judge, answered, verifiers, costs)
            binarize = Policy(settings.judge.rejected, settings.judge.margin, settings.judge.verified)
        else:
            judged, binarize = judge_by_rules(answered, verifiers), Policy()
    pairings = [choose_pair(p.id, context.seed, rated, binarize) for p, rated in zip(prompts, judged, strict=True)]

    made = list(zip(prompts, judged, pairings, strict=True))
    write_jsonl(context.output / "candidates.jsonl", (prompt_record(*one) for one in made))
    pairs = write_rows(context.output / "data.jsonl", (preference_pair(*one) for one in made if not one[2].reason))
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
    rows = {"prompts": len(prompts), "pairs": pairs, "rejected": rejects.count, **selection.counts}
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
    context: StageContext, models: Models, prompts: Sequence[VerifiablePrompt], draws: dict[str, tuple[Draw, ...]]
) -> tuple[dict[tuple[str, int], Candidate], dict[str, dict[str, int]], dict[str, Any]]:
    """All answers by (prompt id, sample index); requests without one, by model and why; what endpoints cost.

    Endpoints answer at once, local models one after another: one is in memory at a time. An endpoint that is down or
    has spent its budget does not keep the others from answering; then the stage stops, to be run again.
    """
    settings = context.settings
    candidates: dict[tuple[str, int], Candidate] = {}
    unanswered: dict[str, dict[str, int]] = {}
    costs: dict[str, Any] = {}
    failed: dict[str, PosttrainError] = {}
    wanted = {
        name: requests_to(
            name, prompts, draws, seed=context.seed, top_p=settings.top_p, max_tokens=settings.max_response_tokens
        )
        for name in models
    }

    def take(name: str, one: ChatAnswer | ChatFailure) -> None:
        place = one.request.id, one.request.sample_index
        if isinstance(one, ChatFailure):
            reasons = unanswered.setdefault(name, {})
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
        else:
            key = request_key(name, one.request) if isinstance(models[name], Endpoint) else None
            candidates[place] = as_candidate(draws[place[0]][place[1]], one, key)
        context.progress.advance()

    with ExitStack() as stack:
        remote = {
            name: stack.enter_context(closing(Remote(context, reference)))
            for name, reference in models.items()
            if isinstance(reference, Endpoint) and wanted[name]
        }
        for name, one in at_once({name: model.stream(wanted[name]) for name, model in remote.items()}, failed):
            take(name, one)
        costs |= {name: model.costs() for name, model in remote.items()}
    for name, reference in models.items():
        if isinstance(reference, str) and wanted[name] and not failed:
            with closing(open_model(context, reference, settings)) as model:
                for one in model.ask(wanted[name]):
                    take(name, one)
    if len(failed) == 1 and isinstance(error := next(iter(failed.values())), BudgetReached):
        raise error
    if failed:
        raise EndpointDown(
            f"{len(candidates)} of {len(prompts) * settings.responses} answers are there, "
            f"but {len(failed)} of {len(models)} models answer no more:\n" + "\n".join(map(str, failed.values()))
        )
    return candidates, unanswered, costs


def judge_by_model(
    context: StageContext,
    judge: AspectJudge,
    answered: Sequence[tuple[VerifiablePrompt, Sequence[Candidate]]],
    verifiers: VerifierPool,
    costs: dict[str, Any],
) -> tuple[list[tuple[Judged, ...]], dict[str, Any]]:
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
        rated, tally = judge_by_aspects(answered, ask, model.name, options)
    finally:
        model.close()
    if (spent := model.costs()) is not None:
        costs[f"judge {model.name}"] = spent
    checked = judge_by_rules(answered, verifiers)
    judged = [
        tuple(replace(one, verdicts=by_code.verdicts) for one, by_code in zip(row, codes, strict=True))
        for row, codes in zip(rated, checked, strict=True)
    ]
    return judged, {"judge": judge_figures(judged, tally, model.name)}


def load_prompts(
    context: StageContext, models: Models, rejects: Rejects
) -> tuple[Selection, dict[str, dict[str, int]]]:
    """The prompts that all models can take, and what each part gave; what cannot be used is set aside."""
    settings = context.settings
    tokenizations = []
    for model in models.values():
        if not isinstance(model, str):
            continue
        folder = context.resolve(model)
        tokenizer = prepare_tokenizer(load_tokenizer(folder), settings.chat_template)
        positions = load_config(folder, settings.rope_positions).get_text_config().max_position_embeddings
        tokenizations.append(Tokenization(lambda turns, t=tokenizer: len(tokenize_prompt(t, turns)), positions))
    parts: dict[str, dict[str, int]] = {}
    if isinstance(settings.prompts, PromptSelection):
        rows, parts = selected(context, settings.prompts, rejects)
    else:
        rows = read(context, settings.prompts, "verifiable", rejects)
    selection = select_prompts(rows, tokenizations or [estimated()], max_tokens=settings.max_prompt_tokens)
    if selection.set_aside:
        write_jsonl(
            context.output / "set_aside.jsonl",
            ({"id": row.id, "reason": reason} for reason, rows in selection.set_aside.items() for row in rows),
        )
        context.progress.note(f"prompts set aside in set_aside.jsonl: {selection.counts}")
    if not selection.prompts:
        raise PosttrainError(
            f"no prompt is left ({selection.counts}); raise max_prompt_tokens, or load the "
            "models with more rope_positions"
        )
    return selection, parts


def selected(
    context: StageContext, selection: PromptSelection, rejects: Rejects
) -> tuple[list[VerifiablePrompt], dict[str, dict[str, int]]]:
    used: set[str] = set()
    if any(part.take != "all" for part in selection.parts):
        if selection.sft is None:
            raise PosttrainError("prompts.sft is needed to tell reused prompts from unused ones")
        used = {fingerprint(p.messages) for p in read(context, selection.sft, "conversation", rejects)}
    parts = []
    for part in selection.parts:
        change = None
        if part.constraints is not None:
            least, most = part.constraints
            change = partial(augment, seed=context.seed, least=least, most=most)
        parts.append(Part(read(context, part.data, part.rows, rejects), part.take, part.count, change))
    prompts, taken = gather(parts, used, context.seed)
    names = [f"{number}: {part.data} {part.take}" for number, part in enumerate(selection.parts)]
    return prompts, {name: asdict(one) for name, one in zip(names, taken, strict=True)}


def read(
    context: StageContext, reference: str, rows: Literal["conversation", "verifiable"], rejects: Rejects
) -> Iterator[VerifiablePrompt]:
    return read_prompts(context.training_data(reference), rows, rejects, context.hub_mirror)
