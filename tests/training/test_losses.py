"""Losses against their formulas written out in plain Python floats."""

import math

import pytest
import torch

from posttrain.training import losses
from posttrain.training.logprobs import response_logprobs
from posttrain.training.sharding import scaled_loss

C, R, RC, RR = [-1.3, -7.0, -0.2], [-2.1, -3.5, -0.2], [-1.0, -6.5, -0.4], [-2.0, -4.5, -0.1]


def tensors(*lists):
    return [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in lists]


def softplus(x):
    return math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_dpo_loss_and_gradient_equal_the_closed_form(beta):
    c, r, rc, rr = tensors(C, R, RC, RR)
    loss_P = losses.dpo_loss(c, r, rc, rr, beta)
    margins = [beta * ((a - p) - (b - q)) for a, b, p, q in zip(C, R, RC, RR, strict=True)]
    assert loss_P.tolist() == pytest.approx([softplus(-m) for m in margins], abs=1e-10)
    gradient = torch.autograd.grad(loss_P.sum(), (c, r))
    assert gradient[0].tolist() == pytest.approx([-beta * sigmoid(-m) for m in margins], abs=1e-10)
    assert gradient[1].tolist() == pytest.approx([beta * sigmoid(-m) for m in margins], abs=1e-10)


def test_dpo_loss_is_log_two_when_policy_and_reference_agree():
    c, r = tensors(C, R)
    assert losses.dpo_loss(c, r, c, r, 5.0).tolist() == pytest.approx([math.log(2)] * 3, abs=1e-12)


def test_simpo_and_ipo_equal_the_closed_form():
    c, r, rc, rr = tensors(C, R, RC, RR)
    simpo = [softplus(-(2.0 * (a - b) - 0.3 * 2.0)) for a, b in zip(C, R, strict=True)]
    assert losses.simpo_loss(c, r, 2.0, 0.3).tolist() == pytest.approx(simpo, abs=1e-10)
    ipo = [((a - p) - (b - q) - 1 / (2 * 0.1)) ** 2 for a, b, p, q in zip(C, R, RC, RR, strict=True)]
    assert losses.ipo_loss(c, r, rc, rr, 0.1).tolist() == pytest.approx(ipo, abs=1e-10)


def test_bradley_terry_equals_the_probability_of_the_choice():
    c, r = tensors(C, R)
    loss_P = losses.bradley_terry_loss(c, r)
    chosen_first = [math.exp(a) / (math.exp(a) + math.exp(b)) for a, b in zip(C, R, strict=True)]
    assert loss_P.tolist() == pytest.approx([-math.log(p) for p in chosen_first], abs=1e-10)
    gradient = torch.autograd.grad(loss_P.sum(), c)[0]
    assert gradient.tolist() == pytest.approx([p - 1 for p in chosen_first], abs=1e-10)


def test_means_and_sums_run_over_trained_tokens_only():
    logp_BT = torch.tensor([[9.0, -1.0, -2.0, 9.0], [9.0, -4.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]], dtype=torch.float64)
    trained_BT = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    assert losses.response_sum(logp_BT, trained_BT).tolist() == [-3.0, -4.0, 0.0]
    assert losses.response_mean(logp_BT, trained_BT).tolist() == [-1.5, -4.0, 0.0]
    assert losses.token_loss_sum(logp_BT, trained_BT) == 7.0
    assert losses.sequence_mean_loss_sum(logp_BT, trained_BT) == 5.5


def split_gradient(model, rows, groups, mode):
    """The SFT gradient by micro-batches, as the stage makes it."""
    model.zero_grad()
    tokens = sum(int(trained.sum()) for _, trained in rows)
    loss_sum = losses.sequence_mean_loss_sum if mode == "mean_of_means" else losses.token_loss_sum
    for group in groups:
        T = max(len(rows[i][0]) for i in group)
        ids_BT = torch.zeros(len(group), T).long()
        mask_BT, trained_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT).bool()
        for b, i in enumerate(group):
            ids, trained = rows[i]
            ids_BT[b, : len(ids)], mask_BT[b, : len(ids)], trained_BT[b, : len(ids)] = ids, 1, trained
        loss = loss_sum(response_logprobs(model, ids_BT, mask_BT, trained_BT), trained_BT)
        scaled_loss(loss, tokens if mode == "token" else len(rows)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def brute_force_gradient(model, rows, mode):
    """Row by row without padding, from transformers' full logits, the definition written out."""
    model.zero_grad()
    nll = []
    for ids, trained in rows:
        logp_T = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
        nll.append(-logp_T[trained[1:]])
    if mode == "token":
        loss = torch.cat(nll).mean()
    elif mode == "sum_tulu3":
        loss = torch.cat(nll).sum() / len(rows)
    else:
        loss = torch.stack([x.mean() for x in nll]).mean()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("mode", ["token", "sum_tulu3", "mean_of_means"])
def test_sft_gradient_is_the_same_for_any_micro_batch_split(tiny_llama, ragged_rows, mode):
    model = tiny_llama(dtype=torch.float64)
    expected = brute_force_gradient(model, ragged_rows, mode)
    for groups in ([[0, 1, 2, 3, 4, 5, 6]], [[i] for i in range(7)], [[3, 0], [6, 2, 4], [1, 5]]):
        got = split_gradient(model, ragged_rows, groups, mode)
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient, rtol=0, atol=1e-10, msg=f"{name} {groups}")


def test_the_scaled_loss_cancels_the_data_parallel_mean():
    loss = torch.tensor(12.0)
    assert scaled_loss(loss, 8, world_size=4) / 4 == scaled_loss(loss, 8)
    with pytest.raises(ValueError, match="denominator"):
        scaled_loss(loss, 0)
