"""The model that a stage trains: read whole by a single process, each its own slices by ranks that share it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.tensor import DTensor, distribute_tensor, empty
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from posttrain.errors import PosttrainError
from posttrain.models.fused import fuse
from posttrain.models.heads import TokenScorer, fresh_head, holds_scorer
from posttrain.models.load import fit_vocabulary, load_config, load_policy, without_dropout
from posttrain.models.packed_rows import PACKED
from posttrain.models.ranks import world_size
from posttrain.training.adapters import add_adapters
from posttrain.training.memory import check_memory
from posttrain.training.sharding import data_mesh, shard


class AdapterSettings(Protocol):
    """What `add_adapters` is told."""

    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    @property
    def targets(self) -> Sequence[str]: ...
    @property
    def four_bit(self) -> bool: ...


class ModelSettings(Protocol):
    """What a recipe's block says of the model that is trained."""

    @property
    def rope_positions(self) -> int | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def attention(self) -> str: ...
    @property
    def lora(self) -> AdapterSettings | None: ...
    @property
    def activation_checkpointing(self) -> bool: ...
    @property
    def compile(self) -> bool: ...
    @property
    def replicas(self) -> int: ...
    @property
    def cpu_offload(self) -> bool: ...


def trained_policy(
    folder: str | os.PathLike, tokenizer: PreTrainedTokenizerBase, settings: ModelSettings, device: str
) -> PreTrainedModel:
    """The policy in ``folder`` with fp32 masters, fitted to ``tokenizer``; sharded when several ranks train it."""
    if world_size() == 1:
        policy = load_policy(folder, device=device, rope_positions=settings.rope_positions)
        fit_vocabulary(policy, tokenizer)
        _apply_options(policy, policy, settings, device)
        return policy
    policy = policy_on_meta(load_config(folder, settings.rope_positions))
    fit_vocabulary(policy, tokenizer)
    _materialise(policy, policy, settings, device)
    read_slices(dict(policy.named_parameters()), folder)
    return policy


def trained_scorer(
    folder: str | os.PathLike, tokenizer: PreTrainedTokenizerBase, settings: ModelSettings, device: str, *, seed: int
) -> TokenScorer:
    """A scorer on the backbone of the policy in ``folder``, with a head drawn from ``seed``; otherwise the same."""
    if world_size() == 1:
        policy = load_policy(folder, device=device, rope_positions=settings.rope_positions)
        fit_vocabulary(policy, tokenizer)
        scorer = TokenScorer.from_policy(policy, seed=seed)
        _apply_options(scorer, scorer.classifier, settings, device)
        return scorer
    policy = policy_on_meta(load_config(folder, settings.rope_positions))
    fit_vocabulary(policy, tokenizer)
    scorer = TokenScorer.from_policy(policy)
    _materialise(scorer, scorer.classifier, settings, device)
    weights = {name.removeprefix("classifier."): weight for name, weight in scorer.named_parameters()}
    _overwrite(weights.pop("score.weight"), fresh_head(scorer.score.weight.shape, seed))
    read_slices(weights, folder)
    return scorer


def sharded_judge(
    folder: str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase,
    settings: ModelSettings,
    device: str,
    *,
    seed: int | None = None,
) -> TokenScorer:
    """The scorer saved in ``folder``, fitted to ``tokenizer``, spread over the ranks; ``seed`` as for `load_scorer`."""
    config = load_config(folder, settings.rope_positions)
    if not holds_scorer(folder, config, or_policy=seed is not None):
        assert seed is not None
        return trained_scorer(folder, tokenizer, settings, device, seed=seed)
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    scorer = TokenScorer(without_dropout(classifier)).eval()
    fit_vocabulary(scorer.classifier, tokenizer)
    _materialise(scorer, scorer.classifier, settings, device)
    read_slices({name.removeprefix("classifier."): weight for name, weight in scorer.named_parameters()}, folder)
    return scorer


def _apply_options(model: nn.Module, causal: PreTrainedModel, settings: ModelSettings, device: str) -> None:
    if world_size() == 1 and (settings.replicas > 1 or settings.cpu_offload):
        raise PosttrainError("replicas and cpu_offload are for several ranks: use torchrun, or leave them out")
    if settings.attention == PACKED and device != "cpu":
        raise PosttrainError("attention: packed is for CPUs; on a GPU use flex_attention or flash_attention_2")
    if settings.attention != "sdpa":
        causal.set_attn_implementation(settings.attention)
    if settings.lora is not None:
        if world_size() > 1:
            raise PosttrainError("lora trains in a single process; start this stage without torchrun")
        lora = settings.lora
        add_adapters(model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, four_bit=lora.four_bit)
    if settings.lora is None and not settings.compile:
        fuse(causal.base_model, device)
    if settings.activation_checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
        causal.train()  # without it transformers checkpoints nothing; dropout is 0
    if settings.compile:
        for layer in cast(Any, causal.base_model).layers:
            layer.compile(dynamic=True)


def policy_on_meta(config: Any) -> PreTrainedModel:
    """Shapes without storage, in fp32."""
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return without_dropout(policy).eval()


def read_slices(weights: Mapping[str, torch.Tensor], folder: str | os.PathLike) -> None:
    """Fills sharded ``weights`` from the safetensors in ``folder``, where they have the same names.

    Each rank reads only the rows that it holds. A weight with more rows than there are on file (new tokens) gets the
    mean of the old ones, as in `fit_vocabulary`. Raises PosttrainError for a name that is in no file.
    """
    reader = HuggingFaceStorageReader(str(folder))
    try:
        stored = cast(Mapping[str, Any], reader.read_metadata().state_dict_metadata)
    except (OSError, SafetensorError) as reason:
        raise PosttrainError(f"the model in {folder} cannot be loaded (safetensors are needed): {reason}") from reason
    missing = sorted(weights.keys() - stored.keys())
    if missing:
        raise PosttrainError(
            f"{folder} has no {missing[0]} ({len(missing)} such in all): ranks read a model whose files name its "
            "weights as transformers does. Load and save it once with transformers, or train it in a single process"
        )
    into: dict[str, torch.Tensor] = {name: weight.detach() for name, weight in weights.items()}
    grown = {name for name, weight in weights.items() if stored[name].size != weight.shape}
    for name in grown:
        weight = cast(DTensor, weights[name])
        into[name] = empty(stored[name].size, device_mesh=weight.device_mesh, placements=weight.placements)
    dcp.load(into, storage_reader=reader)
    for name in grown:
        old = cast(DTensor, into[name]).full_tensor()
        added = weights[name].shape[0] - old.shape[0]
        _overwrite(weights[name], torch.cat([old, old.mean(0).expand(added, -1)]))


def _materialise(model: nn.Module, causal: PreTrainedModel, settings: ModelSettings, device: str) -> None:
    """Shards a model on meta and gives it storage: undefined weights, but the buffers that no file holds."""
    _apply_options(model, causal, settings, device)
    mesh = data_mesh(device, settings.replicas)
    if not settings.cpu_offload:
        check_memory(causal.config, world_size() // settings.replicas, device)
    shard(cast(Any, model), mesh, settings.dtype, cpu_offload=settings.cpu_offload)
    model.to_empty(device="cpu" if settings.cpu_offload else device)
    for module in model.modules():
        if module._non_persistent_buffers_set:
            if settings.cpu_offload:  # weights are brought to the device for their use, buffers live there
                module.to_empty(device=device, recurse=False)
            causal._init_weights(module)


def _overwrite(weight: torch.Tensor, whole: torch.Tensor) -> None:
    sharded = cast(DTensor, weight.detach())
    whole = whole.to(sharded.device, sharded.dtype)
    sharded.copy_(distribute_tensor(whole, sharded.device_mesh, sharded.placements, src_data_rank=None))
