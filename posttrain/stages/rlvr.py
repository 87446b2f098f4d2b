"""Reinforcement learning with verifiable rewards: PPO as in the paper (§6, Table 21), GRPO, RLOO or online DPO."""

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.artifacts.atomic import write_bytes
from posttrain.artifacts.jsonl import read_jsonl, write_jsonl
from posttrain.errors import PosttrainError
from posttrain.inference.local import LocalSampler
from posttrain.inference.protocols import Sampler
from posttrain.models.heads import save_scorer
from posttrain.models.load import context_length, save_model
from posttrain.models.ranks import rank, world_size
from posttrain.rl.alarm import OveroptimisationAlarm
from posttrain.rl.engines import EveryRank, OwnProcess, RolloutSource, build_engine, local_engine
from posttrain.rl.figures import first_and_last, rollout_figures
from posttrain.rl.fleet import Fleet
from posttrain.rl.forward import over_rollout, parts, state_values
from posttrain.rl.heldout import heldout_scores
from posttrain.rl.plan import RolloutPlan
from posttrain.rl.probe import GapWatch, larger_gap
from posttrain.rl.rewards import (
    joint_outcome,
    sample_scores,
    shuffled,
    too_many_errors,
    verified_shares,
    verifier_errors,
    verify_rollout,
)
from posttrain.rl.rollouts import Rollout
from posttrain.stages.base import StageContext
from posttrain.stages.rlvr_inputs import TRAINED, Models, check, check_device, load_heldout, load_models, load_prompts
from posttrain.stages.rlvr_learning import Optimizers, gather_experience, learn
from posttrain.training.checkpoint import load_latest, save_checkpoint
from posttrain.training.determinism import make_deterministic
from posttrain.training.interrupt import deferred_sigterm
from posttrain.training.metrics import MetricsLog
from posttrain.training.optimizer import build_adamw
from posttrain.training.precision import forward_precision
from posttrain.training.sharding import on_any_rank, wait_for_ranks
from posttrain.verifiers.pool import VerifierPool

VERSION = 5
RANKS = True
VERIFIER_SECONDS = 10.0  # for one answer; one that takes longer has itself to blame: outcome timeout
PROBE_PROMPTS = 8  # whose tokens actors and learner score alike after every sync


def run(context: StageContext) -> dict[str, Any]:
    settings = context.settings
    make_deterministic(context.seed)
    check(settings)
    check_device(settings, context.device)
    tokenizer, models = load_models(context)
    prompts, rows = load_prompts(context, tokenizer, context_length(models["policy"]))
    heldout = load_heldout(context, tokenizer, context_length(models["policy"]), {p.token_ids for p in prompts})
    trained = {name: model for name, model in models.items() if name in TRAINED}
    optimizers: Optimizers = {n: build_adamw(m.parameters(), 0.0, settings.weight_decay) for n, m in trained.items()}

    resumed = load_latest(context.checkpoints, modules=trained, optimizers=optimizers)
    done, state = resumed or (0, {"trained_tokens": 0, "verifier_errors": 0, "probes_over": 0})
    log = MetricsLog(context.checkpoints / "metrics.jsonl", done) if rank() == 0 else None
    if log:
        log.follow(context.name)
    watch = GapWatch(settings.dtype, state["probes_over"], settings.engine)
    sampler = own_engine(context, models["policy"], tokenizer, done, asked=bool(heldout))
    alarm = OveroptimisationAlarm(settings.kl_bound, state.get("alarm"))

    context.progress.start("RLVR", settings.steps, "steps", done=done)
    plan = RolloutPlan(
        prompts,
        context.seed,
        prompts_per_step=settings.prompts_per_step,
        samples_per_prompt=settings.samples_per_prompt,
        temperature=settings.temperature,
        max_response_tokens=settings.max_response_tokens,
        stop_token_ids=(tokenizer.eos_token_id,),
        pad_token_id=tokenizer.pad_token_id,
    )
    pool = VerifierPool(
        torch.get_num_threads(),
        VERIFIER_SECONDS,
        settings.verifier_mode,
        allow_degraded_sandbox=settings.allow_degraded_sandbox,
    )
    with (
        pool,
        closing(rollout_source(context, plan, models["policy"], tokenizer, sampler, done)) as source,
        deferred_sigterm() as sigterm,
    ):

        def look(step: int) -> None:
            """Asks the held-out prompts; tells of over-optimisation; puts the best weights so far aside."""
            assert sampler is not None, "there are held-out prompts"
            if isinstance(sampler, LocalSampler):  # it samples the learner's own module
                sampler.update_weights((), step)
            with forward_precision(context.device, settings.dtype):
                scores = heldout_scores(
                    sampler,
                    heldout,
                    pool,
                    tokenizer,
                    max_response_tokens=settings.max_response_tokens,
                    weight_version=step,
                    device=context.device,
                )
            reason = alarm.look(step, scores)
            context.progress.note(f"step {step}: {alarm.looks[-1].mean:.1%} of {len(scores)} held-out prompts right")
            if reason:
                context.progress.note(f"over-optimisation at step {step}: {reason}")
            if settings.keep == "best" and alarm.best is alarm.looks[-1]:
                part, whole = context.checkpoints / f"best-{step}.part", context.checkpoints / f"best-{step}"
                save_model(models["policy"], tokenizer, part)
                if rank() == 0:
                    shutil.rmtree(whole, ignore_errors=True)  # a look made again after a restart
                    part.rename(whole)

        for step in range(done, settings.steps):
            if heldout and step % settings.heldout_every == 0:
                look(step)
            started = time.perf_counter()

            # Roll out. Prompts and randomness follow from the step alone: a restart makes the same batch again.
            rollout = source.rollout(step)
            generated = time.perf_counter()

            # Verify: verdicts become one score and one weight per sample.
            verdicts = verify_rollout(pool, rollout, tokenizer)
            outcomes = [joint_outcome(of_sample) for of_sample in verdicts]
            errors = verifier_errors(verdicts)
            if errors and state["verifier_errors"] == 0:
                context.progress.note(
                    f"answers that cannot be judged train nothing ({len(errors)} so far): {errors[0].detail}"
                )
            state["verifier_errors"] += len(errors)
            if too_many := too_many_errors(errors, sum(map(len, verdicts)), settings.verifier_error_bound):
                context.progress.note(f"step {step + 1}: {too_many}")
                state["verifier_alarms"] = state.get("verifier_alarms", 0) + 1
            scores_B, weights_B = sample_scores(
                outcomes,
                verified_shares(rollout, verdicts, settings.verifier_weights),
                rollout.response_BT,
                rollout.finished_B,
                settings.verification_reward,
                settings.no_eos_reward,
                added_B=reward_scores(context, models, rollout),
                min_response_tokens=settings.min_response_tokens,
                mask_truncated=settings.mask_truncated,
            )
            figures = rollout_figures(rollout, outcomes, scores_B)
            if settings.shuffle_rewards:
                scores_B, weights_B = shuffled(scores_B, weights_B, context.seed, step)
            verified = time.perf_counter()

            # Learn: fixed targets first, then several passes over the batch.
            experience = gather_experience(context, models, rollout, scores_B, weights_B)
            figures |= experience.figures | learn(context, models, optimizers, rollout, experience, step)
            figures |= larger_gap(source.figures, figures)
            learned = time.perf_counter()
            source.learned(step + 1)
            synced = time.perf_counter()

            state["trained_tokens"] += int(experience.policy_weights_BT.sum()) * settings.epochs
            if heldout:
                alarm.record(figures["score"], figures.get("kl_sample", 0.0))
                state["alarm"] = alarm.state()
            seconds = {"generate": generated - started, "verify": verified - generated, "learn": learned - verified}
            seconds["sync"] = synced - learned
            if log:
                log.append(step + 1, **figures, trained_tokens=state["trained_tokens"], seconds=seconds)
            watch.observe(figures.get("logp_gap", 0.0))  # no probe while the value model warms up alone
            ends = on_any_rank(sigterm.asked)
            if (step + 1) % settings.checkpoint_every == 0 or watch.exhausted or ends:
                state["probes_over"] = 0 if watch.exhausted else watch.over  # a restart gets three probes again
                save_checkpoint(context.checkpoints, step + 1, modules=trained, optimizers=optimizers, extra=state)
                for folder in context.checkpoints.glob("best-*"):  # a restart asks for the best one before it
                    if rank() > 0:
                        break
                    if alarm.best is None or folder.name != f"best-{alarm.best.step}":
                        shutil.rmtree(folder)
            if watch.exhausted:
                raise watch.error(figures["logp_gap"], context.checkpoints)
            if ends:
                sigterm.pass_on()
            context.progress.advance(1, score=figures["score"], correct=figures["correct_rate"])
        if heldout:
            look(settings.steps)
    if settings.keep == "best" and alarm.best is not None:
        if rank() == 0:
            shutil.copytree(context.checkpoints / f"best-{alarm.best.step}", context.output, dirs_exist_ok=True)
    else:
        save_model(models["policy"], tokenizer, context.output)
    if "value" in models:
        save_scorer(models["value"], tokenizer, context.output / "value_model")
    if log is None:  # the first rank alone tells
        return {}
    log.close()
    write_bytes(context.output / "metrics.jsonl", log.path.read_bytes())
    curve = [row for _, row in read_jsonl(log.path)]
    totals = {name: state[name] for name in ("trained_tokens", "verifier_errors", "verifier_alarms") if name in state}
    if alarm.best is not None:
        write_jsonl(context.output / "heldout.jsonl", (asdict(seen) for seen in alarm.looks))
        totals |= {
            "heldout": alarm.looks[-1].mean,
            "heldout_best": alarm.best.mean,
            "heldout_best_step": alarm.best.step,
        }
        totals["alarms"] = len(alarm.reasons)
    return {"rows": rows, "metrics": totals | first_and_last(curve)}


def own_engine(
    context: StageContext, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, done: int, *, asked: bool
) -> Sampler | None:
    """Of this process (of each rank): draws, unless actors do, and answers held-out prompts, if any are ``asked``."""
    settings = context.settings
    if world_size() > 1:
        return EveryRank(engine_builder(context, policy, tokenizer, done)(context.device))
    if settings.rollout_actors == 0 and settings.engine == "vllm":
        return engine_builder(context, policy, tokenizer, done)(context.device)
    if settings.rollout_actors > 0 and not asked:
        return None
    try:
        return local_engine(policy, tokenizer.pad_token_id, done)
    except PosttrainError as error:
        if settings.engine == "local":
            raise
        raise PosttrainError(
            f"where actors draw, the local engine asks the held-out prompts: {error}, with rollout_actors: 0; or set "
            "heldout to null"
        ) from error


def rollout_source(
    context: StageContext,
    plan: RolloutPlan,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampler: Sampler | None,
    done: int,
) -> RolloutSource:
    """The learner's own module, an engine beside it (in each rank, if there are several), or Ray actors."""
    settings = context.settings
    if settings.rollout_actors == 0:
        assert sampler is not None, "nothing else draws"
        sent = None if isinstance(sampler, LocalSampler) else policy
        return OwnProcess(sampler, plan, context.device, settings.dtype, done, sent)
    build = engine_builder(context, policy, tokenizer, done)
    return Fleet(
        partial(build, context.device, gpus=settings.gpus_per_actor),
        plan,
        policy,
        [prompt.token_ids for prompt in plan.prompts[:PROBE_PROMPTS] if len(prompt.token_ids) > 1],
        actors=settings.rollout_actors,
        staleness=settings.staleness,
        first=done,
        steps=settings.steps,
        device=context.device,
        dtype=settings.dtype,
        gpus_per_actor=settings.gpus_per_actor,
        note=context.progress.note,
    )


def engine_builder(
    context: StageContext, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, done: int
) -> Callable[..., Sampler]:
    """Makes an engine on a device, from a folder that holds the policy with its tokens."""
    settings = context.settings
    folder = context.checkpoints / "engine"
    there = folder.exists()
    wait_for_ranks()  # all have looked
    if not there:
        part = context.checkpoints / "engine.part"
        save_model(policy, tokenizer, part)
        if rank() == 0:
            part.rename(folder)
        wait_for_ranks()
    positions = min(context_length(policy), settings.max_prompt_tokens + settings.max_response_tokens)
    return partial(build_engine, settings.engine, folder, dtype=settings.dtype, positions=positions, version=done)


def reward_scores(context: StageContext, models: Models, rollout: Rollout) -> torch.Tensor | float:
    """The weighted score of the reward model at each response's last token, [B]; 0 where the recipe names none."""
    if "reward" not in models:
        return 0.0
    whole = parts(rollout, range(len(rollout.rows)), context.settings.micro_batch_tokens)
    with forward_precision(context.device, context.settings.dtype):
        scores_BT = over_rollout(partial(state_values, models["reward"], rollout), rollout, whole)
    # Entry t holds the score at token t − 1: one past the end stands what was scored at the last token.
    ends_B = torch.tensor(rollout.lengths, device=scores_BT.device)
    return context.settings.reward_model_weight * scores_BT.gather(1, ends_B[:, None]).squeeze(1)
