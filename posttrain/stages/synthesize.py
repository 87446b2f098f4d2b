"""Rows made by a generator: demonstrations for SFT, prompts for preferences, prompts with verifiers for RLVR."""

from typing import Any

from posttrain.data.readers import write_rows
from posttrain.data.rows import Conversation, VerifiablePrompt
from posttrain.nano.tasks import TASKS, Task, items
from posttrain.nano.world import Item
from posttrain.recipe.data_settings import BestOf, Completions, Personas, Safety
from posttrain.stages import best_of, completions, personas
from posttrain.stages.base import StageContext

VERSION = 3


def run(context: StageContext) -> dict[str, Any]:
    match context.settings.generator:
        case Personas():
            return personas.run(context)
        case BestOf():
            return best_of.run(context)
        case Completions() | Safety():
            return completions.run(context)
    counts = context.settings
    context.progress.start("generating rows", counts.sft + counts.preference_prompts + counts.rlvr, "rows")
    # Drawn apart, yet the finite kinds (facts, requests) give some prompts to both SFT and preferences, as the paper
    # reuses SFT prompts.
    demonstrations = [as_conversation(i) for i in draw(counts.sft, counts.sft_shares, 3 * context.seed)]
    preference = [as_prompt(i) for i in draw(counts.preference_prompts, counts.preference_shares, 3 * context.seed + 1)]
    verifiable = [as_prompt(i) for i in draw(counts.rlvr, counts.rlvr_shares, 3 * context.seed + 2)]
    rows = {}
    for name, made in (("sft", demonstrations), ("preference_prompts", preference), ("rlvr", verifiable)):
        rows[name] = write_rows(context.output / f"{name}.jsonl", made)
        context.progress.advance(rows[name])
    return {"rows": rows, "metrics": {}}


def draw(count: int, shares: dict[Task, float], seed: int) -> list[Item]:
    """``count`` items over the tasks by their shares; a task whose generator runs dry gives what it has."""
    total = sum(shares.values())
    return [item for task in TASKS for item in items(task, "train", round(count * shares.get(task, 0) / total), seed)]


def as_conversation(item: Item) -> Conversation:
    turns = ({"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.answer})
    return Conversation(item.id, turns, f"nano/{item.kind}")


def as_prompt(item: Item) -> VerifiablePrompt:
    messages = ({"role": "user", "content": item.prompt},)
    return VerifiablePrompt(item.id, messages, item.ground_truth, item.verifier, f"nano/{item.kind}")
