"""Named options change how a step is computed, or what is trained, and nothing else."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from posttrain.models.backbone import hidden_states
from posttrain.models.fused import _difference, fuse
from posttrain.training.adapters import add_adapters, merge_adapters
from posttrain.training.in_place import add_in_place
from posttrain.training.logprobs import response_logprobs
from tests.stages.conftest import conversations, pairs, tiny_model, write_lines  # noqa: F401 — fixtures
from tests.training.rank_work import first_gradients, run_stage

LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture
def settings(tiny_model, conversations, pairs):  # noqa: F811
    shared = dict(model=str(tiny_model), chat_template="tulu", learning_rate=1e-2, max_tokens=96, batch_size=5)
    shared |= dict(dtype="float32", micro_batch_tokens=192, checkpoint_every=2, unchecked="a test")
    return {"sft": {**shared, "data": conversations}, "dpo": {**shared, "data": pairs, "learning_rate": 1e-3}}


def padded(rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    ids_BT, mask_BT, trained_BT = torch.zeros(shape, dtype=torch.long), torch.zeros(shape), torch.zeros(shape)
    for b, (ids, trained) in enumerate(rows):
        ids_BT[b, : len(ids)], mask_BT[b, : len(ids)], trained_BT[b, : len(ids)] = ids, 1, trained
    return ids_BT, mask_BT.long(), trained_BT.bool()


@pytest.mark.parametrize("dtype,bound", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("heads", [2, 1], ids=["", "grouped"])
def test_the_gradient_is_the_same_packed_and_padded(tiny_llama, ragged_rows, dtype, bound, heads):
    ids_BT, mask_BT, trained_BT = padded(ragged_rows)
    found = [gradient(tiny_llama(dtype=dtype, num_key_value_heads=heads), ids_BT, mask_BT, trained_BT, attention)
             for attention in ("sdpa", "packed")]  # fmt: skip
    assert (found[0] - found[1]).norm() / found[0].norm() < bound


def gradient(model, ids_BT, mask_BT, trained_BT, attention: str, *, share: bool = False) -> torch.Tensor:
    """Of a sum in which every token weighs differently. transformers' norms round to fp32 even in float64: not here."""
    for norm in (m for m in model.modules() if hasattr(m, "variance_epsilon")):
        norm.forward = partial(F.rms_norm, normalized_shape=norm.weight.shape, weight=norm.weight, eps=1e-6)
    model.set_attn_implementation(attention)
    logp_BT = response_logprobs(model, ids_BT, mask_BT, trained_BT, pairs=share)
    (logp_BT * torch.linspace(1, 2, logp_BT.numel()).view_as(logp_BT)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("dtype,bound", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@settings_of_hypothesis(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(0, 7)).filter(lambda p: sum(p[:2]) and p[0] + p[2]),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 99),
)
def test_a_prompt_read_once_gives_both_sides_the_same_gradient(tiny_llama, dtype, bound, lengths, seed):
    """(tokens both begin with, tokens of the chosen alone, of the rejected alone) of each pair; all may be trained."""
    torch.manual_seed(seed)
    chosen, rejected = [], []
    for shared, *own in lengths:
        prompt = torch.randint(0, 61, (shared,))
        for side, length in zip((chosen, rejected), own, strict=True):
            ids = torch.cat([prompt, torch.randint(0, 61, (length,))])
            side.append((ids, torch.rand(len(ids)) < 0.6))
    batch = padded(chosen + rejected)
    found = [
        gradient(tiny_llama(dtype=dtype), *batch, attention, share=attention == "packed")
        for attention in ("sdpa", "packed")
    ]
    assert (found[0] - found[1]).norm() <= bound * found[0].norm()


def test_a_packed_row_does_not_see_its_neighbours(tiny_llama, ragged_rows):
    ids_BT, mask_BT, _ = padded(ragged_rows)
    model = tiny_llama()
    model.set_attn_implementation("packed")
    before = hidden_states(model.base_model, ids_BT, mask_BT)
    other = ids_BT.clone()
    other[0] = (other[0] + 1) % 61
    after = hidden_states(model.base_model, other, mask_BT)
    there_BT = mask_BT.bool()[1:]
    assert torch.equal(before[1:][there_BT], after[1:][there_BT]) and not torch.allclose(before[0], after[0])


def test_fused_norms_and_mlps_give_the_bits_of_the_plain_ones_and_keep_less(tiny_llama, ragged_rows):
    ids_BT, mask_BT, trained_BT = padded(ragged_rows)
    found, kept = [], []
    for fused in (False, True):
        model = tiny_llama()
        assert not fused or fuse(model.base_model, "cpu") == {}
        sizes = {}

        def note(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            logp_BT = response_logprobs(model, ids_BT, mask_BT, trained_BT)
        logp_BT.sum().backward()
        found.append([p.grad for p in model.parameters()])
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept.append(sum(size for where, size in sizes.items() if where not in weights))
    assert all(torch.equal(plain, fused) for plain, fused in zip(*found, strict=True))
    assert kept[1] < 0.8 * kept[0]


def test_a_norm_that_computes_something_else_keeps_its_own_forward(tiny_llama):
    model = tiny_llama()
    model.model.norm.__class__ = type(
        "HalvedRMSNorm", (type(model.model.norm),), {"forward": lambda self, x: self.weight * x / 2}
    )
    assert "differs by" in fuse(model.base_model, "cpu")["HalvedRMSNorm"]
    assert torch.equal(model.model.norm(torch.ones(2, 32)), torch.full((2, 32), 0.5))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [2**24, 61 * 5], ids=["kept", "chunked"])
def test_gradients_added_in_place_are_autograds(tiny_llama, ragged_rows, tied, chunk, monkeypatch):
    """Two micro-batches, some of whose tokens are the padding token."""
    monkeypatch.setattr("posttrain.training.in_place.LARGE", 1)
    ids_BT, mask_BT, trained_BT = padded(ragged_rows)
    padding = int(ids_BT[1, 2])
    found = []
    for in_place in (False, True):
        model = tiny_llama(dtype=torch.float64, tie_word_embeddings=tied, pad_token_id=padding)
        if in_place:
            add_in_place(model)
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
        for rows in (slice(0, 3), slice(3, None)):
            batch = (ids_BT[rows], mask_BT[rows], trained_BT[rows])
            response_logprobs(model, *batch, chunk_logits=chunk).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in found[0].items():
        assert expected.norm() > 0
        # transformers' norms round to fp32
        assert (found[1][name] - expected).norm() <= 1e-6 * expected.norm(), name


@pytest.mark.parametrize("right", [True, False])
def test_ligers_kernels_are_taken_where_they_compute_the_same(tiny_llama, ragged_rows, right, monkeypatch):
    """By stand-ins for Liger, which needs a GPU: it has never run here."""

    def norm(x, weight, eps, *_):
        return F.rms_norm(x, weight.shape, weight, eps) * (1 if right else 1.01)

    calls = []
    swiglu = SimpleNamespace(apply=lambda gate, up: calls.append(1) or F.silu(gate) * up)
    for name, function in {"rms_norm.LigerRMSNormFunction": norm, "swiglu.LigerSiLUMulFunction": swiglu}.items():
        module, _, attribute = name.partition(".")
        made = function if function is swiglu else SimpleNamespace(apply=function)
        monkeypatch.setitem(sys.modules, f"liger_kernel.ops.{module}", SimpleNamespace(**{attribute: made}))
    monkeypatch.setattr("posttrain.models.fused._difference", partial(on_the_cpu, _difference))
    plain, fused = tiny_llama(), tiny_llama()
    kept = fuse(fused.base_model, "cuda")
    assert list(kept) == ([] if right else ["LlamaRMSNorm"])
    ids_BT, mask_BT, trained_BT = padded(ragged_rows)
    expected, found = (response_logprobs(model, ids_BT, mask_BT, trained_BT) for model in (plain, fused))
    assert (expected - found).norm() < 1e-5 * expected.norm() and len(calls) >= 2


def on_the_cpu(difference, module, fused, _device: str) -> float:
    return difference(module, fused, "cpu")


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_activation_checkpointing_gives_the_same_gradient(tmp_path, settings, kind):
    plain = first_gradients(kind, settings[kind], tmp_path / "plain")
    again = first_gradients(kind, {**settings[kind], "activation_checkpointing": True}, tmp_path / "again")
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("four_bit", [False, True])
def test_merged_adapters_compute_what_the_adapted_model_did(tiny_llama, four_bit):
    pytest.importorskip("peft")
    if four_bit:
        pytest.importorskip("bitsandbytes")
    model = tiny_llama(hidden_size=64, intermediate_size=128)
    ids_BT = torch.arange(18).view(2, 9)
    before = model(ids_BT).logits
    add_adapters(model, **LORA, targets=("q_proj", "down_proj"), four_bit=four_bit)
    start = model(ids_BT).logits
    assert torch.equal(start, before) or four_bit
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 2 * 4 * (64 + 64 + 128 + 64)  # two layers: A and B of two linear maps
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(2):
        model(ids_BT, labels=ids_BT).loss.backward()
        optimizer.step()
    adapted = model(ids_BT).logits
    merge_adapters(model)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    merged = model(ids_BT).logits
    assert (adapted - start).norm() > 1e-2 * start.norm()
    assert (merged - adapted).norm() < 1e-5 * adapted.norm()


def final(folder) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder / "output").state_dict()


@pytest.mark.parametrize("option", [{"lora": LORA}, {"optimizer": "adamw_8bit"}], ids=["lora", "8bit"])
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_stage_with_the_option_learns_and_resumes_to_the_bit(tmp_path, settings, kind, option):
    pytest.importorskip("peft" if "lora" in option else "bitsandbytes")
    chosen = {**settings[kind], **option, "epochs": 3}
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert run_stage(kind, chosen, straight) is not None
    curve = [json.loads(line)["loss"] for line in (straight / "output" / "metrics.jsonl").read_text().splitlines()]
    assert curve[-1] < curve[0]
    assert run_stage(kind, chosen, stopped, stop_at=3) is None
    if "lora" in option:  # what is frozen is not saved
        [checkpoint] = (stopped / "checkpoints").glob("step-*.pt")
        saved = torch.load(checkpoint, weights_only=True)["modules"]["model"]
        assert saved and all("lora_" in name for name in saved)
    assert run_stage(kind, chosen, stopped) is not None
    expected, found = final(straight), final(stopped)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
