"""Where rollouts come from: an engine in the learner's own process, or (rl/fleet.py) Ray actors beside it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from transformers import PreTrainedModel

from posttrain.inference.local import LocalSampler
from posttrain.inference.opening import cache_bytes
from posttrain.inference.protocols import Sample, Sampler, SampleRequest
from posttrain.inference.vllm import VllmSampler
from posttrain.models.load import load_policy, load_tokenizer
from posttrain.models.ranks import shared_out
from posttrain.rl.plan import RolloutPlan
from posttrain.rl.rollouts import Rollout
from posttrain.training.precision import forward_precision
from posttrain.training.sharding import whole_weights

EngineName = Literal["local", "vllm"]


def build_engine(
    engine: EngineName,
    folder: Path,
    device: str,
    dtype: str,
    *,
    positions: int,
    version: int = 0,
    gpus: float = 0.0,
) -> Sampler:
    """The engine on its own copy of the model in ``folder``, which has the learner's vocabulary.

    ``positions``: the longest prompt and response together; vLLM sets aside memory for one such request at least.
    ``gpus`` of its own, or the part of one that it shares with other actors; 0: it shares the learner's, and leaves it
    half of the memory.
    """
    if engine == "vllm":
        memory = 0.9 * min(gpus, 1) if gpus else 0.45
        return VllmSampler(
            folder,
            dtype=dtype,
            context_length=positions,
            weight_version=version,
            memory=memory,
            tensor_parallel=max(1, int(gpus)),
        )
    return local_engine(load_policy(folder, device=device), load_tokenizer(folder).pad_token_id, version)


def local_engine(model: PreTrainedModel, pad_token_id: int, version: int) -> LocalSampler:
    """On ``model`` itself. On a GPU the cache keeps within what is free; on a CPU the bits may not hang on that."""
    bound = partial(cache_bytes, model.device) if model.device.type == "cuda" else None
    return LocalSampler(model, pad_token_id=pad_token_id, weight_version=version, cache_bytes=bound)


@dataclass
class EveryRank:
    """A `Sampler` of several ranks, each of which has an engine with all weights and draws a share.

    All of them ask for the same; each gets every sample.
    """

    own: Sampler

    def __post_init__(self):
        self.context_length = self.own.context_length

    def generate(self, requests: Iterable[SampleRequest]) -> Iterator[Sample]:
        return iter(shared_out(list(requests), self.own.generate))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return shared_out(sequences, self.own.score)

    def update_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        self.own.update_weights(tensors, version)

    def close(self) -> None:
        self.own.close()


class RolloutSource(Protocol):
    """Batches by step, each asked for once and in order, and the weights that draw them."""

    figures: dict[str, float]  # of the batch last given: what is worth logging

    def rollout(self, step: int) -> Rollout: ...

    def learned(self, version: int) -> None:
        """The learner's policy is now ``version``: what is drawn from here on may use it."""
        ...

    def close(self) -> None: ...


@dataclass
class OwnProcess:
    """The engine draws a batch while the learner waits. Strictly on-policy.

    A vLLM engine sleeps while the learner needs the memory, and gets all weights when it wakes.
    ``policy`` None: the engine samples the learner's own module, so that nothing has to be sent.
    """

    sampler: Sampler
    plan: RolloutPlan
    device: str
    dtype: str
    version: int
    policy: PreTrainedModel | None = None

    def __post_init__(self):
        self.figures: dict[str, float] = {}
        self.learned(self.version)

    def rollout(self, step: int) -> Rollout:
        with forward_precision(self.device, self.dtype):
            found = self.plan.draw(step, self.sampler, self.version, self.device)
        own = self.sampler.own if isinstance(self.sampler, EveryRank) else self.sampler
        if isinstance(own, VllmSampler):
            own.sleep()
        return found

    def learned(self, version: int) -> None:
        self.sampler.update_weights(() if self.policy is None else whole_weights(self.policy), version)
        self.version = version

    def close(self) -> None:
        self.sampler.close()
