"""The generators `completions` and `safety` of a synthesize stage: prompts answered, originals kept where they serve.

Writes sft.jsonl and dropped.jsonl: the prompts that got no answer, with the reason of each attempt.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, cast

import torch

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.data.readers import write_rows
from posttrain.data.rejects import BadRow, Rejects
from posttrain.data.rows import Conversation, VerifiablePrompt
from posttrain.data.sources import find_source
from posttrain.errors import PosttrainError
from posttrain.evaluation.judges import JUDGES
from posttrain.inference.protocols import ChatAnswer, ChatRequest, SamplingParameters
from posttrain.recipe.data_settings import Completions, Safety
from posttrain.stages.base import StageContext
from posttrain.stages.chat_models import ChatModel, counted, name_of, open_model
from posttrain.stages.prompt_rows import records_in
from posttrain.synthesis.completions import Item, by_phrases, complete
from posttrain.synthesis.filters import reason_to_drop, weak
from posttrain.synthesis.safety import safety_prompt
from posttrain.verifiers.pool import VerifierPool

VERIFIER_SECONDS = 10.0
REFUSE = "If the request is harmful, decline in a few sentences and say why. Never do what it asks."


def run(context: StageContext) -> dict[str, Any]:
    wanted: Completions | Safety = context.settings.generator
    rejects = Rejects(context.output / "rejected.jsonl")
    items = _safety(context, wanted, rejects) if isinstance(wanted, Safety) else _prompts(context, wanted, rejects)
    if not items:
        raise PosttrainError(f"{wanted.data} holds no prompt ({rejects.count} bad rows)")
    sampling = SamplingParameters(wanted.temperature, wanted.top_p, wanted.max_tokens, seed=context.seed)
    context.progress.start("answers", sum(one.answer is None for one in items), "answers")
    with ExitStack() as stack:
        model = stack.enter_context(closing(open_model(context, wanted.model, wanted)))
        verifiers = stack.enter_context(VerifierPool(torch.get_num_threads(), VERIFIER_SECONDS, "strict"))
        judge, refusals = model, by_phrases
        if isinstance(wanted, Safety) and wanted.judge is not None:
            if name_of(wanted.judge) != model.name:
                judge = stack.enter_context(closing(open_model(context, wanted.judge, wanted)))
            refusals = partial(refused_by, judge)
        complete(items, counted(model, context.progress), verifiers.verify, sampling, wanted.attempts, refusals)
    done = [one for one in items if one.answer is not None]
    left = [{"id": one.id, "reasons": one.reasons} for one in items if one.answer is None]
    if left:
        write_jsonl(context.output / "dropped.jsonl", left)
    if not done:
        raise PosttrainError(f"no prompt got an answer that is kept; see the reasons: {left[:3]}")
    rows = {"sft": write_rows(context.output / "sft.jsonl", (_row(one, model.name) for one in done))}
    rows |= {"prompts": len(items), "rejected": rejects.count}
    rows |= {origin: sum(one.origin == origin for one in done) for origin in ("kept", "made")}
    metrics: dict[str, Any] = {"dropped_attempts": dict(Counter(reason for one in items for reason in one.reasons))}
    if isinstance(wanted, Safety):
        metrics |= _refusals(items)
    asked = {model.name: model.costs()} | ({f"judge {judge.name}": judge.costs()} if judge is not model else {})
    if costs := {name: one for name, one in asked.items() if one is not None}:
        metrics["endpoints"] = costs
    return {"rows": rows, "metrics": metrics}


def _prompts(context: StageContext, wanted: Completions, rejects: Rejects) -> list[Item]:
    source = find_source(context.resolve(wanted.data, prefer="dataset"), hub_mirror=context.hub_mirror)
    items = []
    if wanted.rows == "verifiable":
        for prompt in cast(Iterator[VerifiablePrompt], source.rows("verifiable", rejects=rejects, limit=None)):
            items.append(Item(prompt.id, prompt.messages, prompt.source, prompt.checks))
        return items
    for row in cast(Iterator[Conversation], source.rows("conversation", rejects=rejects, limit=None)):
        last = max(i for i, message in enumerate(row.messages) if message["role"] == "assistant")
        item = Item(row.id, row.messages[:last], row.source)
        original = row.messages[last]["content"]
        if row.source in wanted.keep and not weak(original):
            item.answer = original
        items.append(item)
    return items


def _safety(context: StageContext, wanted: Safety, rejects: Rejects) -> list[Item]:
    path = context.resolve(wanted.data, prefer="dataset")
    items: dict[str, Item] = {}

    for file, number, columns in records_in(path, rejects, wanted.limit):
        try:
            row = safety_prompt(wanted.layout, columns)
        except BadRow as bad:
            rejects.add(file, number, bad, columns)
            continue
        item = Item(row.id, ({"role": "user", "content": row.prompt},), row.source, refusal=row.harmful)
        item.system = REFUSE if row.harmful else None
        if wanted.keep and row.response and not reason_to_drop(row.response, finished=True, refusal_wanted=row.harmful):
            item.answer = row.response
        items[row.id] = item
    return list(items.values())


def refused_by(judge: ChatModel, answers: Sequence[tuple[Item, str]]) -> list[bool | None]:
    """Whether each answer refuses, by WildGuard's question to ``judge``; None where its answer cannot be read."""
    question = JUDGES["wildguard"]
    sampling = SamplingParameters(temperature=0.0, max_tokens=question.max_tokens)
    requests = []
    for item, text in answers:
        told = question.template.format(prompt=item.messages[-1]["content"], response=text)
        requests.append(ChatRequest(f"{item.id}/refusal", ({"role": "user", "content": told},), sampling))
    found: dict[str, bool | None] = {}
    for one in judge.ask(requests):
        fields = question.read(one.text) if isinstance(one, ChatAnswer) else None
        found[one.request.id] = {"yes": True, "no": False}.get(str(fields["refusal"])) if fields else None
    return [found[request.id] for request in requests]


def _refusals(items: list[Item]) -> dict[str, Any]:
    """How often first answers refuse what they should, and what they should not (over-refusal); of how many."""
    figures: dict[str, Any] = {}
    for harmful, name in ((True, "refusal_of_harmful"), (False, "over_refusal")):
        refused = [one.refused for one in items if one.refusal is harmful and one.refused is not None]
        figures[name] = sum(refused) / len(refused) if refused else None
        figures[f"{name}_of"] = len(refused)
    return figures


def _row(one: Item, model: str) -> Conversation:
    assert one.answer is not None
    extra = {"completion": one.origin} | ({"model": model} if one.origin == "made" else {})
    return Conversation(one.id, (*one.messages, {"role": "assistant", "content": one.answer}), one.source, extra)
