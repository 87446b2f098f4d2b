"""Log-probabilities against the plain forward of transformers: full logits, no padding, no chunks."""

import pytest
import torch

from posttrain.errors import PosttrainError
from posttrain.training.logprobs import response_logprobs, token_logprobs
from posttrain.training.precision import forward_precision


def padded(rows, side="right", pad=0):
    B, T = len(rows), max(len(ids) for ids, _ in rows)
    ids_BT, mask_BT, trained_BT = torch.full((B, T), pad), torch.zeros(B, T).long(), torch.zeros(B, T).bool()
    for b, (ids, trained) in enumerate(rows):
        part = slice(0, len(ids)) if side == "right" else slice(T - len(ids), T)
        ids_BT[b, part], mask_BT[b, part], trained_BT[b, part] = ids, 1, trained
    return ids_BT, mask_BT, trained_BT


def plain_logprobs(model, ids, temperature=1.0):
    """Of every token of one unpadded row, from the full logits."""
    logits_TV = model(ids[None]).logits[0] / temperature
    logp_TV = logits_TV.log_softmax(-1)[:-1]
    return logp_TV.gather(-1, ids[1:, None])[:, 0]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_padded_and_masked_equals_unpadded_full_logits(tiny_llama, ragged_rows, side, temperature):
    model = tiny_llama(dtype=torch.float64)
    logp_BT = response_logprobs(model, *padded(ragged_rows, side), temperature=temperature)
    T = logp_BT.shape[1]
    for b, (ids, trained) in enumerate(ragged_rows):
        expected = plain_logprobs(model, ids, temperature)
        part = slice(1, len(ids)) if side == "right" else slice(T - len(ids) + 1, T)
        keep = trained[1:]
        torch.testing.assert_close(logp_BT[b, part][keep], expected[keep], rtol=0, atol=1e-10)
        assert logp_BT[b].count_nonzero() == keep.sum()


def test_the_value_of_padding_tokens_does_not_matter(tiny_llama, ragged_rows):
    model = tiny_llama()
    one = response_logprobs(model, *padded(ragged_rows, pad=0))
    other = response_logprobs(model, *padded(ragged_rows, pad=59))
    assert torch.equal(one, other)


@pytest.mark.parametrize("chunk_logits", [1, 61 * 3, 61 * 16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunked_head_equals_full_logits_in_value_and_gradient(chunk_logits, with_bias):
    torch.manual_seed(0)
    hidden_ND = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(61, 8, dtype=torch.float64, requires_grad=True)
    bias_V = torch.randn(61, dtype=torch.float64, requires_grad=True) if with_bias else None
    token_N = torch.randint(0, 61, (23,))
    cotangent_N = torch.randn(23, dtype=torch.float64)
    leaves = [x for x in (hidden_ND, weight_VD, bias_V) if x is not None]

    logits_NV = hidden_ND @ weight_VD.T + (0 if bias_V is None else bias_V)
    full_NV = (logits_NV / 0.8).log_softmax(-1)
    full_logp_N = full_NV[torch.arange(23), token_N]
    expected = torch.autograd.grad((full_logp_N * cotangent_N).sum(), leaves)

    logp_N = token_logprobs(hidden_ND, token_N, weight_VD, bias_V, 0.8, chunk_logits)
    got = torch.autograd.grad((logp_N * cotangent_N).sum(), leaves)
    torch.testing.assert_close(logp_N, full_logp_N, rtol=0, atol=1e-12)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("tied", [False, True])
def test_gradient_of_the_whole_model_equals_that_of_full_logits(tiny_llama, ragged_rows, tied):
    mine, theirs = (tiny_llama(dtype=torch.float64, tie_word_embeddings=tied) for _ in range(2))
    logp_BT = response_logprobs(mine, *padded(ragged_rows), chunk_logits=61 * 5)
    logp_BT.sum().backward()
    torch.cat([plain_logprobs(theirs, ids)[trained[1:]] for ids, trained in ragged_rows]).sum().backward()
    for (name, a), b in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10, msg=name)


def test_bf16_backbone_keeps_an_fp32_head(tiny_llama, ragged_rows):
    model = tiny_llama(initializer_range=0.05)
    exact = response_logprobs(model, *padded(ragged_rows))
    with forward_precision("cpu", "bfloat16"):
        rough = response_logprobs(model, *padded(ragged_rows))
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.05
    rough.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_nothing_trained_still_runs_backward(tiny_llama):
    model = tiny_llama()
    ids_BT = torch.randint(0, 61, (2, 5))
    logp_BT = response_logprobs(model, ids_BT, torch.ones_like(ids_BT), torch.zeros(2, 5).bool())
    assert not logp_BT.any()
    logp_BT.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


def test_a_head_that_is_not_linear_is_refused(tiny_llama):
    model = tiny_llama()
    model.config.final_logit_softcapping = 30.0
    ids_BT = torch.randint(0, 61, (1, 4))
    with pytest.raises(PosttrainError, match="final_logit_softcapping"):
        response_logprobs(model, ids_BT, None, torch.ones(1, 4).bool())


@pytest.mark.parametrize("shape", [(1, 61, 32), (37, 1027, 48), (150, 8192, 16)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_kept_logits_give_the_bits_of_linear_and_cross_entropy(shape, with_bias):
    N, V, D = shape
    torch.manual_seed(0)
    hidden_ND, weight_VD, token_N, grad_N = torch.randn(N, D), torch.randn(V, D), torch.randint(V, (N,)), torch.randn(N)
    bias_V = torch.randn(V) if with_bias else None

    def plain(hidden_ND, token_N, weight_VD, bias_V):
        logits_NV = torch.nn.functional.linear(hidden_ND, weight_VD, bias_V)
        return -torch.nn.functional.cross_entropy(logits_NV, token_N, reduction="none")

    results = []
    for head in (plain, token_logprobs):
        leaves = [t.clone().requires_grad_() for t in (hidden_ND, weight_VD, bias_V) if t is not None]
        logp_N = head(leaves[0], token_N, leaves[1], leaves[2] if with_bias else None)
        (logp_N * grad_N).sum().backward()
        results.append([logp_N.detach(), *(leaf.grad for leaf in leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_host_waits_for_no_gpu_in_a_forward_and_backward(tiny_llama, ragged_rows, side):
    model = tiny_llama().cuda()
    batch = padded(ragged_rows, side)
    response_logprobs(model, *batch).sum().backward()  # what is made once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        response_logprobs(model, *batch).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
