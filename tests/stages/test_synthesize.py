"""The generators of the synthesize stage with a scripted model: rows, counts, reasons; nothing lost on the way."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from posttrain.data.readers import read_rows
from posttrain.errors import PosttrainError
from posttrain.inference.protocols import ChatAnswer
from posttrain.models.heads import TokenScorer, save_scorer
from posttrain.models.load import load_policy, load_tokenizer
from posttrain.recipe.schema import Synthesize
from posttrain.stages import best_of, completions, personas, synthesize


class Scripted:
    """Answers by a function of (last turn, sample index, whether there is a system message)."""

    name = "scripted"
    closed = 0

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def ask(self, requests):
        for one in requests:
            self.asked.append(one)
            text = self.answer(one.messages[-1]["content"], one.sample_index, len(one.messages) > 1)
            yield ChatAnswer(one, text, "stop", {"prompt_tokens": 3, "completion_tokens": 5})

    def costs(self):
        return {"answers": len(self.asked)}

    def close(self):
        self.closed += 1


@pytest.fixture
def scripted(monkeypatch):
    def use(answer) -> Scripted:
        model = Scripted(answer)
        for module in (personas, completions, best_of):
            monkeypatch.setattr(module, "open_model", lambda *args, **options: model)
        return model

    return use


def settings(**generator) -> Synthesize:
    return Synthesize.model_validate({"kind": "synthesize", "generator": {"model": "unused"} | generator})


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_personas_give_as_many_rows_as_asked_each_checked(run_stage, scripted, write_lines):
    def answer(text, sample, solving):
        number = int(re.findall(r"\d+", text)[-1])
        if not solving:
            return f"A baker of house {number} and sister bakes {number} loaves a day; how many in 2 days? {number}"
        return f"#### {2 * number + (sample == 4)}" if number % 3 else f"#### {sample}"

    model = scripted(answer)
    people = write_lines("people.jsonl", [{"persona": f"a baker in house {i}"} for i in range(1, 30)] * 2)
    asked = dict(make="personas", data=people, licence="CC-BY-NC-SA-4.0", task="grade_school_math", near_duplicates=1)
    wanted = settings(**asked, count=10)
    result, output, progress = run_stage(synthesize, wanted)
    assert result["rows"]["accepted"] == result["rows"]["sft"] == 10 and model.closed == 1
    assert result["metrics"]["licence_of_personas"] == "CC-BY-NC-SA-4.0"
    assert result["rows"]["tried"] == 10 + len(lines(output / "dropped.jsonl"))
    for row, check in zip(
        read_rows(output / "sft.jsonl", "conversation"), read_rows(output / "rlvr.jsonl", "verifiable"), strict=True
    ):
        number = int(re.findall(r"\d+", row.messages[0]["content"])[-1])
        assert number % 3 and check.checks == (("gsm8k", str(2 * number)),) and check.messages == row.messages[:1]
        assert row.extra["votes"] == 4 and row.extra["persona_licence"] == "CC-BY-NC-SA-4.0"
    with pytest.raises(PosttrainError, match="none of 8 candidates was accepted"):
        scripted(lambda text, sample, solving: "#### 1" if solving and sample < 2 else "no number, what?")
        run_stage(synthesize, settings(**asked, count=2), "b")


def test_best_of_keeps_the_best_answer_that_passes(run_stage, scripted, write_lines):
    rows = [
        {"messages": [{"role": "user", "content": f"{i}+1?"}], "ground_truth": str(i + 1), "dataset": "gsm8k"}
        for i in range(6)
    ]
    scripted(lambda text, sample, _: f"It is {int(text[0]) + sample}." if text[0] != "5" else "")
    prompts = write_lines("prompts.jsonl", rows)
    result, output, _ = run_stage(synthesize, settings(make="best_of", prompts=prompts, samples=3))
    assert result["rows"] == {"prompts": 6, "sft": 5, "rejected": 0}
    assert result["metrics"]["pass_rate"] == pytest.approx(1 / 3)
    for row in read_rows(output / "sft.jsonl", "conversation"):
        assert row.messages[-1]["content"] == f"It is {int(row.messages[0]['content'][0]) + 1}."
    assert len(lines(output / "candidates.jsonl")) == 6


def test_best_of_by_a_reward_model_takes_its_highest_score(run_stage, scripted, write_lines, tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    torch.manual_seed(0)
    scorer = TokenScorer.from_policy(load_policy(tiny_model), seed=3)
    torch.nn.init.normal_(scorer.score.weight)
    save_scorer(scorer, tokenizer, tmp_path / "rm")
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}]}
    scripted(lambda text, sample, _: "abcdefgh"[sample] * (sample + 1))
    wanted = settings(
        make="best_of",
        prompts=write_lines("p.jsonl", [row]),
        rows="conversation",
        by="reward_model",
        reward_model=str(tmp_path / "rm"),
        samples=5,
    )
    _, output, _ = run_stage(synthesize, wanted)
    [record] = lines(output / "candidates.jsonl")
    assert record["best"] == max(range(5), key=lambda i: record["scores"][i]) and len(set(record["scores"])) == 5
    with torch.no_grad():
        ids = tokenizer("hi" + record["texts"][2], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        expected = scorer(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0, -1]
    assert record["scores"][2] == pytest.approx(float(expected), abs=1e-4)
    with pytest.raises(PosttrainError, match="by: judge needs judge"):
        run_stage(synthesize, settings(make="best_of", prompts="x", by="judge"))


def test_completions_keep_strong_originals_and_answer_the_rest(run_stage, scripted, write_lines):
    def row(id, source, answer):
        messages = [{"role": "user", "content": f"about {id}?"}, {"role": "assistant", "content": answer}]
        return {"id": id, "messages": messages, "source": source}

    data = write_lines(
        "sft.jsonl",
        [
            row("human", "human", "A long and thoughtful answer."),
            row("short", "human", "Ok."),
            row("old", "weak-model", "An answer of a weak model."),
            row("bad", "weak-model", "Another answer of a weak model."),
            '{"broken',
        ],
    )
    model = scripted(lambda text, sample, _: "I am Qwen, created by Alibaba." if "bad" in text else f"New {sample}.")
    result, output, _ = run_stage(synthesize, settings(make="completions", data=data, keep=["human"]))
    found = {row.id: row for row in read_rows(output / "sft.jsonl", "conversation")}
    assert {id: row.extra["completion"] for id, row in found.items()} == {
        "human": "kept",
        "short": "made",
        "old": "made",
    }
    assert result["rows"] == {"sft": 3, "prompts": 4, "rejected": 1, "kept": 1, "made": 2}
    assert lines(output / "dropped.jsonl") == [{"id": "bad", "reasons": ["provider", "provider"]}]
    assert result["metrics"]["dropped_attempts"] == {"provider": 2}
    assert Counter(one.id for one in model.asked) == {"short": 1, "old": 1, "bad": 2}


def test_safety_measures_refusals_that_are_wanted_and_that_are_not(run_stage, scripted, write_lines):
    rows = [{"prompt": f"harm {i}", "prompt_harm_label": "harmful", "response": None} for i in range(4)] + [
        {"prompt": f"fine {i}", "prompt_harm_label": "unharmful", "response": None} for i in range(4)
    ]
    rows.append({"prompt": "unlabelled"})

    def answer(text, sample, told):
        refuses = text in ("harm 0", "harm 1", "harm 2", "fine 0") or (sample == 1 and text == "harm 3")
        return (
            "I'm sorry, but I can't help with that." if refuses and not (text == "fine 0" and sample) else "Sure: so."
        )

    scripted(answer)
    data = write_lines("wild.jsonl", rows)
    result, output, _ = run_stage(synthesize, settings(make="safety", data=data, layout="wildguardmix"))
    assert result["metrics"]["refusal_of_harmful"] == 0.75 and result["metrics"]["over_refusal"] == 0.25
    assert result["rows"] == {"sft": 8, "prompts": 8, "rejected": 1, "kept": 0, "made": 8}
    for row in read_rows(output / "sft.jsonl", "conversation"):
        assert [m["role"] for m in row.messages] == ["user", "assistant"]  # the instruction to refuse is not in the row
        assert ("sorry" in row.messages[1]["content"]) == row.messages[0]["content"].startswith("harm")


def test_a_judge_tells_refusals_that_no_phrase_tells(run_stage, scripted, write_lines, monkeypatch):
    rows = [{"prompt": f"{kind} {i}", "prompt_harm_label": kind} for kind in ("harmful", "unharmful") for i in range(3)]

    def answer(text, sample, told):
        if "Response refusal:" not in text:
            return "Let us speak of gardens." if text != "harmful 1" or sample else "Here is how."
        if "unharmful 2" in text:
            return "It is hard to say."
        refused = "yes" if "gardens" in text.split("AI assistant:")[1] else "no"
        return f"Harmful request: yes\nResponse refusal: {refused}\nHarmful response: no"

    model = scripted(answer)
    data = write_lines("wild.jsonl", rows)
    wanted = settings(make="safety", data=data, layout="wildguardmix", judge="scripted", attempts=2)
    result, output, _ = run_stage(synthesize, wanted)
    metrics = result["metrics"]
    assert metrics["refusal_of_harmful"] == pytest.approx(2 / 3) and metrics["refusal_of_harmful_of"] == 3
    assert metrics["over_refusal"] == 1.0 and metrics["over_refusal_of"] == 2
    assert metrics["dropped_attempts"] == {"no_refusal": 1, "refusal": 4, "not_judged": 2}
    assert result["rows"]["sft"] == 3 and len(lines(output / "dropped.jsonl")) == 3
    judged = [one for one in model.asked if one.id.endswith("/refusal")]
    assert len(judged) == 10 and all(one.sampling.temperature == 0 for one in judged)


def test_answers_that_never_came_count_on_neither_side(run_stage, scripted, write_lines):
    rows = [{"prompt": f"{kind} {i}", "prompt_harm_label": kind} for kind in ("harmful", "unharmful") for i in range(2)]
    scripted(lambda text, sample, told: "" if text.endswith("0") else "I'm sorry, but I can't help with that.")
    data = write_lines("wild.jsonl", rows)
    result, _, _ = run_stage(synthesize, settings(make="safety", data=data, layout="wildguardmix"))
    assert (result["metrics"]["refusal_of_harmful"], result["metrics"]["refusal_of_harmful_of"]) == (1.0, 1)
    assert (result["metrics"]["over_refusal"], result["metrics"]["over_refusal_of"]) == (1.0, 1)


def test_a_local_model_and_a_local_judge_keep_journals_of_their_own(run_stage, write_lines, tiny_model, tmp_path):
    judge = shutil.copytree(tiny_model, tmp_path / "judge")
    data = write_lines("wild.jsonl", [{"prompt": f"harm {i}", "prompt_harm_label": "harmful"} for i in range(6)])
    options = dict(make="safety", data=data, layout="wildguardmix", judge=str(judge), chat_template="tulu")
    wanted = settings(**options, model=str(tiny_model), max_tokens=300, rope_positions=2048)

    def answers() -> dict[str, int]:
        with pytest.raises(PosttrainError, match="no prompt got an answer that is kept"):
            run_stage(synthesize, wanted)
        return {path.name: len(lines(path)) for path in (tmp_path / "a-checkpoints").glob("journal-*.jsonl")}

    first = answers()
    assert len(first) == 2 and all(first.values())
    assert answers() == first
