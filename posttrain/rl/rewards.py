"""From responses to one score and one weight per sample."""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from posttrain.errors import PosttrainError
from posttrain.models.ranks import shared_out
from posttrain.rl.rollouts import Rollout
from posttrain.rl.seeds import derived_seed
from posttrain.verifiers.pool import VerifierPool
from posttrain.verifiers.verdict import Outcome, Verdict


def verify_rollout(
    pool: VerifierPool, rollout: Rollout, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[Verdict, ...]]:
    """The verdicts of each sample, one for each check of its row. Verifiers read the text that evaluation reads.

    Ranks verify a share each.
    """
    texts = tokenizer.batch_decode(
        [list(response) for response in rollout.responses],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    items = [
        (verifier, text, label) for row, text in zip(rollout.rows, texts, strict=True) for verifier, label in row.checks
    ]
    verdicts = iter(shared_out(items, pool.verify))
    return [tuple(next(verdicts) for _ in row.checks) for row in rollout.rows]


def joint_outcome(verdicts: Sequence[Verdict]) -> Outcome:
    """``correct`` if every check is; else the gravest of error, timeout, wrong."""
    outcomes = {verdict.outcome for verdict in verdicts}
    for outcome in ("error", "timeout", "wrong"):
        if outcome in outcomes:
            return outcome
    return "correct"


def verifier_errors(verdicts: Sequence[Sequence[Verdict]]) -> list[Verdict]:
    """Those that say nothing of an answer, as the verifier broke. PosttrainError if no sample could be judged."""
    errors = [verdict for of_sample in verdicts for verdict in of_sample if verdict.outcome == "error"]
    if errors and all(joint_outcome(of_sample) == "error" for of_sample in verdicts):
        raise PosttrainError(
            f"not one of {len(verdicts)} answers could be judged, so nothing can be learned; "
            f"the verifier says: {errors[0].detail}"
        )
    return errors


def too_many_errors(errors: Sequence[Verdict], asked: int, bound: float) -> str | None:
    """What to tell when more than ``bound`` of the verdicts are errors: the reward is then of a chosen few."""
    if len(errors) <= bound * asked:
        return None
    return f"{len(errors)} of {asked} verdicts are errors, over the bound of {bound:.0%}: {errors[0].detail}"


def verified_shares(
    rollout: Rollout, verdicts: Sequence[Sequence[Verdict]], weights: Mapping[str, float] | None
) -> list[float]:
    """What each sample earned of the verification reward: all or nothing, 1.0 if every check is correct.

    With ``weights`` (by verifier; 1 where none is given) it is Σ weight · score of the checks, as open-instruct adds
    up rewards of several verifiers: half-right answers earn something, and a row of two checks can earn 2.
    """
    if weights is None:
        return [float(joint_outcome(of_sample) == "correct") for of_sample in verdicts]
    weights = {name.lower(): weight for name, weight in weights.items()}  # as rows name verifiers
    return [
        sum(weights.get(name, 1.0) * verdict.score for (name, _), verdict in zip(row.checks, of_sample, strict=True))
        for row, of_sample in zip(rollout.rows, verdicts, strict=True)
    ]


def sample_scores(
    outcomes: Sequence[Outcome],
    shares: Sequence[float],
    response_BT: torch.Tensor,
    finished_B: torch.Tensor,
    verification_reward: float,
    no_eos_reward: float,
    added_B: torch.Tensor | float = 0.0,
    *,
    min_response_tokens: int = 0,
    mask_truncated: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and weights, both float32 of shape B.

    ``verification_reward`` times its share (`verified_shares`), plus ``added_B`` (a reward model's scores);
    ``no_eos_reward`` REPLACES the sum when the response did not end (paper §6.2), or has fewer than
    ``min_response_tokens`` before its EOS, as in the published program. An ``error`` is the infrastructure's: weight 0,
    so that the sample trains nothing; ``mask_truncated`` gives it to what did not end, too.
    """
    device = finished_B.device
    scores_B = torch.tensor(shares, device=device) * verification_reward + added_B
    good_B = finished_B & (response_BT.sum(1) > min_response_tokens)  # EOS is one of them
    scores_B = torch.where(good_B, scores_B, torch.full_like(scores_B, no_eos_reward))
    weights_B = torch.tensor([float(outcome != "error") for outcome in outcomes], device=device)
    return scores_B, weights_B * finished_B if mask_truncated else weights_B


def shuffled(
    scores_B: torch.Tensor, weights_B: torch.Tensor, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The control: each sample gets the score (and its weight) of a random one of the batch. Seeded by the step."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "shuffle", step))
    order = torch.randperm(len(scores_B), generator=generator).to(scores_B.device)
    return scores_B[order], weights_B[order]
