"""A recipe's chat model opened: a local engine, or an endpoint with the journal of everything it was paid for."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from posttrain.artifacts.lock import Lock
from posttrain.data.chat import prepare_tokenizer
from posttrain.errors import PosttrainError
from posttrain.inference.budget import Account, BudgetReached, Price
from posttrain.inference.chat import SamplerChat
from posttrain.inference.journal import Journal, ask, stored_answer, stream
from posttrain.inference.openai import EndpointDown, OpenAIEndpoint, Server
from posttrain.inference.opening import open_local
from posttrain.inference.protocols import ChatAnswer, ChatFailure, ChatRequest
from posttrain.recipe.data_settings import Endpoint, ModelOptions
from posttrain.stages.base import Progress, StageContext

Answer = ChatAnswer | ChatFailure

TURN = 256  # answers of one endpoint before the next has its turn
POLL = 0.01  # seconds between looks at endpoints of which none has anything
BLOCK = 2048  # requests that a local engine is asked together; a kill costs at most one block's answers


class ChatModel(Protocol):
    """One model of a recipe. ``costs``: what its answers took, None where nobody is paid."""

    @property
    def name(self) -> str: ...

    def ask(self, requests: Iterable[ChatRequest]) -> Iterator[Answer]: ...

    def costs(self) -> dict[str, Any] | None: ...

    def close(self) -> None: ...


def name_of(model: str | Endpoint) -> str:
    """What the model is called in rows and journals."""
    return model if isinstance(model, str) else model.name or model.model


def open_model(
    context: StageContext, model: str | Endpoint, options: ModelOptions, *, recorded: bool = False
) -> ChatModel:
    """``options``: how a local model is loaded. ``recorded``: an endpoint's answers come from its journal alone."""
    if isinstance(model, str):
        return _Local(context, model, options)
    return _Recorded(context, model) if recorded else Remote(context, model)


def counted(model: ChatModel, progress: Progress) -> Callable[[Iterable[ChatRequest]], Iterator[Answer]]:
    """``model.ask`` with each answer shown in the progress."""

    def ask(requests: Iterable[ChatRequest]) -> Iterator[Answer]:
        for one in model.ask(requests):
            progress.advance()
            yield one

    return ask


def at_once(
    streams: Mapping[str, Iterator[Answer | None]], failed: dict[str, PosttrainError]
) -> Iterator[tuple[str, Answer]]:
    """What several endpoints answer, with their names, as it comes. One that is down or has spent its budget goes into
    ``failed`` and does not keep the others from answering."""
    waiting = dict(streams)
    while waiting:
        moved = False
        for name, answers in list(waiting.items()):
            try:
                for _ in range(TURN):
                    one = next(answers)
                    if one is None:
                        break
                    moved = True
                    yield name, one
            except StopIteration:
                del waiting[name]
            except (EndpointDown, BudgetReached) as error:
                failed[name] = error
                del waiting[name]
        if not moved:
            time.sleep(POLL)


def journal_path(context: StageContext, name: str) -> Path:
    """A journal of paid answers belongs to the stage, not to one key: other settings, and nothing is asked twice."""
    return context.checkpoints.parent / "journals" / f"{quote(name, safe='')}.jsonl"


class _Local:
    def __init__(self, context: StageContext, model: str, options: ModelOptions):
        self.name = model
        sampler, tokenizer = open_local(
            context.resolve(model), device=context.device, rope_positions=options.rope_positions
        )
        self._endpoint = SamplerChat(sampler, prepare_tokenizer(tokenizer, options.chat_template), model)
        self._journal = Journal(context.checkpoints / f"journal-{quote(model, safe='')}.jsonl")

    def ask(self, requests: Iterable[ChatRequest]) -> Iterator[Answer]:
        requests = iter(requests)
        while block := list(islice(requests, BLOCK)):
            yield from ask(self._endpoint, block, self._journal, as_a_whole=True)

    def costs(self) -> None:
        return None

    def close(self) -> None:
        self._endpoint.close()
        self._journal.close()


class Remote:
    """An endpoint with its journal. ``stream`` yields None where it would wait (see `at_once`)."""

    def __init__(self, context: StageContext, settings: Endpoint):
        self.name = name_of(settings)
        self._stack = ExitStack()
        with ExitStack() as stack:  # what is open is closed again where a later step fails
            path = journal_path(context, self.name)
            stack.enter_context(Lock(path.with_suffix(".lock"), f"the journal of {self.name}"))
            self._journal = stack.enter_context(Journal(path))
            self._presumed = self._journal.presumed  # by earlier runs
            self._endpoint = OpenAIEndpoint(server(settings), self._journal.budget(settings.budget))
            stack.callback(self._endpoint.close)
            self._stack = stack.pop_all()
        self._used = Account()

    def ask(self, requests: Iterable[ChatRequest]) -> Iterator[Answer]:
        return (one for one in self.stream(requests, wait=True) if one is not None)

    def stream(self, requests: Iterable[ChatRequest], *, wait: bool = False) -> Iterator[Answer | None]:
        for one in stream(self._endpoint, requests, self._journal, wait=wait):
            if isinstance(one, ChatAnswer):
                self._used.add(one.usage)
            yield one

    def costs(self) -> dict[str, Any]:
        """Of all answers used, those from the journal too; under ``asked``, of this run's requests alone."""
        used = asdict(self._used)
        presumed = self._endpoint.budget.presumed - self._presumed
        asked = asdict(self._endpoint.account) | {"presumed": presumed}
        return {name: used[name] for name in used if name not in ("attempts", "failures")} | {"asked": asked}

    def close(self) -> None:
        self._stack.close()


class _Recorded:
    def __init__(self, context: StageContext, settings: Endpoint):
        self.name = name_of(settings)
        path = journal_path(context, self.name)
        if not path.is_file():
            raise PosttrainError(f"{self.name}: recorded answers are to be replayed, but there is no {path}")
        self._journal = Journal(path)

    def ask(self, requests: Iterable[ChatRequest]) -> Iterator[Answer]:
        for request in requests:
            found = stored_answer(self._journal, self.name, request)
            yield found or ChatFailure(request, "gave_up", f"not recorded in {self._journal.path}")

    def costs(self) -> None:
        return None

    def close(self) -> None:
        self._journal.close()


def server(settings: Endpoint) -> Server:
    """The endpoint's settings as inference/ wants them."""
    content: dict[str, Any] = settings.model_dump(exclude={"prompt_price", "completion_price", "cached_price"})
    return Server(**content, price=Price(settings.prompt_price, settings.completion_price, settings.cached_price))
