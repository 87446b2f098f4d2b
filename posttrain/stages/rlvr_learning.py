"""What RLVR does with a verified batch: fixed targets first, then several passes over it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from posttrain.errors import PosttrainError
from posttrain.models.ranks import world_size
from posttrain.rl.experience import (
    Experience,
    grpo_experience,
    minibatches,
    pair_experience,
    ppo_experience,
    rloo_experience,
)
from posttrain.rl.figures import UpdateFigures
from posttrain.rl.forward import (
    Part,
    over_rollout,
    own_share,
    parts,
    policy_logprobs,
    state_values,
    with_fillers,
)
from posttrain.rl.grpo import grpo_loss
from posttrain.rl.importance import truncated_weights
from posttrain.rl.online_dpo import pair_loss
from posttrain.rl.packing import pairs_worth_a_token
from posttrain.rl.ppo import loss_divisors, value_loss
from posttrain.rl.rollouts import Rollout
from posttrain.rl.seeds import derived_seed
from posttrain.stages.base import StageContext
from posttrain.stages.rlvr_inputs import Models
from posttrain.training.optimizer import clip_gradients, learning_rate_at, set_learning_rate
from posttrain.training.precision import forward_precision
from posttrain.training.sharding import scaled_loss

Optimizers = dict[str, torch.optim.Optimizer]  # of "policy" and "value"


def gather_experience(
    context: StageContext, models: Models, rollout: Rollout, scores_B: torch.Tensor, weights_B: torch.Tensor
) -> Experience:
    """Old and reference log-probabilities, values, advantages and returns of a batch."""
    settings, tulu3 = context.settings, context.settings.mode == "tulu3"
    worth = pairs_worth_a_token(model for name, model in models.items() if name != "reward")  # it reads rows alone
    whole = parts(rollout, range(len(rollout.rows)), settings.micro_batch_tokens, worth)

    def logprobs(name: str) -> torch.Tensor:
        forward = partial(policy_logprobs, models[name], rollout, temperature=settings.temperature)
        return over_rollout(forward, rollout, whole)

    paired = settings.algorithm == "online_dpo"  # which weighs nothing by what the old policy thought
    corrected = not tulu3 and not paired and settings.importance_bound is not None and may_differ(settings)
    with forward_precision(context.device, settings.dtype):
        # The old policy is the sampler itself; as published, or to correct for it, the learner's recomputation of it.
        recomputed = corrected or (tulu3 and not paired)
        old_logp_BT = logprobs("policy") if recomputed else rollout.sampler_logp_BT
        ref_logp_BT = logprobs("reference") if "reference" in models else None
        values_BT = None
        if "value" in models:
            values_BT = over_rollout(partial(state_values, models["value"], rollout), rollout, whole)
    batch = (rollout, scores_B, weights_B, old_logp_BT, ref_logp_BT)
    if paired:
        return pair_experience(*batch)
    if settings.algorithm == "grpo":
        experience = grpo_experience(*batch, divide_by_std=settings.whiten_advantages, bessel=tulu3)
    elif settings.algorithm == "rloo":
        experience = rloo_experience(*batch, beta=settings.beta)
    else:
        assert values_BT is not None, "PPO has a value model"
        experience = ppo_experience(
            *batch,
            values_BT,
            tulu3=tulu3,
            max_response_tokens=settings.max_response_tokens,
            beta=settings.beta,
            gamma=settings.gamma,
            lam=settings.lam,
            whitened=settings.whiten_advantages,
        )
    if not (recomputed and may_differ(settings)):
        return experience
    importance_BT, figures = truncated_weights(
        old_logp_BT, rollout.sampler_logp_BT, rollout.response_BT, settings.importance_bound or math.inf
    )
    if not corrected:
        return replace(experience, figures=experience.figures | {"policy_drift": figures["policy_drift"]})
    return replace(
        experience,
        advantages_BT=experience.advantages_BT * importance_BT,  # after whitening, and outside the KL penalty
        figures=experience.figures | figures,
    )


def may_differ(settings: Any) -> bool:
    """Whether what samples is not, to rounding, the policy that starts to learn from it."""
    return settings.staleness > 0 or settings.engine == "vllm"


def learn_pairs(
    context: StageContext,
    models: Models,
    optimizers: Optimizers,
    rollout: Rollout,
    experience: Experience,
    step: int,
) -> dict[str, float]:
    """Online DPO on the pairs of a batch, in as many passes and optimizer steps as `learn` takes."""
    settings, figures = context.settings, UpdateFigures()
    worth = pairs_worth_a_token([models["policy"]])
    assert experience.ref_logp_BT is not None and experience.pairs is not None
    ref_logp_B = experience.ref_logp_BT.masked_fill(~rollout.response_BT, 0.0).sum(1)
    paired_B = experience.policy_weights_BT.any(1).tolist()
    stepped = False  # until then these are the weights that sampled
    for epoch in range(settings.epochs):
        order_seed = derived_seed(context.seed, "minibatches", step, epoch)
        for rows in minibatches(rollout.group_B, settings.minibatches, order_seed):
            rows = [row for row in rows if paired_B[row]]
            split = parts(rollout, rows, settings.micro_batch_tokens, worth)
            forward = partial(policy_logprobs, models["policy"], rollout, temperature=settings.temperature)
            with forward_precision(context.device, settings.dtype):
                logp_B = over_rollout(forward, rollout, split).sum(1)
            here_P = torch.isin(experience.pairs[0], torch.tensor(rows, device=ref_logp_B.device))
            chosen_P, rejected_P = (side_P[here_P] for side_P in experience.pairs)
            loss, derivative_B = pair_loss(logp_B, ref_logp_B, chosen_P, rejected_P, settings.beta)
            figures.pairs(loss, chosen_P.numel())
            for part in own_share(with_fillers(split)):
                with forward_precision(context.device, settings.dtype):
                    logp_bT = policy_logprobs(models["policy"], rollout, part, settings.temperature)
                pull = (derivative_B[part.rows_b] * logp_bT.sum(1)).sum() * (not part.filler)
                scaled_loss(pull, chosen_P.numel(), world_size()).backward()
                if not stepped and not part.filler:
                    figures.gap(logp_bT, part.of(rollout.sampler_logp_BT), part.of(rollout.response_BT))
            if split:
                stepped = True
                figures.gradient_norm("policy", update("policy", context, models, optimizers, step))
    return figures.means()


def learn(
    context: StageContext,
    models: Models,
    optimizers: Optimizers,
    rollout: Rollout,
    experience: Experience,
    step: int,
) -> dict[str, float]:
    """``epochs`` passes over the batch, each of ``minibatches`` optimizer steps of policy and value model."""
    if experience.pairs is not None:
        return learn_pairs(context, models, optimizers, rollout, experience, step)
    settings, tulu3 = context.settings, context.settings.mode == "tulu3"
    policy_learns = "value" not in models or step >= settings.value_warmup_steps
    figures, worth = UpdateFigures(), pairs_worth_a_token(models[name] for name in optimizers)
    # As published, minibatches mix samples of all prompts; here those of a prompt stay together.
    groups_B = torch.arange(len(rollout.rows)) if tulu3 else rollout.group_B

    def divided(split: list[Part], weights_BT: torch.Tensor) -> Sequence[tuple[Part, torch.Tensor, float]]:
        """This rank's parts of a minibatch, their weights, and what their losses are divided by on any rank."""
        weights = [part.of(weights_BT) for part in split]
        divisors = loss_divisors([float(weights_bT.sum()) for weights_bT in weights], mean_of_means=tulu3)
        whole = with_fillers(split)
        weights += [torch.zeros_like(weights[0])] * (len(whole) - len(split))
        divisors += [1.0] * (len(whole) - len(split))
        return own_share(list(zip(whole, weights, divisors, strict=True)))

    for epoch in range(settings.epochs):
        order_seed = derived_seed(context.seed, "minibatches", step, epoch)
        for number, rows in enumerate(minibatches(groups_B, settings.minibatches, order_seed)):
            split = parts(rollout, rows, settings.micro_batch_tokens, worth)
            if policy_learns:
                for part, weights_bT, divisor in divided(split, experience.policy_weights_BT):
                    with forward_precision(context.device, settings.dtype):
                        logp_bT = policy_logprobs(models["policy"], rollout, part, settings.temperature)
                    loss, statistics = grpo_loss(  # PPO's, too: with its KL in the reward it has no reference here
                        logp_bT,
                        part.of(experience.old_logp_BT),
                        None if experience.ref_logp_BT is None else part.of(experience.ref_logp_BT),
                        part.of(experience.advantages_BT),
                        weights_bT,
                        clip_low=settings.clip_range,
                        clip_high=settings.clip_range if settings.clip_range_high is None else settings.clip_range_high,
                        beta=settings.beta,
                        estimator="k3" if tulu3 else "k2",
                    )
                    scaled_loss(loss, divisor, world_size()).backward()
                    figures.policy(loss, statistics, weights_bT)
                    if epoch == 0 and number == 0 and not part.filler:  # still the weights that sampled
                        figures.gap(logp_bT, part.of(rollout.sampler_logp_BT), part.of(rollout.response_BT))
                figures.gradient_norm("policy", update("policy", context, models, optimizers, step))
            if "value" in models:
                for part, weights_bT, divisor in divided(split, experience.value_weights_BT):
                    with forward_precision(context.device, settings.dtype):
                        values_bT = state_values(models["value"], rollout, part)
                    loss = value_loss(
                        values_bT,
                        part.of(experience.old_values_BT),
                        part.of(experience.returns_BT),
                        weights_bT,
                        settings.value_clip_range,
                    )
                    scaled_loss(settings.value_coefficient * loss, divisor, world_size()).backward()
                    figures.value(loss, weights_bT)
                figures.gradient_norm("value", update("value", context, models, optimizers, step))
    return figures.means()


def update(name: str, context: StageContext, models: Models, optimizers: Optimizers, step: int) -> float:
    """Clips the gradient, takes one AdamW step at the schedule's rate, returns the norm before clipping."""
    settings = context.settings
    norm = float(clip_gradients(models[name].parameters(), settings.clip_gradient_norm))
    if not math.isfinite(norm):
        raise PosttrainError(
            f"step {step + 1}: the gradient of the {name} model is not finite. Lower its "
            f"learning rate; the last good checkpoint is in {context.checkpoints}"
        )
    base, first = settings.learning_rate, 0
    if name == "value" and settings.value_learning_rate is not None:
        base = settings.value_learning_rate
    if name == "policy" and "value" in models:
        first = settings.value_warmup_steps
    rate = learning_rate_at(step - first, settings.steps - first, base, settings.schedule, settings.warmup_fraction)
    set_learning_rate(optimizers[name], rate)
    if norm > 0:  # a batch that teaches nothing must not move the weights along Adam's momentum
        optimizers[name].step()
    optimizers[name].zero_grad()
    return norm
