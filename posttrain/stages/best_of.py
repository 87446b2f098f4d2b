"""The generator `best_of` of a synthesize stage: rejection sampling, the best of several answers becomes an SFT row.

Writes sft.jsonl and candidates.jsonl: every answer with its score.
"""

from typing import Any

import torch

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.data.readers import write_rows
from posttrain.data.rejects import Rejects
from posttrain.data.rows import Conversation, VerifiablePrompt
from posttrain.data.tokenize import tokenize_prompt
from posttrain.errors import PosttrainError
from posttrain.inference.protocols import ChatFailure, ChatRequest, SamplingParameters
from posttrain.models.heads import load_scorer
from posttrain.models.load import load_tokenizer
from posttrain.preferences.aspect_judge import JudgeOptions, judge_by_aspects
from posttrain.preferences.judge import Candidate, judge_by_rules
from posttrain.preferences.pool import Member
from posttrain.recipe.data_settings import BestOf
from posttrain.stages.base import StageContext
from posttrain.stages.chat_models import counted, open_model
from posttrain.stages.prompt_rows import read_prompts
from posttrain.synthesis.completions import best_of
from posttrain.verifiers.pool import VerifierPool

VERIFIER_SECONDS = 10.0

Answered = list[tuple[VerifiablePrompt, list[Candidate]]]


def run(context: StageContext) -> dict[str, Any]:
    wanted: BestOf = context.settings.generator
    needed = {"judge": wanted.judge, "reward_model": wanted.reward_model}
    if wanted.by in needed and needed[wanted.by] is None:
        raise PosttrainError(f"by: {wanted.by} needs {wanted.by}, the model that scores")
    rejects = Rejects(context.output / "rejected.jsonl")
    path = context.resolve(wanted.prompts, prefer="dataset")
    prompts = list(read_prompts(path, wanted.rows, rejects, context.hub_mirror))
    sampling = SamplingParameters(wanted.temperature, wanted.top_p, wanted.max_tokens, seed=context.seed)
    context.progress.start("answers", len(prompts) * wanted.samples, "answers")
    model = open_model(context, wanted.model, wanted)
    answers: dict[tuple[str, int], Candidate] = {}
    requests = [ChatRequest(p.id, p.messages, sampling, i) for p in prompts for i in range(wanted.samples)]
    try:
        for one in counted(model, context.progress)(requests):
            if not isinstance(one, ChatFailure) and one.finish_reason == "stop" and one.text.strip():
                place = one.request.id, one.request.sample_index
                tokens = one.usage["completion_tokens"]
                answers[place] = Candidate(Member(model.name, wanted.temperature), place[1], one.text, True, tokens)
    finally:
        model.close()
    places = range(wanted.samples)
    answered: Answered = [(p, [answers[p.id, i] for i in places if (p.id, i) in answers]) for p in prompts]
    with VerifierPool(torch.get_num_threads(), VERIFIER_SECONDS, "strict") as verifiers:
        checked = list(judge_by_rules(answered, verifiers))
    costs = {} if (spent := model.costs()) is None else {model.name: spent}
    scores = _scores(context, wanted, answered, [[one.rating for one in row] for row in checked], costs)
    rows, records = [], []
    for (prompt, candidates), codes, scored in zip(answered, checked, scores, strict=True):
        passes = [all(v.outcome == "correct" for v in one.verdicts) if one.verdicts else None for one in codes]
        best = best_of(scored, passes, prompt.id, context.seed)
        texts = [one.text for one in candidates]
        records.append({"id": prompt.id, "best": best, "texts": texts, "scores": scored, "passes": passes})
        if best is not None:
            messages = (*prompt.messages, {"role": "assistant", "content": texts[best]})
            rows.append(Conversation(prompt.id, messages, prompt.source, {"model": model.name, "score": scored[best]}))
    write_jsonl(context.output / "candidates.jsonl", records)
    if not rows:
        raise PosttrainError(f"no answer to any of {len(prompts)} prompts passed; raise samples")
    made = write_rows(context.output / "sft.jsonl", rows)
    judged = [one for row in records for one in row["passes"] if one is not None]
    metrics: dict[str, Any] = {"pass_rate": sum(judged) / len(judged) if judged else None}
    if costs:
        metrics["endpoints"] = costs
    return {"rows": {"prompts": len(prompts), "sft": made, "rejected": rejects.count}, "metrics": metrics}


def _scores(
    context: StageContext, wanted: BestOf, answered: Answered, by_code: list[list[float | None]], costs: dict[str, Any]
) -> list[list[float | None]]:
    if wanted.by == "judge" and wanted.judge is not None:
        judge = open_model(context, wanted.judge, wanted)
        try:
            options = JudgeOptions(single_call=True, seed=context.seed)
            judged, _ = judge_by_aspects(answered, judge.ask, judge.name, options)
        finally:
            judge.close()
        if (spent := judge.costs()) is not None:
            costs[f"judge {judge.name}"] = spent
        return [[one.rating for one in row] for row in judged]
    if wanted.by == "reward_model" and wanted.reward_model is not None:
        return _rewards(context, wanted.reward_model, answered)
    return by_code


@torch.no_grad()
def _rewards(context: StageContext, reference: str, answered: Answered) -> list[list[float | None]]:
    """The reward model's score at the last token of each whole conversation."""
    folder = context.resolve(reference)
    tokenizer = load_tokenizer(folder)
    scorer = load_scorer(folder, device=context.device)
    scored: list[list[float | None]] = []
    for prompt, candidates in answered:
        row: list[float | None] = []
        for one in candidates:
            text = tokenizer(one.text, add_special_tokens=False)["input_ids"]
            ids = [*tokenize_prompt(tokenizer, prompt.messages), *text, tokenizer.eos_token_id]
            ids_1T = torch.tensor([ids], device=context.device)
            row.append(float(scorer(ids_1T, torch.ones_like(ids_1T))[0, -1]))
        scored.append(row)
    return scored
