"""Under torchrun: rank 0 runs the recipe as a single process would; the others wait, and join it in training stages.

They talk through torchrun's own key-value store; torch.distributed is initialised for the length of one shared stage
only. So a stage that is not made for ranks sees none of this, and nobody holds a collective open during an evaluation.
When any rank fails, torchrun ends them all; they go on from the last checkpoint when torchrun starts them again
(``--max-restarts``), or the same command does.
"""

import datetime
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.artifacts.store import Artifact

WAIT = datetime.timedelta(days=30)  # of a follower, while rank 0 works alone
COLLECTIVE = datetime.timedelta(minutes=30)


@dataclass(frozen=True)
class Shared:
    """A stage that all ranks are to run: its name, its inputs and the folder of its checkpoints."""

    stage: str
    inputs: Mapping[str, Artifact]
    checkpoints: Path


@dataclass
class Crew:
    """The processes of one torchrun, seen from one of them."""

    rank: int
    size: int
    store: Any
    shared: int = 0  # stages so far

    def call(self, shared: Shared | None) -> None:
        """Rank 0 tells the others what comes next; None: nothing more."""
        self.store.set(f"posttrain/{self.shared}", json.dumps(shared and asdict(shared), default=str))

    def called(self) -> Shared | None:
        """What rank 0 says comes next, whenever that is."""
        key = f"posttrain/{self.shared}"
        self.store.wait([key], WAIT)
        told = json.loads(self.store.get(key))
        if told is None:
            return None
        inputs = {name: Artifact(a["stage"], a["key"], Path(a["path"])) for name, a in told["inputs"].items()}
        return Shared(told["stage"], inputs, Path(told["checkpoints"]))

    @contextmanager
    def together(self, device: str) -> Iterator[None]:
        """torch.distributed over all ranks: gloo for what lies in main memory, nccl for what lies on GPUs."""
        import torch
        import torch.distributed as dist

        backend = "gloo"
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "cpu:gloo,cuda:nccl"
        # A prefix of its own each time: addresses of a group that is gone must not be found again.
        store = dist.PrefixStore(f"stage {self.shared}", self.store)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=COLLECTIVE)
        self.shared += 1
        try:
            yield
        finally:
            dist.destroy_process_group()


def crew() -> Crew | None:
    """None in a process that torchrun did not start, or started alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    # torchrun keeps its store when it starts its ranks again: nothing of those that are gone must be found.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Crew(rank, size, PrefixStore(f"attempt {attempt}", store))


def leads() -> bool:
    """False in all but one of torchrun's processes: one of them speaks."""
    return os.environ.get("RANK", "0") == "0"


def local_ranks() -> int:
    """How many processes share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def scratch_output() -> Iterator[Path]:
    """Where a follower's stage writes what only rank 0's copy of is kept."""
    with tempfile.TemporaryDirectory(prefix="posttrain-") as folder:
        yield Path(folder)
