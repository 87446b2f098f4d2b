"""From logits to one token per row."""

import torch


def draw_tokens(
    logits_BV: torch.Tensor,
    uniforms_B: torch.Tensor,
    temperature_B: torch.Tensor,
    top_p_B: torch.Tensor | None = None,
    allowed_BV: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws by inverse transform from softmax(logits / temperature), in float64.

    ``temperature_B`` 0 takes the largest logit. ``top_p_B`` keeps, per row, the smallest set of the likeliest tokens
    whose mass reaches it (1 keeps all). ``allowed_BV`` (bool) admits only some tokens.

    Returns tokens [B] and their log-probabilities [B] in float32 under the WHOLE vocabulary at that temperature (at
    temperature 1 for greedy rows): what a learner computes as log_softmax(logits / temperature), not renormalised
    over the tokens that top_p or ``allowed_BV`` left.
    """
    greedy_B = temperature_B == 0
    logits_BV = logits_BV.float() / torch.where(greedy_B, 1.0, temperature_B)[:, None]
    normaliser_B = logits_BV.logsumexp(-1)
    admitted_BV = logits_BV if allowed_BV is None else logits_BV.masked_fill(~allowed_BV, float("-inf"))
    if bool(greedy_B.all()):
        token_B = admitted_BV.argmax(-1)
    else:
        mass_BV = torch.exp(admitted_BV - admitted_BV.amax(-1, keepdim=True))
        if top_p_B is not None:
            mass_BV = _keep_nucleus(mass_BV, top_p_B)
        # float64: over a vocabulary of 128k tokens a float32 running sum would be off by more than its rarest tokens.
        cumulative_BV = mass_BV.cumsum(-1, dtype=torch.float64)
        target_B1 = uniforms_B[:, None] * cumulative_BV[:, -1:]
        # right=True: the first token whose running sum exceeds the target, so a token of mass 0 is never drawn.
        token_B = torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]
        if bool(greedy_B.any()):
            token_B = torch.where(greedy_B, admitted_BV.argmax(-1), token_B)
        # Only logits that are not numbers lead past the end; the caller sees it in the log-probability.
        token_B = token_B.clamp(max=logits_BV.shape[-1] - 1)
    return token_B, logits_BV.gather(-1, token_B[:, None])[:, 0] - normaliser_B


def _keep_nucleus(mass_BV: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    """Zeroes what lies outside the nucleus: a token stays while the mass of the likelier ones is below top_p."""
    sorted_BV, order_BV = mass_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1, dtype=torch.float64) - sorted_BV
    total_B1 = mass_BV.sum(-1, keepdim=True, dtype=torch.float64)
    outside_BV = before_BV >= top_p_B[:, None] * total_B1
    outside_BV[:, 0] = False  # the likeliest token always stays
    outside_BV &= (top_p_B < 1)[:, None]
    return mass_BV.masked_fill(torch.zeros_like(outside_BV).scatter(-1, order_BV, outside_BV), 0.0)
