"""Samples of one prompt as one sequence, so that the learner reads a prompt once and not once per sample.

A packed sequence is ``[prompt | response 1 | response 2 | …]``. Positions restart after the prompt for every response,
and a response sees the prompt and itself, so each token's hidden state is the one it has in a row of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from posttrain.models.branches import Branches
from posttrain.models.heads import TokenScorer
from posttrain.rl.rollouts import Rollout

# Decoders whose packed and unpacked passes are compared in tests/rl/test_packing.py.
CHECKED_FAMILIES = frozenset({"llama", "mistral", "olmo2", "qwen2", "qwen3"})


@dataclass(frozen=True)
class Packing:
    """Where b rows of a rollout stand in S packed sequences of T tokens, padded on the right.

    ``slot_bt[i, t]`` is the flat index (of S·T) of row i's token t; past a row's end, that of its last token. A
    prompt's slots are those of all its rows. ``segment_ST``: 0 a prompt, 1, 2, … a response, −1 padding. ``branches``
    says the same in lengths.
    """

    input_ids_ST: torch.Tensor
    position_ids_ST: torch.Tensor
    segment_ST: torch.Tensor
    slot_bt: torch.Tensor
    branches: Branches

    def attention_bias(self, dtype: torch.dtype) -> torch.Tensor:
        """[S, 1, T, T], added to the attention's logits: 0 where the query may look, −inf elsewhere.

        A query sees itself and what stands before it of the prompt and of its own segment: no row of it is empty, so no
        softmax is NaN, at padding neither. Of a float dtype because a boolean mask is made a float one in every layer.
        """
        query_ST1, key_S1T = self.segment_ST[:, :, None], self.segment_ST[:, None, :]
        seen_STT = ((key_S1T == 0) | (key_S1T == query_ST1)).tril()
        bias_STT = torch.zeros(seen_STT.shape, dtype=dtype, device=seen_STT.device)
        return bias_STT.masked_fill_(~seen_STT, -torch.inf).unsqueeze(1)


def pack(rollout: Rollout, sequences: Sequence[Sequence[int]]) -> Packing:
    """Packs every list of row numbers, all of one prompt, into one sequence. Rows of the result: the lists joined."""
    device = rollout.input_ids_BT.device
    rows, sequence, segment, prompt, start, length = [], [], [], [], [], []
    for s, siblings in enumerate(sequences):
        end = prompt_length(rollout, siblings[0])
        for k, row in enumerate(siblings):
            rows.append(row)
            sequence.append(s)
            segment.append(k + 1)
            prompt.append(prompt_length(rollout, row))
            start.append(end)
            length.append(rollout.lengths[row])
            end += len(rollout.responses[row])

    def column(numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, device=device)[:, None]

    S, T = len(sequences), max(packed_length(rollout, siblings) for siblings in sequences)
    t_bt = torch.arange(max(length), device=device).minimum(column(length) - 1)
    in_prompt_bt = t_bt < column(prompt)
    slot_bt = column(sequence) * T + torch.where(in_prompt_bt, t_bt, column(start) + t_bt - column(prompt))

    def packed(x_bt: torch.Tensor, padding: int) -> torch.Tensor:
        # Rows of one prompt write the same values to its slots: the order does not matter.
        return torch.full((S * T,), padding, device=device).scatter_(0, slot_bt.flatten(), x_bt.flatten()).view(S, T)

    return Packing(
        input_ids_ST=packed(rollout.input_ids_BT[torch.tensor(rows, device=device)].gather(1, t_bt), 0),
        position_ids_ST=packed(t_bt, 0),
        segment_ST=packed(torch.where(in_prompt_bt, 0, column(segment)), -1),
        slot_bt=slot_bt,
        branches=branches_of(rollout, sequences),
    )


def branches_of(rollout: Rollout, sequences: Sequence[Sequence[int]]) -> Branches:
    """The lengths of prompts and responses in the packed sequences."""
    return Branches(
        tokens=max(packed_length(rollout, siblings) for siblings in sequences),
        stem_S=tuple(prompt_length(rollout, siblings[0]) for siblings in sequences),
        lengths_S=tuple(tuple(len(rollout.responses[row]) for row in siblings) for siblings in sequences),
    )


def siblings_of(rollout: Rollout, rows: Iterable[int], max_tokens: int, pairs_per_token: float) -> list[list[int]]:
    """``rows`` in lists of one prompt each, together where one sequence is cheaper than rows by themselves.

    A packed sequence has fewer tokens, but T² pairs of query and key where causal rows have half of theirs: the
    kernels that take a bias skip nothing it hides. Attention over `Branches` does, on a CPU; it is not counted on, so
    that the same rows stand together everywhere. ``pairs_per_token``: see `pairs_worth_a_token`. No list packs to more
    than ``max_tokens`` unless it is a single row.
    """
    groups = rollout.group_B.tolist()
    found: list[list[int]] = []
    open_list: dict[int, list[int]] = {}  # of a prompt: the list that still takes rows
    for row in rows:
        siblings = open_list.get(groups[row])
        if siblings is not None and packed_length(rollout, [*siblings, row]) <= max_tokens:
            before, after = packed_length(rollout, siblings), packed_length(rollout, [*siblings, row])
            own = rollout.lengths[row]
            alone = own**2 / 2 + (before**2 if len(siblings) > 1 else before**2 / 2)
            if prompt_length(rollout, row) * pairs_per_token > after**2 - alone:
                siblings.append(row)
                continue
        open_list[groups[row]] = [row]
        found.append(open_list[groups[row]])
    return found


def packed_length(rollout: Rollout, siblings: Sequence[int]) -> int:
    """Tokens of one prompt and the responses of ``siblings``."""
    return prompt_length(rollout, siblings[0]) + sum(len(rollout.responses[row]) for row in siblings)


def prompt_length(rollout: Rollout, row: int) -> int:
    return rollout.lengths[row] - len(rollout.responses[row])


def pairs_worth_a_token(models: Iterable[PreTrainedModel | TokenScorer]) -> float:
    """How many pairs of query and key cost as much as one token in the matrices of a layer; 0 if one cannot be packed.

    Multiply-adds: a token takes 4·D² + 3·D·I (attention's four projections, the MLP's three), a pair 2·D. The least
    over the ``models``, which all read the same packed sequences.
    """
    worth = []
    for model in models:
        if obstacle(model) is not None:
            return 0.0
        config = text_config(model)
        worth.append(2 * config.hidden_size + 1.5 * config.intermediate_size)
    return min(worth, default=0.0)


def obstacle(model: PreTrainedModel | TokenScorer) -> str | None:
    """Why ``model`` cannot read packed sequences, or None. Decided by its configuration."""
    config = text_config(model)
    if config.model_type not in CHECKED_FAMILIES:
        return f"nobody has compared packed and unpacked passes of model_type {config.model_type}"
    if getattr(config, "sliding_window", None) is not None:
        return f"sliding_window {config.sliding_window}: the window would count the tokens of other responses"
    other = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if other:
        return f"layers of type {', '.join(sorted(other))} take no mask of their own"
    if config._attn_implementation != "sdpa":
        return f"attention implementation {config._attn_implementation} takes no additive mask; load with sdpa"
    return None


def text_config(model: PreTrainedModel | TokenScorer) -> Any:
    return (model.classifier if isinstance(model, TokenScorer) else model).config.get_text_config()
