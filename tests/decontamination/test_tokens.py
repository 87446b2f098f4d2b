import re

from hypothesis import given
from hypothesis import strategies as st

from posttrain.decontamination.tokens import token_spans, tokens


def test_text_is_split_at_the_released_separators_and_at_nothing_else():
    assert tokens('A,b.c?d!e:f;g(h)i"j-k\nl\\m n') == list("abcdefghijklmn")
    assert tokens("it's x+1)^2\tTAB{y}/z_") == ["it's", "x+1", "^2\ttab{y}/z_"]
    assert tokens(" ... ") == []


@given(st.text())
def test_tokens_are_what_the_released_split_leaves(text):
    split = re.split(r'[ ,.?!:;()"\n\\-]', text.lower())
    assert tokens(text) == [part for part in split if part]


@given(st.text(st.characters() | st.sampled_from("İΣς漢字ไทย. -")))
def test_every_token_has_its_span_in_the_text_itself(text):
    for splitting in ("published", "scripts"):
        spans = token_spans(text, splitting)
        made = tokens(text, splitting)
        assert len(spans) == len(made)
        # Of the whole text, since a final sigma is lower-cased by what follows it.
        assert [text[begin:end].lower().replace("ς", "σ") for begin, end in spans] == [
            t.replace("ς", "σ") for t in made
        ]


def test_scripts_without_spaces_are_split_by_character():
    assert tokens("漢字 and ไทย, 한국어", "scripts") == ["漢", "字", "and", "ไ", "ท", "ย", "한국어"]
    assert tokens("漢字 and ไทย", "published") == ["漢字", "and", "ไทย"]
