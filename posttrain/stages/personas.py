"""The generator `personas` of a synthesize stage: prompts from personas, answers checked by code.

Writes sft.jsonl and rlvr.jsonl (precise_if_pairs: preferences.jsonl and rlvr.jsonl), and dropped.jsonl: every candidate
that made no row, with the reason.
"""

from typing import Any

import torch

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.data.readers import write_rows
from posttrain.data.rejects import Rejects
from posttrain.decontamination.near_duplicates import near_duplicates
from posttrain.errors import PosttrainError
from posttrain.inference.protocols import SamplingParameters
from posttrain.recipe.data_settings import Personas
from posttrain.stages.base import StageContext
from posttrain.stages.chat_models import counted, name_of, open_model
from posttrain.stages.prompt_rows import records_in
from posttrain.synthesis.filters import diversity
from posttrain.synthesis.persona_rows import Candidate, Wish, as_conversation, as_pair, as_verifiable, synthesize
from posttrain.synthesis.personas import persona_of
from posttrain.verifiers.pool import VerifierPool

VERIFIER_SECONDS = 10.0


def run(context: StageContext) -> dict[str, Any]:
    wanted: Personas = context.settings.generator
    file = context.resolve(wanted.data, prefer="dataset")
    rejects = Rejects(context.output / "rejected.jsonl")
    found = [persona_of(row) for _, _, row in records_in(file, rejects)]
    people = list(dict.fromkeys(one for one in found if one))
    if not people:
        raise PosttrainError(f"{file} holds no personas; each row needs a column persona")
    sampling = SamplingParameters(wanted.temperature, wanted.top_p, wanted.max_tokens, seed=context.seed)

    def copies(texts) -> set[int]:
        return {one.row for one in near_duplicates(texts, wanted.near_duplicates)}

    wish = Wish(
        wanted.task,
        wanted.count,
        wanted.candidates or 4 * wanted.count,
        sampling,
        wanted.votes,
        wanted.constraints,
        copies,
        wanted.licence,
        name_of(wanted.model),
    )
    context.progress.note(f"personas: {len(people)}, licence {wanted.licence}: it binds what is made from them")
    context.progress.start(f"asking {wish.model}", wish.candidates, "answers")
    model = open_model(context, wanted.model, wanted)
    try:
        with VerifierPool(torch.get_num_threads(), VERIFIER_SECONDS, "strict") as verifiers:
            outcome = synthesize(people, wish, counted(model, context.progress), verifiers.verify, context.seed)
    finally:
        model.close()
    write_jsonl(context.output / "dropped.jsonl", map(_dropped, outcome.dropped))
    if not outcome.accepted:
        raise PosttrainError(
            f"none of {outcome.tried} candidates was accepted ({outcome.reasons}). "
            "Take a stronger model, or an easier task"
        )
    if len(outcome.accepted) < wanted.count:
        context.progress.note(
            f"{len(outcome.accepted)} of {wanted.count} rows after {outcome.tried} candidates; raise candidates"
        )
    rows = {"tried": outcome.tried, "accepted": len(outcome.accepted), "rejected": rejects.count}
    if wanted.task == "precise_if_pairs":
        rows["preferences"] = write_rows(
            context.output / "preferences.jsonl", (as_pair(one, wish) for one in outcome.accepted)
        )
    else:
        rows["sft"] = write_rows(context.output / "sft.jsonl", (as_conversation(one, wish) for one in outcome.accepted))
    rows["rlvr"] = write_rows(context.output / "rlvr.jsonl", (as_verifiable(one, wish) for one in outcome.accepted))
    metrics: dict[str, Any] = {
        "dropped": outcome.reasons,
        "licence_of_personas": wanted.licence,
        "diversity": diversity([one.question for one in outcome.accepted]),
        "personas": len({one.persona for one in outcome.accepted}),
    }
    if (costs := model.costs()) is not None:
        metrics["endpoints"] = {model.name: costs}
    return {"rows": rows, "metrics": metrics}


def _dropped(one: Candidate) -> dict[str, Any]:
    return {"id": one.id, "reason": one.reason, "prompt": one.question, "answers": one.answers, "label": one.truth}
