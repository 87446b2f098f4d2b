"""The learner's forward passes over a rollout, in micro-batches that read a prompt once where that pays."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from posttrain.data.batches import micro_batches
from posttrain.models.backbone import hidden_states
from posttrain.models.branches import Branches, reads_branches
from posttrain.models.heads import TokenScorer
from posttrain.models.ranks import rank, world_size
from posttrain.rl.packing import Packing, pack, packed_length, siblings_of
from posttrain.rl.rollouts import Rollout
from posttrain.training.logprobs import output_head, response_logprobs, token_logprobs
from posttrain.training.sharding import in_forward, summed_over_ranks

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """Some rows of a rollout: ``rows_b`` their numbers, ``length`` the tokens of the longest.

    ``packing``: how samples of one prompt share its tokens; None where every row goes through the model by itself.
    ``filler``: it is another rank's, and goes through the model here only because ranks gather weights together.
    """

    rows_b: torch.Tensor
    length: int
    packing: Packing | None = None
    filler: bool = False

    def of(self, x_BT: torch.Tensor) -> torch.Tensor:
        """These rows of a rollout's tensor, [b, length + 1]: the free column stays."""
        return x_BT[self.rows_b, : self.length + 1]


def parts(rollout: Rollout, rows: Sequence[int], max_padded_tokens: int, pairs_per_token: float = 0.0) -> list[Part]:
    """Splits ``rows`` into micro-batches of similar lengths, each of at most ``max_padded_tokens`` with its padding.

    Rows of one prompt become one packed sequence where that is cheaper (`siblings_of`); the tokens counted are then
    those of packed sequences. ``pairs_per_token`` 0 packs nothing; else give `pairs_worth_a_token` of the models.
    """
    device = rollout.input_ids_BT.device
    sequences = siblings_of(rollout, rows, max_padded_tokens, pairs_per_token)
    found = []
    for group in micro_batches([packed_length(rollout, siblings) for siblings in sequences], max_padded_tokens):
        chosen = [sequences[i] for i in group]
        members = [row for siblings in chosen for row in siblings]
        packing = pack(rollout, chosen) if len(members) > len(chosen) else None
        length = max(rollout.lengths[row] for row in members)
        found.append(Part(torch.tensor(members, device=device), length, packing))
    return found


def with_fillers(all_parts: Iterable[Part]) -> list[Part]:
    """The parts, and as many fillers behind them that every rank has the same number; of one process none."""
    found = list(all_parts)
    missing = -len(found) % world_size()
    return found + [replace(part, filler=True) for part in found[:1]] * missing


def own_share(of_parts: Sequence[Item]) -> Sequence[Item]:
    """This rank's: every ``world_size``-th, as neighbours are of one length."""
    return of_parts[rank() :: world_size()]


def policy_logprobs(model: PreTrainedModel, rollout: Rollout, part: Part, temperature: float) -> torch.Tensor:
    """Log-probability of every response token at the sampler's temperature, [b, length + 1]; 0 off the responses.

    Rows by themselves need no attention mask and no position ids: they start at position 0 and are padded on the right,
    so a causal model's real tokens never see a pad, and positions agree with the sampler's.
    """
    response_bT = part.of(rollout.response_BT)
    if part.packing is None:
        input_ids_bt = part.of(rollout.input_ids_BT)[:, : part.length]
        logp_bt = response_logprobs(model, input_ids_bt, None, response_bT[:, : part.length], temperature=temperature)
        return F.pad(logp_bt, (0, 1))
    return in_forward(model, partial(_packed_logprobs, model, rollout, part, part.packing, temperature))


def _packed_logprobs(
    model: PreTrainedModel, rollout: Rollout, part: Part, packing: Packing, temperature: float
) -> torch.Tensor:
    response_bT = part.of(rollout.response_BT)
    mask, positions_ST = seen_in(packing, model), packing.position_ids_ST
    hidden_STD = hidden_states(model.base_model, packing.input_ids_ST, mask, positions_ST)
    # The state before a response's first token is the prompt's last, which all samples of the prompt read.
    before_N = packing.slot_bt[:, :-1][response_bT[:, 1 : part.length]]
    token_N = part.of(rollout.input_ids_BT)[response_bT]
    hidden_ND = hidden_STD.flatten(0, 1).index_select(0, before_N)
    logp_N = token_logprobs(hidden_ND, token_N, *output_head(model), temperature)
    return torch.zeros(response_bT.shape, dtype=logp_N.dtype, device=logp_N.device).masked_scatter(response_bT, logp_N)


def state_values(scorer: TokenScorer, rollout: Rollout, part: Part) -> torch.Tensor:
    """The value before each token, [b, length + 1]: entry t is the score at token t − 1, entry 0 is 0.

    The entry one past a row's end is thus the score of the whole row; what comes after it means nothing.
    """
    if part.packing is None:
        scores_bt = scorer(part.of(rollout.input_ids_BT)[:, : part.length], None)
    else:
        packing = part.packing
        scores_ST = scorer(packing.input_ids_ST, seen_in(packing, scorer.backbone), packing.position_ids_ST)
        scores_bt = scores_ST.flatten().index_select(0, packing.slot_bt.flatten()).view(packing.slot_bt.shape)
    return F.pad(scores_bt, (1, 0))


def seen_in(packing: Packing, model: torch.nn.Module) -> torch.Tensor | Branches:
    """What attention is told of a packing: `Branches` where the model reads them and they pay, else the bias."""
    if packing.branches.pays and reads_branches(model):
        return packing.branches
    return packing.attention_bias(forward_dtype(model))


def forward_dtype(model: torch.nn.Module) -> torch.dtype:
    """The dtype in which attention runs: that of autocast, or of the weights."""
    weight = next(model.parameters())
    autocast = torch.is_autocast_enabled(weight.device.type)
    return torch.get_autocast_dtype(weight.device.type) if autocast else weight.dtype


@torch.no_grad()
def over_rollout(forward: Callable[[Part], torch.Tensor], rollout: Rollout, all_parts: Iterable[Part]) -> torch.Tensor:
    """``forward`` of every part put back in its place, [B, T] in float32, without gradients. Ranks share the parts."""
    whole_BT = torch.zeros_like(rollout.sampler_logp_BT)
    for part in own_share(with_fillers(all_parts)):
        found_bT = forward(part).float()
        if not part.filler:
            whole_BT[part.rows_b, : part.length + 1] = found_bT
    return torch.as_tensor(summed_over_ranks({"whole": whole_BT})["whole"]).float()
