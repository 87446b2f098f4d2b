"""Training rows and evaluation items that share text, side by side, with what they share marked."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN = 25  # pairs of each evaluation and source, those that cover most first
Marked = Sequence[tuple[str, bool]]  # pieces of a text in order; True: shared
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Match:
    """``train``: the row, cut about the shared text; None in a mixture made before texts were kept. ``item``: the
    prompt; None where the run did not ask it."""

    train_id: str
    item_id: str
    coverage: float
    train: Marked | None
    item: Marked | None


@dataclass(frozen=True)
class Overlap:
    """One evaluation against one source of one mixture: the pairs that are shown, of ``pair_count``."""

    stage: str
    source: str
    task: str
    items: int
    overlapping: int
    pair_count: int
    decision: str
    matches: Sequence[Match]


def overlaps(stage: str, folder: Path, prompts: Mapping[tuple[str, str], str]) -> list[Overlap]:
    """The overlaps that a mixture's decontamination.json tells of.

    ``prompts``: (task as in the report, item) → the prompt as asked.
    """
    path = folder / "decontamination.json"
    if not path.is_file():
        return []
    found = []
    for source in json.loads(path.read_text(encoding="utf-8"))["sources"]:
        for task in source["evaluations"]:
            if not task["overlapping"]:
                continue
            shown = task["pairs"][:SHOWN]
            matches = [_match(pair, prompts.get((task["task"], pair["item_id"]))) for pair in shown]
            figures = (task["items"], task["overlapping"], task["pair_count"])
            found.append(
                Overlap(stage, source["source"], task["task"], *figures, source["decision"]["reason"], matches)
            )
    return found


def wanted_prompts(folder: Path) -> set[tuple[str, str]]:
    """(task, item) of every match that `overlaps` will show of a mixture."""
    path = folder / "decontamination.json"
    if not path.is_file():
        return set()
    report = json.loads(path.read_text(encoding="utf-8"))
    tasks = [task for source in report["sources"] for task in source["evaluations"]]
    return {(task["task"], pair["item_id"]) for task in tasks for pair in task["pairs"][:SHOWN]}


def _match(pair: Mapping[str, Any], prompt: str | None) -> Match:
    excerpt = pair.get("excerpt")
    shared = [_WORD.findall(text.lower()) for text, is_shared in excerpt or () if is_shared]
    item = None if prompt is None else _marked(prompt, shared)
    return Match(pair["train_id"], pair["item_id"], pair["coverage"], excerpt, item)


def _marked(text: str, runs: Sequence[Sequence[str]]) -> Marked:
    """``text`` with the first occurrence of each run of words marked, whatever stands between them."""
    words = list(_WORD.finditer(text))
    lower = [word.group().lower() for word in words]
    spans = []
    for run in filter(None, runs):
        starts = (at for at in range(len(lower) - len(run) + 1) if lower[at : at + len(run)] == list(run))
        begin = next(starts, None)
        if begin is not None:
            spans.append((words[begin].start(), words[begin + len(run) - 1].end()))
    pieces: list[tuple[str, bool]] = []
    reached = 0
    for begin, end in sorted(spans):
        begin = max(begin, reached)
        if begin < end:
            pieces += [(text[reached:begin], False), (text[begin:end], True)]
            reached = end
    return [piece for piece in [*pieces, (text[reached:], False)] if piece[0]]
