"""The layouts that datasets come in, to the published columns: Alpaca, ShareGPT, prompt and response, other names.

A layout is told by its columns: ``messages`` (as published), ``conversations`` (ShareGPT), ``instruction`` (Alpaca),
``prompt``. Columns that a layout does not use are kept.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.data.rejects import BadRow, brief, told

Columns = Mapping[str, Any]
Kind = Literal["conversation", "preference", "verifiable"]

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SIDES = ("chosen", "rejected")
RESPONSES = ("response", "completion", "output")


@dataclass(frozen=True)
class Layout:
    """How a file departs from the known layouts.

    ``columns``: our column → the file's name for it, such as messages → dialogue. ``values``: a column that the file
    does not have → its value in every row, such as dataset → gsm8k. ``header``: the columns of a CSV or TSV file that
    has no header line.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()


AS_PUBLISHED = Layout()


def published(kind: Kind, columns: Columns, layout: Layout = AS_PUBLISHED) -> Columns:
    """The row's columns under their published names and in their published form. Raises BadRow.

    A text under ``prompt`` is one user turn; ``chosen`` and ``rejected`` that are texts are answers to it. A row that
    has the published columns comes back as it is.
    """
    columns = _named(columns, layout) if layout.columns or layout.values else columns
    match kind:
        case "conversation":
            return columns if _is_list(columns.get("messages")) else _conversation(columns)
        case "verifiable":
            return columns if _is_list(columns.get("messages")) else _prompt_alone(columns)
        case "preference":
            return _pair(columns)


def from_texts(columns: dict[str, Any], layout: Layout = AS_PUBLISHED) -> dict[str, Any]:
    """A record whose values are texts, as a CSV file has them, with the lists that its cells hold as JSON.

    These are turns, in the columns that may be turns (an answer only beside a prompt of turns), and verifiers with
    their labels. Any other text stays as it is, whatever it looks like.
    """
    lists = _lists(columns, layout, ("messages", "conversations", "prompt", *SIDES), _is_turn)
    if layout.columns.get("prompt", "prompt") in lists:
        lists |= _lists(columns, layout, RESPONSES, _is_turn)
    if verifiers := _lists(columns, layout, ("dataset",), lambda value: isinstance(value, str)):
        lists |= verifiers | _lists(columns, layout, ("ground_truth",), lambda value: True)
    return {**columns, **lists} if lists else columns


def _lists(
    columns: Columns, layout: Layout, names: tuple[str, ...], fits: Callable[[Any], bool]
) -> dict[str, list[Any]]:
    """Of our columns ``names`` those that hold a JSON list of what fits, under the file's names."""
    found = {}
    for name in (layout.columns.get(name, name) for name in names):
        text = columns.get(name)
        if not isinstance(text, str) or not text.startswith("["):
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):  # text that begins with a bracket
            continue
        if values and all(map(fits, values)):
            found[name] = values
    return found


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)


def _named(columns: Columns, layout: Layout) -> dict[str, Any]:
    renamed = {theirs for theirs in layout.columns.values()}
    found = {name: value for name, value in columns.items() if name not in renamed}
    for ours, theirs in layout.columns.items():
        if theirs not in columns:
            there = told(columns)
            raise BadRow(f'column "{theirs}", which the recipe names for {ours}, is missing (columns: {there})')
        found[ours] = columns[theirs]
    return found | dict(layout.values)


def _conversation(columns: Columns) -> Columns:
    if "conversations" in columns:
        return _without(columns, "conversations") | {"messages": _sharegpt(columns["conversations"])}
    opening, used = _opening(columns)
    if not opening:
        return columns
    answer = next((name for name in RESPONSES if columns.get(name) is not None), None)
    if answer is None:
        raise BadRow(f"a prompt without a response: no column {', '.join(RESPONSES)} (columns: {told(columns)})")
    reply = columns[answer] if _is_list(columns[answer]) else [{"role": "assistant", "content": columns[answer]}]
    return _without(columns, *used, answer) | {"messages": [*opening, *reply]}


def _prompt_alone(columns: Columns) -> Columns:
    if "conversations" in columns:
        messages = _sharegpt(columns["conversations"])
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return _without(columns, "conversations") | {"messages": messages}
    opening, used = _opening(columns)
    return _without(columns, *used) | {"messages": opening} if opening else columns


def _pair(columns: Columns) -> Columns:
    sides = {name: columns.get(name) for name in SIDES}
    if any(side is None for side in sides.values()):
        return columns
    texts = all(isinstance(side, str) for side in sides.values())
    bare = all(_is_list(side) and side and all(_role(turn) == "assistant" for turn in side) for side in sides.values())
    if not texts and not bare:
        return columns
    opening, used = _opening(columns)
    if not opening:
        raise BadRow(f"chosen and rejected are answers without a prompt (columns: {told(columns)})")
    answers = {
        name: [*opening, *([{"role": "assistant", "content": side}] if isinstance(side, str) else side or ())]
        for name, side in sides.items()
    }
    prompt = {"prompt": columns["prompt"]} if isinstance(columns.get("prompt"), str) else {}
    return _without(columns, *used, "prompt") | prompt | answers


def _opening(columns: Columns) -> tuple[list[Any], tuple[str, ...]]:
    """The turns before the answer, and the columns they stood in; no turns where there is no such column."""
    system = [{"role": "system", "content": columns["system"]}] if columns.get("system") else []
    prompt = columns.get("prompt")
    if isinstance(prompt, str):
        return [*system, {"role": "user", "content": prompt}], ("prompt", "system")
    if isinstance(prompt, list | tuple):
        return [*system, *prompt], ("prompt", "system")
    if isinstance(columns.get("instruction"), str):
        given = columns.get("input") or ""
        if not isinstance(given, str):
            raise BadRow(f'column "input" holds {type(given).__name__}, not text')
        text = "\n\n".join(part for part in (columns["instruction"], given) if part)
        return [*system, {"role": "user", "content": text}], ("instruction", "input", "system")
    return [], ()


def _sharegpt(turns: Any) -> list[dict[str, Any]]:
    if not _is_list(turns):
        raise BadRow(f'column "conversations" holds {type(turns).__name__}, not a list of turns')
    messages = []
    for number, turn in enumerate(turns, start=1):
        if _role(turn) is not None:
            messages.append(turn)
            continue
        speaker = turn.get("from") if isinstance(turn, Mapping) else None
        if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
            found = f"turn {number} is from {brief(speaker)}"
            raise BadRow(f"conversations: a turn is not from one of {', '.join(SHAREGPT_ROLES)}", found=found)
        messages.append({"role": SHAREGPT_ROLES[speaker], "content": turn.get("value")})
    return messages


def _role(turn: Any) -> Any:
    return turn.get("role") if isinstance(turn, Mapping) else None


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _without(columns: Columns, *names: str) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if name not in names}
