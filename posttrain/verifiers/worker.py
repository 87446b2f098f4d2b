"""The child process of the verifier pool: reads batches from a socket, answers them, and says what it is at.

Run as ``python -m posttrain.verifiers.worker SOCKET PROGRESS MODE SECONDS MEMORY`` with two inherited file descriptors.
Imports neither torch nor the caller's main module.
"""

import os
import resource
import struct
import sys
from json import dumps, loads
from math import ceil
from mmap import mmap
from multiprocessing.connection import Connection
from time import monotonic, process_time

from posttrain.errors import PosttrainError
from posttrain.verifiers import registry
from posttrain.verifiers.verdict import Verdict

# In memory shared with the parent: the index within the batch of the item under judgement, -1 while loading what the
# batch needs; and when it began, by the system's monotonic clock. The parent measures time by it, so that results can
# travel together.
PROGRESS = struct.Struct("=qd")
FLUSH_SECONDS = 0.02
BATCH_SECONDS = 1.0  # then what is left of a batch is handed back: another worker may have nothing to do


def serve(connection: Connection, progress: mmap, mode: str, seconds: float) -> None:
    """Answer batches ``[labels, [[verifier, response, number of its label], ...]]`` until the other end closes.

    Each answer is the next few ``[outcome, score, detail, version]`` of the batch, in order, and whether they are the
    last: what is left then was not begun.
    """
    while True:
        try:
            given, batch = loads(connection.recv_bytes())
        except EOFError:
            return
        labels: dict[str, list[str]] = {}
        for verifier, _, label in batch:
            labels.setdefault(verifier, []).append(given[label])
        for verifier, its_labels in labels.items():
            registry.warm(verifier, its_labels, mode=mode)
        _stop_if_abandoned(seconds * len(batch))
        results, flushed = [], monotonic()
        until = flushed + BATCH_SECONDS
        for index, (verifier, response, label) in enumerate(batch):
            began = monotonic()
            if index and began > until:
                break
            PROGRESS.pack_into(progress, 0, index, began)
            if results and began - flushed > FLUSH_SECONDS:
                connection.send_bytes(dumps([results, False]).encode())
                results, flushed = [], began
            verdict = judge(verifier, response, given[label], mode)
            results.append((verdict.outcome, verdict.score, verdict.detail, verdict.version))
        connection.send_bytes(dumps([results, True]).encode())


def judge(verifier: str, response: str, label: str, mode: str) -> Verdict:
    """The verdict; ``error`` where the verifier itself fails, for a label it cannot read as for a defect of its own."""
    try:
        return registry.verify(verifier, response, label, mode=mode)
    except PosttrainError as error:
        return Verdict("error", 0.0, str(error))
    except Exception as error:  # a defect in a verifier: reported as such, never as a wrong response
        return Verdict("error", 0.0, f"the verifier {verifier} failed: {error!r:.500}")


def _stop_if_abandoned(seconds: float) -> None:
    """Let the kernel end this process when it computes for longer than the batch may take.

    The parent kills it long before; this is for the case that the parent itself is gone, and needs no interpreter.
    """
    soft, hard = ceil(process_time() + seconds) + 10, resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def main(arguments: list[str]) -> None:
    """Serve on the inherited file descriptors, within a limit of memory in bytes."""
    descriptor, shared, mode, seconds, memory = arguments
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        serve(Connection(int(descriptor)), mmap(int(shared), PROGRESS.size), mode, float(seconds))
    except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        os._exit(0)  # the parent is gone, or interrupts us both and will say so


if __name__ == "__main__":
    main(sys.argv[1:])
