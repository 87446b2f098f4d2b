"""The 25 functions of the Tülu 3 RLVR labels: the published quirks (spec/verifiers.md §7), and the strict forms."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.errors import PosttrainError
from posttrain.verifiers.ifeval import read_label, verify_loose, verify_strict, verify_tulu3
from posttrain.verifiers.ifeval_tulu3 import ARGUMENTS, PUBLISHED, STRICT, constraint

# Published labels carry every argument of all 25 functions, null where unused.
ALL_NULL = {name: None for arguments in ARGUMENTS.values() for name in arguments}

CASES = [  # function, arguments, text, published, strict
    ("verify_keywords", {"keyword_list": ["art"]}, "a party", True, False),
    ("verify_keywords", {"keyword_list": ["Art"]}, "ART!", True, True),
    ("verify_keyword_frequency", {"word": "Dog", "N": 2}, "dog, dogs and DOG", True, True),
    ("verify_keyword_frequency", {"word": "ice cream", "N": 1}, "ice cream", False, True),
    ("validate_forbidden_words", {"forbidden_words": ["evil"]}, "the devil", False, True),
    ("validate_forbidden_words", {"forbidden_words": ["evil"]}, "Evil!", False, False),
    ("verify_letter_frequency", {"letter": "a", "N": 2}, "A banal", True, True),  # case counts
    ("validate_response_language", {"language": "en"}, "This is plainly an English sentence.", True, True),
    ("validate_response_language", {"language": "en"}, "123", False, False),  # published: a crash
    ("verify_paragraph_count", {"N": 2}, "a\n* * *\nb", True, True),
    ("verify_paragraph_count", {"N": 2}, "a\n***\nb", False, True),  # published: not a divider
    ("verify_paragraph_count", {"N": 2}, "a\n* * *\n", False, False),
    ("validate_word_constraint", {"N": 10, "quantifier": "around"}, "w " * 11, True, True),
    ("validate_word_constraint", {"N": 10, "quantifier": "around"}, "w " * 12, False, False),
    ("validate_word_constraint", {"N": 3, "quantifier": "at most"}, "a b c", True, True),
    ("verify_sentence_constraint", {"N": 2, "quantifier": "at least"}, "Hi. There.", False, True),  # miscounted
    ("verify_sentence_constraint", {"N": 2, "quantifier": "at least"}, "Stop! Go!", False, True),  # no "!" at release
    ("verify_sentence_constraint", {"N": 1, "quantifier": "at most"}, "Dr. Who came.", True, True),
    ("validate_paragraphs", {"N": 2, "first_word": "So", "i": 2}, "a\n\nSome", True, False),  # a prefix
    ("validate_paragraphs", {"N": 2, "first_word": "So", "i": 2}, "a\n\nSo it is", True, True),
    ("validate_paragraphs", {"N": 1, "first_word": "a", "i": 3}, "a", False, False),  # published: IndexError
    ("verify_postscript", {"postscript_marker": "P.S."}, "P.S.", False, False),  # nothing behind it
    ("verify_postscript", {"postscript_marker": "P.S."}, "See P.S. below", True, False),
    ("verify_postscript", {"postscript_marker": "P.S."}, "text\nP.S. More.", True, True),
    ("validate_placeholders", {"N": 1}, "[]", True, False),
    ("validate_placeholders", {"N": 1}, "[name]", True, True),
    ("validate_placeholders", {"N": 1}, "none", False, False),
    ("verify_bullet_points", {"N": 3}, "* a\n**bold**\n---", True, False),
    ("verify_bullet_points", {"N": 2}, "* a\n- b", True, True),
    ("validate_title", {}, "<<>>", True, False),
    ("validate_title", {}, "<<a poem>>", True, True),
    ("validate_choice", {"options": ["yes, sir", "no"]}, "yes", True, False),  # inverted at release
    ("validate_choice", {"options": ["yes", "no"]}, "I say no.", False, True),
    ("validate_choice", {"options": ["yes", "no"]}, "yes or no", False, False),
    ("validate_highlighted_sections", {"N": 2}, "**bold**", True, False),
    ("validate_highlighted_sections", {"N": 2}, "*one* and **two**", True, True),
    ("validate_sections", {"N": 2, "section_splitter": "Section"}, "Section 1\na\nSection 2\nb", True, True),
    ("validate_sections", {"N": 2, "section_splitter": "Section"}, "Preamble\nSection 1\na\nSection 2\nb", False, True),
    ("validate_json_format", {}, '```json\n{"a": 1}\n```', False, True),
    ("validate_json_format", {}, "1", True, False),
    ("validate_repeat_prompt", {"original_prompt": "Say it."}, "Say it. Yes.", True, True),
    ("validate_repeat_prompt", {"original_prompt": "Say it."}, "Say it.", True, False),  # no answer follows
    ("validate_two_responses", {}, "a\n******\nb", True, True),
    ("validate_two_responses", {}, "a\n******", True, False),
    ("validate_uppercase", {}, "123", True, False),
    ("validate_uppercase", {}, "THIS IS PLAINLY AN ENGLISH SENTENCE.", True, True),
    ("validate_lowercase", {}, "this is plainly an english sentence.", True, True),
    ("validate_frequency_capital_words", {"N": 10, "quantifier": "around"}, "NO " * 11, False, True),
    ("validate_frequency_capital_words", {"N": 1, "quantifier": "at most"}, "I am", True, True),
    ("validate_end", {"end_phrase": "Bye."}, "Bye.\n", False, True),
    ("validate_end", {"end_phrase": "Bye."}, "Bye. Now", False, False),
    ("validate_quotation", {}, '"', True, False),
    ("validate_quotation", {}, '"so"', True, True),
    ("validate_no_commas", {}, "a, b", False, False),
    ("validate_no_commas", {}, "a b", True, True),
]


@pytest.mark.parametrize(("name", "arguments", "text", "published", "strict"), CASES)
def test_published_and_strict(name, arguments, text, published, strict):
    read = constraint({"func_name": name, **ALL_NULL, **arguments})
    assert (read.holds_as_published(text), read.holds_strictly(text)) == (published, strict)


def test_a_blank_text_passes_lowercase_as_published_and_nothing_strictly():
    assert PUBLISHED["validate_lowercase"]("")
    assert verify_strict("", '{"func_name": "validate_no_commas"}').outcome == "wrong"


def test_every_function_is_there_in_both_forms_and_was_tried():
    assert len(ARGUMENTS) == 25
    assert ARGUMENTS.keys() == PUBLISHED.keys() == STRICT.keys() == {case[0] for case in CASES}


def test_labels_come_as_json_with_nulls():
    label = json.dumps({"func_name": "validate_end", **ALL_NULL, "end_phrase": "Bye."})
    assert verify_strict("Bye.", label).outcome == "correct"
    # The reward function stripped the response before the quirk could bite.
    assert verify_tulu3("<|assistant|>\nBye.\n", label).score == 1.0
    before = json.loads(label)
    kept = dict(before)
    constraint(before)
    assert before == kept, "the label lost its func_name, as in the published code"


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ({"func_name": "validate_ends", "end_phrase": "x"}, "nearest known is 'validate_end'"),
        ({"func_name": "validate_end"}, "lacks end_phrase"),
        ({"func_name": "validate_end", "end_phrase": "x", "N": 3}, "does not know N"),
        ({"func_name": "verify_letter_frequency", "letter": "ab", "N": 1}, "one character"),
        ({"func_name": "validate_word_constraint", "N": 1, "quantifier": "exactly"}, "around"),
    ],
)
def test_a_bad_label_is_refused(label, says):
    with pytest.raises(PosttrainError, match=says):
        read_label(json.dumps(label))


def test_loose_scoring_is_for_ifeval_alone():
    with pytest.raises(PosttrainError, match="use the verifier 'ifeval'"):
        verify_loose("x", '{"func_name": "validate_no_commas"}')


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_no_function_raises_on_a_response(text):
    values = {
        **{"count": 1, "position": 1, "quantifier": "around", "text": "en", "texts": ("a",), "character": "a"},
        "options": ("yes", "no"),
    }
    for name, wanted in ARGUMENTS.items():
        arguments = {key: values[kind] for key, kind in wanted.items()}
        for table in (PUBLISHED, STRICT):
            assert table[name](text, **arguments) in (True, False)
