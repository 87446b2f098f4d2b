"""Verification in child processes that can be killed: a time limit no response can talk its way out of.

Not SIGALRM (which works in the main thread alone, and silently made MATH equivalence False in the published training)
and not threads (which cannot be stopped): a worker that is late is killed and replaced.
"""

import os
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from json import dumps, loads
from mmap import mmap
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from tempfile import TemporaryFile
from threading import Lock
from time import monotonic
from typing import IO

from posttrain.errors import PosttrainError
from posttrain.sandbox.jails import ALLOW_DEGRADED
from posttrain.verifiers.registry import check_names
from posttrain.verifiers.verdict import Verdict
from posttrain.verifiers.worker import PROGRESS

Item = tuple[str, str, str]  # verifier, response, label

BATCH_ITEMS = 128
BATCH_CHARACTERS = 500_000
LATE_SECONDS = 0.25  # how much later than its limit an item may be noticed
START_SECONDS = 120.0  # a worker's start and imports, on a machine under load
MAX_DEATHS_WITHOUT_RESULT = 10
MEMORY_BYTES = 4 * 2**30


@dataclass(eq=False)
class _Worker:
    """A child process and the batch it works on: ``batch[done:]`` are the indices it still owes."""

    process: subprocess.Popen[bytes]
    connection: Connection
    progress: mmap
    stderr: IO[bytes]
    batch: list[int] = field(default_factory=list)
    done: int = 0

    def at(self) -> tuple[int, float]:
        """The index within the batch of the item under judgement (-1: none yet), and since when."""
        seen = PROGRESS.unpack_from(self.progress)
        while (again := PROGRESS.unpack_from(self.progress)) != seen:  # written just now
            seen = again
        return seen

    def kill(self) -> None:
        """End the process at once and leave nothing of it behind."""
        self.connection.close()
        self.process.kill()
        self.process.wait()
        self.progress.close()
        self.stderr.close()

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        size = self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, size - 2000))
        return self.stderr.read().decode(errors="replace").strip()


class VerifierPool:
    """Judges many responses in ``workers`` processes, each response within ``seconds_per_item``.

    * An item beyond its limit (time, or the worker's memory) is ``timeout``; its worker is killed and replaced.
    * An item whose worker dies of something else is tried once more, then ``error``.
    * A label that its verifier cannot read, or missing language data, is ``error`` with the reason in ``detail``.

    Programs are refused (``error``) where no namespaces isolate them, unless ``allow_degraded_sandbox``.

    Every item is answered exactly once. Workers start with the first call and stay for the next; ``close`` ends them,
    and so does the end of this process. Safe to share between threads (calls are served one after the other).
    """

    def __init__(
        self,
        workers: int = 1,
        seconds_per_item: float = 5.0,
        mode: str = "strict",
        *,
        memory_bytes: int = MEMORY_BYTES,
        allow_degraded_sandbox: bool = False,
    ):
        if workers < 1 or seconds_per_item <= 0:
            raise PosttrainError(
                f"a verifier pool needs a worker and a positive time limit, not {workers}, {seconds_per_item}"
            )
        check_names(["gsm8k"], mode)
        self.size = workers
        self.seconds_per_item = seconds_per_item
        self.mode = mode
        self.memory_bytes = memory_bytes
        self._environment = {ALLOW_DEGRADED: "1"} if allow_degraded_sandbox else {}
        self._workers: list[_Worker] = []
        self._lock = Lock()
        self._closed = False
        self._deaths_in_a_row = 0
        weakref.finalize(self, _kill_all, self._workers)

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. A closed pool cannot be used again."""
        with self._lock:
            self._closed = True
            _kill_all(self._workers)

    def verify(self, items: Iterable[Item]) -> list[Verdict]:
        """The verdicts in the order of the items. Raises PosttrainError for an unknown verifier, before judging any."""
        listed = list(items)
        verdicts: list[Verdict | None] = [None] * len(listed)
        for index, verdict in self.verify_as_finished(listed):
            verdicts[index] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def verify_as_finished(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        """(index, verdict) of each item once, as they are finished. The pool is taken until the iterator ends or
        closes."""
        check_names({verifier for verifier, _, _ in items}, self.mode)
        with self._lock:
            if self._closed:
                raise PosttrainError("this verifier pool is closed; make a new one")
            pending, tries = deque(range(len(items))), [0] * len(items)
            try:
                while pending or any(worker.batch for worker in self._workers):
                    self._hand_out(items, pending)
                    yield from self._collect(pending, tries)
            finally:
                # Left early, or by an exception: what is still being judged belongs to nobody.
                for worker in [one for one in self._workers if one.batch]:
                    self._discard(worker)

    def _hand_out(self, items: Sequence[Item], pending: deque[int]) -> None:
        while pending:
            worker = next((one for one in self._workers if not one.batch), None)
            if worker is None:
                if len(self._workers) == self.size:
                    return
                worker = self._start()
            characters, labels = 0, {}
            share = min(BATCH_ITEMS, max(1, len(pending) // (16 * self.size)))  # less at the end: all end together
            while pending and characters < BATCH_CHARACTERS:
                _, response, label = items[pending[0]]
                # Answers to one label stay together: what is prepared for it, such as tests, is prepared once.
                if len(worker.batch) >= share and not (label in labels and share > 1):
                    break
                worker.batch.append(pending.popleft())
                characters += len(response) + (0 if label in labels else len(label))
                labels.setdefault(label, len(labels))
            worker.done = 0
            PROGRESS.pack_into(worker.progress, 0, -1, monotonic())
            given = [(items[index][0], items[index][1], labels[items[index][2]]) for index in worker.batch]
            try:
                worker.connection.send_bytes(dumps([list(labels), given]).encode())
            except OSError:
                pass  # it died while idle or reading: _collect sees that at once

    def _collect(self, pending: deque[int], tries: list[int]) -> Iterator[tuple[int, Verdict]]:
        """Wait a moment for any worker; answer what came and deal with the dead and the late."""
        busy = {worker.connection: worker for worker in self._workers if worker.batch}
        if not busy:
            return
        for connection in wait(list(busy), timeout=min(LATE_SECONDS, self.seconds_per_item / 4)):
            worker = busy[connection]  # type: ignore[index]
            try:
                results, over = loads(worker.connection.recv_bytes())
            except (EOFError, OSError):
                yield from self._bury(worker, pending, tries)
                continue
            answered = worker.batch[worker.done : worker.done + len(results)]
            worker.done += len(results)
            if over:
                pending.extendleft(reversed(worker.batch[worker.done :]))
                worker.batch = []
            self._deaths_in_a_row = 0
            for index, result in zip(answered, results, strict=True):
                yield index, Verdict(*result)
        for worker in [one for one in self._workers if one.batch]:
            at, since = worker.at()
            late = monotonic() - since > (self.seconds_per_item if at >= 0 else START_SECONDS)
            if not late or worker.connection.poll():
                continue
            if at < 0:
                yield from self._bury(worker, pending, tries)
                continue
            index = worker.batch[at]
            pending.extendleft(reversed(worker.batch[worker.done : at] + worker.batch[at + 1 :]))
            self._discard(worker)
            yield index, Verdict("timeout", 0.0, f"not judged within {self.seconds_per_item:g} s")

    def _bury(self, worker: _Worker, pending: deque[int], tries: list[int]) -> Iterator[tuple[int, Verdict]]:
        """Put back what a dead worker owes; the item that it was at gets one more try, then is an error."""
        worker.process.kill()  # where its socket closed before it died, or it never began
        status = worker.process.wait()
        words, (at, _) = worker.last_words(), worker.at()
        owed = worker.batch[worker.done :]
        blamed = worker.batch[at] if at >= 0 else None
        self._discard(worker)
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > MAX_DEATHS_WITHOUT_RESULT:
            raise PosttrainError(
                f"{self._deaths_in_a_row} verifier workers in a row ended (status {status}) without a result. "
                f"Memory limit {self.memory_bytes} bytes. The last one wrote: {words or 'nothing'}"
            )
        if blamed in owed:
            tries[blamed] += 1
            if tries[blamed] == 2:
                owed.remove(blamed)
                yield blamed, Verdict("error", 0.0, f"its worker died twice (status {status}): {words[-300:]}")
        pending.extendleft(reversed(owed))

    def _start(self) -> _Worker:
        ours, theirs = Pipe()
        stderr = TemporaryFile()
        with TemporaryFile() as shared:
            shared.truncate(PROGRESS.size)
            return self._launch(ours, theirs, mmap(shared.fileno(), PROGRESS.size), shared.fileno(), stderr)

    def _launch(self, ours: Connection, theirs: Connection, progress: mmap, shared: int, stderr: IO[bytes]) -> _Worker:
        environment = {
            **os.environ,
            **self._environment,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        command = [sys.executable, "-m", "posttrain.verifiers.worker", str(theirs.fileno()), str(shared), self.mode]
        try:
            process = subprocess.Popen(
                [*command, str(self.seconds_per_item), str(self.memory_bytes)],
                pass_fds=[theirs.fileno(), shared],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        finally:
            theirs.close()
        worker = _Worker(process, ours, progress, stderr)
        self._workers.append(worker)
        return worker

    def _discard(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.kill()


def _kill_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()
