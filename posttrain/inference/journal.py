"""Every answer that cost something, on disk before it is looked at: nothing is lost, nothing is asked twice."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posttrain.artifacts.hashing import digest_json
from posttrain.artifacts.jsonl import BadLine, JsonlAppender
from posttrain.errors import PosttrainError
from posttrain.inference.protocols import ChatAnswer, ChatEndpoint, ChatRequest, SampleRequest


def request_key(model: str, request: ChatRequest | SampleRequest) -> str:
    """What an answer hangs on: model, prompt, sampling, sample index. Not the request's id: equal questions share one.

    ``model`` must tell these weights from all others that the same journal may see.
    """
    if isinstance(request, ChatRequest):
        prompt: Any = [dict(message) for message in request.messages]
    else:
        prompt = request.prompt_ids
    sampling = asdict(request.sampling)
    return digest_json({"model": model, "prompt": prompt, "sampling": sampling, "sample": request.sample_index})


class Journal:
    """An append-only JSONL file of {key, answer}, each on the disk when `put` returns; one writer at a time.

    A line that a kill tore is cut off when the file is opened again. Only keys and file positions are held in memory.
    Raises BadLine for a damaged line that is not the last.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._appender = JsonlAppender(self.path)
        self._file = open(self.path, "rb")  # noqa: SIM115 — closed by close()
        self._places: dict[str, int] = {}
        place = 0
        for number, line in enumerate(self._file, start=1):
            try:
                self._places[json.loads(line)["key"]] = place
            except (ValueError, KeyError, TypeError) as error:
                raise BadLine(self.path, number, f"no journal entry ({error!r}); delete this line") from error
            place += len(line)
        self._end = place

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> dict[str, Any] | None:
        """The stored answer, or None."""
        if key not in self._places:
            return None
        self._file.seek(self._places[key])
        return json.loads(self._file.readline())["answer"]

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Stores the raw ``answer`` (a JSON object). The first answer to a key stands; a second is not written."""
        if key in self._places:
            return
        self._appender.append({"key": key, "answer": answer})
        self._places[key] = self._end
        self._end = self.path.stat().st_size

    def close(self) -> None:
        self._appender.close()
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(
    endpoint: ChatEndpoint, requests: Iterable[ChatRequest], journal: Journal, *, as_a_whole: bool = False
) -> Iterator[ChatAnswer]:
    """Yields the answer to every request, in any order: from the journal where it is there, else from the endpoint.

    Equal questions (but for their ids) are asked once, for the first of them. ``as_a_whole``: unless the journal holds
    all of these requests, all are asked. A local engine's last bits hang on what shares its batch, so that a block
    that a kill cut in two would not come out the same; made again from its first request it does.
    """
    wanted: dict[str, list[ChatRequest]] = {}
    for request in requests:
        wanted.setdefault(request_key(endpoint.model, request), []).append(request)
    unknown = [key for key in wanted if key not in journal]
    asked = list(wanted) if as_a_whole and unknown else unknown
    for key in [key for key in wanted if key in journal and not (as_a_whole and unknown)]:
        yield from _stored(journal, key, wanted[key])
    open_keys = set(asked)
    for answer in endpoint.chat([wanted[key][0] for key in asked]):
        key = request_key(endpoint.model, answer.request)
        journal.put(key, {"text": answer.text, "finish_reason": answer.finish_reason, "usage": dict(answer.usage)})
        open_keys.discard(key)
        yield from _stored(journal, key, wanted[key])
    if open_keys:
        raise PosttrainError(
            f"{endpoint.model} left {len(open_keys)} of {len(asked)} requests without an answer, "
            f"the first {wanted[min(open_keys)][0].id!r}. The others stand in {journal.path}: run the command again."
        )


def _stored(journal: Journal, key: str, requests: list[ChatRequest]) -> Iterator[ChatAnswer]:
    stored = journal.get(key)
    assert stored is not None
    for request in requests:
        yield ChatAnswer(request, stored["text"], stored["finish_reason"], stored["usage"])
