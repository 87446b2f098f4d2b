"""Preference data over HTTP, end to end: nano checkpoints behind `transformers serve` and vLLM, two judges, DPO.

The policy answers through `transformers serve`, the pool and the judge through vLLM, each a real server in a process
of its own. The pairs are made twice: by the model's ratings, and by the prompts' verifiers from the
journals, which hold all answers. DPO trains on both. All is kept under ``--runs``; a second call asks nothing.
"""

import argparse
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import posttrain
from posttrain.pipeline.runner import RunResult

RECIPE = Path(__file__).parents[1] / "recipes" / "preferences-http.yaml"
POLICY_PORT, POOL_PORT = 8721, 8722  # as in the recipe
START_SECONDS = 400.0
LEAST_PROMPTS = 500
LAST = 8  # steps that a final figure is the mean of
JUDGED_LENGTH = 4096  # positions for the judge's prompt, of which the checkpoint has seen 512


@contextmanager
def served(command: list[str], port: int, folder: Path, log: Path) -> Iterator[None]:
    """A server while the block runs; ``folder``: where its model names are looked up."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + START_SECONDS
        while not healthy(port):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{command[0]} serves nothing on port {port}; see {log}")
            time.sleep(1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def figures_of(result: RunResult) -> dict[str, Any]:
    made, trained = result.stages["preferences"].artifact, result.stages["dpo"].artifact
    rows, metrics = made.manifest["rows"], made.manifest["metrics"]
    steps = [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
    figures = {
        "prompts": rows["prompts"],
        "answers": sum(metrics["endpoints"][name]["answers"] for name in metrics["endpoints"] if "judge" not in name),
        "pairs": rows["pairs"],
        "no_pair": metrics["no_pair"],
        "asked": {name: one["asked"]["answers"] for name, one in metrics["endpoints"].items()},
        "failures": {name: one["asked"]["failures"] for name, one in metrics["endpoints"].items()},
        "seconds": round(result.stages["preferences"].seconds),
        "dpo_steps": len(steps),
        "dpo_loss": [round(steps[0]["loss"], 4), round(mean(step["loss"] for step in steps[-LAST:]), 4)],
        "dpo_accuracy": [steps[0]["accuracy"], round(mean(step["accuracy"] for step in steps[-LAST:]), 3)],
    }
    if "judge" in metrics:
        judge = metrics["judge"]
        figures |= {name: judge[name] for name in ("calls", "unreadable", "missing_calls", "checks_agree")}
        figures["not_applicable"] = round(mean(one["not_applicable"] for one in judge["aspects"].values()), 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True, type=Path, help="the environment that holds vLLM and transformers")
    parser.add_argument("--runs", default="build/runs", help="where artifacts, journals and logs are kept")
    args = parser.parse_args()
    began = time.perf_counter()
    runs = Path(args.runs).resolve()
    for name in ("sft", "early", "prompts"):
        result = posttrain.run(RECIPE, runs=runs, until=name)
        if name != "prompts":
            checkpoint = result.stages[name].artifact.path
            link = runs / {"sft": "policy", "early": "pool"}[name]
            link.unlink(missing_ok=True)
            link.symlink_to(checkpoint)
    policy, pool = (f"{name}-{(runs / name).resolve().name[:8]}" for name in ("policy", "pool"))
    named = [
        f"stages.preferences.policy.name={policy}",
        f"stages.preferences.pool.0.endpoint.name={pool}",
    ]
    rules = [*named, "stages.preferences.judge=rules"]
    judged = [*named, f"stages.preferences.judge.model.name={pool}"]
    binaries = args.servers.resolve() / "bin"
    transformers = [str(binaries / "transformers"), "serve", "policy", "--port", str(POLICY_PORT)]
    transformers += ["--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    vllm = [str(binaries / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", "pool"]
    vllm += ["--host", "127.0.0.1", "--port", str(POOL_PORT), "--dtype", "float32", "--enforce-eager"]
    vllm += ["--max-model-len", str(JUDGED_LENGTH), "--max-num-seqs", "64"]
    vllm += ["--hf-overrides", json.dumps({"max_position_embeddings": JUDGED_LENGTH})]
    # Held to JSON with white space allowed, a small model writes white space until it is cut.
    vllm += ["--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})]
    with served(vllm, POOL_PORT, runs, runs / "vllm.log"):
        with served(transformers, POLICY_PORT, runs, runs / "transformers.log"):
            posttrain.run(RECIPE, rules, runs=runs, until="preferences")
        by_model = figures_of(posttrain.run(RECIPE, judged, runs=runs, until="dpo"))
    by_rules = figures_of(posttrain.run(RECIPE, rules, runs=runs, until="dpo"))
    minutes = (time.perf_counter() - began) / 60
    for name in sorted(by_rules | by_model):
        print(f"{name:>16}  {by_rules.get(name, '-')!s:>60}  {by_model.get(name, '-')}")
    figures = {"rules": by_rules, "model": by_model, "minutes": round(minutes, 1)}
    met = (
        by_rules["prompts"] >= LEAST_PROMPTS
        and by_model["calls"] >= LEAST_PROMPTS
        and all(one["answers"] == 2 * one["prompts"] for one in (by_rules, by_model))
        and all(one["dpo_loss"][1] < one["dpo_loss"][0] for one in (by_rules, by_model))
    )
    targets = {"least_prompts": LEAST_PROMPTS, "answers": "all", "dpo_loss": "falls"}
    print(json.dumps({"bench": "preferences_http", "figures": figures, "targets": targets, "met": met}))


if __name__ == "__main__":
    main()
