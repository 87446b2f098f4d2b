"""A scalar per token on top of a decoder: the reward model, and the value model that starts from it."""

import copy
import os
from typing import cast

import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from posttrain.errors import PosttrainError
from posttrain.models.backbone import full_precision, hidden_states
from posttrain.models.branches import Branches
from posttrain.models.load import load_config, load_policy, save_model, without_dropout


class TokenScorer(nn.Module):
    """A transformers sequence classifier with one label, read at every token instead of at the last alone.

    ``scores_BT[b, t]`` is the score of row b up to and with token t. The reward of a response is the score at its last
    token; its value estimates are the scores at the tokens before each action.
    """

    def __init__(self, classifier: PreTrainedModel):
        super().__init__()
        self.classifier = classifier

    @property
    def backbone(self) -> nn.Module:
        return self.classifier.base_model

    @property
    def score(self) -> nn.Linear:
        return cast(nn.Linear, self.classifier.score)

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        attention_mask_BT: torch.Tensor | Branches | None = None,
        position_ids_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scores [B, T], the head in the dtype of its weights (fp32). Padded positions hold nothing of meaning."""
        hidden_BTD = hidden_states(self.backbone, input_ids_BT, attention_mask_BT, position_ids_BT)
        with full_precision(hidden_BTD.device.type):
            return self.score(hidden_BTD.to(self.score.weight.dtype)).squeeze(-1)

    @classmethod
    def from_policy(cls, policy: PreTrainedModel, *, seed: int = 0) -> "TokenScorer":
        """The policy's backbone (copied) and a `fresh_head` (Stiennon et al. 2020), on the policy's device."""
        given = {**policy.config.to_dict(), "num_labels": 1, "problem_type": "regression"}
        for labels in ("id2label", "label2id"):  # the policy's are for two labels, which it does not have
            given.pop(labels, None)
        config = type(policy.config).from_dict(given)
        config._attn_implementation = "sdpa"
        weight = next(policy.parameters())
        with weight.device:
            classifier = AutoModelForSequenceClassification.from_config(config)
        classifier.to(weight.device, weight.dtype)
        classifier.base_model.load_state_dict(policy.base_model.state_dict())
        with torch.no_grad():
            classifier.score.weight.copy_(fresh_head(classifier.score.weight.shape, seed))
        return cls(without_dropout(classifier)).eval()

    def anew(self, seed: int) -> "TokenScorer":
        """One of the same shape whose weights are all drawn afresh, as a model is before any training."""
        weight = self.score.weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifier = type(self.classifier)(copy.deepcopy(self.classifier.config))
        return TokenScorer(without_dropout(classifier)).to(weight.device, weight.dtype).eval()


def fresh_head(shape: torch.Size, seed: int) -> torch.Tensor:
    """[1, D] from N(0, 1/sqrt(D + 1)), on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / (shape[-1] + 1) ** 0.5


def load_scorer(
    path: str | os.PathLike,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    rope_positions: int | None = None,
    seed: int | None = None,
) -> TokenScorer:
    """A saved scorer; with a ``seed``, also a policy's backbone under a fresh head drawn from it."""
    config = load_config(path, rope_positions)
    if not holds_scorer(path, config, or_policy=seed is not None):
        assert seed is not None
        policy = load_policy(path, dtype=dtype, device=device, rope_positions=rope_positions)
        return TokenScorer.from_policy(policy, seed=seed)
    try:
        classifier = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as reason:
        raise PosttrainError(f"the reward model in {path} cannot be loaded: {reason}") from reason
    return TokenScorer(without_dropout(classifier)).to(device).eval()


def holds_scorer(path: str | os.PathLike, config: PreTrainedConfig, *, or_policy: bool) -> bool:
    """Whether ``path`` holds a scorer of one label. PosttrainError if it holds neither that nor what is allowed."""
    if not any("SequenceClassification" in name for name in config.architectures or ()):
        if not or_policy:
            raise PosttrainError(
                f"{path} holds {config.architectures}, not a reward model: train one, or name its folder"
            )
        return False
    if config.num_labels != 1:
        raise PosttrainError(f"the classifier in {path} has {config.num_labels} labels; a reward model has 1")
    return True


def save_scorer(scorer: TokenScorer, tokenizer: PreTrainedTokenizerBase, folder: str | os.PathLike) -> None:
    """Writes a folder that ``AutoModelForSequenceClassification`` (one label) and `load_scorer` read."""
    scorer.classifier.config.pad_token_id = tokenizer.pad_token_id
    save_model(scorer.classifier, tokenizer, folder)
