"""Do sampler and learner agree on the same tokens at the same weights?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from posttrain.errors import PosttrainError
from posttrain.training.logprobs import response_logprobs

# Mean |Δlogp| by the dtype of the forward and the engine.
BOUNDS = {
    ("float32", "local"): 1e-5,
    ("float32", "vllm"): 1e-4,
    ("bfloat16", "local"): 0.02,
    ("bfloat16", "vllm"): 0.02,
}
PROBES_BEFORE_STOP = 3


@torch.no_grad()
def learner_logprobs(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """By the forward that learns: log-probability of each token given those before it; the first of each gets 0.0."""
    rows = [torch.tensor([sequence], device=model.device) for sequence in sequences]
    return [response_logprobs(model, ids_1T, None, torch.ones_like(ids_1T))[0].tolist() for ids_1T in rows]


class GapWatch:
    """Counts probes in a row whose mean |Δlogp| is over their bound; ``over``: those before a restart."""

    def __init__(self, dtype: str, over: int = 0, engine: str = "local"):
        self.bound = BOUNDS[dtype, engine]
        self.over = over

    def observe(self, gap: float) -> None:
        self.over = self.over + 1 if gap > self.bound else 0

    @property
    def exhausted(self) -> bool:
        return self.over >= PROBES_BEFORE_STOP

    def error(self, gap: float, checkpoints: Path) -> PosttrainError:
        return PosttrainError(
            f"sampler and learner disagree: mean |Δlogp| {gap:.1e} is over the bound {self.bound:.0e}, as in the "
            f"{PROBES_BEFORE_STOP - 1} steps before. What samples is not the model that learns (stale weights, another "
            "dtype, other position ids or another temperature), so the gradients would be wrong. "
            f"The weights so far are in {checkpoints}; mend the cause and run the same command again"
        )


def larger_gap(of_actors: Mapping[str, float], of_batch: Mapping[str, float]) -> dict[str, float]:
    """What actors tell of a batch. Their ``logp_gap`` is of prompts that both sides score; where the weights that drew
    are still the learner's, the gap that it saw on the drawn tokens themselves counts if it is larger."""
    told = dict(of_actors)
    if told.get("staleness") == 0:
        told["logp_gap"] = max(told["logp_gap"], of_batch.get("logp_gap", 0.0))
    return told
