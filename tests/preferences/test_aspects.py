"""What the judge is asked, and what is made of its answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.rows import VerifiablePrompt
from posttrain.inference.protocols import ChatAnswer, ChatFailure
from posttrain.preferences.aspect_judge import JudgeOptions, calls, judge_by_aspects, judge_request
from posttrain.preferences.aspects import ASPECTS, Unreadable, answer_schema, judge_messages, read_ratings
from posttrain.preferences.bias import judge_figures
from posttrain.preferences.binarize import Pairing, Policy, choose_pair
from posttrain.preferences.judge import Candidate, Judged
from posttrain.preferences.pool import Member
from posttrain.verifiers.verdict import Verdict

QUESTION = ({"role": "user", "content": "Name a river."},)
PROMPT = VerifiablePrompt("p", QUESTION, (), (), "s")
NAMES = ("helpfulness", "instruction_following", "honesty", "truthfulness")


def candidates(*texts: str) -> list[Candidate]:
    return [Candidate(Member(f"m{i}"), i, text, True, len(text)) for i, text in enumerate(texts)]


GOLDEN = """# Instruction

Name a river.

# Text 1

The Oder.

# Text 2

Everest.

# Question: honesty

"""


@pytest.mark.parametrize("aspect", NAMES)
def test_the_numbers_shown_are_the_numbers_asked_for(aspect):
    """The published template showed texts 2 to 5 and asked for 1 to 4 (instruction following)."""
    for count in (1, 2, 4, 5):
        texts = [f"answer {i}" for i in range(count)]
        system, user = judge_messages(QUESTION, texts, (aspect,))
        shown = [line for line in user["content"].splitlines() if line.startswith("# Text ")]
        assert shown == [f"# Text {i}" for i in range(1, count + 1)]
        keys = [f"text_{i}" for i in range(1, count + 1)]
        entries = user["content"].split("an entry for each text:\n")[1].splitlines()
        assert [entry.lstrip("{").split(":")[0].strip('"') for entry in entries] == keys
        schema = answer_schema(count, (aspect,))
        assert list(schema["properties"]) == schema["required"] == keys
        for number, text in enumerate(texts, start=1):
            assert f"# Text {number}\n\n{text}\n\n" in user["content"]
        assert [role["role"] for role in (system, user)] == ["system", "user"]


def test_a_golden_prompt():
    _, user = judge_messages(QUESTION, ["The Oder.", "Everest."], ("honesty",))
    assert user["content"].startswith(GOLDEN)
    assert user["content"].endswith(
        "# Answer\nJSON alone, an entry for each text:\n"
        '{"text_1": {"honesty": {"rationale": "…", "rating": "1" to "5" or "N/A"}},\n'
        '"text_2": {"honesty": {"rationale": "…", "rating": "1" to "5" or "N/A"}}}'
    )


def answer(*ratings, aspect="honesty", numbers=None) -> str:
    entries = [
        f'"text_{number}": ' + json.dumps({aspect: {"rationale": "a\n\nb", "rating": rating}})
        for number, rating in zip(numbers or range(1, len(ratings) + 1), ratings, strict=True)
    ]
    return "{" + ", ".join(entries) + "}"


def test_ratings_are_read_by_number_not_by_place():
    found = read_ratings(answer(5, "N/A", 2, numbers=[3, 1, 2]), 3, ("honesty",))
    assert [one["honesty"].value for one in found] == [None, 2, 5]
    assert found[0]["honesty"].rationale == "a\n\nb"  # a blank line in a rationale shifted the published parser
    assert read_ratings(f"Sure:\n```json\n{answer('4')}\n```", 1, ("honesty",))[0]["honesty"].value == 4
    raw = '{"text_1": {"honesty": {"rationale": "two\nlines", "rating": "N/A"}}}'
    assert read_ratings(raw, 1, ("honesty",))[0]["honesty"].rationale == "two\nlines"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot rate these.",
        '{"text_1": {"honesty":',
        "[]",
        answer(5, 4, numbers=[1, 1]),
        answer(5, 4, numbers=[2, 3]),
        answer(5),
        answer(5, 4, 3),
        answer(0, 4),
        answer(6, 4),
        answer(True, 4),
        answer(4.5, 4),
        answer(None, 4),
        answer("good", 4),
        answer(-1, 4),
        answer(5, 4, aspect="helpfulness"),
        '{"text_1": 3, "text_2": 4}',
        '{"text_1": {"honesty": {"rating": 5, "rating": 4}}, "text_2": {"honesty": {"rating": 4}}}',
        answer("12", 4),
        "{" * 5000 + "}" * 5000,
    ],
)
def test_what_does_not_rate_every_text_once_is_unreadable_never_a_low_rating(text):
    with pytest.raises(Unreadable):
        read_ratings(text, 2, ("honesty",))


@given(st.text())
def test_no_text_breaks_the_reader(text):
    with pytest.raises(Unreadable):
        read_ratings(text, 2, ("honesty",))


class Judge:
    """Rates by a table {text: {aspect: rating}} whatever the order shown; ``broken``: ids it answers badly at first."""

    def __init__(self, table, broken=()):
        self.table, self.broken, self.asked = table, dict(broken), []

    def __call__(self, requests):
        for request in requests:
            self.asked.append(request)
            if self.broken.get(request.id, 0) > request.sample_index:
                yield (
                    ChatAnswer(request, "no idea", "stop", {})
                    if request.sample_index
                    else ChatFailure(request, "gave_up", "x")
                )
                continue
            user = request.messages[1]["content"]
            aspects = [line.removeprefix("# Question: ") for line in user.splitlines() if line.startswith("# Question")]
            shown = user.split("# Question")[0].split("# Text ")[1:]
            entries = {
                f"text_{block.splitlines()[0]}": {
                    a: {"rationale": f"{a}!", "rating": self.table[block.split("\n\n")[1]][a]} for a in aspects
                }
                for block in shown
            }
            yield ChatAnswer(request, json.dumps(dict(reversed(entries.items()))), "stop", {})


def table(rows: dict[str, tuple]) -> dict[str, dict]:
    return {text: dict(zip(NAMES, ratings, strict=True)) for text, ratings in rows.items()}


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_hand_made_ratings_give_the_exact_pairs(single, swap):
    answered = [
        (VerifiablePrompt("best", QUESTION, (), (), "s"), candidates("a", "b", "c", "d")),
        (VerifiablePrompt("tie", QUESTION, (), (), "s"), candidates("e", "f")),
        (VerifiablePrompt("missing", QUESTION, (), (), "s"), candidates("g", "h", " ")),
        (VerifiablePrompt("alone", QUESTION, (), (), "s"), candidates("a", "")),
    ]
    ratings = table(
        {
            "a": (3, 3, "N/A", 3),  # mean of three: 3, not moved by the N/A
            "b": (5, 5, 4, 4),  # 4.5
            "c": (5, 5, "N/A", "N/A"),  # 5: the best
            "d": (5, 5, 5, 5),  # 5: the best too
            "e": (2, 2, 2, 2),
            "f": (3, 1, "N/A", 2),  # 2: a tie
            "g": ("N/A", "N/A", "N/A", "N/A"),  # nothing applies: no rating
            "h": (1, 1, 1, 1),
        }
    )
    options = JudgeOptions(single_call=single, swap=swap)
    judge = Judge(ratings)
    judged, tally = judge_by_aspects(answered, judge, "judge", options)
    assert [[one.rating for one in row] for row in judged] == [[3, 4.5, 5, 5], [2, 2], [None, 1, None], [None, None]]
    pairs = [choose_pair(p.id, 1, row) for (p, _), row in zip(answered, judged, strict=True)]
    assert pairs[0].chosen in (2, 3) and pairs[0].rejected in (0, 1)
    assert pairs[1:] == [
        Pairing(None, None, "all_equal"),
        Pairing(None, None, "too_few_rated"),
        Pairing(None, None, "too_few_rated"),
    ]
    assert choose_pair("best", 1, judged[0], Policy("worst")).rejected == 0
    assert len(judge.asked) == 3 * (1 if single else 4) * (2 if swap else 1) == tally.calls
    score = judged[0][0].aspects["helpfulness"]
    assert score.ratings == ((3, 3) if swap else (3,)) and set(score.rationales) == {"helpfulness!"}
    assert len(score.requests) == (2 if swap else 1)
    figures = judge_figures(judged, tally, "judge")
    assert figures["aspects"]["honesty"]["not_applicable"] == pytest.approx(4 / 8)
    assert (figures["orders_agree"] or {}).get("equal") == (1.0 if swap else None)


def test_an_unreadable_answer_is_asked_again_and_then_missing_not_low():
    answered = [(PROMPT, candidates("a", "b"))]
    ratings = table({"a": (5, 5, 5, 5), "b": (4, 4, 4, 4)})
    judge = Judge(ratings, {"p/honesty": 2, "p/truthfulness": 9})
    judged, tally = judge_by_aspects(answered, judge, "judge", JudgeOptions(attempts=3))
    assert [one.rating for one in judged[0]] == [5, 4]
    assert judged[0][0].aspects["honesty"].rating == 5 and judged[0][0].aspects["truthfulness"].rating is None
    assert tally.missing == 1 and sum(tally.unreadable.values()) == 5
    again = [request.sample_index for request in judge.asked if request.id == "p/truthfulness"]
    assert again == [0, 1, 2]


def test_a_refused_question_is_not_asked_again():
    def refuse(requests):
        return (asked.append(one) or ChatFailure(one, "refused", "over the context") for one in requests)

    asked: list = []
    judged, tally = judge_by_aspects([(PROMPT, candidates("a", "b"))], refuse, "judge", JudgeOptions())
    assert len(asked) == tally.missing == 4 and [one.rating for one in judged[0]] == [None, None]


@given(st.integers(2, 6), st.lists(st.sampled_from(NAMES), min_size=1, unique=True), st.integers(1, 900))
def test_the_limit_leaves_room_for_the_longest_answer(count, aspects, letters):
    """A token of prose is two letters at least."""
    call = next(calls([(PROMPT, candidates(*["x"] * count))], JudgeOptions(tuple(aspects), single_call=True)))
    request = judge_request(call, PROMPT, candidates(*["x"] * count), JudgeOptions(rationale_letters=letters))
    longest = {f"text_{i}": {a: {"rationale": "", "rating": "N/A"} for a in aspects} for i in range(count)}
    keys = len(json.dumps(longest)) + count * len(aspects) * (letters - 1)
    assert request.sampling.max_tokens * 2 >= keys
    set_one = JudgeOptions(max_tokens=9)
    assert judge_request(call, PROMPT, candidates(*["x"] * count), set_one).sampling.max_tokens == 9


scores = st.lists(
    st.tuples(*[st.sampled_from([1, 2, 3, 4, 5, "N/A"])] * 4), min_size=2, max_size=5, unique_by=lambda one: id(one)
)


@given(
    rows=scores,
    seed=st.integers(0, 50),
    single=st.booleans(),
    swap=st.booleans(),
    broken=st.sets(st.sampled_from(NAMES)),
)
def test_ratings_are_means_over_what_applies_whatever_the_order(rows, seed, single, swap, broken):
    texts = [f"t{i}" for i in range(len(rows))]
    bad = {} if single else {f"p/{name}{end}": 9 for name in broken for end in ("", "/swapped")}
    judge = Judge(table(dict(zip(texts, rows, strict=True))), bad)
    options = JudgeOptions(single_call=single, swap=swap, seed=seed, attempts=2)
    judged, _ = judge_by_aspects([(PROMPT, candidates(*texts))], judge, "j", options)
    for one, ratings in zip(judged[0], rows, strict=True):
        there = [r for name, r in zip(NAMES, ratings, strict=True) if r != "N/A" and (single or name not in broken)]
        assert one.rating == (pytest.approx(sum(there) / len(there)) if there else None)


def test_orders_are_seeded_shuffled_per_aspect_and_all_come_up():
    answered = [(VerifiablePrompt(f"p{i}", QUESTION, (), (), "s"), candidates("a", "b", "c")) for i in range(300)]
    made = list(calls(answered, JudgeOptions()))
    assert made == list(calls(answered, JudgeOptions()))
    assert made != list(calls(answered, JudgeOptions(seed=1)))
    assert len({call.order for call in made}) == 6
    assert any(a.order != b.order for a, b in zip(made[::4], made[1::4], strict=True))
    swapped = list(calls(answered[:1], JudgeOptions(swap=True)))
    assert [b.order == a.order[::-1] for a, b in zip(swapped[::2], swapped[1::2], strict=True)] == [True] * 4
    request = judge_request(made[0], answered[0][0], answered[0][1], JudgeOptions())
    assert request.json_schema == answer_schema(3, ("helpfulness",)) and set(ASPECTS) == set(NAMES)


def checked(*rows: tuple[float | None, str]) -> list[Judged]:
    made = []
    for i, (rating, outcome) in enumerate(rows):
        verdict = Verdict(outcome, float(outcome == "correct"))  # type: ignore[arg-type]
        made.append(Judged(Candidate(Member("m"), i, f"t{i}", True, 3), rating, (verdict,)))
    return made


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (((5, "wrong"), (3, "correct"), (2, "wrong")), Pairing(1, 2)),  # the best that passes over one that fails
        (((5, "correct"), (3, "correct"), (2, "wrong")), Pairing(0, 2)),
        (((5, "correct"), (3, "correct")), Pairing(None, None, "none_fails")),
        (((5, "wrong"), (3, "error")), Pairing(None, None, "none_passes")),
        (((3, "correct"), (5, "wrong")), Pairing(None, None, "all_equal")),
        (((None, "correct"), (5, "wrong"), (4, "wrong")), Pairing(None, None, "none_passes")),
    ],
)
def test_with_checks_the_chosen_passes_and_the_rejected_fails(rows, expected):
    assert choose_pair("p", 1, checked(*rows), Policy(verified=True)) == expected


def test_a_margin_keeps_only_clear_pairs():
    row = checked((5, "wrong"), (4.5, "wrong"), (3, "wrong"))
    assert {choose_pair(str(i), 1, row, Policy(margin=1)).rejected for i in range(20)} == {2}
    assert choose_pair("p", 1, row, Policy(margin=3)).reason == "within_margin"


def test_bias_figures_tell_a_judge_that_likes_length_and_itself():
    answered = [
        (VerifiablePrompt(f"p{i}", QUESTION, (), (), "s"), candidates(f"short {i}", f"much longer {i}"))
        for i in range(9)
    ]
    rows = {c.text: (5,) * 4 if "longer" in c.text else (2,) * 4 for _, row in answered for c in row}
    judged, tally = judge_by_aspects(answered, Judge(table(rows)), "m1", JudgeOptions())
    figures = judge_figures(judged, tally, "m1")
    assert figures["longer_wins"] == 1.0
    assert figures["self_preference"] == {"answers": 9, "difference": 3.0}
    assert set(figures["by_position"]) == {1, 2}
    assert set(figures["aspects_agree"].values()) == {1.0}
