"""Supervised fine-tuning: the policy learns the assistant turns of a mixture."""

from dataclasses import asdict
from itertools import count
from typing import Any

import torch

from posttrain.artifacts.manifest import read_manifest
from posttrain.data.batches import epoch_order, pad_batch, rank_micro_batches
from posttrain.data.chat import prepare_tokenizer
from posttrain.data.training_rows import tokenized_conversations
from posttrain.errors import PosttrainError
from posttrain.models.backbone import packs
from posttrain.models.load import context_length, load_tokenizer, save_model
from posttrain.models.ranks import rank, world_size
from posttrain.models.transfer import on_device
from posttrain.stages.base import StageContext
from posttrain.training.adapters import merge_adapters
from posttrain.training.build import trained_policy
from posttrain.training.determinism import make_deterministic
from posttrain.training.logprobs import response_logprobs
from posttrain.training.loop import TrainingLoop
from posttrain.training.losses import sequence_mean_loss_sum, token_loss_sum
from posttrain.training.plan import plan_steps, plan_tokens
from posttrain.training.precision import forward_precision
from posttrain.training.sharding import scaled_loss

VERSION = 1
RANKS = True


def run(context: StageContext) -> dict[str, Any]:
    settings = context.settings
    make_deterministic(context.seed)

    model_folder = context.resolve(settings.model)
    tokenizer = prepare_tokenizer(load_tokenizer(model_folder), settings.chat_template)
    model = trained_policy(model_folder, tokenizer, settings, context.device)
    max_tokens = min(settings.max_tokens, context_length(model))

    rows, counts = tokenized_conversations(
        context.training_data(),
        tokenizer,
        max_tokens=max_tokens,
        train_on=settings.train_on,
        rejected=context.output / "rejected.jsonl",
    )
    tokens_of_row = [int(row.trained.sum()) for row in rows]

    def order(epoch: int) -> list[int]:
        return epoch_order(len(rows), context.seed, epoch)

    if settings.tokens_of:
        budget = sum(trained_tokens_of(context, reference) for reference in settings.tokens_of)
        plan = plan_tokens(map(order, count()), settings.batch_size, tokens_of_row, budget)
    else:
        plan = plan_steps(map(order, range(settings.epochs)), settings.batch_size)

    loss_sum = sequence_mean_loss_sum if settings.loss == "mean_of_means" else token_loss_sum
    ids = [row.id for row in rows]
    loop = TrainingLoop(
        model, plan, settings, context.device, ids=ids, checkpoints=context.checkpoints, progress=context.progress
    )
    for step_rows in loop.steps(f"training {context.name}"):
        tokens = sum(tokens_of_row[row] for row in step_rows)
        denominator = tokens if settings.loss == "token" else len(step_rows)
        step_loss = torch.zeros((), device=context.device)
        lengths = [len(rows[row]) for row in step_rows]
        groups = rank_micro_batches(
            lengths, settings.micro_batch_tokens, rank=rank(), ranks=world_size(), packed=packs(model.base_model)
        )
        for group in groups:
            batch = pad_batch([rows[step_rows[i]] for i in group], tokenizer.pad_token_id)
            with forward_precision(context.device, settings.dtype):
                logp_BT = response_logprobs(model, batch.input_ids_BT, batch.attention_mask_BT, batch.trained_BT)
            loss = loss_sum(logp_BT, on_device(batch.trained_BT, logp_BT.device))
            scaled_loss(loss, denominator, world_size()).backward()
            step_loss += loss.detach() / denominator
        loop.update(tokens=tokens, lengths=lengths, loss=step_loss)

    merge_adapters(model)
    save_model(model, tokenizer, context.output)
    loop.write_metrics(context.output)
    trained_tokens = sum(tokens_of_row[row] for step_rows in plan for row in step_rows)
    return {"rows": asdict(counts), "metrics": {"trained_tokens": trained_tokens, **loop.metrics}}


def trained_tokens_of(context: StageContext, reference: str) -> int:
    """How many tokens a finished training stage learned from, by its manifest."""
    metrics = read_manifest(context.resolve(reference))["metrics"]
    if "trained_tokens" not in metrics:
        raise PosttrainError(f"tokens_of: {reference} is no training stage, its manifest counts no trained_tokens")
    return int(metrics["trained_tokens"])
