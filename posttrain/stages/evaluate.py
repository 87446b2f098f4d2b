"""Scores every model of the recipe on one suite: the same instances, the same protocols, one line per answer."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posttrain.artifacts.atomic import write_json
from posttrain.evaluation.over_chat import score_endpoint
from posttrain.evaluation.run import SCORES, Limits, identity, journal_file, score_model
from posttrain.evaluation.sealed import check_seal, record_unsealing, run_folder
from posttrain.evaluation.suites import select
from posttrain.inference.openai import Server
from posttrain.recipe.data_settings import Endpoint
from posttrain.stages.base import StageContext
from posttrain.stages.chat_models import name_of, open_model, server

VERSION = 5


def judge_of(context: StageContext, given: str | Endpoint) -> str | Server:
    """A model's folder, a file of recorded judgements, or a server."""
    return str(context.resolve(given)) if isinstance(given, str) else server(given)


def run(context: StageContext) -> dict[str, Any]:
    settings = context.settings
    check_seal(settings.suite, settings.unseal)
    tasks = select(settings.suite, settings.tasks)
    limits = Limits(settings.limit, settings.max_prompt_tokens, settings.max_response_tokens)
    models = {
        label: context.resolve(given) if isinstance(given, str) else given for label, given in settings.models.items()
    }
    if settings.suite == "unseen":
        # Before the first answer, and also beside the runs that made the models: a look cut short was still a look.
        folders = [path for path in models.values() if isinstance(path, Path)]
        weights = {
            label: identity(model) if isinstance(model, Path) else name_of(model) for label, model in models.items()
        }
        places = [context.output.parent.parent, *filter(None, map(run_folder, folders))]
        asked = asdict(limits) | settings.model_dump(include={"chat_template", "rope_positions"})
        record_unsealing(places, settings.unseal, weights, [task.name for task in tasks], asked)
    scores = {}
    for label, model in models.items():
        context.progress.note(f"{settings.suite} suite: {label}")
        given: dict[str, Any] = {
            "label": label,
            "output": context.output,
            "hub_mirror": context.hub_mirror,
            "limits": limits,
            "device": context.device,
            "judges": {name: judge_of(context, one) for name, one in settings.judges.items()},
            # A judge's answers may be paid for: they belong to the stage, not to one key.
            "judge_journals": context.checkpoints.parent / "journals",
            "progress": context.progress,
        }
        if isinstance(model, Path):
            given |= {"chat_template": settings.chat_template, "rope_positions": settings.rope_positions}
            scores[label] = score_model(model, tasks, journal=context.checkpoints / journal_file(label), **given)
        else:
            with closing(open_model(context, model, settings)) as chat:
                scores[label] = score_endpoint(chat.name, chat.ask, tasks, **given)
                scores[label]["costs"] = chat.costs()
    unsealed = settings.unseal if settings.suite == "unseen" else None
    result = {"suite": settings.suite, "limits": asdict(limits), "unsealed": unsealed, "models": scores}
    write_json(context.output / SCORES, result)
    rows = {label: sum(task["n"] for task in score["tasks"].values()) for label, score in scores.items()}
    return {"rows": rows, "metrics": {label: score["average"]["mean"] for label, score in scores.items()}}
