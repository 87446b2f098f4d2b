"""lm-eval's side of `benchmarks/evaluation.py`: the same model, prompts and limit. Runs in the peers' environment.

Its tasks are its own: the output types, filters and metrics that its gsm8k_cot, truthfulqa_mc2, ifeval and multiple
choice have; only their rows are read from the files that the benchmark wrote, as the hub cannot be relied on.
"""

import json
import sys
from pathlib import Path
from time import perf_counter, process_time


def tasks(folder: Path, limit: int):
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks.ifeval.utils import process_results
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    def task(name: str, **config):
        shared = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
            "test_split": "test",
            "num_fewshot": 0,
        }
        return ConfigurableTask(config=shared | config)

    def generated(until: list[str]):
        return {"until": until, "do_sample": False, "temperature": 0.0, "max_gen_toks": 64}

    loose = "prompt_level_loose_acc"
    strict = {"function": "regex", "regex_pattern": r"The answer is (\-?[0-9\.\,]+)."}
    return {
        "gsm8k": task(
            "gsm8k",
            output_type="generate_until",
            doc_to_text="{{prompt}}",
            doc_to_target="{{gold}}",
            generation_kwargs=generated(["Question:", "</s>", "<|im_end|>", "\n\n"]),
            filter_list=[{"name": "strict-match", "filter": [strict, {"function": "take_first"}]}],
            metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        ),
        "ifeval": task(
            "ifeval",
            output_type="generate_until",
            doc_to_text="{{asked}}",
            doc_to_target=0,
            generation_kwargs=generated(["\nQuestion:"]),
            process_results=lambda doc, results: {loose: process_results(doc, results)[loose]},
            metric_list=[{"metric": loose, "aggregation": "mean", "higher_is_better": True}],
        ),
        "truthfulqa": task(
            "truthfulqa",
            output_type="multiple_choice",
            doc_to_text="{{prompt}}",
            doc_to_target=0,
            doc_to_choice="{{mc2_targets.choices}}",
            process_results=process_results_mc2,
            metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        ),
        "mmlu": task(
            "mmlu",
            output_type="multiple_choice",
            doc_to_text="{{prompt}}",
            doc_to_target="{{answer}}",
            doc_to_choice=["A", "B", "C", "D"],
            metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        ),
    }


def main() -> None:
    model, folder, limit, output = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    before = perf_counter()
    listed = len(TaskManager().all_tasks)
    listing = perf_counter() - before
    asked = tasks(folder, limit)  # its rows are read, and what its metrics import, before the clock starts
    language_model = HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=16)
    wall, processor = perf_counter(), process_time()
    found = evaluator.evaluate(lm=language_model, task_dict=asked, limit=limit, log_samples=True, bootstrap_iters=0)
    told = {
        "wall_s": perf_counter() - wall,
        "cpu_s": process_time() - processor,
        "listing_s": listing,
        "listed": listed,
        "samples": {
            name: [
                {
                    "id": sample["doc"]["id"],
                    "score": sample.get("prompt_level_loose_acc", sample.get("exact_match", sample.get("acc"))),
                    "response": sample["resps"][0][0] if name in ("gsm8k", "ifeval") else None,
                }
                for sample in sorted(own, key=lambda sample: sample["doc_id"])
            ]
            for name, own in found["samples"].items()
        },
    }
    Path(output).write_text(json.dumps(told, default=float))


if __name__ == "__main__":
    main()
