"""Letters, log-probabilities and samples through the local engine, against plain forwards; kills; scoring again."""

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.artifacts.jsonl import read_jsonl, write_jsonl
from posttrain.data.chat import TEMPLATES
from posttrain.errors import PosttrainError
from posttrain.evaluation.compare import compare, read_scored
from posttrain.evaluation.inspection import inspect
from posttrain.evaluation.render import continuations, render
from posttrain.evaluation.rescore import rescore
from posttrain.evaluation.run import SCORES, Limits, evaluate, records_file, score_model
from posttrain.evaluation.suites import TASKS
from posttrain.inference.opening import open_local
from tests.evaluation.mirror import mirror


@pytest.fixture
def rows(tmp_path):
    """Made-up rows of small sets, mirrored."""
    questions = [
        {"question": f"Is {i} big?", "choices": ["no", "yes", "so-so", "both"], "answer": i % 4} for i in range(8)
    ]
    (tmp_path / "mmlu").mkdir()
    for split in ("test", "dev"):
        named = [{**row, "subject": ("size", "weight")[i % 2]} for i, row in enumerate(questions)]
        write_jsonl(tmp_path / "mmlu" / f"{split}.jsonl", named)
    mc2 = {"yes it is": 1, "it may be": 1, "no": 0, "never in all time": 0}
    write_jsonl(
        tmp_path / "tqa.jsonl", [{"question": f"Is {i} odd?", "mc1_targets": mc2, "mc2_targets": mc2} for i in range(5)]
    )
    given = {"cais/mmlu": "mmlu", "truthfulqa/truthful_qa": "tqa.jsonl"}
    return {hub_id: str(tmp_path / path) for hub_id, path in given.items()}


def ask(folder, tasks, journal, given, **more):
    sampler, tokenizer = open_local(folder)
    tokenizer.chat_template = TEMPLATES["tulu"]
    tasks = [TASKS[name] for name in tasks]
    return evaluate("w", sampler, tokenizer, tasks, format="chat", journal=journal, hub_mirror=given, **more)


def forward(folder, sequence):
    """Log-probability of each token after the first, by one plain forward."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.tensor([sequence])).logits[0].double().log_softmax(-1)
    return [float(logits[i, token]) for i, token in enumerate(sequence[1:])]


@pytest.fixture
def folder(model_folder):
    path = model_folder(TEMPLATES["tulu"])
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return path


def test_the_likeliest_letter_is_that_of_a_plain_forward(folder, rows, tmp_path):
    scores, records = ask(folder, ["mmlu@released"], tmp_path / "j.jsonl", rows)
    _, tokenizer = open_local(folder)
    tokenizer.chat_template = TEMPLATES["tulu"]
    task = TASKS["mmlu@released"]
    instances = {i.id: i for i in task.load(task.chat, rows, None)}
    for record in records:
        rendered = render(tokenizer, task.chat, instances[record["id"]])
        options = [
            forward(folder, [*rendered.token_ids, *ids])[-1] for ids in continuations(tokenizer, rendered, "ABCD")
        ]
        assert record["response"] == "ABCD"[options.index(max(options))]
        assert (record["response_tokens"], record["finish_reason"]) == (1, "stop")
    found = scores["tasks"]["mmlu@released"]
    by_group = {g: [r["score"] for r in records if r["group"] == g] for g in ("size", "weight")}
    assert found["mean"] == pytest.approx(sum(sum(own) / len(own) for own in by_group.values()) / 2)


def test_mc2_is_that_of_plain_forwards_and_long_choices_do_not_underflow(folder, rows, tmp_path):
    scores, records = ask(folder, ["truthfulqa@clean"], tmp_path / "j.jsonl", rows)
    _, tokenizer = open_local(folder)
    tokenizer.chat_template = TEMPLATES["tulu"]
    task = TASKS["truthfulqa@clean"]
    expected = []
    for instance in task.load(task.chat, rows, None):
        rendered = render(tokenizer, task.chat, instance)
        n = len(rendered.token_ids)
        sums = [
            sum(forward(folder, [*rendered.token_ids, *ids])[n - 1 :])
            for ids in continuations(tokenizer, rendered, instance.choices)
        ]
        mass = torch.tensor(sums, dtype=torch.float64).softmax(0)
        expected.append(float(mass[0] + mass[1]))
    assert [record["score"] for record in records] == pytest.approx(expected, abs=1e-5)
    assert scores["tasks"]["truthfulqa@clean"]["mean"] == pytest.approx(sum(expected) / 5, abs=1e-5)
    from posttrain.evaluation.scorers import mc2

    assert mc2("[-900.0, -901.0]", "[1, 0]").score == pytest.approx(1 / (1 + torch.e**-1))


def test_a_run_killed_among_letters_and_choices_asks_nothing_twice(folder, rows, tmp_path, monkeypatch):
    tasks = ["mmlu@released", "truthfulqa@clean"]
    whole = ask(folder, tasks, tmp_path / "whole.jsonl", rows)
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 8 + 20
    from posttrain.inference.local import LocalSampler

    score, generate, asked = LocalSampler.score, LocalSampler.generate, []
    monkeypatch.setattr(LocalSampler, "score", lambda self, s: asked.extend(s) or score(self, s))
    monkeypatch.setattr(LocalSampler, "generate", lambda self, r: asked.extend(r) or generate(self, r))
    (tmp_path / "half.jsonl").write_bytes(b"".join(lines[:8]) + lines[8][:11])
    assert ask(folder, tasks, tmp_path / "half.jsonl", rows) == whole
    assert len(asked) == 20
    asked.clear()
    assert ask(folder, tasks, tmp_path / "half.jsonl", rows) == whole
    assert asked == []


def test_pass_at_ten_of_twenty_samples(told, tokenizer, tmp_path, data_dir):
    task = TASKS["humaneval@paper"]
    instances = task.load(task.chat, mirror(data_dir), 2)
    right = {i.before: i.gold for i in instances}
    number = iter(range(1000))

    def sample(text):
        before = next(b for b in right if b in text)
        # One sample in four is right, of the first problem only.
        return right[before] if before == instances[0].before and next(number) % 4 == 0 else "    return None\n"

    sampler = told(tokenizer, sample)
    limits = Limits(instances=2)
    given: dict[str, Any] = {"journal": tmp_path / "j.jsonl", "hub_mirror": mirror(data_dir), "limits": limits}
    scores, records = evaluate("w", sampler, tokenizer, [task], format="chat", **given)
    assert len(sampler.asked) == len(records) == 40
    assert {(r.sampling.temperature, r.sampling.top_p) for r in sampler.asked} == {(0.8, 0.95)}
    assert len({(r.prompt_id, r.sample_index) for r in sampler.asked}) == 40
    correct = sum(r["score"] for r in records)
    from math import comb

    found = scores["tasks"]["humaneval@paper"]
    assert found["mean"] == pytest.approx((1 - comb(20 - int(correct), 10) / comb(20, 10)) / 2)
    assert (found["n"], correct) == (2, 5.0)


def evaluated(folder, label, rows, output, **limits):
    output.mkdir()
    given = {"output": output, "journal": output / "j.jsonl", "hub_mirror": rows, "limits": Limits(**limits)}
    tasks = [TASKS["mmlu@released"], TASKS["truthfulqa@clean"]]
    scores = score_model(folder, tasks, label=label, **given)
    scores = {"suite": "development", "limits": {"instances": None}, "models": {label: scores}}
    (output / SCORES).write_text(json.dumps(scores))
    return scores


def test_scoring_again_gives_the_same_scores_without_a_model_and_refuses_other_rows(folder, rows, tmp_path):
    first = evaluated(folder, "a", rows, tmp_path / "out")
    again = rescore(tmp_path / "out", rows, {}, tmp_path / "again")
    assert again["models"] == first["models"]
    assert again["rescored"]
    kept = [
        [row for _, row in read_jsonl(place / records_file("a"))] for place in (tmp_path / "out", tmp_path / "again")
    ]
    assert kept[0] == kept[1]
    write_jsonl(tmp_path / "mmlu" / "test.jsonl", [])
    other = tmp_path / "other.jsonl"
    write_jsonl(other, [{"question": "Other?", "mc1_targets": {"a": 1}, "mc2_targets": {"a": 1, "b": 0}}] * 5)
    with pytest.raises(PosttrainError, match="not those that were asked"):
        rescore(tmp_path / "out", rows | {"truthfulqa/truthful_qa": str(other)}, {}, tmp_path / "no")


def test_two_models_are_compared_instance_by_instance(folder, rows, tmp_path):
    evaluated(folder, "a", rows, tmp_path / "x")
    evaluated(folder, "b", rows, tmp_path / "y")
    path = tmp_path / "y" / records_file("b")
    records = [row for _, row in read_jsonl(path)]
    flipped = [r for r in records if r["task"] == "mmlu@released"][:3]
    for record in flipped:
        record["score"] = 1.0 - record["score"]
    write_jsonl(path, records)
    a, b = read_scored(str(tmp_path / "x")), read_scored(f"{tmp_path / 'y'}:b")
    [letters, choices], average, alone = compare([a], [b])
    assert average is not None
    assert alone == []
    assert {id for id, _, _ in letters.changed} == {r["id"] for r in flipped}
    assert letters.test is not None and letters.test.only_a + letters.test.only_b == 3
    assert letters.difference == pytest.approx(letters.a - letters.b)
    assert choices.difference == 0 and not choices.changed
    assert choices.low < 0 < choices.high
    assert average.difference == pytest.approx(letters.difference / 2)
    assert letters.low <= letters.difference <= letters.high
    with pytest.raises(PosttrainError, match="no scores.json"):
        read_scored(str(tmp_path / "none"))


def test_inspection_shows_prompt_tokens_gold_and_extraction(folder, rows):
    _, tokenizer = open_local(folder)
    tokenizer.chat_template = TEMPLATES["tulu"]
    told = "\n".join(inspect(TASKS["mmlu@released"], tokenizer, "chat", rows, 2))
    task = TASKS["mmlu@released"]
    first = task.load(task.chat, rows, 1)[0]
    rendered = render(tokenizer, task.chat, first)
    assert rendered.text in told
    assert f"{len(rendered.token_ids)} tokens, 0 of them BOS" in told
    assert "choice 'B':" in told
    assert "gold: A" in told and "correct" in told
