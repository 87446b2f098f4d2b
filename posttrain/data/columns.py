"""The published column layouts, to our rows and back, without loss.

SFT: id, messages, source. Preference: id, prompt, chosen, rejected, source (405B: chosen_rating, rejected_rating,
chosen_model, rejected_model). RLVR: messages, ground_truth, dataset, constraint_type, constraint, where dataset and
ground_truth may be parallel lists. Columns that our rows have no field for are kept in ``extra``, and so is the
published value of a column whenever the row's field is another (``MATH`` → verifier ``math``).
"""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

from posttrain.artifacts.hashing import digest_json
from posttrain.data.json_values import as_json, is_unicode
from posttrain.data.rejects import BadRow, brief, told
from posttrain.data.rows import Conversation, Message, PreferencePair, Row, VerifiablePrompt

RowKind = Literal["conversation", "preference", "verifiable"]
Columns = Mapping[str, Any]

ROLES = ("system", "user", "assistant")


@overload
def row_from_columns(kind: Literal["conversation"], columns: Columns, default_source: str) -> Conversation: ...
@overload
def row_from_columns(kind: Literal["preference"], columns: Columns, default_source: str) -> PreferencePair: ...
@overload
def row_from_columns(kind: Literal["verifiable"], columns: Columns, default_source: str) -> VerifiablePrompt: ...
@overload
def row_from_columns(kind: RowKind, columns: Columns, default_source: str) -> Row: ...
def row_from_columns(kind: RowKind, columns: Columns, default_source: str) -> Row:
    """One row of ``kind``. A missing id becomes a hash of the content, a missing source ``default_source``.

    Raises BadRow: a column missing or of another type, an unknown role, no or an empty message, an SFT row without an
    assistant turn, a pair that does not share all but the last turn, a prompt that does not end with a user turn.
    """
    make = {"conversation": _conversation, "preference": _preference, "verifiable": _verifiable}[kind]
    try:
        for name in ("id", "source", "prompt", "ground_truth", "dataset"):
            if not is_unicode(columns.get(name)):
                raise BadRow(f'column "{name}" holds half of a surrogate pair, which is no Unicode text')
        return make(columns, default_source)
    except RecursionError:
        raise BadRow("its values are nested too deeply") from None


def columns_from_row(row: Row) -> dict[str, Any]:
    """The row's published columns. ``id`` and ``source`` are always written, so that provenance is never lost."""
    match row:
        case Conversation():
            columns = {"id": row.id, "messages": _plain(row.messages), "source": row.source}
            taken = _CONVERSATION
        case PreferencePair():
            columns = {
                "id": row.id,
                "prompt": row.prompt,
                "chosen": _plain(row.chosen),
                "rejected": _plain(row.rejected),
                "source": row.source,
            }
            taken = _PREFERENCE
        case VerifiablePrompt():
            columns = {
                "id": row.id,
                "messages": _plain(row.messages),
                "ground_truth": _published(row.extra, "ground_truth", row.ground_truth, _labels),
                "dataset": _published(row.extra, "dataset", row.verifier, _verifiers),
                "constraint_type": row.extra.get("constraint_type"),
                "constraint": row.extra.get("constraint"),
                "source": row.source,
            }
            taken = _VERIFIABLE
    return columns | {name: value for name, value in row.extra.items() if name not in taken}


_CONVERSATION = {"id", "messages", "source"}
_PREFERENCE = {"id", "prompt", "chosen", "rejected", "source"}
_VERIFIABLE = {"id", "messages", "ground_truth", "dataset", "constraint_type", "constraint", "source"}


def _conversation(columns: Columns, default_source: str) -> Conversation:
    messages = _messages(columns, "messages")
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRow("messages has no assistant turn, so there is nothing to learn")
    return Conversation(
        _id(columns, messages=messages), messages, _source(columns, default_source), _rest(columns, _CONVERSATION)
    )


def _preference(columns: Columns, default_source: str) -> PreferencePair:
    chosen, rejected = _messages(columns, "chosen"), _messages(columns, "rejected")
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if messages[-1]["role"] != "assistant":
            raise BadRow(f"{name} does not end with an assistant turn")
        if not any(message["role"] == "user" for message in messages):
            raise BadRow(f"{name} has no user turn")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("chosen and rejected differ before their last turn")
    prompt = columns.get("prompt")
    if prompt is None:
        prompt = next(message["content"] for message in chosen if message["role"] == "user")
    if not isinstance(prompt, str):
        raise BadRow(f'column "prompt" holds {type(prompt).__name__}, not text')
    return PreferencePair(
        _id(columns, chosen=chosen, rejected=rejected),
        prompt,
        chosen,
        rejected,
        _source(columns, default_source),
        _rest(columns, _PREFERENCE),
    )


def _verifiable(columns: Columns, default_source: str) -> VerifiablePrompt:
    messages = _messages(columns, "messages")
    if messages[-1]["role"] != "user":
        raise BadRow("messages does not end with a user turn, so there is nothing to answer")
    dataset, truth = _column(columns, "dataset"), _column(columns, "ground_truth")
    verifier = _verifiers(dataset)
    # A list under one verifier is that verifier's own label (the code verifier's asserts), not parallel labels.
    ground_truth = _labels(truth) if isinstance(verifier, tuple) else label_text(truth)
    if isinstance(verifier, tuple) and (isinstance(ground_truth, str) or len(ground_truth) != len(verifier)):
        found = f"{len(verifier)} verifiers"
        raise BadRow("dataset lists verifiers, ground_truth does not list as many labels", found=found)
    extra = _rest(columns, _VERIFIABLE)
    extra |= {
        name: as_json(columns[name]) for name in ("constraint_type", "constraint") if columns.get(name) is not None
    }
    if verifier != _as_tuple(dataset):
        extra["dataset"] = as_json(dataset)
    if ground_truth != _as_tuple(truth):
        extra["ground_truth"] = as_json(truth)
    return VerifiablePrompt(
        _id(columns, messages=messages, dataset=dataset, ground_truth=as_json(truth)),
        messages,
        ground_truth,
        verifier,
        _source(columns, default_source),
        extra,
    )


def _column(columns: Columns, name: str) -> Any:
    if columns.get(name) is not None:
        return columns[name]
    near = difflib.get_close_matches(name, list(columns), n=1)
    hint = f'; is it "{near[0]}"?' if near and near[0] != name else ""
    raise BadRow(f'column "{name}" is {"empty" if name in columns else "missing"} (columns: {told(columns)}){hint}')


def _messages(columns: Columns, name: str) -> tuple[Message, ...]:
    messages = _column(columns, name)
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise BadRow(f'column "{name}" holds {type(messages).__name__}, not a list of messages')
    if not messages:
        raise BadRow(f'column "{name}" holds no message')
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise BadRow(f"{name}: a turn has no text under content", found=f"turn {number}")
        role = message.get("role")
        if role not in ROLES:
            found = f"turn {number} has the role {brief(role)}"
            raise BadRow(f"{name}: a turn's role is not one of {', '.join(ROLES)}", found=found)
        if not message["content"].strip():
            raise BadRow(f"{name}: a turn is empty", found=f"turn {number}, {role}")
        if not is_unicode(message["content"]):
            found = f"turn {number}"
            raise BadRow(f"{name}: a turn holds half of a surrogate pair, which is no Unicode text", found=found)
    return tuple(as_json(dict(message)) for message in messages)


def _id(columns: Columns, **content: Any) -> str:
    given = columns.get("id")
    return digest_json(content)[:16] if given is None else label_text(given, "id")


def _source(columns: Columns, default: str) -> str:
    given = columns.get("source")
    return given if isinstance(given, str) and given else default


def _rest(columns: Columns, taken: set[str]) -> dict[str, Any]:
    return as_json({name: value for name, value in columns.items() if name not in taken})


def _verifiers(dataset: Any) -> str | tuple[str, ...]:
    """The verifier's name is the dataset's in lower case (``MATH`` → ``math``), as the published code has it."""
    names = dataset if isinstance(dataset, list | tuple) else [dataset]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise BadRow('column "dataset" holds no name of a verifier or list of names', found=brief(dataset))
    return names[0].lower() if isinstance(dataset, str) else tuple(name.lower() for name in names)


def _labels(truth: Any) -> str | tuple[str, ...]:
    return tuple(map(label_text, truth)) if isinstance(truth, list | tuple) else label_text(truth)


def label_text(value: Any, column: str = "ground_truth") -> str:
    """A label is text; any other JSON value is kept as its compact JSON. NaN raises BadRow."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    except ValueError:
        raise BadRow(f'column "{column}" holds a number that is not finite') from None


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _published(extra: Columns, name: str, current: Any, mapping: Callable[[Any], Any]) -> Any:
    """The column as it was published, unless the row's field has been changed since."""
    if name in extra and current in (mapping(extra[name]), label_text(extra[name])):
        return extra[name]
    return list(current) if isinstance(current, tuple) else current


def _plain(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [dict(message) for message in messages]
