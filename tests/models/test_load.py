"""Models and tokenizers: what is saved is what transformers loads."""

import resource

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from posttrain.errors import PosttrainError
from posttrain.models.heads import TokenScorer, load_scorer, save_scorer
from posttrain.models.load import (
    check_vocabulary,
    embedding_rows,
    fit_vocabulary,
    load_policy,
    load_tokenizer,
    save_model,
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")  # id 256


def llama(vocabulary=257, **settings) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    config = LlamaConfig(vocab_size=vocabulary, num_key_value_heads=2, max_position_embeddings=64, **shape, **settings)
    return LlamaForCausalLM(config).eval()


IDS = torch.tensor([[5, 7, 250, 3, 9]])


def test_a_saved_model_is_what_transformers_loads(tmp_path):
    model, tokenizer = llama(tie_word_embeddings=True, attention_dropout=0.1), byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    fit_vocabulary(model, tokenizer)
    save_model(model, tokenizer, tmp_path)

    assert not list(tmp_path.glob("*.bin"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.float32
    assert theirs.generation_config.eos_token_id == 256 and theirs.generation_config.pad_token_id == 257
    mine = load_policy(tmp_path)
    assert torch.equal(mine(IDS).logits, theirs.eval()(IDS).logits)
    assert mine.config.attention_dropout == 0.0 and not mine.training
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again is not None and again.chat_template == tokenizer.chat_template and again.pad_token == "<pad>"


@pytest.mark.parametrize("tied", [False, True])
def test_new_vocabulary_rows_are_the_mean_and_old_logits_stay(tied):
    model, tokenizer = llama(tie_word_embeddings=tied), byte_tokenizer()
    before = model(IDS).logits
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert fit_vocabulary(model, tokenizer) == 1
    assert fit_vocabulary(model, tokenizer) == 0
    torch.testing.assert_close(model(IDS).logits[..., :257], before)
    for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
        torch.testing.assert_close(weight[257], weight[:257].mean(0))
    assert model.config.pad_token_id == 257 != model.config.eos_token_id


def test_a_vocabulary_padded_beyond_the_tokenizer_is_left_alone():
    model, tokenizer = llama(vocabulary=320), byte_tokenizer()
    assert fit_vocabulary(model, tokenizer) == 0
    assert embedding_rows(model) == 320


def test_more_rope_positions_leave_the_first_ones_as_they_were(tmp_path):
    save_model(llama(), byte_tokenizer(), tmp_path)
    longer = load_policy(tmp_path, rope_positions=4096)
    assert longer.config.max_position_embeddings == 4096
    assert torch.equal(longer(IDS).logits, load_policy(tmp_path)(IDS).logits)
    assert longer(torch.randint(0, 250, (1, 200))).logits.isfinite().all()


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(PosttrainError, match="no model folder"):
        load_policy(tmp_path / "absent")
    with pytest.raises(PosttrainError, match="no model folder"):
        load_tokenizer(tmp_path)
    llama().config.save_pretrained(tmp_path)
    with pytest.raises(PosttrainError, match="safetensors"):
        load_policy(tmp_path)
    with pytest.raises(PosttrainError, match="257 tokens.*100 embeddings"):
        check_vocabulary(llama(vocabulary=100), byte_tokenizer(), tmp_path)


def test_a_scorer_reads_as_a_sequence_classifier_with_one_label(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    policy = llama()
    fit_vocabulary(policy, tokenizer)
    scorer = TokenScorer.from_policy(policy, seed=3)
    save_scorer(scorer, tokenizer, tmp_path)

    ids_BT = torch.tensor([[5, 7, 250, 3, 9], [5, 8, 257, 257, 257]])
    mask_BT = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    again = load_scorer(tmp_path)
    assert torch.equal(again(ids_BT, mask_BT), scorer(ids_BT, mask_BT))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.num_labels == 1
    last_B = again(ids_BT, mask_BT)[torch.arange(2), mask_BT.sum(-1) - 1]
    torch.testing.assert_close(theirs(ids_BT, attention_mask=mask_BT).logits[:, 0], last_B)


def test_a_fresh_head_is_drawn_from_its_seed_with_the_published_width(tmp_path):
    policy = llama()
    one, same, other = (TokenScorer.from_policy(policy, seed=s).score.weight for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    many = torch.cat([TokenScorer.from_policy(policy, seed=s).score.weight[0] for s in range(40)])
    assert float(many.detach().std()) == pytest.approx(33**-0.5, rel=0.06)
    save_model(policy, byte_tokenizer(), tmp_path)
    assert torch.equal(load_scorer(tmp_path, seed=1).score.weight, one)


def test_padding_on_either_side_leaves_scores_alone():
    scorer = TokenScorer.from_policy(llama(), seed=0)
    row = torch.randint(0, 250, (1, 6))
    alone = scorer(row)
    pad, mask = torch.full((1, 3), 1), torch.cat([torch.ones(1, 6), torch.zeros(1, 3)], 1).long()
    torch.testing.assert_close(scorer(torch.cat([row, pad], 1), mask)[:, :6], alone)
    torch.testing.assert_close(scorer(torch.cat([pad, row], 1), mask.flip(1))[:, 3:], alone, rtol=1e-5, atol=1e-6)


def test_a_model_that_cannot_be_written_is_named(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # stands for a full disk: writes fail after 10 kB
    try:
        with pytest.raises(PosttrainError, match=f"could not be written to {tmp_path}"):
            save_model(llama(), byte_tokenizer(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
