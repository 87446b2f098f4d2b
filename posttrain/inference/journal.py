"""Every answer that cost something, on disk before it is looked at: nothing is lost, nothing is asked twice."""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from posttrain.artifacts.hashing import digest_json
from posttrain.artifacts.jsonl import BadLine, JsonlAppender
from posttrain.errors import PosttrainError
from posttrain.inference.budget import Budget
from posttrain.inference.protocols import ChatAnswer, ChatEndpoint, ChatFailure, ChatRequest, SampleRequest

Answered = TypeVar("Answered", ChatAnswer, ChatFailure, ChatAnswer | ChatFailure)

WRITE_EVERY = 0.2  # seconds that a finished answer may wait for others to be written with


class Streaming(Protocol):
    """An endpoint that is fed one request at a time (`OpenAIEndpoint`)."""

    model: str

    @property
    def outstanding(self) -> int: ...

    def submit(self, request: ChatRequest) -> bool: ...

    def collect(self, *, wait: bool = True) -> list[ChatAnswer | ChatFailure]: ...


def request_key(model: str, request: ChatRequest | SampleRequest) -> str:
    """What an answer hangs on: model, prompt, sampling, sample index. Not the request's id: equal questions share one.

    ``model`` must tell these weights from all others that the same journal may see. Of a chat request ``max_tokens`` is
    left out: see `stored_answer`.
    """
    sampling = dict(vars(request.sampling))
    if isinstance(request, ChatRequest):
        prompt: Any = [dict(message) for message in request.messages]
        del sampling["max_tokens"]
    else:
        prompt = request.prompt_ids
    content = {"model": model, "prompt": prompt, "sampling": sampling, "sample": request.sample_index}
    if isinstance(request, ChatRequest) and request.json_schema is not None:
        content["json_schema"] = dict(request.json_schema)
    return digest_json(content)


class Journal:
    """An append-only JSONL file of {key, answer}, each on the disk when `put` returns; one writer at a time.

    A line that a kill tore is cut off when the file is opened again. Keys and file positions are in a temporary
    database on the disk, so that memory does not grow with the file. ``cost`` is the sum of the answers' costs,
    ``presumed`` what attempts without an answer may have cost in all runs so far (see `Budget`).
    Raises BadLine for a damaged line that is not the last.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._appender = JsonlAppender(self.path)
        self._file = open(self.path, "rb")  # noqa: SIM115 — closed by close()
        self._index = sqlite3.connect("", isolation_level=None)  # a nameless file, gone when it is closed
        self._index.execute("CREATE TABLE places (key TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID")
        self._index.execute("BEGIN")
        self.cost = self.presumed = 0.0
        self._budget = Budget()
        self._end = 0
        for number, line in enumerate(self._file, start=1):
            try:
                row = json.loads(line)
                self._note(row["key"], row["answer"])
            except (ValueError, KeyError, TypeError, sqlite3.Error) as error:
                raise BadLine(self.path, number, f"no journal entry ({error!r}); delete this line") from error
            self._end += len(line)

    def __len__(self) -> int:
        return self._index.execute("SELECT count(*) FROM places").fetchone()[0]

    def __contains__(self, key: str) -> bool:
        return self._place(key) is not None

    def get(self, key: str) -> dict[str, Any] | None:
        """The stored answer, or None."""
        place = self._place(key)
        if place is None:
            return None
        self._file.seek(place)
        return json.loads(self._file.readline())["answer"]

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Stores the raw ``answer`` (a JSON object). The first answer to a key stands; a second is not written."""
        self.put_all([(key, answer)])

    def put_all(self, entries: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Stores several answers with one wait for the disk."""
        new = {key: answer for key, answer in entries if key not in self}
        if (presumed := self._budget.presumed) > self.presumed:
            new[f"presumed {presumed}"] = {"presumed": presumed}
        lengths = self._appender.append_all({"key": key, "answer": answer} for key, answer in new.items())
        for (key, answer), length in zip(new.items(), lengths, strict=True):
            self._note(key, answer)
            self._end += length

    def budget(self, limit: float | None) -> Budget:
        """The budget of the endpoint whose answers come here. It counts what stands here, from all runs; what is
        presumed in this one is written with the next answer, at the latest when the journal is closed."""
        self._budget = Budget(limit, self.cost, self.presumed)
        return self._budget

    def _place(self, key: str) -> int | None:
        found = self._index.execute("SELECT place FROM places WHERE key = ?", (key,)).fetchone()
        return found and found[0]

    def _note(self, key: str, answer: Mapping[str, Any]) -> None:
        self._index.execute("INSERT OR IGNORE INTO places VALUES (?, ?)", (key, self._end))
        usage = answer.get("usage")
        self.cost += usage.get("cost", 0.0) if isinstance(usage, Mapping) else 0.0
        self.presumed = max(self.presumed, answer.get("presumed", 0.0))

    def close(self) -> None:
        try:
            self.put_all([])
        finally:
            self._appender.close()
            self._file.close()
            self._index.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stored_answer(journal: Journal, model: str, request: ChatRequest) -> ChatAnswer | None:
    """The journal's answer to a request, if it would come out the same under the request's ``max_tokens``.

    One that ended by itself does under any limit that it fits in; one that was cut, only under the limit that cut it.
    So a higher max_tokens asks again only what was cut.
    """
    key = request_key(model, request)
    for place in (_cut(key, request), key):
        stored = journal.get(place)
        if stored is None:
            continue
        usage = stored["usage"]
        if place == key and usage.get("completion_tokens", 0) > request.sampling.max_tokens:
            continue
        return ChatAnswer(request, stored["text"], stored["finish_reason"], usage)
    return None


def store(journal: Journal, model: str, answers: Iterable[ChatAnswer]) -> None:
    """Puts raw answers on the disk, together."""
    entries = []
    for answer in answers:
        key = request_key(model, answer.request)
        place = _cut(key, answer.request) if answer.finish_reason == "length" else key
        content = {"text": answer.text, "finish_reason": answer.finish_reason, "usage": dict(answer.usage)}
        entries.append((place, content))
    journal.put_all(entries)


def _cut(key: str, request: ChatRequest) -> str:
    return f"{key}/{request.sampling.max_tokens}"


def ask(
    endpoint: ChatEndpoint, requests: Iterable[ChatRequest], journal: Journal, *, as_a_whole: bool = False
) -> Iterator[ChatAnswer]:
    """Yields the answer to every request, in any order: from the journal where it is there, else from the endpoint.

    Equal questions (but for their ids) are asked once, for the first of them. ``as_a_whole``: unless the journal holds
    all of these requests, all are asked. A local engine's last bits hang on what shares its batch, so that a block
    that a kill cut in two would not come out the same; made again from its first request it does. Raises
    PosttrainError, once all others are there, where a request stays without an answer.
    """
    model = endpoint.model
    wanted: dict[str, list[ChatRequest]] = {}
    for request in requests:
        wanted.setdefault(_cut(request_key(model, request), request), []).append(request)
    stored = {key: stored_answer(journal, model, same[0]) for key, same in wanted.items()}
    whole = as_a_whole and None in stored.values()
    asked = [key for key, answer in stored.items() if whole or answer is None]
    for key, answer in stored.items():
        if answer is not None and not whole:
            yield from _for_each(wanted[key], answer)
    open_keys = set(asked)
    failed: ChatFailure | None = None
    for answer in endpoint.chat([wanted[key][0] for key in asked]):
        if isinstance(answer, ChatFailure):
            failed = failed or answer
            continue
        store(journal, model, [answer])
        key = _cut(request_key(model, answer.request), answer.request)
        open_keys.discard(key)
        yield from _for_each(wanted[key], stored_answer(journal, model, answer.request) or answer)
    if open_keys:
        first = failed.request if failed else wanted[min(open_keys)][0]
        why = f" ({failed.reason}: {failed.detail})" if failed else ""
        raise PosttrainError(
            f"{endpoint.model} left {len(open_keys)} of {len(asked)} requests without an answer, the first "
            f"{first.id!r}{why}. The others stand in {journal.path}: mend the cause and run the command again."
        )


def stream(
    endpoint: Streaming, requests: Iterable[ChatRequest], journal: Journal, *, wait: bool = True
) -> Iterator[ChatAnswer | ChatFailure | None]:
    """As `ask`, for any number of requests: they are taken one by one, and memory holds only those that fly.

    A request that stays without an answer yields its ChatFailure; it is not stored, so that the next run asks again.
    What is finished is on the disk before an error of the endpoint goes through (see `Streaming`). Without ``wait`` it
    yields None where it would wait, so that several endpoints can take turns.
    """
    model = endpoint.model
    flying: dict[str, list[ChatRequest]] = {}
    written = time.monotonic()

    def collected(wait: bool) -> Iterator[ChatAnswer | ChatFailure]:
        found = endpoint.collect(wait=wait)
        store(journal, model, [one for one in found if isinstance(one, ChatAnswer)])
        for one in found:
            same = flying.pop(_cut(request_key(model, one.request), one.request))
            yield from _for_each(same, one)

    def some() -> Iterator[ChatAnswer | ChatFailure | None]:
        one = None
        for one in collected(wait):
            yield one
        if one is None:
            yield None

    for request in requests:
        key = _cut(request_key(model, request), request)
        if key in flying:
            flying[key].append(request)
            continue
        known = stored_answer(journal, model, request)
        if known is not None:
            yield known
            continue
        while not endpoint.submit(request):
            yield from some()
        flying[key] = [request]
        if time.monotonic() - written > WRITE_EVERY:  # where requests come slowly; else a full house collects
            written = time.monotonic()
            yield from collected(False)
    while endpoint.outstanding:
        yield from some()


def _for_each(requests: list[ChatRequest], one: Answered) -> Iterator[Answered]:
    for request in requests:
        yield replace(one, request=request)
