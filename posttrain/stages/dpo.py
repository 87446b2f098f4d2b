"""Direct preference optimisation: the policy learns to prefer the chosen response, against what it was at the start."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch

from posttrain.data.batches import epoch_order, pad_batch, rank_micro_batches
from posttrain.data.chat import prepare_tokenizer
from posttrain.data.tokenize import Tokenized
from posttrain.data.training_rows import TokenizedPair, tokenized_pairs
from posttrain.models.backbone import packs
from posttrain.models.load import context_length, load_tokenizer, save_model
from posttrain.models.packed_rows import reads_pairs
from posttrain.models.ranks import rank, world_size
from posttrain.models.transfer import on_device
from posttrain.stages.base import StageContext
from posttrain.training.adapters import merge_adapters
from posttrain.training.build import trained_policy
from posttrain.training.determinism import make_deterministic
from posttrain.training.logprobs import response_logprobs
from posttrain.training.loop import TrainingLoop
from posttrain.training.losses import dpo_loss, ipo_loss, response_mean, response_sum, simpo_loss
from posttrain.training.plan import plan_steps
from posttrain.training.precision import forward_precision
from posttrain.training.reference import cached_reference
from posttrain.training.sharding import scaled_loss
from posttrain.training.split import split_backward

VERSION = 1
RANKS = True


def run(context: StageContext) -> dict[str, Any]:
    settings = context.settings
    make_deterministic(context.seed)

    model_folder = context.resolve(settings.model)
    tokenizer = prepare_tokenizer(load_tokenizer(model_folder), settings.chat_template)
    policy = trained_policy(model_folder, tokenizer, settings, context.device)
    max_tokens = min(settings.max_tokens, context_length(policy))

    pairs, counts = tokenized_pairs(
        context.training_data(),
        tokenizer,
        max_tokens=max_tokens,
        train_on=settings.normalise_over,
        rejected=context.output / "rejected.jsonl",
    )
    pairs, swapped = swap_labels(pairs, settings.swap_labels, context.seed)

    of_response = response_mean if settings.loss in ("dpo_norm", "simpo") else response_sum

    def logprobs(rows: list[Tokenized], *, pairs: bool = False) -> torch.Tensor:
        """log p of each row's response, [R], from one forward; R may be 0. ``pairs``: chosen rows, then rejected."""
        batch = pad_batch(rows, tokenizer.pad_token_id)
        with forward_precision(context.device, settings.dtype):
            logp_BT = response_logprobs(
                policy, batch.input_ids_BT, batch.attention_mask_BT, batch.trained_BT, pairs=pairs
            )
        return of_response(logp_BT, on_device(batch.trained_BT, logp_BT.device))[: len(rows)]

    def chosen(group: list[int]) -> torch.Tensor:
        return logprobs([pairs[i].chosen for i in group])

    def rejected(group: list[int]) -> torch.Tensor:
        return logprobs([pairs[i].rejected for i in group])

    def both(group: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward over chosen and rejected rows, [P] each."""
        rows = [pairs[i].chosen for i in group] + [pairs[i].rejected for i in group]
        chosen_P, rejected_P = logprobs(rows, pairs=bool(rows)).chunk(2)
        return chosen_P, rejected_P

    packed, shares_prompts = packs(policy.base_model), reads_pairs(policy.base_model)

    def tokens_of(i: int) -> int:
        """Of a forward over both sides."""
        pair = pairs[i]
        if not packed:
            return 2 * len(pair)
        return len(pair.chosen) + len(pair.rejected) - (pair.shared_tokens if shares_prompts else 0)

    def fits(i: int) -> bool:
        return tokens_of(i) <= settings.micro_batch_tokens

    def groups(indices: Sequence[int]) -> list[tuple[list[int], bool]]:
        """This rank's micro-batches, and whether each is split: pairs that fit the budget row by row only."""
        found = []
        for sides in (2, 1):
            some = [i for i in indices if fits(i) == (sides == 2)]
            lengths = [tokens_of(i) if sides == 2 else len(pairs[i]) for i in some]
            share = rank_micro_batches(
                lengths, settings.micro_batch_tokens, rank=rank(), ranks=world_size(), packed=packed
            )
            found += [([some[at] for at in group], sides == 1) for group in share]
        return found

    cached = {"chosen": torch.zeros(len(pairs)), "rejected": torch.zeros(len(pairs))}
    if settings.loss != "simpo":  # has no reference
        share = groups(range(len(pairs)))

        def score(n: int) -> tuple[torch.Tensor, torch.Tensor]:
            group, split = share[n]
            with torch.no_grad():
                return (chosen(group), rejected(group)) if split else both(group)

        own = [group for group, _ in share]
        cached = cached_reference(context.checkpoints, len(pairs), own, score, context.progress)

    def loss_of(group: list[int], chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> torch.Tensor:
        if settings.loss == "simpo":
            return simpo_loss(chosen_P, rejected_P, settings.beta)
        family = ipo_loss if settings.loss == "ipo" else dpo_loss
        reference_chosen_P, reference_rejected_P = (
            on_device(cached[side][group], chosen_P.device) for side in ("chosen", "rejected")
        )
        return family(chosen_P, rejected_P, reference_chosen_P, reference_rejected_P, settings.beta)

    def backward(group: list[int], split: bool, denominator: int) -> tuple[torch.Tensor, torch.Tensor]:
        def scaled(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> torch.Tensor:
            return scaled_loss(loss_of(group, chosen_P, rejected_P).sum(), denominator, world_size())

        if split:
            return split_backward(partial(chosen, group), partial(rejected, group), scaled)
        chosen_P, rejected_P = both(group)
        scaled(chosen_P, rejected_P).backward()
        return chosen_P.detach(), rejected_P.detach()

    plan = plan_steps(
        (epoch_order(len(pairs), context.seed, epoch) for epoch in range(settings.epochs)), settings.batch_size
    )
    ids = [pair.id for pair in pairs]
    loop = TrainingLoop(
        policy, plan, settings, context.device, ids=ids, checkpoints=context.checkpoints, progress=context.progress
    )
    for step_pairs in loop.steps(f"training {context.name}"):
        denominator = len(step_pairs)
        sums = torch.zeros(4, device=context.device)
        for group, split in groups(step_pairs):
            chosen_P, rejected_P = backward(group, split, denominator)
            with torch.no_grad():
                reward_chosen_P = settings.beta * (chosen_P - on_device(cached["chosen"][group], chosen_P.device))
                reward_rejected_P = settings.beta * (rejected_P - on_device(cached["rejected"][group], chosen_P.device))
                correct_P = (reward_chosen_P > reward_rejected_P).float()
                loss_P = loss_of(group, chosen_P, rejected_P)
                sums += torch.stack([x.sum() for x in (loss_P, reward_chosen_P, reward_rejected_P, correct_P)])
        loss, reward_chosen, reward_rejected, accuracy = sums / denominator
        loop.update(
            tokens=sum(pairs[i].trained_tokens for i in step_pairs),
            lengths=[len(row) for i in step_pairs for row in (pairs[i].chosen, pairs[i].rejected)],
            loss=loss,
            accuracy=accuracy,
            margin=reward_chosen - reward_rejected,
            reward_chosen=reward_chosen,
            reward_rejected=reward_rejected,
        )

    merge_adapters(policy)
    save_model(policy, tokenizer, context.output)
    loop.write_metrics(context.output)
    trained_tokens = sum(pairs[i].trained_tokens for step_pairs in plan for i in step_pairs)
    metrics = {
        "trained_tokens": trained_tokens,
        "swapped_pairs": swapped,
        "split_pairs": sum(not fits(i) for i in range(len(pairs))),
        **loop.metrics,
    }
    return {"rows": asdict(counts), "metrics": metrics}


def swap_labels(pairs: list[TokenizedPair], share: float, seed: int) -> tuple[list[TokenizedPair], int]:
    """The control: each pair's labels are swapped with probability ``share``. Returns the pairs and how many were."""
    swap = np.random.default_rng([seed, 0x5A]).random(len(pairs)) < share
    mixed = [TokenizedPair(p.id, p.rejected, p.chosen) if s else p for p, s in zip(pairs, swap, strict=True)]
    return mixed, int(swap.sum())
