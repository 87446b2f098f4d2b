"""Rollouts by Ray actors while the learner learns: staleness S means that step k's batch is drawn by weights k − S.

The schedule is fixed, so nothing races: when the learner reaches version k, step k + S is handed out with these
weights. S = 0 is strictly on-policy, S = 1 what Tülu 3's program did (one batch ahead). A batch is the same prompts
in the same order as without actors (`RolloutPlan`), complete before it is learned: short answers never come first, and
work that is under way when weights change is finished with the weights it began with.

An actor that dies is started again by Ray and draws the same requests again, of which nothing had arrived. Batches live
nowhere but in Ray: a learner that is killed goes on from its checkpoint and has the batches after it drawn anew.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from posttrain.errors import PosttrainError
from posttrain.inference.protocols import Sample, Sampler, SampleRequest
from posttrain.rl.plan import RolloutPlan
from posttrain.rl.probe import learner_logprobs
from posttrain.rl.rollouts import Rollout
from posttrain.training.precision import forward_precision

RESTARTS = 32  # of one actor, by Ray; more is no accident
STARTS = 5  # tries; on a busy machine a node misses Ray's own limit
PATIENCE = 5.0  # seconds of silence before a wait says what it waits for
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Drawn:
    """An actor's part of a batch; ``probe``: its log-probabilities of the probe sequences at these weights."""

    samples: tuple[Sample, ...]
    probe: tuple[tuple[float, ...], ...]
    process: int
    seconds: float


class RolloutActor:
    """One engine with its own copy of the policy, in a process of its own.

    It is built by the first call, whose errors reach the learner as they are: Ray takes one that a constructor raises
    for the actor's death. ``learner_gpu``: the one it must not be on (`gpu_names`).
    """

    def __init__(self, build: Callable[[], Sampler], device: str, dtype: str, learner_gpu: str | None):
        self.build, self.device, self.dtype, self.learner_gpu = build, device, dtype, learner_gpu
        self.sampler: Sampler | None = None
        self.version: int | None = None  # unknown: the first call brings the weights

    def draw(
        self,
        requests: Sequence[SampleRequest],
        version: int,
        weights: Mapping[str, np.ndarray],
        probe: Sequence[Sequence[int]],
    ) -> Drawn:
        started = time.perf_counter()
        if self.sampler is None:
            if self.learner_gpu in gpu_names():
                raise PosttrainError(
                    "Ray put a rollout actor on the learner's own GPU, of which the cluster does not know that it is "
                    "taken: start Ray on the learner's node without it (CUDA_VISIBLE_DEVICES=1,2,3 ray start …), or "
                    "the run by `ray job submit --entrypoint-num-gpus 1`"
                )
            self.sampler = self.build()
        if self.version != version:
            self.sampler.update_weights(_tensors(weights), version)
            self.version = version
        with forward_precision(self.device, self.dtype):
            scores = tuple(map(tuple, self.sampler.score(probe)))
            samples = tuple(self.sampler.generate(requests))
        return Drawn(samples, scores, os.getpid(), time.perf_counter() - started)


def gpu_names() -> list[str]:
    """Of the GPUs that this process sees; a GPU's name is the same in every process."""
    return [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]


def _tensors(weights: Mapping[str, np.ndarray]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, array in weights.items():
        yield name, torch.tensor(array)  # copied: what Ray hands out is read-only


class Fleet:
    """A `RolloutSource` of ``actors`` Ray actors, for steps ``first`` … ``steps`` − 1.

    ``build`` makes an actor's engine there, on ``device``, as is the learner. The learner's log-probabilities are
    compared with the actors' after every sync (``logp_gap``, the mean |Δ| over the tokens of ``probe``). ``note`` is
    told what a wait of more than a few seconds waits for.

    Uses the cluster of RAY_ADDRESS, or a local one that ends with it. The learner's GPU is its own: the local one does
    not see it, and actors that do not fit on the others are refused (PosttrainError). Which GPUs a cluster hands out is
    up to who started it: an actor that finds itself on the learner's refuses to draw.
    """

    def __init__(
        self,
        build: Callable[[], Sampler],
        plan: RolloutPlan,
        policy: PreTrainedModel,
        probe: Sequence[Sequence[int]],
        *,
        actors: int,
        staleness: int,
        first: int,
        steps: int,
        device: str,
        dtype: str,
        gpus_per_actor: float = 0.0,
        note: Callable[[str], None] = lambda message: None,
    ):
        self.ray = _ray()
        self.plan, self.policy, self.probe = plan, policy, probe
        self.staleness, self.steps, self.dtype = staleness, steps, dtype
        self.device, self.note = device, note
        self.figures: dict[str, float] = {}
        self.processes: dict[int, int] = {}  # actor → its process id when it was last heard of
        self._drawing: dict[int, tuple[int, dict[Any, int]]] = {}  # step → version, part of the batch → actor
        self._learner: dict[int, list[list[float]]] = {}  # version → the learner's scores of the probe
        self._handed_out = first
        with ExitStack() as started:  # a start that fails leaves nothing behind
            if not self.ray.is_initialized():
                self._start(actors, gpus_per_actor)
                started.callback(self.ray.shutdown)
            bundle = {"CPU": 1.0} | ({"GPU": gpus_per_actor} if gpus_per_actor else {})
            # One bundle an actor, on as many nodes as there are.
            self._group = self.ray.util.placement_group([bundle] * actors, strategy="SPREAD")
            started.callback(self.ray.util.remove_placement_group, self._group)
            self._wait([self._group.ready()], lambda _: f"Ray to find room for {actors} rollout actors of {bundle}")
            self.actors = [self._actor(number, build, gpus_per_actor) for number in range(actors)]
            for actor in self.actors:
                started.callback(self.ray.kill, actor)
            self.learned(first)
            self._started = started.pop_all()

    def _start(self, actors: int, gpus: float) -> None:
        if address := os.environ.get("RAY_ADDRESS"):
            return self._connect(address)
        others = _other_gpus(self.device)
        if gpus and actors > (len(others) // gpus if gpus >= 1 else len(others) * int(1 / gpus)):
            raise PosttrainError(
                f"{actors} rollout actors of {gpus:g} GPUs each (gpus_per_actor) do not fit on the {len(others)} that "
                "the learner leaves of this machine's: lower rollout_actors or gpus_per_actor, name a cluster with "
                "more in RAY_ADDRESS, or set both and staleness to 0, where the engine shares the learner's GPU"
            )
        with _visible(others):
            self._connect(None, num_cpus=actors + 1, num_gpus=len(others), include_dashboard=False)

    def _connect(self, address: str | None, **local: Any) -> None:
        for attempt in range(1, STARTS + 1):
            try:
                self.ray.init(address=address, configure_logging=False, log_to_driver=False, **local)
                return
            except Exception as error:  # Ray has no class of its own for a node that took more than 30 seconds to start
                self.ray.shutdown()
                where = f"the Ray cluster at {address} did not answer" if address else "Ray did not start here"
                if attempt == STARTS:
                    raise PosttrainError(f"{where}, {STARTS} times; the last time: {error}") from error
                self.note(f"{where}, trying again: {error}")

    def _actor(self, number: int, build: Callable[[], Sampler], gpus: float) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
        remote = self.ray.remote(
            num_cpus=1, num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=RESTARTS, scheduling_strategy=place
        )
        own = gpu_names()[torch.cuda.current_device()] if self.device == "cuda" else None
        return remote(RolloutActor).remote(build, self.device, self.dtype, own)

    def learned(self, version: int) -> None:
        """Hands out what may be drawn with these weights: every step up to ``version`` + staleness."""
        last = min(version + self.staleness, self.steps - 1)
        if self._handed_out > last:
            return
        weights = self.ray.put({n: p.detach().float().cpu().numpy() for n, p in self.policy.named_parameters()})
        with forward_precision(self.device, self.dtype):
            self._learner[version] = learner_logprobs(self.policy, self.probe)
        while self._handed_out <= last:
            requests = self.plan.requests(self._handed_out)
            # Samples of a prompt stay together, so that an actor reads it once.
            each = -(-self.plan.prompts_per_step // len(self.actors)) * self.plan.samples_per_prompt
            parts = {
                self.actors[number].draw.remote(requests[at : at + each], version, weights, self.probe): number
                for number, at in enumerate(range(0, len(requests), each))
            }
            self._drawing[self._handed_out] = (version, parts)
            self._handed_out += 1

    def rollout(self, step: int) -> Rollout:
        version, parts = self._drawing[step]
        started = time.perf_counter()
        self._wait(list(parts), lambda pending: self._describe(step, [parts[part] for part in pending]))
        waited = time.perf_counter() - started
        drawn: list[Drawn] = []
        for part, number in parts.items():
            drawn.append(self._get(part, f"rollout actor {number}"))
            before = self.processes.get(number)
            self.processes[number] = drawn[-1].process
            if before not in (None, drawn[-1].process):
                self.note(f"rollout actor {number} was started again (process {before} is now {drawn[-1].process})")
        del self._drawing[step]
        learner = [logp for row in self._learner[version] for logp in row]
        self._learner = {v: scores for v, scores in self._learner.items() if v >= version}
        theirs = np.array([[logp for row in part.probe for logp in row] for part in drawn])
        self.figures = {
            "staleness": float(step - version),
            "logp_gap": float(np.abs(theirs - np.array(learner)).mean()),
            "waited": waited,
            "drawing": max(part.seconds for part in drawn),
        }
        return self.plan.rollout(step, (s for part in drawn for s in part.samples), version, self.device)

    def _describe(self, step: int, actors: Sequence[int]) -> str:
        known = ", ".join(f"{n} (process {self.processes.get(n, 'starting')})" for n in sorted(actors))
        return f"rollout actors {known} to draw their part of step {step + 1}"

    def _wait(self, pending: list[Any], what: Callable[[list[Any]], str]) -> None:
        started = time.monotonic()
        while pending:
            _, pending = self.ray.wait(pending, num_returns=len(pending), timeout=PATIENCE, fetch_local=True)
            if pending:
                self.note(f"waiting for {what(pending)}, {time.monotonic() - started:.0f} s so far")

    def _get(self, part: Any, who: str) -> Drawn:
        try:
            return self.ray.get(part)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PosttrainError):
                raise error.cause from error
            raise
        except self.ray.exceptions.RayActorError as error:
            raise PosttrainError(
                f"{who} died {RESTARTS} times and is not started again; its last words: {error}. Often it is killed "
                "for memory: lower prompts_per_step or max_response_tokens, or give it a node of its own, and run the "
                "same command again: it goes on from its last checkpoint"
            ) from error

    def close(self) -> None:
        self._started.close()


def _other_gpus(device: str) -> list[str]:
    """All that this process sees but the one it learns on, as CUDA_VISIBLE_DEVICES names them; on a CPU none."""
    if device == "cpu":
        return []
    numbers = range(torch.cuda.device_count())
    names = os.environ[VISIBLE].split(",") if VISIBLE in os.environ else [str(number) for number in numbers]
    return [names[number] for number in numbers if number != torch.cuda.current_device()]


@contextmanager
def _visible(gpus: Sequence[str]) -> Iterator[None]:
    """Processes started meanwhile see these GPUs alone; this one has long looked."""
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(gpus)
    try:
        yield
    finally:
        os.environ.pop(VISIBLE)
        if before is not None:
            os.environ[VISIBLE] = before


def _ray() -> Any:
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise PosttrainError(
            "rollout_actors above 0 needs Ray, which comes with `pip install posttrain[ray]`; 0 samples in the "
            "stage's own process"
        ) from error
    return ray
