"""Evaluation beside lm-eval 0.4.13: the same model, prompts and limit; per-instance agreement; listing; scoring speed.

The model is nano with 2,048 positions, asked plainly. lm-eval reads the prompts that ours render. Times leave out
imports and the loading of the model on both sides.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from posttrain.artifacts.jsonl import write_jsonl
from posttrain.evaluation.protocol import Instance, Protocol, Task
from posttrain.evaluation.run import Limits, evaluate
from posttrain.evaluation.suites import TASKS
from posttrain.evaluation.tasks import gsm8k, truthfulqa
from posttrain.evaluation.verify import verify
from posttrain.inference.opening import open_local
from posttrain.models.load import load_tokenizer
from posttrain.nano import BASE_MODEL
from tests.evaluation.mirror import mirror

NEW_TOKENS = 64
POSITIONS = 2048  # of nano, widened
TARGETS = {"vs_lm_eval": 2.0, "list_tasks_s": 1.0, "math_and_code_scoring_s": 180.0}
MATH_SAMPLES, CODE_SAMPLES = 5000, 20


def strict_match(response: str) -> str:
    """lm-eval's strict filter of gsm8k_cot: "The answer is N." and nothing else; its metric compares the texts."""
    found = re.search(r"The answer is (\-?[0-9\.\,]+).", response)
    return found[1] if found else "[invalid]"


def _gsm8k(protocol: Protocol, hub_mirror: Mapping[str, str], limit: int | None) -> list[Instance]:
    """Our prompts with lm-eval's reading of the answer, which our own protocols do not have."""
    instances = gsm8k.TASKS[2].load(protocol, hub_mirror, limit)
    golds = [instance.checks[0][1] for instance in instances]
    return [
        replace(instance, checks=(("exact_match", gold),), extract=strict_match)
        for instance, gold in zip(instances, golds, strict=True)
    ]


def tasks(model: Path) -> list[Task]:
    """The four whose protocols are lm-eval's too, as it asks them. Prompts over the context are left out for both: we
    count them as wrong, lm-eval cuts them."""
    tokenizer = load_tokenizer(model)

    def fitting(task: Task) -> Task:
        def load(protocol: Protocol, hub_mirror: Mapping[str, str], limit: int | None) -> list[Instance]:
            found = task.load(protocol, hub_mirror, limit)
            return [one for one in found if len(tokenizer(str(one.prompt)).input_ids) + NEW_TOKENS <= POSITIONS]

        return replace(task, load=load)

    base = gsm8k.TASKS[2]
    plain = replace(base.plain, verifier="exact_match", verifier_mode="strict")
    return [
        fitting(replace(base, plain=plain, load=_gsm8k)),
        fitting(TASKS["ifeval@paper"]),
        truthfulqa.TASKS[2],
        fitting(TASKS["mmlu@released"]),
    ]


def write_rows(folder: Path, asked: Sequence[Task], given: Mapping[str, str], limit: int) -> None:
    """The rows of the peer's tasks: our rendered prompts, with the columns that its metrics read."""
    for task in asked:
        rows = []
        for instance in task.load(task.plain, given, limit):
            row: dict[str, Any] = {"id": instance.id, "prompt": instance.prompt}
            label = instance.checks[0][1]
            if task.plain.task == "gsm8k":
                row["gold"] = label
            elif task.plain.task == "ifeval":
                [held] = json.loads(label)
                bare = str(instance.prompt).removeprefix("Question: ").removesuffix("\nAnswer:")
                row |= {"key": int(instance.id.split("-")[1]), "prompt": bare, "asked": instance.prompt}
                row |= {"instruction_id_list": held["instruction_id"], "kwargs": held["kwargs"]}
            elif task.plain.task == "truthfulqa":
                choices = [choice.removeprefix(" ") for choice in instance.choices]
                row["mc2_targets"] = {"choices": choices, "labels": json.loads(label)}
            else:
                row["answer"] = "ABCD".index(label)
            rows.append(row)
        write_jsonl(folder / f"{task.plain.task}.jsonl", rows)


def processor_seconds() -> float:
    """Of this process and of the verifiers' that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ours(model: Path, asked: Sequence[Task], given: Mapping[str, str], limit: int, journal: Path) -> dict[str, Any]:
    sampler, tokenizer = open_local(model, listed=True)
    limits = Limits(instances=limit, response_tokens=NEW_TOKENS)
    wall, processor = perf_counter(), processor_seconds()
    _, records = evaluate(
        "nano", sampler, tokenizer, asked, format="plain", journal=journal, hub_mirror=given, limits=limits
    )
    return {"wall_s": perf_counter() - wall, "cpu_s": processor_seconds() - processor, "records": records}


def agreement(records: list[dict[str, Any]], samples: Mapping[str, list[dict[str, Any]]]) -> dict[str, tuple[int, int]]:
    """task → (instances with the same score, instances)."""
    found = {}
    for name, own in samples.items():
        by_id = {record["id"]: record for record in records if record["id"].startswith(name)}
        same = [abs(float(sample["score"]) - by_id[sample["id"]]["score"]) < 1e-3 for sample in own]
        for sample, right in zip(own, same, strict=True):
            if not right:
                print(f"differs: {sample['id']}: lm-eval {sample['score']}, here {by_id[sample['id']]['score']}")
        found[name] = sum(same), len(same)
    return found


def scoring(given: Mapping[str, str], share: float) -> float:
    """Seconds for MATH and code answers that all differ: half right, half wrong."""
    jobs = []
    task = TASKS["math@paper"]
    for number, instance in enumerate(task.load(task.chat, given, int(MATH_SAMPLES * share))):
        wrong = f"So the final answer is $1+{instance.checks[0][1]}$. I hope it is correct."
        jobs.append((task.chat, instance, wrong if number % 2 else instance.gold))
    for name in ("humaneval@paper", "humaneval_plus@paper"):
        task = TASKS[name]
        for instance in task.load(task.chat, given, max(1, int(164 * share))):
            for sample in range(CODE_SAMPLES):
                body = instance.gold if sample % 2 else "    return None\n"
                jobs.append((task.chat, instance, f"{body}\n# {sample}\n"))
    empty = {"finish_reason": "stop", "outcome": "wrong", "score": 0.0, "detail": ""}
    records = [{"response": response, **empty} for _, _, response in jobs]
    began = perf_counter()
    verify(records, [(protocol, instance) for protocol, instance, _ in jobs])
    seconds = perf_counter() - began
    outcomes = {outcome: sum(r["outcome"] == outcome for r in records) for outcome in {r["outcome"] for r in records}}
    print(f"scoring {len(jobs)} answers: {seconds:.1f} s, {outcomes}")
    return seconds


def listing_seconds() -> float:
    command = [sys.executable, "-m", "posttrain.cli", "evaluate", "tasks"]
    seconds = []
    for _ in range(3):
        began = perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(perf_counter() - began)
    return min(seconds)


def with_positions(folder: Path, positions: int) -> Path:
    """nano's files, its context widened."""
    folder.mkdir()
    for file in BASE_MODEL.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, metavar="PYTHON", help="an interpreter with lm-eval 0.4.13")
    parser.add_argument("--data", default=os.environ.get("POSTTRAIN_TEST_DATA", "../shared/data"), type=Path)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--scoring-share", type=float, default=1.0, help="of the 5,000 and 6,560 answers")
    args = parser.parse_args()
    given = mirror(args.data.resolve())
    os.environ.setdefault("NLTK_DATA", str(args.data.resolve() / "nltk_data"))
    listing = listing_seconds()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = with_positions(folder / "model", POSITIONS)
        asked = tasks(model)
        write_rows(folder, asked, given, args.limit)
        mine = ours(model, asked, given, args.limit, folder / "journal.jsonl")
        command = [args.peer, str(Path(__file__).with_name("evaluation_peer.py")), model, folder, str(args.limit)]
        subprocess.run([*map(str, command), str(folder / "peer.json")], check=True, stdout=subprocess.DEVNULL)
        peer = json.loads((folder / "peer.json").read_text())
    agreed = agreement(mine["records"], peer["samples"])
    seconds = scoring(given, args.scoring_share)
    print(f"{'':24} {'posttrain':>10} {'lm-eval':>10}")
    print(f"{'ask and score, wall s':24} {mine['wall_s']:10.1f} {peer['wall_s']:10.1f}")
    print(f"{'ask and score, cpu s':24} {mine['cpu_s']:10.1f} {peer['cpu_s']:10.1f}")
    print(f"{'list all tasks, s':24} {listing:10.2f} {peer['listing_s']:10.2f}  ({len(TASKS)} and {peer['listed']})")
    for name, (same, n) in agreed.items():
        print(f"{name:24} {same} of {n} instances score the same")
    figures = {
        "vs_lm_eval": round(peer["wall_s"] / mine["wall_s"], 2),
        "vs_lm_eval_cpu": round(peer["cpu_s"] / mine["cpu_s"], 2),
        "list_tasks_s": round(listing, 2),
        "math_and_code_scoring_s": round(seconds, 1),
        "scoring_share": args.scoring_share,
        "same_score": {name: f"{same}/{n}" for name, (same, n) in agreed.items()},
    }
    met = (
        figures["vs_lm_eval"] >= TARGETS["vs_lm_eval"]
        and listing <= TARGETS["list_tasks_s"]
        and seconds <= TARGETS["math_and_code_scoring_s"] * args.scoring_share
        and all(same == n for same, n in agreed.values())
    )
    print(json.dumps({"bench": "evaluation", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
