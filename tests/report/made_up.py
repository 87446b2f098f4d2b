"""A run's folder with everything that a report shows, made of invented figures and hostile texts."""

import random
from pathlib import Path
from typing import Any

from posttrain.artifacts.atomic import write_json
from posttrain.artifacts.jsonl import write_jsonl
from posttrain.evaluation.protocol import Decoding, Protocol
from posttrain.evaluation.run import SCORES, records_file
from posttrain.evaluation.scores import suite_average, task_score
from posttrain.report.lineage import decontamination, lineage, stage_figures
from posttrain.report.tables import Evaluated, suites

HOSTILE = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'></script>"
PROTOCOL = Protocol("nano_problems", "nano", "made up", "1", "test", "chat", Decoding(8), "exact_match", "strict")
SHARED = "Which of the seven green lamps in the hall was lit first"


def artifact(run: Path, stage: str, kind: str, inputs=(), **manifest) -> Path:
    folder = run / stage / f"key-of-{stage}"
    about = {"stage": stage, "key": f"key-of-{stage}", "kind": kind, "settings": {"kind": kind, "note": HOSTILE}}
    made = {
        "inputs": {name: f"key-of-{name}" for name in inputs},
        "references": {},
        "started": f"2026-01-01T0{len(inputs)}",
    }
    write_json(folder / "manifest.json", about | made | {"seconds": 2.5, "rows": {"data": 3}, "metrics": {}} | manifest)
    return folder


def made_up_run(runs: Path, instances: int = 40, words: int = 0) -> Path:
    """``runs``/made-up, of ``instances`` instances answered by two models, SFT and DPO.

    ``words``: drawn at random into every prompt and answer, so that they compress no better than real ones.
    """
    drawn = random.Random(0)
    vocabulary = ["".join(drawn.choices("etaoinshrdlu", k=drawn.randint(2, 9))) for _ in range(4000)]
    run = runs / "made-up"
    world = artifact(run, "world", "synthesize", references={"some/model": "sha256 0"})
    write_jsonl(
        world / "sft.jsonl", [{"id": "t1", "messages": [{"role": "user", "content": f"Well: {SHARED}? {HOSTILE}"}]}]
    )
    mixture = artifact(run, "mixture", "mixture", inputs=("world",))
    begin = len("Well: ")
    pair: dict[str, Any] = {"train_id": "t1", "item_id": "0", "coverage": 0.8}
    pair["excerpt"] = [["Well: ", False], [SHARED, True], [f"? {HOSTILE}", False]]
    pair["spans"] = {"train": [[0, begin, begin + len(SHARED)]], "item": [[0, 0, len(SHARED)]]}
    task = {"task": "development/nano_problems@nano", "items": 4, "overlapping": 1, "rate": 0.25, "contaminated": True}
    source = {"source": "stage:world/sft.jsonl", "profile": "paper", "rows": 100, "dropped_ids": ["t1"]}
    source |= {
        "decision": {"action": "drop_rows", "reason": "over 2%"},
        "evaluations": [task | {"pair_count": 1, "pairs": [pair]}],
    }
    write_json(
        mixture / "decontamination.json", {"not_run": ["development/wildjailbreak_harmful@paper"], "sources": [source]}
    )
    counts = {"read": 100, "removed": {"contaminated": 1}, "used": 99, "licences": {"MIT": 99}}
    lengths = {"characters": {"histogram": {"<64": 60, "<128": 39}}}
    part = {"source": "stage:world/sft.jsonl", "lengths": lengths} | counts
    write_json(mixture / "mixture.json", {"rows": 99, "kind": "conversation", "sources": [part]})
    settings = {"kind": "sft", "model": "some/model", "note": HOSTILE}
    learned = {"trained_tokens": 51234, "loss": 1.25}
    sft = artifact(run, "sft", "sft", inputs=("mixture",), metrics=learned, settings=settings)
    steps = [
        {"step": n, "loss": 3 / n, "learning_rate": 1e-4, "by_verifier": {"gsm8k": {"correct_rate": n / 50}}}
        for n in range(1, 51)
    ]
    write_jsonl(sft / "metrics.jsonl", steps)
    preferences = artifact(run, "preferences", "preferences", inputs=("sft",))
    sides = {
        name: [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": f"{name} {HOSTILE}"}]
        for name in ("chosen", "rejected")
    }
    rated = {"chosen_rating": 1.0, "rejected_rating": 0.0, "chosen_model": "stage:sft", "rejected_model": "stage:sft"}
    candidates = [{"model": "stage:sft", "on_policy": True, "text": HOSTILE, "rating": 1.0}]
    write_jsonl(
        preferences / "data.jsonl", [{"id": "p1", "prompt": HOSTILE, **sides, **rated, "candidates": candidates}]
    )
    artifact(run, "dpo", "dpo", inputs=("sft", "preferences"))
    development = artifact(run, "development", "evaluate", inputs=("sft", "dpo"))

    def prose(seed: str) -> str:
        return " ".join(random.Random(seed).choices(vocabulary, k=words))

    scores, answers = {}, {}
    for label, right in {"SFT": 2, "DPO": 3}.items():
        opening = f"<|assistant|>\n{'One lamp after another. ' * 12}"
        answers[label] = [
            {
                "task": "nano_problems@nano",
                "id": str(number),
                "prompt": f"<|user|>\n{SHARED}? ({number})\n{opening}{prose(str(number))}",
                "response": f"{label} says {number} {HOSTILE}" + " and so on" * 20 + prose(f"{label} {number}"),
                "outcome": "correct" if number % 4 < right else "wrong",
                "score": float(number % 4 < right),
                "detail": "read it",
                "finish_reason": "stop",
                "prompt_tokens": 20,
                "response_tokens": 9,
            }
            for number in range(instances)
        ]
        file = run / "records" / "development" / records_file(label)
        write_jsonl(file, answers[label])
        tasks = {"nano_problems@nano": task_score(PROTOCOL, answers[label])}
        about = {"model": label, "note": f"asked {HOSTILE}", "format": "chat"}
        scores[label] = about | {"tasks": tasks, "average": suite_average(tasks)}
    asked = {"suite": "development", "limits": {}, "unsealed": None, "models": scores}
    write_json(development / SCORES, asked)
    made = lineage([development])
    report = {
        "recipe": "made-up",
        "unsealed": 1,
        "seed": 3,
        "suites": suites([Evaluated(asked, answers)], [("DPO", "SFT")]),
        "stages": {stage: stage_figures(manifest) for stage, (_, manifest) in made.items()},
        "decontamination": {"mixture": decontamination(mixture)},
        "notes": [f"The judge is rule-based. {HOSTILE}"],
        "records": {"development": {label: f"records/development/{records_file(label)}" for label in scores}},
    }
    write_json(run / "report.json", report)
    return run
