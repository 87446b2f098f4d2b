"""Ratings by rules."""

from posttrain.data.rows import VerifiablePrompt
from posttrain.preferences.judge import Candidate, judge_by_rules, rate
from posttrain.preferences.pool import Member
from posttrain.verifiers.verdict import Verdict

RIGHT, WRONG = Verdict("correct", 1.0), Verdict("wrong", 0.0)
SLOW, BROKEN = Verdict("timeout", 0.0), Verdict("error", 0.0)


def test_ratings_rank_right_and_ended_first_and_neither_last():
    assert rate([RIGHT], finished=True) == 1.0
    assert rate([RIGHT], finished=False) == rate([WRONG], finished=True) == 0.0
    assert rate([WRONG], finished=False) == -1.0
    assert rate([RIGHT, WRONG, WRONG, RIGHT], finished=True) == 0.5
    assert rate([SLOW], finished=True) == 0.0


def test_a_failed_verifier_leaves_the_answer_unrated():
    assert rate([RIGHT, BROKEN], finished=True) is None


def test_each_answer_meets_the_checks_of_its_own_prompt():
    class Echo:
        """Says in ``detail`` what it was given."""

        def verify(self, items):
            return [Verdict("correct", 1.0, "/".join(item)) for item in items]

    def prompt(name, *checks):
        verifiers, labels = zip(*checks, strict=True)
        return VerifiablePrompt(name, ({"role": "user", "content": name},), labels, verifiers, "s")

    def answers(*texts):
        return [Candidate(Member("m"), i, text, True, 1) for i, text in enumerate(texts)]

    answered = [
        (prompt("p", ("v", "1")), answers("a", "b")),
        (prompt("q", ("w", "2"), ("x", "3")), answers("c", "d", "e")),
    ]
    judged = judge_by_rules(answered, Echo())
    details = [[[verdict.detail for verdict in one.verdicts] for one in row] for row in judged]
    assert details == [
        [["v/a/1"], ["v/b/1"]],
        [["w/c/2", "x/c/3"], ["w/d/2", "x/d/3"], ["w/e/2", "x/e/3"]],
    ]
