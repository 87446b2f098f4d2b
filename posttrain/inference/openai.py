"""Any OpenAI-compatible server as a `ChatEndpoint`: a hosted service, vLLM, `transformers serve`."""

import asyncio
import json
import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from posttrain.artifacts.hashing import digest_json
from posttrain.errors import PosttrainError
from posttrain.inference.admission import Admission
from posttrain.inference.budget import Account, Budget, Price, most_prompt_tokens
from posttrain.inference.protocols import ChatAnswer, ChatFailure, ChatRequest, FinishReason

FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
FIRST_WAIT, LONGEST_WAIT = 0.25, 20.0  # seconds before a request is tried again
TOGETHER = 0.05  # seconds that a finished answer may wait, so that many change threads and reach the disk at once
ALL_REFUSED = 20  # requests refused before any is answered: then it is the settings, not the requests


@dataclass(frozen=True)
class Server:
    """One model behind one address.

    ``name`` stands for the model in journals and rows (default: ``model``): it must tell these weights from others.
    ``api_key_env``: the environment variable that holds the key, which is read at once and written nowhere; None: a
    server without keys. ``budget``: most money (see `Budget`). ``seconds``: limit for one attempt, first byte to last.
    ``attempts``: for a request that fails by itself; refusals for lack of capacity (429) do not count. ``patience``:
    seconds without one success, then the server is down (before its first answer: a minute at most).
    ``structured``: how a JSON schema is asked for; ``prompt``: only in words, for servers without. ``seeds``: whether
    the server takes a seed. ``limit_field``: ``max_completion_tokens`` for newer hosted models.
    """

    base_url: str
    model: str
    name: str | None = None
    api_key_env: str | None = None
    price: Price = Price()
    budget: float | None = None
    concurrency: int = 64
    seconds: float = 600.0
    attempts: int = 6
    patience: float = 600.0
    structured: Literal["json_schema", "json_object", "prompt"] = "json_schema"
    seeds: bool = True
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: Mapping[str, Any] = field(default_factory=dict)


class EndpointDown(PosttrainError):
    """The server answers nobody, or refuses everything."""


@dataclass
class _Fault(Exception):
    """One attempt that brought no answer. ``billed``: the server may have done the work."""

    kind: str
    detail: str
    scope: Literal["attempt", "capacity", "request", "endpoint"] = "attempt"
    overload: bool = False
    billed: bool = False
    wait: float | None = None


class OpenAIEndpoint:
    """Sends requests as fast as the server takes them. ``submit`` and ``collect`` are for one thread.

    Answers come in any order; memory holds only what flies. Raises EndpointDown when the server is down or refuses
    every request (wrong key, unknown model), BudgetReached when ``budget`` covers no further request; both only after
    all that flew is collected, so that nothing paid for is lost. ``temperature`` 0 and 1 alike are sent as given.
    """

    def __init__(self, server: Server, budget: Budget | None = None):
        self.server, self.budget = server, budget or Budget(server.budget)
        self.model = server.name or server.model
        self.account = Account()
        if urlsplit(server.base_url).username or urlsplit(server.base_url).password:
            raise PosttrainError(f"endpoint {self.model}: base_url holds a password. Name its variable: api_key_env")
        self._key = _key(server)
        self._openai = _sdk()
        self._client = self._openai.AsyncOpenAI(
            api_key=self._key or "none", base_url=server.base_url, max_retries=0, timeout=server.seconds
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=f"endpoint {self.model}", daemon=True)
        self._sent: deque[tuple[ChatRequest, float]] = deque()  # handed over to the loop, not begun
        self._done: deque[ChatAnswer | ChatFailure | BaseException] = deque()
        self._ripe = threading.Event()  # it is time to look into _done
        self._ripens: asyncio.TimerHandle | None = None
        self._admission = Admission(server.concurrency, server.patience, time.monotonic)
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting = 0  # tasks that wait before another attempt
        self._jitter = random.Random()  # spreads retries; no output hangs on it
        self._outstanding = 0
        self._stopped: BaseException | None = None
        self._thread.start()

    @property
    def outstanding(self) -> int:
        """Requests submitted and not collected; and the error, once there is one, that `collect` is still to raise."""
        return self._outstanding + (self._stopped is not None)

    def submit(self, request: ChatRequest) -> bool:
        """Takes a request if there is room and money for it now; else collect first."""
        if self._stopped is not None or self._outstanding >= 2 * self.server.concurrency:
            return False
        reserved = self.server.price.most(request)
        if not self.budget.reserve(reserved):
            if not self._outstanding:
                raise self.budget.reached(self.model)
            return False
        self._outstanding += 1
        self._sent.append((request, reserved))
        if len(self._sent) == 1:  # else the loop is called already, and has not looked yet
            self._loop.call_soon_threadsafe(self._begin)
        return True

    def collect(self, *, wait: bool = True) -> list[ChatAnswer | ChatFailure]:
        """What is finished, many together (see `TOGETHER`); with ``wait`` at least one, if any is outstanding."""
        found: list[ChatAnswer | ChatFailure] = []
        while self._outstanding and not found and (wait or self._ripe.is_set()):
            self._ripe.wait()
            self._ripe.clear()
            while self._done:
                one = self._done.popleft()
                self._outstanding -= 1
                if isinstance(one, BaseException):
                    self._stopped = self._stopped or one
                else:
                    found.append(one)
        if not found and not self._outstanding and self._stopped is not None:
            raise self._stopped
        return found

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[ChatAnswer | ChatFailure]:
        """Yields what comes of each request, as it comes."""
        waiting = iter(requests)
        request = next(waiting, None)
        while request is not None or self.outstanding:
            while request is not None and self.submit(request):
                request = next(waiting, None)
            yield from self.collect()

    def close(self) -> None:
        """Drops what still flies."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._sent.clear()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _begin(self) -> None:
        """As many workers as may fly; those that rest before another attempt do not count."""
        while self._sent and len(self._tasks) - self._resting < self.server.concurrency:
            task = self._loop.create_task(self._work(*self._sent.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._hand_over(error)
        self._begin()

    async def _work(self, request: ChatRequest, reserved: float) -> None:
        """One request after the other: the next is sent before the loop turns to the answers of others."""
        while True:
            self._hand_over(await self._attempts(request, reserved))
            if not self._sent:
                return
            request, reserved = self._sent.popleft()

    def _hand_over(self, one: ChatAnswer | ChatFailure | BaseException) -> None:
        """To the thread that collects: at once if those waiting for a place in flight might run out, else soon."""
        self._done.append(one)
        if len(self._done) >= min(self.server.concurrency // 2 + 1, self._outstanding):
            self._ripen()
        elif self._ripens is None:
            self._ripens = self._loop.call_later(TOGETHER, self._ripen)

    def _ripen(self) -> None:
        if self._ripens is not None:
            self._ripens.cancel()
            self._ripens = None
        self._ripe.set()

    async def _attempts(self, request: ChatRequest, reserved: float) -> ChatAnswer | ChatFailure:
        failed = 0
        try:
            while True:
                entered = await self._admission.enter()
                try:
                    if self._admission.down:
                        raise self._down("nothing was answered")
                    self.account.attempts += 1
                    async with asyncio.timeout(self.server.seconds):
                        answer = await self._post(request)
                    self._admission.success()
                    self.account.add(answer.usage)
                    self.budget.settle(0.0, answer.usage["cost"])
                    return answer
                except TimeoutError:
                    fault = _Fault(
                        "timeout", f"no whole answer in {self.server.seconds:g} s", overload=True, billed=True
                    )
                except _Fault as raised:
                    fault = raised
                finally:
                    self._admission.leave()
                self.account.fail(fault.kind)
                if fault.billed:
                    self.budget.settle(reserved, 0.0, presumed=reserved)
                    reserved = 0.0
                if fault.scope == "endpoint":
                    raise EndpointDown(f"endpoint {self.model} at {self.server.base_url}: {fault.detail}")
                if fault.scope == "request":
                    if not self.account.answers and self.account.failures[fault.kind] >= ALL_REFUSED:
                        raise EndpointDown(
                            f"endpoint {self.model} at {self.server.base_url}: it refused all of the first "
                            f"{ALL_REFUSED} requests: {fault.detail}. Correct the endpoint's settings"
                        )
                    return ChatFailure(request, "refused", fault.detail)
                self._admission.complaint(entered, overload=fault.overload, wait=fault.wait)
                if self._admission.down:
                    raise self._down(fault.detail)
                failed += fault.scope == "attempt"
                if failed >= self.server.attempts:
                    return ChatFailure(request, "gave_up", f"{failed} attempts; the last: {fault.detail}")
                reserved = await self._rest(request, failed, reserved)
        finally:
            self.budget.settle(reserved, 0.0)

    async def _rest(self, request: ChatRequest, failed: int, reserved: float) -> float:
        """Waits before another attempt; the most that it can cost, reserved. BudgetReached: none flies that could leave
        enough over."""
        most = self.server.price.most(request)
        self._resting += 1
        self._begin()
        try:
            # Refusals for lack of capacity do not lengthen the wait: the admission paces all requests together.
            await asyncio.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(failed, 10)) * self._jitter.uniform(0.5, 1))
            while not reserved and not self.budget.reserve(most):
                if self.budget.reserved < most * 1e-6:  # nobody holds anything: floats do not sum to 0
                    raise self.budget.reached(self.model)
                await asyncio.sleep(FIRST_WAIT)
        finally:
            self._resting -= 1
        return most

    def _down(self, detail: str) -> EndpointDown:
        return EndpointDown(
            f"endpoint {self.model} at {self.server.base_url}: down, not one answer in {self._admission.patience:g} s "
            f"(last: {detail}). What was answered is in the journal: run the command again once it is up"
        )

    async def _post(self, request: ChatRequest) -> ChatAnswer:
        openai = self._openai
        try:
            raw = await self._client.post(
                "/chat/completions", cast_to=openai.HttpxBinaryResponseContent, body=self._body(request)
            )
            body = json.loads(raw.content)
        except openai.APITimeoutError as error:
            raise _Fault("timeout", self._clean(error), overload=True, billed=True) from None
        except openai.APIStatusError as error:
            raise self._status_fault(error) from None
        except openai.APIConnectionError as error:
            # Refused: nothing was sent. Broken later: the server may have done the work.
            refused = "ConnectError" in type(error.__cause__).__name__
            cause = f"{type(error.__cause__).__name__}: {error.__cause__}"
            raise _Fault("refused" if refused else "broken", self._clean(cause), billed=not refused) from None
        except (ValueError, RecursionError) as error:
            raise _Fault("malformed", f"not JSON: {error}", billed=True) from None
        return self._read(request, body)

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        sampling, server = request.sampling, self.server
        if sampling.allowed_token_ids is not None or sampling.stop_token_ids:
            raise PosttrainError(f"endpoint {self.model}: token ids cannot be asked of a chat server")
        body: dict[str, Any] = {
            "model": server.model,
            "messages": [dict(message) for message in request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            server.limit_field: sampling.max_tokens,
        }
        if sampling.stop_strings:
            body["stop"] = list(sampling.stop_strings)
        if server.seeds:  # of its own for each answer, or samples of one prompt would be the same text
            keyed = digest_json([sampling.seed, request.id, request.sample_index])
            body["seed"] = int(keyed[:8], 16) & 0x7FFFFFFF
        if request.json_schema is not None and server.structured != "prompt":
            schema = {"name": "answer", "strict": True, "schema": dict(request.json_schema)}
            named = {"type": "json_schema", "json_schema": schema}
            body["response_format"] = named if server.structured == "json_schema" else {"type": "json_object"}
        if server.extra_body:
            body |= server.extra_body
        return body

    def _read(self, request: ChatRequest, body: Any) -> ChatAnswer:
        choices = body.get("choices") if isinstance(body, Mapping) else None
        if not isinstance(choices, Sequence) or len(choices) != 1:
            count = len(choices) if isinstance(choices, Sequence) else "no list of"
            raise _Fault("malformed", f"{count} choices where one was asked for", billed=True)
        message = choices[0].get("message") if isinstance(choices[0], Mapping) else None
        content = message.get("content") or message.get("refusal") or "" if isinstance(message, Mapping) else None
        reason = FINISH_REASONS.get(str(choices[0].get("finish_reason"))) if content is not None else None
        if not isinstance(content, str) or reason is None:
            raise _Fault("malformed", f"no text that ended by itself or at its limit: {choices[0]!r:.200}", billed=True)
        return ChatAnswer(request, content, reason, self._usage(request, content, body))

    def _usage(self, request: ChatRequest, text: str, body: Mapping[str, Any]) -> dict[str, Any]:
        told = body.get("usage")
        told = told if isinstance(told, Mapping) else {}
        prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens")
        usage: dict[str, Any]
        if isinstance(prompt, int) and isinstance(completion, int) and min(prompt, completion) >= 0:
            usage = {"prompt_tokens": prompt, "completion_tokens": completion}
            details = told.get("prompt_tokens_details")
            if isinstance(details, Mapping) and isinstance(details.get("cached_tokens"), int):
                usage["cached_tokens"] = details["cached_tokens"]
        else:  # at its most, so that a budget holds
            completion = min(len(text.encode()), request.sampling.max_tokens)
            usage = {"prompt_tokens": most_prompt_tokens(request), "completion_tokens": completion, "estimated": True}
        usage["cost"] = self.server.price.of(
            usage["prompt_tokens"], usage["completion_tokens"], usage.get("cached_tokens", 0)
        )
        for name in ("id", "model", "system_fingerprint"):
            if isinstance(body.get(name), str):
                usage["served_id" if name == "id" else name] = body[name]
        return usage

    def _status_fault(self, error: Any) -> _Fault:
        status, detail = error.status_code, self._clean(error.response.text or error)
        if status == 429:
            if "insufficient_quota" in detail:
                return _Fault("quota", f"{detail}. Add credit and run the command again", "endpoint")
            return _Fault("429", detail, "capacity", overload=True, wait=_retry_after(error))
        if status in (401, 403):
            where = f"the key in {self.server.api_key_env}" if self.server.api_key_env else "a request without a key"
            return _Fault(str(status), f"it refuses {where} ({detail}). Set api_key_env and that variable", "endpoint")
        if status == 404:
            return _Fault("404", f"it knows no model {self.server.model!r} or no such address: {detail}", "endpoint")
        if status >= 500 or status in (408, 409, 425):
            return _Fault(
                str(status), detail, overload=status in (503, 504, 529), billed=False, wait=_retry_after(error)
            )
        return _Fault(str(status), detail, "request")

    def _clean(self, error: object) -> str:
        text = " ".join(str(error).split())
        return (text.replace(self._key, "***") if self._key else text)[:300]


def _sdk() -> Any:
    try:
        import openai
    except ImportError:
        raise PosttrainError("endpoints need the openai package: pip install 'posttrain[openai]'") from None
    return openai


def _key(server: Server) -> str | None:
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env, "").strip()
    if not key:
        raise PosttrainError(
            f"endpoint {server.name or server.model}: the environment variable {server.api_key_env} is empty. "
            f"export {server.api_key_env}=…, or set api_key_env to null for a server without keys"
        )
    return key


def _retry_after(error: Any) -> float | None:
    try:
        return float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
