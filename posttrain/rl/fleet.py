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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from posttrain.errors import PosttrainError
from posttrain.inference.protocols import Sample, Sampler, SampleRequest
from posttrain.rl.plan import RolloutPlan
from posttrain.rl.rollouts import Rollout
from posttrain.training.precision import forward_precision

RESTARTS = 32  # of one actor, by Ray; more is no accident
STARTS = 5  # tries; on a busy machine a node misses Ray's own limit
PATIENCE = 5.0  # seconds of silence before a wait says what it waits for


@dataclass(frozen=True)
class Drawn:
    """An actor's part of a batch; ``probe``: its log-probabilities of the probe sequences at these weights."""

    samples: tuple[Sample, ...]
    probe: tuple[tuple[float, ...], ...]
    process: int
    seconds: float


class RolloutActor:
    """One engine with its own copy of the policy, in a process of its own."""

    def __init__(self, build: Callable[[], Sampler], device: str, dtype: str):
        self.sampler = build()
        self.device, self.dtype = device, dtype
        self.version: int | None = None  # unknown: the first call brings the weights

    def draw(
        self,
        requests: Sequence[SampleRequest],
        version: int,
        weights: Mapping[str, np.ndarray],
        probe: Sequence[Sequence[int]],
    ) -> Drawn:
        started = time.perf_counter()
        if self.version != version:
            self.sampler.update_weights(_tensors(weights), version)
            self.version = version
        with forward_precision(self.device, self.dtype):
            scores = tuple(map(tuple, self.sampler.score(probe)))
            samples = tuple(self.sampler.generate(requests))
        return Drawn(samples, scores, os.getpid(), time.perf_counter() - started)


def _tensors(weights: Mapping[str, np.ndarray]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, array in weights.items():
        yield name, torch.tensor(array)  # copied: what Ray hands out is read-only


class Fleet:
    """A `RolloutSource` of ``actors`` Ray actors, for steps ``first`` … ``steps`` − 1.

    ``build`` makes an actor's engine there, on ``device``, as is the learner. ``score``: the learner's
    log-probabilities of sequences, with which the actors' are compared after every sync (``logp_gap``, the mean |Δ|
    over the tokens of ``probe``). ``note`` is told what a wait of more than a few seconds waits for. Uses the cluster
    of RAY_ADDRESS, or a local one that ends with it.
    """

    def __init__(
        self,
        build: Callable[[], Sampler],
        plan: RolloutPlan,
        policy: PreTrainedModel,
        score: Callable[[Sequence[Sequence[int]]], list[list[float]]],
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
        self.plan, self.policy, self.score, self.probe = plan, policy, score, probe
        self.staleness, self.steps, self.dtype = staleness, steps, dtype
        self.device, self.note = device, note
        self.figures: dict[str, float] = {}
        self.processes: dict[int, int] = {}  # actor → its process id when it was last heard of
        self._drawing: dict[int, tuple[int, dict[Any, int]]] = {}  # step → version, part of the batch → actor
        self._learner: dict[int, list[list[float]]] = {}  # version → the learner's scores of the probe
        self._handed_out = first
        self._owns_ray = not self.ray.is_initialized()
        if self._owns_ray:
            self._start(actors)
        self._group = self._place(actors, gpus_per_actor)
        self.actors = [self._actor(number, build, gpus_per_actor) for number in range(actors)]
        self.learned(first)

    def _start(self, actors: int) -> None:
        address = os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {} if address else {"num_cpus": actors + 1, "include_dashboard": False}
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

    def _place(self, actors: int, gpus: float) -> Any:
        """One bundle an actor, on as many nodes as there are."""
        bundle = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
        group = self.ray.util.placement_group([bundle] * actors, strategy="SPREAD")
        self._wait([group.ready()], lambda _: f"Ray to find room for {actors} rollout actors of {bundle}")
        return group

    def _actor(self, number: int, build: Callable[[], Sampler], gpus: float) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
        remote = self.ray.remote(
            num_cpus=1, num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=RESTARTS, scheduling_strategy=place
        )
        return remote(RolloutActor).remote(build, self.device, self.dtype)

    def learned(self, version: int) -> None:
        """Hands out what may be drawn with these weights: every step up to ``version`` + staleness."""
        last = min(version + self.staleness, self.steps - 1)
        if self._handed_out > last:
            return
        weights = self.ray.put({n: p.detach().float().cpu().numpy() for n, p in self.policy.named_parameters()})
        with forward_precision(self.device, self.dtype):
            self._learner[version] = self.score(self.probe)
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
        for actor in self.actors:
            self.ray.kill(actor)
        self.ray.util.remove_placement_group(self._group)
        if self._owns_ray:
            self.ray.shutdown()


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
