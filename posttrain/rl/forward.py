"""The learner's forward passes over a rollout, in micro-batches trimmed to their own longest row."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from posttrain.data.batches import micro_batches
from posttrain.models.heads import TokenScorer
from posttrain.rl.rollouts import Rollout
from posttrain.training.logprobs import response_logprobs


@dataclass(frozen=True)
class Part:
    """Some rows of a rollout: ``rows_b`` their numbers, ``length`` the tokens of the longest."""

    rows_b: torch.Tensor
    length: int

    def of(self, x_BT: torch.Tensor) -> torch.Tensor:
        """These rows of a rollout's tensor, [b, length + 1]: the free column stays."""
        return x_BT[self.rows_b, : self.length + 1]


def parts(rollout: Rollout, rows: Sequence[int], max_padded_tokens: int) -> list[Part]:
    """Splits ``rows`` into micro-batches of similar lengths, each of at most ``max_padded_tokens`` with its padding."""
    lengths = [rollout.lengths[row] for row in rows]
    device = rollout.input_ids_BT.device
    return [
        Part(torch.tensor([rows[i] for i in group], device=device), max(lengths[i] for i in group))
        for group in micro_batches(lengths, max_padded_tokens)
    ]


def policy_logprobs(model: PreTrainedModel, rollout: Rollout, part: Part, temperature: float) -> torch.Tensor:
    """Log-probability of every response token at the sampler's temperature, [b, length + 1]; 0 off the responses.

    No attention mask and no position ids: rows start at position 0 and are padded on the right, so a causal model's
    real tokens never see a pad, and positions agree with the sampler's.
    """
    input_ids_bT = part.of(rollout.input_ids_BT)[:, : part.length]
    response_bT = part.of(rollout.response_BT)[:, : part.length]
    logp_bT = response_logprobs(model, input_ids_bT, None, response_bT, temperature=temperature)
    return F.pad(logp_bT, (0, 1))


def state_values(scorer: TokenScorer, rollout: Rollout, part: Part) -> torch.Tensor:
    """The value before each token, [b, length + 1]: entry t is the score at token t − 1, entry 0 is 0."""
    return F.pad(scorer(part.of(rollout.input_ids_BT)[:, : part.length], None), (1, 0))


@torch.no_grad()
def over_rollout(forward: Callable[[Part], torch.Tensor], rollout: Rollout, all_parts: Iterable[Part]) -> torch.Tensor:
    """``forward`` of every part put back in its place, [B, T] in float32, without gradients."""
    whole_BT = torch.zeros_like(rollout.sampler_logp_BT)
    for part in all_parts:
        whole_BT[part.rows_b, : part.length + 1] = forward(part).float()
    return whole_BT
