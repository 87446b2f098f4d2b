"""Finished samples as the right-padded tensors that the learner works on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from posttrain.data.rows import VerifiablePrompt
from posttrain.inference.protocols import Sample, SampleRequest


@dataclass(frozen=True)
class Rollout:
    """B finished samples, rows in the order of their requests; T is the longest row plus one free column.

    Positions of a row count from 0 at its first prompt token, as in the sampler. ``sampler_logp_BT`` is 0 off the
    response. ``finished_B``: ended by a stop token (part of the response). ``group_B``: which visit, from 0.
    """

    rows: tuple[VerifiablePrompt, ...]
    responses: tuple[tuple[int, ...], ...]
    input_ids_BT: torch.Tensor
    response_BT: torch.Tensor
    sampler_logp_BT: torch.Tensor
    lengths: tuple[int, ...]
    finished_B: torch.Tensor
    group_B: torch.Tensor

    @property
    def response_tokens(self) -> int:
        return sum(map(len, self.responses))


def ordered(requests: Sequence[SampleRequest], samples: Iterable[Sample], weight_version: int) -> list[Sample]:
    """The samples in the order of their requests: one each, all drawn by ``weight_version``, else RuntimeError."""
    row_of = {request: row for row, request in enumerate(requests)}
    finished: dict[int, Sample] = {}
    for sample in samples:
        row = row_of[sample.request]
        if row in finished:
            raise RuntimeError(f"prompt {sample.request.prompt_id}, sample {sample.request.sample_index} came twice")
        finished[row] = sample
    if len(finished) != len(requests):
        raise RuntimeError(f"the sampler answered {len(finished)} of {len(requests)} requests")
    if others := {sample.weight_version for sample in finished.values()} - {weight_version}:
        raise RuntimeError(
            f"the sampler drew with the weights of version {sorted(others)}, the learner stands at {weight_version}"
        )
    return [finished[row] for row in range(len(requests))]


def pad_samples(
    rows: Sequence[VerifiablePrompt],
    samples: Sequence[Sample],
    samples_per_prompt: int,
    pad_token_id: int,
    device: str | torch.device = "cpu",
) -> Rollout:
    """Tensors of finished samples that stand in request order."""
    lengths = tuple(len(sample.request.prompt_ids) + len(sample.token_ids) for sample in samples)
    shape = (len(samples), max(lengths) + 1)
    input_ids_BT = torch.full(shape, pad_token_id, dtype=torch.long)
    response_BT = torch.zeros(shape, dtype=torch.bool)
    sampler_logp_BT = torch.zeros(shape, dtype=torch.float32)
    for b, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        start = len(sample.request.prompt_ids)
        input_ids_BT[b, :length] = torch.tensor(sample.request.prompt_ids + sample.token_ids)
        response_BT[b, start:length] = True
        sampler_logp_BT[b, start:length] = torch.tensor(sample.logprobs)
    return Rollout(
        rows=tuple(rows),
        responses=tuple(sample.token_ids for sample in samples),
        input_ids_BT=input_ids_BT.to(device),
        response_BT=response_BT.to(device),
        sampler_logp_BT=sampler_logp_BT.to(device),
        lengths=lengths,
        finished_B=torch.tensor([sample.finish_reason == "stop" for sample in samples], device=device),
        group_B=torch.arange(len(samples), device=device) // samples_per_prompt,
    )
