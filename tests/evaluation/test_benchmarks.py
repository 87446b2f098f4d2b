"""Oracle and negative tests of the published benchmarks, without a model: gold answers, empty ones, near misses."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.evaluation.protocol import Instance, NotRun
from posttrain.evaluation.suites import PUBLISHED, TASKS
from posttrain.evaluation.tasks import bbh, deepmind_math, drop, gpqa, math, popqa
from posttrain.evaluation.tasks.hub import in_turn
from posttrain.evaluation.tasks.letters import clean_letter, first_letter, last_letter
from posttrain.evaluation.verify import verify
from tests.evaluation.mirror import mirror

FINISHED = {"finish_reason": "stop", "outcome": "wrong", "score": 0.0, "detail": ""}


def judged(task, instances, responses):
    """The records of these responses."""
    records = [{"response": response, **FINISHED} for response in responses]
    verify(records, [(task.chat, instance) for instance in instances])
    return records


def scores(task, instances, respond):
    return [record["score"] for record in judged(task, instances, map(respond, instances))]


def turns(instance: Instance):
    """The messages of a chat instance."""
    assert not isinstance(instance.prompt, str)
    return instance.prompt


def gold(instance: Instance) -> str:
    return (
        instance.choices[[c.strip() for c in instance.choices].index(instance.gold)]
        if instance.choices
        else instance.gold
    )


def load(name, data_dir, limit=None):
    task = TASKS[name]
    return task, task.load(task.chat, mirror(data_dir), limit)


SIZES = {
    "mmlu@paper": (14042, 57),
    "mmlu@released": (14042, 57),
    "bbh@paper": (6511, 27),
    "math@paper": (5000, 7),
    "drop@clean": (9536, 1),
    "truthfulqa@clean": (817, 1),
    "popqa@clean": (985, 1),  # of the sample of 1,000 rows, less the 15 that are examples
    "humaneval@paper": (164, 1),
    "humaneval_plus@paper": (164, 1),
    "harmbench@paper": (320, 1),
    "xstest@paper": (450, 1),
    "do_anything_now@paper": (300, 1),
    "jailbreak_trigger@paper": (400, 1),
    "agieval@paper": (2646, 8),
    "deepmind_math@paper": (5600, 56),
    "ifbench@clean": (300, 1),
}


@pytest.mark.parametrize("name", SIZES)
def test_every_set_has_its_published_size_and_groups(name, data_dir):
    _, instances = load(name, data_dir)
    assert (len({i.id for i in instances}), len({i.group for i in instances})) == SIZES[name]
    assert len(instances) == SIZES[name][0]


CHEAP = [
    "bbh@clean",
    "mmlu@paper",
    "mmlu@clean",
    "mmlu@released",
    "agieval@paper",
    "agieval@clean",
    "drop@clean",
    "popqa@clean",
]


@pytest.mark.parametrize("name", CHEAP)
def test_gold_answers_score_one_and_empty_ones_zero(name, data_dir):
    task, instances = load(name, data_dir, 600)
    assert scores(task, instances, gold) == [1.0] * len(instances)
    assert scores(task, instances, lambda _: "") == [0.0] * len(instances)


@pytest.mark.parametrize("name", ["math@paper", "math@minerva", "math@clean", "deepmind_math@paper"])
def test_gold_solutions_score_one_and_empty_ones_zero(name, data_dir):
    task, instances = load(name, data_dir, 56 if name.startswith("deep") else 14)
    assert scores(task, instances, gold) == [1.0] * len(instances)
    assert scores(task, instances, lambda _: "") == [0.0] * len(instances)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        *("math@paper", "math@minerva", "math@clean", "deepmind_math@paper", "deepmind_math@clean", "bbh@clean"),
        *("mmlu@paper", "mmlu@clean", "agieval@clean", "drop@clean", "popqa@clean", "gsm8k@paper"),
        *("humaneval@paper", "humaneval_plus@paper"),
    ],
)
def test_every_gold_answer_scores_one(name, data_dir):
    task, instances = load(name, data_dir)
    records = judged(task, instances, map(gold, instances))
    wrong = {
        i.id: r["detail"] for i, r in zip(instances, records, strict=True) if r["outcome"] not in LATE | {"correct"}
    }
    assert wrong == {} or wrong.keys() == BROKEN.get(name), wrong
    assert sum(record["outcome"] in LATE for record in records) <= len(records) / 100


LATE = {"timeout"}  # a program that takes seconds alone may be late on a machine under load
# Its published test raises TypeError for any right answer: ``_poly(*candidate(*inp), inp)``.
BROKEN = {"humaneval_plus@paper": {"humaneval_plus-32"}}


def test_a_helper_that_humaneval_s_test_calls_is_the_prompt_s_own(data_dir):
    task, instances = load("humaneval@paper", data_dir)
    [find_zero] = [instance for instance in instances if instance.id == "humaneval-32"]
    cheat = "    return 0.0\n\ndef poly(xs, x):\n    return 0.0\n"
    found = judged(task, [find_zero] * 2, [find_zero.gold, cheat])
    assert [record["score"] for record in found] == [1.0, 0.0]


REFERENCE = """
asked = []
def assertion(out, exp, atol):
    assert out == exp

def ref_func(xs):
    asked.append(1)
    xs.append(0)
    return len(xs) - 1

def check(candidate):
    inputs = [[[]], [[1, 2]], [[3]]]
    for i, inp in enumerate(inputs):
        assertion(candidate(*inp), ref_func(*inp), 0)
"""


def test_a_reference_in_humaneval_plus_is_asked_once_for_all_samples(tmp_path):
    task = TASKS["humaneval_plus@paper"]
    row = {"task_id": "HumanEval/0", "prompt": "def f(xs):\n", "canonical_solution": "    return len(xs)\n"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | {"test": REFERENCE, "entry_point": "f"}) + "\n")
    [instance] = task.load(task.chat, {task.chat.data: str(tmp_path / "rows.jsonl")}, None)
    label, names = json.loads(instance.checks[0][1]), {}
    exec(label["setup"], names)
    for _ in range(3):
        names["f"] = len
        exec(label["tests"][0], names)
    assert len(names["asked"]) == 3
    names["f"] = lambda xs: min(len(xs), 1)
    with pytest.raises(AssertionError):
        exec(label["tests"][0], names)


def test_every_reference_of_humaneval_plus_is_found(data_dir):
    task, instances = load("humaneval_plus@paper", data_dir)
    assert not any("ref_func(*inp), 0" in instance.checks[0][1] for instance in instances)
    assert sum("ref_func(*_copy" in instance.checks[0][1] for instance in instances) == 6


@pytest.mark.parametrize("name", ["humaneval@paper", "humaneval_plus@paper"])
def test_canonical_programs_pass_and_empty_or_cheating_ones_fail(name, data_dir):
    task, instances = load(name, data_dir, 3)
    assert scores(task, instances, gold) == [1.0] * 3
    assert scores(task, instances, lambda _: "    pass\n") == [0.0] * 3
    assert scores(task, instances, lambda _: "    import os\n    os._exit(0)\n") == [0.0] * 3


def test_mmlu_asks_in_subjects_turn_and_shows_five_of_the_subject(data_dir):
    task, instances = load("mmlu@released", data_dir, 57)
    assert len({i.group for i in instances}) == 57
    first = instances[0]
    assert [turn["role"] for turn in turns(first)] == ["user", "assistant"] * 5 + ["user"]
    assert turns(first)[0]["content"].startswith(
        "The following are multiple choice questions (with answers) about abstract algebra."
    )
    assert all(turn["content"] in "ABCD" for turn in turns(first)[1::2])
    assert first.choices == ("A", "B", "C", "D")
    assert task.load(task.plain, mirror(data_dir), 1)[0].choices == (" A", " B", " C", " D")


# The near misses of the specification, each with what the published cascade makes of it.
FIRST = [
    ("Therefore, the answer is: B", "B"),
    ("therefore the answer is (c)", "C"),
    ("The answer is: **B**", "B"),
    ("The answer is a bit subtle. It rests on heat, so D", "A"),
    ("This data is correct, so I choose D", "A"),
    ("A person walks.\nSo D", "A"),
    ("Therefore, the answer is: B. Wait. Therefore, the answer is: C", "B"),
    ("I pick (D).", "D"),
    ("no idea", ""),
]


@pytest.mark.parametrize(("response", "letter"), FIRST)
def test_the_published_cascade_reads_these_as_published(response, letter):
    assert first_letter("ABCD", response) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("Therefore, the answer is (B). No: Therefore, the answer is (C)", "C"),
        ("(A) is out, so (D)", "D"),
        ("So the answer is: J", "J"),
        ("either C or E", "E"),
        ("none", ""),
    ],
)
def test_the_unseen_suite_takes_the_last(response, letter):
    assert last_letter("ABCDEFGHIJ", response) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("Therefore, the answer is: B", "B"),
        ("The answer is **B**.", "B"),
        ("The answer is a bit subtle.", ""),
        ("The answer is A bit more than that", ""),
        ("This data is correct", ""),
        ("A person walks.\nSo the answer is D", "D"),
        ("The answer is B. Wait, the answer is $\\boxed{C}$", "C"),
        ("**Answer:** (D)", "D"),
        ("B.", "B"),
        ("Bats", ""),
    ],
)
def test_the_clean_reader_takes_no_article_for_a_letter(response, letter):
    assert clean_letter("ABCD", response) == letter


@pytest.mark.parametrize(
    ("pattern", "response", "found"),
    [
        (bbh.CHOICE, "So the answer is (B).", "(B)"),
        (bbh.CHOICE, "The answer is (A). Hmm. So the answer is (C).", "(C)"),
        (bbh.ANSWERS["navigate"], "So the answer is **Yes**.", "Yes"),
        (bbh.INTEGER, "So the answer is -34.", "-34"),
        (bbh.DYCK, "So the answer is ] ) }.", "] ) }"),
        (bbh.WORDS, "So the answer is apple pear zoo.", "apple pear zoo"),
        (bbh.ANSWERS["boolean_expressions"], "it must be True", "True"),
        (bbh.CHOICE, "I do not know", ""),
    ],
)
def test_bbh_answers_are_read_by_the_pattern_of_their_task(pattern, response, found):
    assert bbh.answer(pattern, response) == found


def test_the_published_bbh_patterns_cannot_read_eighteen_right_answers(data_dir):
    task, instances = load("bbh@paper", data_dir)
    wrong = Counter(i.group for i, score in zip(instances, scores(task, instances, gold), strict=True) if score != 1.0)
    assert wrong == {"word_sorting": 15, "ruin_names": 2, "movie_recommendation": 1}


def test_bbh_shows_three_worked_examples_and_asks_for_steps(data_dir):
    _, instances = load("bbh@paper", data_dir, 27)
    for instance in instances:
        assert [turn["role"] for turn in turns(instance)] == ["user", "assistant"] * 3 + ["user"]
        assert turns(instance)[-1]["content"].endswith("\nA: Let's think step by step.")
        assert all("So the answer is" in turn["content"] for turn in turns(instance)[1::2])


@pytest.mark.parametrize(
    ("response", "spans", "exact", "f1"),
    [
        ("78-yard", ["78"], 0, 0.67),  # AllenNLP's own test
        ("78", ["78"], 1, 1.0),
        ("the 78.", ["78"], 1, 1.0),
        ("79", ["78"], 0, 0.0),
        ("12.50", ["12.5"], 1, 1.0),
        ("Tom Brady", ["brady"], 0, 0.67),
        ("apple pear", ["apple", "pear"], 0, 0.33),  # one span can match only one of two
        ("", ["78"], 0, 0.0),
    ],
)
def test_drop_f1_has_the_official_scorer_s_values(response, spans, exact, f1):
    verdict = drop.drop_f1(response, json.dumps([spans]))
    assert (verdict.outcome == "correct", verdict.score) == (bool(exact), f1)


def test_drop_takes_the_best_gold_and_the_first_type_of_answer():
    assert drop.drop_f1("ten", json.dumps([["nine"], ["ten"]])).score == 1.0
    empty = {"number": "", "spans": [], "date": {"day": "", "month": "", "year": ""}}
    row = {
        "answer": empty | {"number": "4", "spans": ["no"]},
        "validated_answers": {
            "number": ["4", ""],
            "spans": [[], ["a", "b"]],
            "date": [empty["date"], empty["date"]],
        },
    }
    assert drop.golds(row) == [["4"], ["a", "b"]]
    dated = {"answer": empty | {"date": {"day": "3", "month": "May", "year": ""}}, "validated_answers": {"number": []}}
    assert drop.golds(dated) == [["3 May"]]


def test_drop_is_plain_also_for_a_chat_model_and_has_no_full_stop_among_its_stops(data_dir):
    task = TASKS["drop@paper"]
    assert task.chat.format == task.plain.format == "plain"
    assert "." not in task.chat.decoding.stop_strings
    with pytest.raises(NotRun, match="train split"):
        task.load(task.chat, mirror(data_dir), 1)


def test_popqa_counts_a_name_within_a_word_as_published_and_not_when_clean(data_dir):
    task, [instance] = load("popqa@clean", data_dir, 1)
    name = popqa.names({"possible_answers": '["Rome", "Roma"]'})
    assert name == ["Rome", "Roma"]
    assert scores(task, [instance], lambda i: f"x{i.gold}x") == [0.0]
    published = TASKS["popqa@paper"]
    assert scores(published, [instance], lambda i: f"x{i.gold}x") == [1.0]


def test_popqa_leaves_its_examples_out_of_the_score(data_dir):
    task, instances = load("popqa@clean", data_dir)
    shown = {turn["content"] for turn in turns(instances[0])[:-1:2]}
    asked = {turns(instance)[-1]["content"] for instance in instances}
    assert len(shown) == 15
    assert not shown & asked


def test_math_shows_minerva_s_four_examples(data_dir):
    _, [instance] = load("math@paper", data_dir, 1)
    assert [turn["role"] for turn in turns(instance)] == ["user", "assistant"] * 4 + ["user"]
    finals = [turn["content"].rsplit("The final answer is ", 1)[1] for turn in turns(instance)[1::2]]
    assert finals == [f"${x}$. I hope it is correct." for x in ("[2,5)", "24", "16", r"-\frac{2}{3}")]


def test_minerva_reads_its_sentence_alone(data_dir):
    minerva, instances = load("math@minerva", data_dir, 3)
    boxed = lambda i: rf"So $\boxed{{{i.checks[0][1]}}}$."  # noqa: E731
    assert scores(minerva, instances, boxed) == [0.0] * 3
    assert scores(TASKS["math@paper"], instances, boxed) == [0.0] * 3  # the instances carry Minerva's reader
    flex, same = load("math@paper", data_dir, 3)
    assert scores(flex, same, boxed) == [1.0] * 3
    assert math.minerva_sentence("none here") == ""
    priced = "Final Answer: The final answer is ${}$. I hope it is correct."
    assert math.minerva_sentence(priced.format(r"-\$0.50")) == "-0.50"
    assert math.minerva_sentence(priced.format("90\nunits")) == ""  # it is read on one line


@pytest.mark.parametrize(
    ("answer", "tex"),
    [
        ("-n**3 + 10*n**2", "-n^{3} + 10 n^{2}"),
        ("b**(-4438/45)", "b^{-4438/45}"),
        ("15360*sqrt(7) + 2", r"15360 \sqrt{7} + 2"),
        ("yes", "True"),
        ("False.", "False"),
    ],
)
def test_deepmind_answers_are_rewritten_for_the_grammar(answer, tex):
    assert deepmind_math.as_tex(answer) == tex


def test_deepmind_answers_are_compared_as_mathematics_and_never_run(data_dir):
    task, instances = load("deepmind_math@clean", data_dir, 56)
    polynomial = next(i for i in instances if i.group == "polynomials__expand")
    say = "Therefore, the final answer is {}. I hope it is correct."
    expected = polynomial.gold.removeprefix(say[: say.index("{}")]).removesuffix(". I hope it is correct.")
    reordered = " + ".join(reversed(expected.split(" + ")))
    assert scores(task, [polynomial], lambda _: say.format(reordered)) == [1.0]
    assert scores(task, [polynomial], lambda _: say.format(expected + " + 1")) == [0.0]
    evil = "__import__('os').system('true')"
    assert scores(task, [polynomial], lambda _: say.format(evil)) == [0.0]


def test_gpqa_shuffles_by_the_row_s_number_and_cleans_its_text():
    row = {
        "Question": "Q?",
        "Correct Answer": "right [title] end [x]",
        **{f"Incorrect Answer {i}": f"w{i}" for i in (1, 2, 3)},
    }
    letters = Counter()
    for index in range(60):
        choices, letter = gpqa.shuffled(row, index)
        assert choices["ABCD".index(letter)] == "right. end "
        assert gpqa.shuffled(row, index) == (choices, letter)
        letters[letter] += 1
    assert set(letters) == set("ABCD")


def test_agieval_options_stand_once_and_questions_on_a_passage_are_one_cluster(data_dir):
    _, instances = load("agieval@paper", data_dir)
    reading = [i for i in instances if i.group == "lsat-rc"]
    assert 10 < len({i.cluster for i in reading}) < len(reading) / 3
    first = turns(reading[0])[0]["content"]
    assert first.count("\n (A) ") == 1
    assert "(A)(A)" not in first and "(A) (A)" not in first


@pytest.mark.parametrize("one", [t for t in PUBLISHED["development"] if t.within], ids=lambda t: t.name)
def test_safety_by_phrases_refuses_and_complies_as_each_set_wants(one, data_dir):
    task = TASKS[f"{one.chat.task}@keywords"]
    try:
        instances = task.load(task.chat, mirror(data_dir), None)
    except NotRun as reason:
        assert one.chat.data in str(reason)
        return
    assert scores(task, instances, lambda i: i.gold) == [1.0] * len(instances)
    opposite = {"refuse": "Certainly. Here is how.", "comply": "I'm sorry, but I can't help with that."}
    assert scores(task, instances, lambda i: opposite[i.checks[0][1]]) == [0.0] * len(instances)


def test_xstest_has_250_requests_to_answer_and_200_to_decline(data_dir):
    _, instances = load("xstest@keywords", data_dir)
    assert Counter(i.checks[0][1] for i in instances) == {"comply": 250, "refuse": 200}


def test_humaneval_shows_its_opening_twice_and_goes_on_from_the_prompt(data_dir):
    task, [instance] = load("humaneval@paper", data_dir, 1)
    opening = "Here is the completed function:\n\n```python\n"
    assert turns(instance)[0]["content"].endswith(opening)
    assert task.chat.prefill == opening
    assert instance.prefill == instance.before
    assert (task.chat.samples, task.chat.k, task.chat.decoding.temperature) == (20, 10, 0.8)


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=2), st.lists(st.integers(), max_size=6), max_size=6), st.integers(1, 40))
def test_a_limited_run_takes_of_every_group_in_turn(groups, limit):
    kept = Counter()
    for name, members in groups.items():
        kept[name] = len(in_turn({name: members}, None))
    taken = in_turn({name: [(name, i) for i in range(len(members))] for name, members in groups.items()}, limit)
    assert len(taken) == min(limit, sum(kept.values()))
    counts = Counter(name for name, _ in taken)
    most = max(counts.values(), default=0)
    assert all(counts[name] >= min(most - 1, kept[name]) for name in groups)
    assert [one for one in taken] == sorted(taken, key=lambda one: (list(groups).index(one[0]), one[1]))
