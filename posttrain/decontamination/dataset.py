"""One training set made clean: checked, decided upon, and told about on a card (the paper's Table 8)."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from posttrain.data.content import user_turns
from posttrain.data.rows import Conversation, PreferencePair, Row, VerifiablePrompt
from posttrain.decontamination.index import EvaluationIndex, EvaluationItem, Evaluations
from posttrain.decontamination.match import TrainRow
from posttrain.decontamination.profiles import PROFILES, ProfileName
from posttrain.decontamination.report import Decision, DecontaminationReport, Policy, decide, find_overlaps

Prompt = TypeVar("Prompt", bound=str | Sequence[str] | Row)
"""A training prompt: one text, its user turns, or a whole row."""


@dataclass(frozen=True)
class Decontaminated(Generic[Prompt]):
    """``kept``: the prompts that the decision leaves, as they were given."""

    kept: list[Prompt]
    report: DecontaminationReport
    decision: Decision


def decontaminate(
    prompts: Sequence[Prompt],
    evaluations: Mapping[str, Iterable[EvaluationItem]] | Mapping[str, Iterable[str | Sequence[str]]] | EvaluationIndex,
    *,
    profile: ProfileName = "strict",
    item_threshold: float | None = None,
    set_threshold: float = 0.02,
    policy: Policy = "drop_rows",
    processes: int = 1,
) -> Decontaminated[Prompt]:
    """The prompts less those that leak an evaluation, with the report and the decision that says why.

    ``evaluations``: task → items, each one text or several that are scored apart (DROP: passage, question). A row is
    named in the report by its id, a bare prompt by its number.
    """
    if isinstance(evaluations, EvaluationIndex):
        index = evaluations
    else:
        index = EvaluationIndex(evaluation_items(evaluations), PROFILES[profile])
    report = find_overlaps(
        (train_row(number, prompt) for number, prompt in enumerate(prompts)),
        index,
        item_threshold=item_threshold,
        set_threshold=set_threshold,
        processes=processes,
    )
    decision = decide(report, policy)
    kept = [prompt for number, prompt in enumerate(prompts) if number not in decision.dropped]
    return Decontaminated(kept, report, decision)


def train_row(number: int, prompt: str | Sequence[str] | Row) -> TrainRow:
    """(id, user turns) of a prompt in any of its forms."""
    if isinstance(prompt, Conversation | PreferencePair | VerifiablePrompt):
        return prompt.id, user_turns(prompt)
    return str(number), (prompt,) if isinstance(prompt, str) else tuple(prompt)


def evaluation_items(
    evaluations: Mapping[str, Iterable[EvaluationItem]] | Mapping[str, Iterable[str | Sequence[str]]],
) -> Evaluations:
    """Items from plain texts, named by their number."""
    return {
        task: [
            item
            if isinstance(item, EvaluationItem)
            else EvaluationItem(str(number), (item,) if isinstance(item, str) else tuple(item))
            for number, item in enumerate(items)
        ]
        for task, items in evaluations.items()
    }


def digest_of(evaluations: Evaluations) -> str:
    """sha256 over every item: a report is fresh only for the evaluations that it was made for."""
    digest = hashlib.sha256()
    for task, items in evaluations.items():
        for item in items:
            digest.update(json.dumps([task, item.id, *item.fields]).encode())
    return digest.hexdigest()


def source_report(
    source: str, report: DecontaminationReport, decision: Decision, dropped_ids: list[str], *, excerpts: bool
) -> dict[str, Any]:
    """One training set's entry in decontamination.json. ``dropped_rows`` are their numbers, as ids may repeat."""
    decided = {"action": decision.action, "reason": decision.reason}
    dropped = {"dropped_ids": dropped_ids, "dropped_rows": sorted(decision.dropped)}
    return {"source": source, **report.as_json(excerpts=excerpts), "decision": decided, **dropped}


def card(name: str, report: DecontaminationReport, decision: Decision, not_run: Sequence[str]) -> str:
    """README.md of a decontaminated copy: per evaluation what overlapped, what was removed, what was ``not_run``."""
    rows = [
        f"| {found.task} | {found.items:,} | {found.overlapping:,} | {found.rate:.2%} | {len(found.row_numbers):,} "
        f"| {'contaminated' if found.contaminated else 'clean'} |"
        for found in sorted(report.evaluations, key=lambda found: -found.rate)
    ]
    removed = len(decision.dropped)
    return "\n".join(
        [
            "---",
            "configs:",
            "- config_name: default",
            "  data_files: data.jsonl",
            "---",
            f"# {name}, decontaminated",
            "",
            f"{report.rows - removed:,} of {report.rows:,} rows; {removed:,} "
            f"({removed / max(1, report.rows):.2%}) were removed. "
            f"Decision: {decision.action}, because {decision.reason}.",
            "",
            f"Profile `{report.profile}`, {report.ngram}-grams of user turns: an evaluation item overlaps if more than "
            f"{report.item_threshold:.0%} of its tokens stand in one row, and the set is contaminated if more than "
            f"{report.set_threshold:.0%} of an evaluation's items overlap (arXiv 2411.15124, section 3.2).",
            "",
            "| Evaluation | Items | Overlapping | Share | Rows that overlap | Verdict |",
            "|---|---:|---:|---:|---:|---|",
            *rows,
            *(("", f"Not checked, as their data was not there: {', '.join(not_run)}.") if not_run else ()),
            "",
        ]
    )
