"""Prompts that are never trained on, asked greedily on the way."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from posttrain.errors import PosttrainError
from posttrain.inference.protocols import Sampler
from posttrain.rl.plan import RolloutPlan
from posttrain.rl.prompts import Prompt
from posttrain.rl.rewards import joint_outcome, verify_rollout
from posttrain.verifiers.pool import VerifierPool


def heldout_scores(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    pool: VerifierPool,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_response_tokens: int,
    weight_version: int,
    device: str | torch.device = "cpu",
) -> tuple[float | None, ...]:
    """1.0 for each prompt whose greedy answer ends and is verified, else 0.0, in the order of ``prompts``.

    None where a verifier broke; PosttrainError when it broke everywhere.
    """
    plan = RolloutPlan(
        prompts,
        seed=0,
        prompts_per_step=len(prompts),
        samples_per_prompt=1,
        temperature=0.0,
        max_response_tokens=max_response_tokens,
        stop_token_ids=(tokenizer.eos_token_id,),
        pad_token_id=tokenizer.pad_token_id,
        shuffled=False,
    )
    rollout = plan.draw(0, sampler, weight_version, device)
    verdicts = verify_rollout(pool, rollout, tokenizer)
    outcomes = [joint_outcome(of_sample) for of_sample in verdicts]
    if all(outcome == "error" for outcome in outcomes):
        reason = next(verdict.detail for verdict in verdicts[0] if verdict.outcome == "error")
        raise PosttrainError(
            f"not one of {len(verdicts)} held-out answers could be judged; the verifier says: {reason}"
        )
    return tuple(
        None if outcome == "error" else float(ended and outcome == "correct")
        for ended, outcome in zip(rollout.finished_B.tolist(), outcomes, strict=True)
    )
