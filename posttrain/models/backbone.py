"""Hidden states of a decoder, for right- and left-padded batches."""

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import nn

from posttrain.models.attending import attending
from posttrain.models.branches import BRANCHES, Branches
from posttrain.models.packed_rows import PACKED, pack_rows, packed_hidden_states
from posttrain.models.transfer import on_device


def hidden_states(
    backbone: nn.Module,
    input_ids_BT: torch.Tensor,
    attention_mask_BT: torch.Tensor | Branches | None,
    position_ids_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """Last hidden states [B, T, D] of a causal ``backbone`` (a transformers base model).

    With right padding no token that counts comes after a pad, so no mask is handed over and attention takes its fast
    causal path; what stands at padded positions is meaningless. Left padding gets the mask, and position ids that count
    from each row's first token. Keep the mask on the CPU: looking at it there costs no wait for a GPU. With
    ``position_ids_BT`` both go to the model as they are; the mask may then be an additive one, [B, 1, T, T], or
    `Branches` for a backbone that `reads_branches`.

    Where attention `packs`, right-padded rows run as one sequence without padding, each attending to itself alone.
    """
    device = next(backbone.parameters()).device
    if isinstance(attention_mask_BT, Branches):
        with attending(cast(Any, backbone.config), BRANCHES):
            output = backbone(
                input_ids=on_device(input_ids_BT, device),
                attention_mask=None,
                position_ids=position_ids_BT,
                use_cache=False,
                branches=attention_mask_BT,
            )
    elif position_ids_BT is not None:
        output = backbone(
            input_ids=on_device(input_ids_BT, device),
            attention_mask=None if attention_mask_BT is None else on_device(attention_mask_BT, device),
            position_ids=on_device(position_ids_BT, device),
            use_cache=False,
        )
    elif attention_mask_BT is None or is_right_padded(attention_mask_BT):
        if attention_mask_BT is not None and packs(backbone):
            rows = pack_rows(input_ids_BT, attention_mask_BT)
            hidden_ND = packed_hidden_states(backbone, rows)
            return hidden_ND.index_select(0, on_device(rows.slot_BT.flatten(), device)).view(*input_ids_BT.shape, -1)
        output = backbone(input_ids=on_device(input_ids_BT, device), attention_mask=None, use_cache=False)
    else:
        position_ids_BT = (attention_mask_BT.long().cumsum(-1) - 1).clamp(min=0)
        output = backbone(
            input_ids=on_device(input_ids_BT, device),
            attention_mask=on_device(attention_mask_BT, device),
            position_ids=on_device(position_ids_BT, device),
            use_cache=False,
        )
    return output.last_hidden_state


def packs(backbone: nn.Module) -> bool:
    """Whether attention costs the same for one long row of many short ones as for each alone."""
    return getattr(backbone.config, "_attn_implementation", "") in (PACKED, "flex_attention", "flash_attention_2")


def is_right_padded(attention_mask_BT: torch.Tensor) -> bool:
    """True when every row is ones, then zeros."""
    return not bool((attention_mask_BT[:, 1:] > attention_mask_BT[:, :-1]).any())


def full_precision(device_type: str):
    """Switches autocast off inside a block: heads and softmax stay in the dtype they are given."""
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()
