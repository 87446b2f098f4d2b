"""Reward model: a scalar head on the policy learns which of two responses was chosen (Bradley–Terry)."""

from dataclasses import asdict
from typing import Any

import torch

from posttrain.data.batches import epoch_order, pad_batch, rank_micro_batches
from posttrain.data.chat import prepare_tokenizer
from posttrain.data.training_rows import TokenizedPair, tokenized_pairs
from posttrain.models.heads import save_scorer
from posttrain.models.load import context_length, load_tokenizer
from posttrain.models.ranks import rank, world_size
from posttrain.models.transfer import on_device
from posttrain.stages.base import StageContext
from posttrain.training.adapters import merge_adapters
from posttrain.training.build import trained_scorer
from posttrain.training.determinism import make_deterministic
from posttrain.training.loop import TrainingLoop
from posttrain.training.losses import bradley_terry_loss
from posttrain.training.plan import plan_steps
from posttrain.training.precision import forward_precision
from posttrain.training.sharding import scaled_loss, summed_over_ranks

VERSION = 1
RANKS = True

HOLDOUT_EPOCH = -1  # the shuffle that chooses the held-out pairs; training epochs count from 0


def run(context: StageContext) -> dict[str, Any]:
    settings = context.settings
    make_deterministic(context.seed)

    model_folder = context.resolve(settings.model)
    tokenizer = prepare_tokenizer(load_tokenizer(model_folder), settings.chat_template)
    scorer = trained_scorer(model_folder, tokenizer, settings, context.device, seed=context.seed)
    max_tokens = min(settings.max_tokens, context_length(scorer.classifier))

    pairs, counts = tokenized_pairs(
        context.training_data(),
        tokenizer,
        max_tokens=max_tokens,
        train_on="last_turn",
        rejected=context.output / "rejected.jsonl",
    )
    shuffled = epoch_order(len(pairs), context.seed, HOLDOUT_EPOCH)
    held = round(settings.holdout * len(pairs))
    holdout, training = [pairs[i] for i in shuffled[:held]], [pairs[i] for i in shuffled[held:]]

    def rewards(group: list[TokenizedPair]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores at the last token (EOS, unless truncated) of the chosen and of the rejected, [P] each; P may be 0."""
        rows = [pair.chosen for pair in group] + [pair.rejected for pair in group]
        batch = pad_batch(rows, tokenizer.pad_token_id)
        with forward_precision(context.device, settings.dtype):
            scores_BT = scorer(batch.input_ids_BT, batch.attention_mask_BT)
        last_B1 = on_device((batch.attention_mask_BT.sum(-1, keepdim=True) - 1).clamp(min=0), scores_BT.device)
        chosen_P, rejected_P = scores_BT.gather(-1, last_B1).squeeze(-1)[: len(rows)].chunk(2)
        return chosen_P, rejected_P

    def groups(some: list[TokenizedPair]) -> list[list[TokenizedPair]]:
        lengths = [2 * len(pair) for pair in some]
        index_groups = rank_micro_batches(lengths, settings.micro_batch_tokens, rank=rank(), ranks=world_size())
        return [[some[i] for i in group] for group in index_groups]

    plan = plan_steps(
        (epoch_order(len(training), context.seed, epoch) for epoch in range(settings.epochs)), settings.batch_size
    )
    ids = [pair.id for pair in training]
    loop = TrainingLoop(
        scorer, plan, settings, context.device, ids=ids, checkpoints=context.checkpoints, progress=context.progress
    )
    for step_pairs in loop.steps(f"training {context.name}"):
        denominator = len(step_pairs)
        sums = torch.zeros(3, device=context.device)
        for group in groups([training[i] for i in step_pairs]):
            chosen_P, rejected_P = rewards(group)
            loss_P = bradley_terry_loss(chosen_P, rejected_P)
            scaled_loss(loss_P.sum(), denominator, world_size()).backward()
            with torch.no_grad():
                margin_P = chosen_P - rejected_P
                sums += torch.stack([loss_P.sum(), (margin_P > 0).float().sum(), margin_P.sum()])
        loss, accuracy, margin = sums / denominator
        step = [training[i] for i in step_pairs]
        lengths = [len(row) for pair in step for row in (pair.chosen, pair.rejected)]
        tokens = sum(pair.trained_tokens for pair in step)
        loop.update(tokens=tokens, lengths=lengths, loss=loss, accuracy=accuracy, margin=margin)

    metrics = {**loop.metrics, "holdout_pairs": len(holdout)}
    metrics["trained_tokens"] = sum(training[i].trained_tokens for step_pairs in plan for i in step_pairs)
    if holdout:
        with torch.no_grad():
            margins = torch.cat([torch.sub(*rewards(group)) for group in groups(holdout)])
        right = summed_over_ranks({"right": (margins > 0).sum()})["right"]
        metrics["holdout_accuracy"] = float(right) / len(holdout)

    merge_adapters(scorer)
    save_scorer(scorer, tokenizer, context.output)
    loop.write_metrics(context.output)
    return {"rows": asdict(counts), "metrics": metrics}
