"""Policies and tokenizers: read from a folder, fitted to each other, written back."""

import os
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from posttrain.errors import PosttrainError
from posttrain.models.export import stream_weights
from posttrain.models.ranks import rank, world_size

disable_progress_bar()  # stages show their own progress; a bar per model file would break it

DROPOUTS = (
    "attention_dropout",
    "hidden_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "dropout",
    "activation_dropout",
)

ModelT = TypeVar("ModelT", bound=nn.Module)


def load_tokenizer(path: str | os.PathLike) -> PreTrainedTokenizerFast:
    """The fast tokenizer in ``path``. Raises PosttrainError when the folder holds none."""
    _require_folder(path)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError) as reason:
        raise PosttrainError(f"{path} holds no tokenizer that transformers can read: {reason}") from reason
    if not tokenizer.is_fast:
        raise PosttrainError(f"{path} holds a slow tokenizer; convert it to tokenizer.json with transformers first")
    return tokenizer


def load_config(path: str | os.PathLike, rope_positions: int | None = None):
    """The model's configuration with dropout off and, if asked, another number of positions."""
    _require_folder(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as reason:
        raise PosttrainError(f"{path} holds no model that transformers can read: {reason}") from reason
    for name in DROPOUTS:
        if getattr(config, name, None):
            setattr(config, name, 0.0)
    if rope_positions is not None:
        config.max_position_embeddings = rope_positions
    return config


def load_policy(
    path: str | os.PathLike,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    rope_positions: int | None = None,
) -> PreTrainedModel:
    """The causal language model in ``path``: safetensors only, no remote code, dropout off, in eval mode.

    ``rope_positions`` replaces the number of positions that the model says it can take (its rotary frequencies stay).
    """
    config = load_config(path, rope_positions)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as reason:
        raise PosttrainError(f"the model in {path} cannot be loaded (safetensors are needed): {reason}") from reason
    model = without_dropout(model).eval()
    model.to(device)
    return model


def without_dropout(model: ModelT) -> ModelT:
    """``model`` with every dropout layer at 0: RL ratios and DPO references are wrong otherwise."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def context_length(model: PreTrainedModel) -> int:
    """How many positions the model takes."""
    return int(cast(int, model.config.get_text_config().max_position_embeddings))


def fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Adds embedding rows for tokens that the tokenizer has and the model has not; returns how many.

    New rows are the mean of the old ones (Hewitt 2021, "Initializing new word embeddings"): a new token starts as
    likely as an average one. A model with more rows than tokens (padded to a multiple of 64, say) is left alone. The
    model's pad, bos and eos ids become the tokenizer's. Raises PosttrainError when even tokens that were not added to
    the tokenizer have no row.
    """
    old = embedding_rows(model)
    if tokenizer.vocab_size > old:
        raise PosttrainError(
            f"the tokenizer has {tokenizer.vocab_size} tokens besides those that were added to it, the model {old} "
            "embeddings: it is another model's. Put the model's own tokenizer files into its folder"
        )
    added = max(0, len(tokenizer) - old)
    if added:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for weight in {id(weight): weight for weight in _token_weights(model)}.values():  # tied ones are one
                weight[old:] = weight[:old].mean(0)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        for config in (model.config, getattr(model, "generation_config", None)):
            if config is not None:
                setattr(config, name, getattr(tokenizer, name))
    return added


def embedding_rows(model: PreTrainedModel) -> int:
    """How many token ids the model has an embedding for."""
    return _token_weights(model)[0].shape[0]


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path) -> None:
    """Raises PosttrainError when the tokenizer can give ids for which the model has no embedding."""
    rows = embedding_rows(model)
    if len(tokenizer) > rows:
        raise PosttrainError(
            f"the tokenizer in {path} has {len(tokenizer)} tokens, its model only {rows} embeddings; "
            "save them together, or train a stage that resizes the model (sft does)"
        )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | os.PathLike) -> None:
    """Writes fp32 safetensors, configuration, generation configuration, tokenizer and chat template to ``folder``.

    Ranks that share a sharded model call it together; the first one writes.
    """
    folder = Path(folder)
    generation = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.config.dtype = torch.float32
    try:
        if world_size() > 1:
            folder.mkdir(parents=True, exist_ok=True)
            stream_weights(model, folder)
        else:
            state = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
            model.save_pretrained(folder, state_dict=state)
        if rank() > 0:
            return
        generation.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as reason:
        raise PosttrainError(
            f"the model could not be written to {folder}: {reason}; free some space, run again"
        ) from reason


def _token_weights(model: PreTrainedModel) -> list[torch.Tensor]:
    """The input embedding and, if there is an output head, its weight."""
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [cast(torch.Tensor, module.weight) for module in modules if module is not None]


def _require_folder(path: str | os.PathLike) -> None:
    if not (Path(path) / "config.json").is_file() and not (Path(path) / "tokenizer.json").is_file():
        raise PosttrainError(f"{path} is no model folder: it has no config.json and no tokenizer.json")
