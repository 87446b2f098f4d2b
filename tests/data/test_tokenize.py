"""Masks are checked against two derivations that share nothing with the code under test: the bytes of every token laid
end to end, and the number of tokens of every prefix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.readers import read_rows
from posttrain.data.rejects import BadRow
from posttrain.data.tokenize import render, tokenize_conversation, tokenize_prompt
from posttrain.errors import PosttrainError

USER = {"role": "user", "content": "How many apples?"}
ANSWER = {"role": "assistant", "content": "There are two."}


def pieces(messages, eos, train_on="all_assistant_turns"):
    """The tulu format written by hand: (text, is it trained)."""
    last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
    for i, message in enumerate(messages):
        yield f"<|{message['role']}|>\n", False
        if message["role"] == "assistant":
            yield message["content"] + eos, train_on == "all_assistant_turns" or i == last
            if i < len(messages) - 1:
                yield "\n", False
        else:
            yield message["content"] + "\n", False


def byte_of_character():
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(hidden)}


BYTES = byte_of_character()


def mask_by_bytes(tokenizer, ids, messages, train_on):
    """A token is trained if all of its bytes are."""
    wanted = b"".join(text.encode() for text, _ in pieces(messages, tokenizer.eos_token))
    trained = [flag for text, flag in pieces(messages, tokenizer.eos_token, train_on) for _ in text.encode()]
    mask, place = [], 0
    for id in ids.tolist():
        token = tokenizer.convert_ids_to_tokens(id)
        raw = token.encode() if id == tokenizer.eos_token_id else bytes(BYTES[character] for character in token)
        assert wanted[place : place + len(raw)] == raw
        mask.append(all(trained[place : place + len(raw)]))
        place += len(raw)
    assert place == len(wanted)
    return np.array(mask)


def mask_by_prefixes(tokenizer, messages):
    """The published way: tokens of the prefix before an assistant turn are not trained, those up to its end are."""
    count = lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)  # noqa: E731
    text, mask = "", []
    for piece, flag in pieces(messages, tokenizer.eos_token):
        text += piece
        mask += [flag] * (count(text) - len(mask))
    return np.array(mask)


@pytest.mark.parametrize("name", ["olmo_tokenizer", "gpt2_tokenizer"])
@pytest.mark.parametrize("train_on", ["all_assistant_turns", "last_turn"])
def test_masks_of_all_real_rows_equal_two_independent_derivations(name, train_on, request, data_dir):
    tokenizer = request.getfixturevalue(name)
    rows = list(read_rows(data_dir / "tulu3/sft_sample.jsonl", "conversation"))
    assert len(rows) == 100
    for row in rows:
        made = tokenize_conversation(tokenizer, row.id, row.messages, max_tokens=1 << 20, train_on=train_on)
        assert made.trained.dtype == bool and made.input_ids.dtype == np.int32
        assert (made.trained == mask_by_bytes(tokenizer, made.input_ids, row.messages, train_on)).all()
        if train_on == "all_assistant_turns":
            assert (made.trained == mask_by_prefixes(tokenizer, row.messages)).all()


contents = st.text(st.sampled_from("aT wo\n\t  .é漢🙂-")).filter(str.strip) | st.sampled_from(
    ["\n\n  indented\n", "two  apples ", " The", "\tyet", "\n", "apples"]
)
conversations = st.lists(
    st.builds(lambda r, c: {"role": r, "content": c}, st.sampled_from(["user", "assistant"]), contents)
)


@pytest.mark.parametrize("name", ["byte_tokenizer", "greedy_tokenizer"])
@pytest.mark.parametrize("train_on", ["all_assistant_turns", "last_turn"])
def test_masks_of_any_conversation_equal_the_bytes(name, train_on, request):
    tokenizer = request.getfixturevalue(name)

    @settings(max_examples=150, deadline=None)
    @given(conversations)
    def check(messages):
        messages = [USER, *messages, ANSWER]
        made = tokenize_conversation(tokenizer, "x", messages, max_tokens=10_000, train_on=train_on)
        assert (made.trained == mask_by_bytes(tokenizer, made.input_ids, messages, train_on)).all()

    check()


def test_straddling_tokens_are_really_tried(greedy_tokenizer):
    made = tokenize_conversation(greedy_tokenizer, "x", [USER, ANSWER], max_tokens=100)
    assert "\u010aT" in greedy_tokenizer.convert_ids_to_tokens(made.input_ids.tolist())
    assert greedy_tokenizer.decode(made.input_ids[made.trained]) == "here are two.<|end|>"


@pytest.mark.parametrize("content", ["There are two  apples.\n\n- one", "é 漢字 🙂 q", "\n\n  indented ", " The"])
def test_sentencepiece_tokens_of_content_and_eos_are_trained(piece_tokenizer, content):
    messages = [USER, {"role": "assistant", "content": content}, USER, ANSWER]
    made = tokenize_conversation(piece_tokenizer, "x", messages, max_tokens=1000)
    ends = np.flatnonzero(made.input_ids == piece_tokenizer.eos_token_id)
    assert made.trained[ends].all() and len(ends) == 2
    first = np.flatnonzero(made.trained)[0]
    text = piece_tokenizer.decode(made.input_ids[: ends[0] + 1])
    assert text == render(piece_tokenizer, messages[:2])
    before = piece_tokenizer.decode(made.input_ids[:first])
    header = render(piece_tokenizer, messages[:1], generation_prompt=True)
    assert before.startswith(header)  # all of the header is masked; more only where a token straddles
    assert len(before) - len(header) <= len(content) - len(content.lstrip()) + 1


def test_prompt_and_answer_meet_where_the_sampler_left_off(olmo_tokenizer, data_dir):
    for row in read_rows(data_dir / "tulu3/sft_sample.jsonl", "conversation"):
        prompt = tokenize_prompt(olmo_tokenizer, row.messages[:-1])
        made = tokenize_conversation(olmo_tokenizer, row.id, row.messages, max_tokens=1 << 20, train_on="last_turn")
        assert made.input_ids[: len(prompt)].tolist() == prompt
        assert not made.trained[: len(prompt)].any() and made.trained[len(prompt) :].all()


@given(cut=st.integers(1, 60))
@settings(deadline=None)
def test_truncation_keeps_something_to_train_or_refuses_the_row(byte_tokenizer, cut):
    whole = tokenize_conversation(byte_tokenizer, "x", [USER, ANSWER], max_tokens=1000)
    first = int(whole.trained.argmax())
    if cut <= first:
        with pytest.raises(BadRow, match=f"max_tokens {cut} .its first is token {first + 1}"):
            tokenize_conversation(byte_tokenizer, "x", [USER, ANSWER], max_tokens=cut)
        return
    made = tokenize_conversation(byte_tokenizer, "x", [USER, ANSWER], max_tokens=cut)
    assert (made.input_ids == whole.input_ids[:cut]).all() and (made.trained == whole.trained[:cut]).all()
    assert len(made) + made.cut == len(whole) and made.trained.any()


def test_a_row_without_an_assistant_turn_is_refused(byte_tokenizer):
    with pytest.raises(BadRow, match="x: no assistant turn"):
        tokenize_conversation(byte_tokenizer, "x", [USER], max_tokens=100)


def test_an_assistant_may_speak_first(byte_tokenizer):
    messages = [ANSWER, USER, ANSWER]
    made = tokenize_conversation(byte_tokenizer, "x", messages, max_tokens=100)
    assert (made.trained == mask_by_bytes(byte_tokenizer, made.input_ids, messages, "all_assistant_turns")).all()


def with_template(tokenizer, template):
    import copy

    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ '\n' }}"
BODY = "{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
END = "{% endfor %}{% if add_generation_prompt %}<|assistant|>{{ '\n' }}{% endif %}"
REFUSED = {
    # Reasoning models' templates: earlier turns lose their reasoning.
    "trims": TURNS + "{{ m.content if loop.last else m.content[:3] }}{{ eos_token if m.role == 'assistant' }}" + END,
    # One end-of-turn mark only after the last turn.
    "merges": TURNS + "{{ m.content }}{{ eos_token if loop.last else '\n' }}" + END,
    "another header than the prompt for generation": (TURNS + BODY + END).replace("<|assistant|>{", "<|bot|>{"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_template_that_trims_or_merges_across_turns_is_refused(byte_tokenizer, fault):
    good = with_template(byte_tokenizer, TURNS + BODY + END)
    assert tokenize_conversation(good, "x", [USER, ANSWER, USER, ANSWER], max_tokens=1000).trained.any()
    bad = with_template(byte_tokenizer, REFUSED[fault])
    with pytest.raises(PosttrainError, match="trims or merges across turns"):
        tokenize_conversation(bad, "x", [USER, ANSWER, USER, ANSWER], max_tokens=1000)


def test_a_template_that_never_ends_a_turn_is_refused(byte_tokenizer):
    endless = with_template(byte_tokenizer, TURNS + "{{ m.content }}" + END)
    with pytest.raises(PosttrainError, match="does not end assistant turns with the EOS token"):
        tokenize_conversation(endless, "x", [USER, ANSWER], max_tokens=1000)


@pytest.mark.parametrize("content", ["The end.", " The", "  apples", "x"])
def test_a_header_that_ends_with_a_space_keeps_the_tokens_that_hold_it_untrained(greedy_tokenizer, content):
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    )
    tokenizer = with_template(greedy_tokenizer, template + "{% if add_generation_prompt %}assistant: {% endif %}")
    made = tokenize_conversation(tokenizer, "x", [USER, {"role": "assistant", "content": content}], max_tokens=1000)
    tokens = [tokenizer.decode([id]) for id in made.input_ids.tolist()]
    place, header = 0, len("user: How many apples?assistant: ")
    for token, trained in zip(tokens, made.trained, strict=True):
        assert trained == (place >= header)
        place += len(token)


def test_truncation_and_padding_left_behind_by_another_call_do_no_harm(byte_tokenizer):
    whole = tokenize_conversation(byte_tokenizer, "x", [USER, ANSWER], max_tokens=1000)
    byte_tokenizer.backend_tokenizer.enable_truncation(3)
    byte_tokenizer.backend_tokenizer.enable_padding(length=500)
    again = tokenize_conversation(byte_tokenizer, "x", [USER, ANSWER], max_tokens=1000)
    assert (whole.input_ids == again.input_ids).all()
