"""The nano world against the real verifiers, and against itself."""

import hashlib
import re
from itertools import islice

import pytest

from posttrain.nano import corpus, world
from posttrain.nano.tasks import TASKS, items
from posttrain.verifiers.registry import verify

SPLITS = ("train", "development", "unseen")


def checks(item):
    verifiers = (item.verifier,) if isinstance(item.verifier, str) else item.verifier
    labels = (item.ground_truth,) if isinstance(item.ground_truth, str) else item.ground_truth
    return zip(verifiers, labels, strict=True)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_demonstration_satisfies_its_verifier(task, split):
    for item in items(task, split, 400, 7):
        for verifier, label in checks(item):
            verdict = verify(verifier, item.answer, label, mode="strict")
            assert verdict.outcome == "correct", (item, verdict)


@pytest.mark.parametrize("task", TASKS)
def test_a_demonstration_for_another_prompt_is_mostly_wrong(task):
    """The labels carry information: answers shifted by one prompt fail more often than not."""
    made = items(task, "development", 100, 7)
    right = 0
    for item, other in zip(made, made[1:] + made[:1], strict=True):
        right += all(verify(v, other.answer, label, mode="strict").outcome == "correct" for v, label in checks(item))
    assert right < 0.6 * len(made)


@pytest.mark.parametrize("table", [world.NAMES, world.THINGS, world.TOPICS, world.TOWNS])
def test_splits_share_no_names_things_topics_or_towns(table):
    seen = [word for split in SPLITS for word in table[split]]
    assert len(seen) == len(set(seen))


def test_worked_solutions_hold_under_independent_arithmetic():
    for split in SPLITS:
        for item in items("problems", split, 300, 3):
            total = None
            for a, sign, b, result in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", item.answer):
                a, b, result = int(a), int(b), int(result)
                assert {"+": a + b, "-": a - b, "*": a * b}[sign] == result
                assert total is None or a == total
                total = result
            assert str(total) == item.ground_truth


def test_unseen_instructions_use_no_trained_constraint():
    def ids(split):
        return {
            i
            for item in items("instructions", split, 200, 1)
            for i in re.findall(r'"([a-z_]+:[a-z_]+)"', str(item.ground_truth))
        }

    assert ids("train") == ids("development")
    assert not ids("train") & ids("unseen")


def test_pretraining_text_holds_no_chat_turn_and_no_instruction():
    text = "\n".join(islice(corpus.documents(5), 3000))
    assert "<|" not in text
    assert "Use no commas" not in text and "Write about" not in text


def test_items_are_the_same_on_every_machine():
    """A changed digest means another development set: published figures would no longer compare."""
    made = "".join(f"{i.prompt}{i.answer}{i.ground_truth}" for t in TASKS for s in SPLITS for i in items(t, s, 50, 0))
    assert hashlib.sha256(made.encode()).hexdigest()[:16] == "0f56d69c54ee6f49"
