"""Schedules against transformers' own, AdamW against its update rule."""

import pytest
import torch
from transformers import get_scheduler

from posttrain.training.optimizer import build_adamw, clip_gradients, learning_rate_at, set_learning_rate


@pytest.mark.parametrize(
    "schedule,theirs", [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup")]
)
@pytest.mark.parametrize("total,fraction,warmup", [(100, 0.03, 3), (37, 0.1, 4), (10, 0.0, 0), (1, 0.0, 0)])
def test_schedules_are_those_of_transformers(schedule, theirs, total, fraction, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    reference = get_scheduler(theirs, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    for step in range(total):
        assert learning_rate_at(step, total, 2e-3, schedule, fraction) == pytest.approx(
            reference.get_last_lr()[0], abs=1e-12
        )
        optimizer.step()
        reference.step()


def test_adamw_takes_the_published_step_and_decays_matrices_only():
    matrix = torch.nn.Parameter(torch.tensor([[2.0, -1.0]]))
    vector = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    optimizer = build_adamw([matrix, vector], lr=0.5, weight_decay=0.1)
    set_learning_rate(optimizer, 0.01)
    for p in (matrix, vector):
        p.grad = torch.full_like(p, 3.0)
    optimizer.step()
    # first step: m̂ = g, v̂ = g², so the move is lr · sign(g), after a decay of lr · wd
    assert matrix[0].tolist() == pytest.approx([2 * (1 - 0.001) - 0.01, -1 * (1 - 0.001) - 0.01], abs=1e-6)
    assert vector.tolist() == pytest.approx([1.99, -1.01], abs=1e-6)


def test_clipping_bounds_the_joint_norm_and_zero_means_no_limit():
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    for p in parameters:
        p.grad = torch.full_like(p, 2.0)
    assert float(clip_gradients(parameters, 0.0)) == pytest.approx(24**0.5)
    gradients = [p.grad for p in parameters if p.grad is not None]
    assert gradients[0].tolist() == [2.0] * 3
    clip_gradients(parameters, 1.0)
    assert float(torch.cat(gradients).norm()) == pytest.approx(1.0, abs=1e-5)
