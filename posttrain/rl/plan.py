"""Which samples make a step's batch: a function of seed and step alone, whoever draws them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from posttrain.data.batches import epoch_order
from posttrain.inference.protocols import Sample, Sampler, SampleRequest, SamplingParameters
from posttrain.rl.prompts import Prompt
from posttrain.rl.rollouts import Rollout, ordered, pad_samples
from posttrain.rl.seeds import derived_seed


@dataclass(frozen=True)
class Visit:
    """The ``number``-th prompt that the run rolls out, counted from 0 over all epochs; no two visits share a number."""

    number: int
    prompt: Prompt


@dataclass(frozen=True)
class RolloutPlan:
    """Step k rolls out visits k·P … (k + 1)·P − 1, however long their answers: short ones come no sooner.

    The prompts are shuffled anew each epoch (paper §6.2), or always asked in their own order (``shuffled`` False).
    """

    prompts: Sequence[Prompt]
    seed: int
    prompts_per_step: int
    samples_per_prompt: int
    temperature: float
    max_response_tokens: int
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    shuffled: bool = True

    def visits(self, step: int) -> list[Visit]:
        chosen = []
        for number in range(step * self.prompts_per_step, (step + 1) * self.prompts_per_step):
            epoch, place = divmod(number, len(self.prompts))
            if self.shuffled:
                place = _order(len(self.prompts), self.seed, epoch)[place]
            chosen.append(Visit(number, self.prompts[place]))
        return chosen

    def requests(self, step: int) -> list[SampleRequest]:
        """One request per sample, neighbours sharing a prompt. Each visit has its own seed, so that no two repeat."""
        return [
            SampleRequest(
                prompt_id=visit.prompt.row.id,
                sample_index=sample_index,
                prompt_ids=visit.prompt.token_ids,
                sampling=SamplingParameters(
                    temperature=self.temperature,
                    max_tokens=self.max_response_tokens,
                    stop_token_ids=self.stop_token_ids,
                    seed=derived_seed(self.seed, "rollout", visit.number),
                ),
            )
            for visit in self.visits(step)
            for sample_index in range(self.samples_per_prompt)
        ]

    def rollout(
        self, step: int, samples: Iterable[Sample], weight_version: int, device: str | torch.device = "cpu"
    ) -> Rollout:
        """The batch of ``step`` from its samples in any order.

        RuntimeError if one is missing or came twice, or if other weights than ``weight_version`` drew it.
        """
        samples = ordered(self.requests(step), samples, weight_version)
        rows = tuple(visit.prompt.row for visit in self.visits(step) for _ in range(self.samples_per_prompt))
        return pad_samples(rows, samples, self.samples_per_prompt, self.pad_token_id, device)

    def draw(self, step: int, sampler: Sampler, weight_version: int, device: str | torch.device = "cpu") -> Rollout:
        """The batch of ``step``, sampled now."""
        return self.rollout(step, sampler.generate(self.requests(step)), weight_version, device)


@lru_cache(maxsize=2)  # a step asks for the same epoch again and again, at a border for two
def _order(count: int, seed: int, epoch: int) -> list[int]:
    return epoch_order(count, seed, epoch)
