"""Which prompts a preference set is built on."""

from posttrain.data.rows import VerifiablePrompt
from posttrain.preferences.prompts import Tokenization, select_prompts


def prompt(name: str, *contents: str) -> VerifiablePrompt:
    turns = tuple({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents))
    return VerifiablePrompt(name, turns, "4", "gsm8k", "s")


def letters(turns) -> int:
    return sum(len(turn["content"]) for turn in turns)


def test_prompts_that_any_model_cannot_take_are_set_aside_with_the_reason():
    short, double = Tokenization(letters, 10), Tokenization(lambda turns: 2 * letters(turns), 12)
    rows = [
        prompt("fits", "12345"),
        prompt("at the limit of the second", "123456"),
        prompt("over the maximum in the second", "1234567"),
        prompt("again", "12345"),
        prompt("fits", "another"[:3]),
        prompt("another role order", "12", "345"),
    ]
    assert [(row.id, reason) for row, reason in select_prompts(rows, [short, double], max_tokens=13)] == [
        ("fits", None),
        ("at the limit of the second", "over_context"),
        ("over the maximum in the second", "over_max_prompt_tokens"),
        ("again", "repeated"),
        ("fits", "repeated"),
        ("another role order", None),
    ]
