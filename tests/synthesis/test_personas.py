"""Persona synthesis with a scripted model: what becomes a row was accepted by code, and there are as many as asked."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from posttrain.data.columns import columns_from_row, row_from_columns
from posttrain.inference.protocols import ChatAnswer, ChatFailure, SamplingParameters
from posttrain.synthesis.persona_rows import Wish, as_conversation, as_pair, as_verifiable, synthesize
from posttrain.synthesis.personas import TASKS, calls_of, majority
from posttrain.verifiers.registry import verify
from posttrain.verifiers.verdict import Verdict

PEOPLE = [f"a baker of town {i}" for i in range(12)]


def check(items):
    return [verify(*item) for item in items]


def wish(task: str, count: int, **changes) -> Wish:
    sampling = SamplingParameters(max_tokens=64)
    made = Wish(task, count, 40, sampling, 5, (1, 2), lambda texts: set(), "CC-BY-NC-SA-4.0", "m")
    return replace(made, **changes)


class Model:
    """Asks "What is 2 + <town>?"; solves by a table of offsets, one a sample."""

    def __init__(self, offsets=(0, 0, 0, 1, 2), wrong_towns=()):
        self.offsets, self.wrong_towns, self.asked = offsets, wrong_towns, Counter()

    def __call__(self, requests):
        for one in list(requests)[::-1]:  # answers come in any order
            self.asked[one.id.split("/")[-1]] += 1
            text = one.messages[-1]["content"]
            town = int(re.findall(r"\d+", text)[-1])
            if len(one.messages) == 1:
                yield ChatAnswer(one, f"What is 2 + {town}?", "stop", {})
            elif town in self.wrong_towns:
                yield ChatAnswer(one, f"#### {one.sample_index}", "stop", {})
            else:
                yield ChatAnswer(one, f"So: #### {2 + town + self.offsets[one.sample_index]}", "stop", {})


def test_rows_are_accepted_ones_as_many_as_asked_and_the_majority_is_right():
    model = Model(wrong_towns=(3, 5))
    outcome = synthesize(PEOPLE, wish("grade_school_math", 9), model, check, seed=1)
    assert len(outcome.accepted) == 9 and outcome.reasons.get("no_majority", 0) <= 2 * (outcome.tried // 12 + 1)
    for one in outcome.accepted:
        town = int(one.persona.split()[-1])
        assert town not in (3, 5) and one.truth == str(2 + town) and one.votes == 3
        row = as_verifiable(one, wish("grade_school_math", 9))
        assert row.checks == (("gsm8k", str(2 + town)),) and row.extra["persona_licence"] == "CC-BY-NC-SA-4.0"
        conversation = as_conversation(one, wish("grade_school_math", 9))
        assert verify("gsm8k", conversation.messages[-1]["content"], one.truth).outcome == "correct"
    assert outcome.tried == len(outcome.accepted) + len(outcome.dropped)
    again = synthesize(PEOPLE, wish("grade_school_math", 9), Model(wrong_towns=(3, 5)), check, seed=1)
    assert [one.id for one in again.accepted] == [one.id for one in outcome.accepted]


def test_no_majority_no_row_and_the_budget_of_candidates_holds():
    outcome = synthesize(PEOPLE, wish("grade_school_math", 5), Model((0, 0, 1, 1, 2)), check, seed=1)
    assert not outcome.accepted and outcome.tried == 40 and outcome.reasons == {"no_majority": 40}
    assert majority({"4": [True, True, False], "5": [False, False, True]}, 3) == ("4", 0)
    assert majority({"4": [True, True, False, False]}, 4) is None and majority({}, 5) is None


def test_near_duplicates_of_accepted_prompts_are_dropped():
    def copies(texts):
        return {i for i, text in enumerate(texts) if text in texts[:i]}

    model = Model()
    outcome = synthesize(PEOPLE[:2], wish("grade_school_math", 4, copies=copies), model, check, seed=1)
    assert len(outcome.accepted) == 2 and outcome.reasons == {"near_duplicate": 38}


class Follower:
    """Obeys or not, by whether all constraints stand in the prompt."""

    def __init__(self, obeys: bool = True, always: bool = False):
        self.obeys, self.always = obeys, always

    def __call__(self, requests):
        for one in requests:
            text = one.messages[-1]["content"]
            if len(one.messages) == 1:
                yield ChatAnswer(one, f"Describe the town of {text.split(': ')[1].splitlines()[0]}", "stop", {})
                continue
            both = "title" in text and "placeholders" in text
            good = self.always or (both and self.obeys)
            yield ChatAnswer(one, "<<A>> [b] [c] [d] [e]" if good else "Just a text.", "stop", {})


@pytest.fixture
def two_constraints(monkeypatch):
    from posttrain.synthesis import persona_rows
    from posttrain.synthesis.constraints import Constraint

    made = (
        Constraint("detectable_format:title", {}),
        Constraint("detectable_content:number_placeholders", {"num_placeholders": 2}),
    )
    monkeypatch.setattr(persona_rows, "draw_constraints", lambda random, count: made[:count])


def test_persona_if_pairs_the_chosen_passes_and_the_rejected_fails(two_constraints):
    wanted = wish("precise_if_pairs", 6)
    outcome = synthesize(PEOPLE, wanted, Follower(), check, seed=1)
    assert len(outcome.accepted) == 6
    for one in outcome.accepted:
        pair = as_pair(one, wanted)
        columns = json.loads(json.dumps(columns_from_row(pair)))
        assert columns_from_row(row_from_columns("preference", columns, "x")) == columns
        assert verify("ifeval", pair.chosen[-1]["content"], columns["ground_truth"]).outcome == "correct"
        assert verify("ifeval", pair.rejected[-1]["content"], columns["ground_truth"]).outcome == "wrong"
        assert pair.chosen[:-1] == pair.rejected[:-1] and all(text in pair.prompt for text in columns["constraint"])
    assert synthesize(PEOPLE, wanted, Follower(obeys=False), check, seed=1).reasons == {"answer_fails": 40}
    assert synthesize(PEOPLE, wanted, Follower(always=True), check, seed=1).reasons == {"rejected_passes": 40}


def test_precise_if_rows_carry_constraints_that_check_their_answer(two_constraints):
    wanted = wish("precise_if", 3, constraints=(2, 2))
    outcome = synthesize(PEOPLE, wanted, Follower(), check, seed=1)
    for one in outcome.accepted:
        row = as_verifiable(one, wanted)
        assert verify("ifeval", one.answers[0], row.ground_truth).outcome == "correct"  # type: ignore[arg-type]
        assert row.extra["constraint_type"] == [c.id for c in one.constraints]


class Programmer:
    def __init__(self, body: str, tests: str):
        self.body, self.tests = body, tests

    def __call__(self, requests):
        for one in requests:
            if one.id.endswith("/tests"):
                yield ChatAnswer(one, f"```python\n{self.tests}\n```", "stop", {})
            elif one.id.endswith("/answer"):
                yield ChatAnswer(one, f"```python\n{self.body}\n```", "stop", {})
            else:
                yield ChatAnswer(one, "write a python function to double a number, twice(x)", "stop", {})


TESTS = "assert twice(1) == 2\nassert twice(0) == 0\nassert twice(-3) == -6"


def test_code_is_a_row_only_if_it_passes_tests_written_from_the_prompt_alone():
    def run(model):
        outcome = synthesize(PEOPLE, wish("python", 1, candidates=1), model, fake_code, seed=1)
        return outcome.reasons or "accepted"

    assert run(Programmer("def twice(x):\n    return 2 * x", TESTS)) == "accepted"
    assert run(Programmer("def twice(x):\n    return x", TESTS)) == {"answer_fails": 1}
    assert run(Programmer("def twice(x):\n    return 2 * x", "assert True")) == {"too_few_tests": 1}
    idle = "assert (True)\nassert len('ab') == 2\nassert twice(\nassert [twice]\nassert twice(1) == 2"
    assert run(Programmer("def twice(x):\n    return 2 * x", idle)) == {"too_few_tests": 1}


def fake_code(items):
    """The sandbox has tests of its own; here programs of this file are run as they are."""
    from posttrain.verifiers.code import extract_program, read_label

    verdicts = []
    for verifier, text, label in items:
        assert verifier == "code"
        names: dict = {}
        exec(extract_program(text), names)  # noqa: S102
        try:
            for test in read_label(label).tests:
                exec(test, names)  # noqa: S102
            verdicts.append(Verdict("correct", 1.0))
        except AssertionError:
            verdicts.append(Verdict("wrong", 0.0))
    return verdicts


def test_missing_answers_are_reasons_not_rows():
    def silent(requests):
        return (ChatFailure(one, "gave_up", "x") for one in requests)

    outcome = synthesize(PEOPLE, wish("hard_math", 2), silent, check, seed=1)
    assert outcome.reasons == {"prompt_missing": 40} and not outcome.accepted


@pytest.mark.parametrize("task", [*TASKS, "precise_if_pairs"])
def test_a_candidate_asks_as_much_as_estimated(task):
    def parrot(requests):
        for one in requests:
            asked.append(one)
            yield ChatAnswer(one, "```python\n" + "\n".join(f"assert f({i})" for i in range(3)) + "\n```", "stop", {})

    asked: list = []
    outcome = synthesize(PEOPLE, wish(task, 4), parrot, lambda items: [Verdict("wrong", 0.0) for _ in items], seed=1)
    assert outcome.tried == 40 and len(asked) == 40 * calls_of(task, 5)
