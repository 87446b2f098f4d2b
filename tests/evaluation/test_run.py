"""One engine over all tasks: prompts, limits, resume, scores, records."""

import pytest

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.data.chat import TEMPLATES
from posttrain.data.tokenize import tokenize_prompt
from posttrain.errors import PosttrainError
from posttrain.evaluation.protocol import Instance
from posttrain.evaluation.render import render, response_text
from posttrain.evaluation.run import Limits, evaluate, records_file, score_model
from posttrain.evaluation.sealed import LOG, check_seal, count_unsealings, record_unsealing
from posttrain.evaluation.statistics import mean_estimate
from posttrain.evaluation.suites import SUITES, TASKS
from posttrain.evaluation.verify import all_of, verify
from posttrain.verifiers.verdict import Verdict

NANO = SUITES["development"][:4]
FEW = Limits(instances=6)


def golds(tasks, format="chat"):
    """prompt text as the byte tokenizer shows it → gold answer."""
    found = {}
    for task in tasks:
        for instance in task.load(task.chat, {}, 6):
            assert not isinstance(instance.prompt, str)
            question = instance.prompt[0]["content"]
            found[question] = instance.gold
    return lambda text: next(gold for question, gold in found.items() if question in text)


def ask(told, tokenizer, tmp_path, answer, tasks=NANO, limits=FEW, **given):
    sampler = told(tokenizer, answer, **given)
    scores, records = evaluate(
        "weights",
        sampler,
        tokenizer,
        tasks,
        format="chat",
        journal=tmp_path / "journal.jsonl",
        hub_mirror={},
        limits=limits,
    )
    return sampler, scores, records


def test_a_model_that_knows_every_answer_scores_one(told, tokenizer, tmp_path):
    sampler, scores, records = ask(told, tokenizer, tmp_path, golds(NANO))
    assert all(task["mean"] == 1.0 and task["n"] == 6 for task in scores["tasks"].values())
    assert scores["average"]["mean"] == 1.0
    assert scores["average"]["missing"] == {}
    assert len(sampler.asked) == len(records) == 24
    assert {record["outcome"] for record in records} == {"correct"}


def test_the_interval_is_that_of_the_records(told, tokenizer, tmp_path):
    right = golds(NANO)
    _, scores, records = ask(
        told, tokenizer, tmp_path, lambda text: right(text) if len(text) % 2 else "no idea, 999999"
    )
    for name, task in scores["tasks"].items():
        estimate = mean_estimate([r["score"] for r in records if r["task"] == name])
        assert (task["mean"], task["low"], task["high"]) == (estimate.mean, estimate.low, estimate.high)


def test_records_keep_the_order_of_tasks_and_instances_and_name_what_was_shown(told, tokenizer, tmp_path):
    _, _, records = ask(told, tokenizer, tmp_path, golds(NANO))
    expected = [(task.name, i.id) for task in NANO for i in task.load(task.chat, {}, 6)]
    assert [(record["task"], record["id"]) for record in records] == expected
    for record in records:
        assert record["prompt"].startswith("<|user|>\n")
        assert record["prompt"].endswith("\n<|assistant|>\n")
        assert record["protocol"] == record["task"]


def test_an_interrupted_run_asks_only_what_has_no_answer_and_ends_in_the_same_records(told, tokenizer, tmp_path):
    (tmp_path / "whole").mkdir()
    _, whole_scores, whole_records = ask(told, tokenizer, tmp_path / "whole", golds(NANO))
    with pytest.raises(KeyboardInterrupt):
        ask(told, tokenizer, tmp_path, golds(NANO), dies_after=10)
    resumed, scores, records = ask(told, tokenizer, tmp_path, golds(NANO))
    assert len(resumed.asked) == 14  # of 24
    assert (scores, records) == (whole_scores, whole_records)


def test_other_weights_are_asked_anew(told, tokenizer, tmp_path):
    ask(told, tokenizer, tmp_path, golds(NANO))
    sampler = told(tokenizer, golds(NANO))
    journal = tmp_path / "journal.jsonl"
    evaluate("others", sampler, tokenizer, NANO, format="chat", journal=journal, hub_mirror={}, limits=FEW)
    assert len(sampler.asked) == 24


def test_prompts_over_the_context_or_the_limit_count_as_wrong_and_are_not_asked(told, tokenizer, tmp_path):
    lengths = [len(r["prompt"]) for r in ask(told, tokenizer, tmp_path, golds(NANO))[2]]
    middle = sorted(lengths)[12]
    over = sum(length > middle for length in lengths)
    assert over
    for name, given in (("a", {"context_length": middle + 1}), ("b", {"limits": Limits(6, prompt_tokens=middle)})):
        (tmp_path / name).mkdir()
        sampler, scores, records = ask(told, tokenizer, tmp_path / name, golds(NANO), **given)
        assert len(sampler.asked) == 24 - over
        assert sum(task["over_context"] for task in scores["tasks"].values()) == over
        assert sum(task["n"] for task in scores["tasks"].values()) == 24
        for record in records:
            assert (record["finish_reason"] == "over context") == (record["prompt_tokens"] > middle)
            if record["finish_reason"] == "over context":
                assert (record["outcome"], record["score"], record["response"]) == ("wrong", 0.0, "")


def test_an_answer_gets_the_room_that_its_prompt_leaves(told, tokenizer, tmp_path):
    sampler, scores, records = ask(told, tokenizer, tmp_path, lambda _: "x" * 999, context_length=200)
    for request in sampler.asked:
        assert request.sampling.max_tokens == min(160, 200 - len(request.prompt_ids))
    assert sum(task["cut_at_limit"] for task in scores["tasks"].values()) == len(sampler.asked)


def test_a_task_without_data_is_not_run_and_the_average_says_so(told, tokenizer, tmp_path):
    _, scores, _ = ask(told, tokenizer, tmp_path, golds(NANO), tasks=(*NANO, TASKS["gsm8k@paper"]))
    assert scores["tasks"]["gsm8k@paper"]["status"] == "not run"
    assert "openai/gsm8k" in scores["tasks"]["gsm8k@paper"]["reason"]
    assert scores["average"]["missing"] == {"gsm8k@paper": "not run"}
    assert len(scores["average"]["tasks"]) == 4


def test_a_check_that_could_not_be_made_leaves_no_score():
    good, slow, broken = Verdict("correct", 1.0), Verdict("timeout", 0.0, "slow"), Verdict("error", 0.0, "lost")
    assert all_of([good, good])["outcome"] == "correct"
    assert all_of([good, Verdict("wrong", 0.5)]) == {"outcome": "wrong", "score": 0.0, "detail": ""}
    assert all_of([slow, Verdict("wrong", 0.0)])["outcome"] == "timeout"
    assert all_of([slow, broken])["outcome"] == "error"


def test_a_verdict_that_came_too_late_is_asked_for_once_more(monkeypatch):
    asked = []

    class Slow:
        def __init__(self, *given):
            self.late = True

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def verify(self, items):
            asked.append(len(items))
            late, self.late = self.late, False
            return [Verdict("timeout", 0.0) if late and i == 1 else Verdict("correct", 1.0) for i in range(len(items))]

    monkeypatch.setattr("posttrain.evaluation.verify.VerifierPool", Slow)
    task = TASKS["deepmind_math@clean"]
    instances = [Instance(str(i), "", (("math", str(i)),)) for i in range(3)]
    records = [{"response": "1", "finish_reason": "stop", "outcome": "wrong", "score": 0.0} for _ in instances]
    verify(records, [(task.chat, instance) for instance in instances])
    assert asked == [3, 1] and [record["outcome"] for record in records] == ["correct"] * 3


def test_chat_prompts_are_those_of_training(tokenizer):
    task = NANO[0]
    instance = task.load(task.chat, {}, 1)[0]
    assert not isinstance(instance.prompt, str)
    assert list(render(tokenizer, task.chat, instance).token_ids) == tokenize_prompt(tokenizer, instance.prompt)


def test_plain_prompts_are_raw_text_and_their_answers_end_before_the_next_question(tokenizer):
    task = NANO[0]
    instance = task.load(task.plain, {}, 1)[0]
    rendered = render(tokenizer, task.plain, instance)
    assert rendered.text.startswith("Question: ")
    assert rendered.text.endswith("\nAnswer:")
    assert tokenizer.decode(rendered.token_ids) == rendered.text
    ids = tokenizer(" 3 + 4 = 7.\nSo 7.\nQuestion: and").input_ids
    assert response_text(tokenizer, task.plain, ids) == "3 + 4 = 7.\nSo 7."


def test_the_prefill_is_part_of_the_prompt(tokenizer, data_dir):
    task = TASKS["gsm8k@train-shots"]
    instance = task.load(task.chat, {"openai/gsm8k": str(data_dir / "gsm8k")}, 1)[0]
    rendered = render(tokenizer, task.chat, instance)
    assert rendered.text.endswith("<|assistant|>\nAnswer:")
    assert rendered.text.count("<|assistant|>\nAnswer: ") == 8


def test_a_model_without_a_chat_template_is_asked_in_plain_form_and_the_scores_say_so(model_folder, tmp_path):
    tasks = [TASKS["nano_problems@nano"], TASKS["nano_facts@nano"]]

    def score(label, template, **given):
        journal, limits = tmp_path / f"{label}.jsonl", Limits(instances=2, response_tokens=4)
        given |= {"output": tmp_path, "journal": journal, "hub_mirror": {}, "limits": limits}
        return score_model(model_folder(template), tasks, label=label, **given)

    plain, chat = score("plain", None), score("chat", TEMPLATES["tulu"])
    lent = score("lent", None, chat_template="tulu")
    assert (plain["format"], chat["format"], lent["format"]) == ("plain", "chat", "chat")
    assert "plain form" in plain["note"]
    assert not chat["note"]
    assert plain["tasks"]["nano_facts@nano"]["protocol"] == "nano_facts@nano-plain"
    records = [row for _, row in read_jsonl(tmp_path / records_file("plain"))]
    assert all(record["prompt"].startswith("Question: ") for record in records)
    assert len(records) == 4


def test_the_unseen_suite_needs_a_reason_and_every_look_leaves_a_line_that_stays(tmp_path):
    for reason in (None, "", "  "):
        with pytest.raises(PosttrainError, match="sealed"):
            check_seal("unseen", reason)
    check_seal("development", None)
    for reason, task in (("a test", "facts"), ("asked again", "facts"), ("another", "requests")):
        record_unsealing([tmp_path], reason, {"model": "weights"}, [task], {"instances": 1})
    assert count_unsealings([tmp_path]) == 2
    lines = [row for _, row in read_jsonl(tmp_path / LOG)]
    assert [line["reason"] for line in lines] == ["a test", "another"]
    assert (lines[0]["tasks"], lines[0]["asked"]) == (["facts"], {"instances": 1})
