"""Decontamination beside dolma 1.2.1, datatrove 0.10.1 and a phrase-query engine, on real prompts with planted leaks.

    make bench-decontamination                      the whole run; the peers stand in .venv-peers
    python benchmarks/decontamination.py --scale small --without-peers

Every system runs in a process of its own. Throughput counts from decoded text to verdict; reading files stands apart.
The last line is JSON: {"bench", "figures", "targets", "met"}.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from leaks import brute_force
from leaks.prompts import HARD_NEGATIVES, PLANTED, Prompt, Texts, evaluations, squeezed, training

from posttrain.decontamination.index import EvaluationIndex, EvaluationItem
from posttrain.decontamination.match import match_batches
from posttrain.decontamination.profiles import PROFILES
from posttrain.decontamination.report import decide, find_overlaps

PROCESSES = 2
REPEATS = 7
# share of the evaluation items, training prompts, planted of each kind, prompts for datatrove (531 a second),
# brute force rows × items, prompts of the stream
SCALES = {
    "full": (1.0, 120_000, 1000, 20_000, (5000, 2000), 10_000_000),
    "medium": (0.33, 24_000, 300, 3_000, (1000, 500), 100_000),
    "small": (0.05, 4_000, 40, 500, (300, 200), 20_000),
}
HALF = Fraction(1, 2)
TARGETS = {
    "prompts_per_s": 50_000,
    "vs_dolma": 3.0,
    "vs_datatrove": 80.0,
    "strict_verbatim_recall": 0.99,
    "strict_false_rate": 0.001,  # at most
    "stream_peak_gib": 2.0,  # at most
    "paper_equals_brute_force": True,
}
AT_MOST = ("strict_false_rate", "stream_peak_gib")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument(
        "--peers", metavar="PYTHON", default=".venv-peers/bin/python", help="a Python that has the peers"
    )
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--streamed", type=int, metavar="N", help="prompts of the stream, instead of the scale's")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("POSTTRAIN_TEST_DATA", "../shared/data")))
    args = parser.parse_args()
    share, size, planted, for_datatrove, subset, streamed = SCALES[args.scale]
    streamed = args.streamed or streamed
    items = evaluations(args.data, share)
    prompts = training(args.data, items, size, planted)
    print(f"{len(prompts):,} training prompts, {sum(map(len, items.values())):,} evaluation prompts, ", end="")
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{args.processes} processes of {os.cpu_count()} cores ({load}), scale {args.scale}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, items, prompts)
        runs = {f"ours, {profile}": ours(folder, profile, args.processes) for profile in ("paper", "strict")}
        runs["any shared 8-gram"] = any_ngram(items, prompts)
        if not args.without_peers:
            runs["dolma"] = peer(args.peers, "dolma", folder, args.processes)
            runs["phrase queries"] = peer(args.peers, "tantivy", folder)
            small = folder / "small"
            small.mkdir()
            write(small, items, prompts[:for_datatrove])
            runs["datatrove"] = peer(args.peers, "datatrove", small)
        stream = ours(folder, "strict", args.processes, streamed)

    quality = {system: rates(run, prompts, items) for system, run in runs.items()}
    print_table(runs, quality)
    strict = quality["ours, strict"]
    equal, compared = equals_brute_force(items, prompts, subset)
    print(f"paper profile against brute force: {'equal' if equal else 'DIFFERS'}; {compared}")
    rate = stream["rows"] / stream["scan_s"]
    print(f"stream: {stream['rows']:,} prompts at {rate:,.0f}/s, peak {stream['peak_gib']:.2f} GiB")

    speed = {system: run["rows"] / run["scan_s"] for system, run in runs.items()}
    per_cpu = {system: run["rows"] / run["cpu_s"] for system, run in runs.items()}
    figures: dict[str, Any] = {
        "prompts_per_s": round(speed["ours, strict"]),
        "vs_dolma": ratio(speed, "dolma"),
        "vs_datatrove": ratio(speed, "datatrove"),
        **{f"per_processor_second_vs_{name}": ratio(per_cpu, name) for name in ("dolma", "datatrove")},
        "per_processor_second": round(per_cpu["ours, strict"]),
        "load": round(os.getloadavg()[0], 1),
        "strict_verbatim_recall": strict["verbatim"],
        "strict_false_rate": strict["clean, real alone"],
        "stream_peak_gib": round(stream["peak_gib"], 3),
        "paper_equals_brute_force": equal,
    }
    met = all(good(name, figures[name]) for name in TARGETS)
    print(json.dumps({"bench": "decontamination", "figures": figures, "targets": TARGETS, "met": met}))
    return 0 if met or args.scale != "full" else 1


def good(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return value is True
    return value <= TARGETS[name] if name in AT_MOST else value >= TARGETS[name]


def ratio(speed: dict[str, float], system: str) -> float | None:
    return round(speed["ours, strict"] / speed[system], 2) if system in speed else None


def write(folder: Path, items: dict[str, list[Texts]], prompts: list[Prompt]) -> None:
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        for p in prompts:
            file.write(json.dumps({"id": p.id, "turns": p.turns, "text": "\n".join(p.turns)}) + "\n")
    with open(folder / "evaluations.jsonl", "w", encoding="utf-8") as file:
        for task, of_task in items.items():
            for n, fields in enumerate(of_task):
                file.write(
                    json.dumps({"id": f"{task}/{n}", "task": task, "fields": fields, "text": "\n".join(fields)}) + "\n"
                )


def ours(folder: Path, profile: str, processes: int, streamed: int = 0) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", str(folder), profile, str(processes), str(streamed)]
    return json.loads(output_of(command))


def peer(python: str, name: str, folder: Path, *arguments: int) -> dict[str, Any]:
    script = Path(__file__).parent / "leaks" / f"{name}_peer.py"
    return json.loads(output_of([python, str(script), str(folder), *map(str, arguments)]))


def output_of(command: list[str]) -> str:
    print(f"running {Path(command[1]).stem} {' '.join(command[2:])}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}. `make bench-decontamination` installs the peers.")
    return done.stdout.splitlines()[-1]


def one(folder: Path, profile: str, processes: int, streamed: int) -> None:
    """Our side, alone in its process: prints what was found and what it took."""
    began = time.perf_counter()
    evaluations_of: dict[str, list[EvaluationItem]] = defaultdict(list)
    numbers = []
    for line in open(folder / "evaluations.jsonl", encoding="utf-8"):
        row = json.loads(line)
        evaluations_of[row["task"]].append(EvaluationItem(row["id"], tuple(row["fields"])))
        numbers.append(row["id"])
    rows = [(r["id"], tuple(r["turns"])) for r in map(json.loads, open(folder / "train.jsonl", encoding="utf-8"))]
    read = time.perf_counter()
    index = EvaluationIndex(evaluations_of, PROFILES["paper" if profile == "paper" else "strict"])
    indexed = time.perf_counter()
    seconds, processor_seconds = [], []
    for _ in range(1 if streamed else REPEATS):
        start, spent = time.perf_counter(), processor_time()
        report = find_overlaps(long_stream(rows, streamed) if streamed else rows, index, processes=processes)
        decide(report, "drop_rows")
        seconds.append(time.perf_counter() - start)
        processor_seconds.append(processor_time() - spent)
    count = 1 if processes == 1 else processes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak += count * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of the largest
    pairs = []
    if not streamed:
        for batch, found in match_batches(index, rows, Fraction(str(index.profile.threshold))):
            pairs += [
                (batch[r][0], numbers[i]) for r, i in zip(found.row_M.tolist(), found.item_M.tolist(), strict=True)
            ]
    print(
        json.dumps(
            {
                "rows": report.rows,
                "read_s": read - began,
                "index_s": indexed - read,
                "scan_s": statistics.median(seconds),
                "seconds": seconds,
                "cpu_s": statistics.median(processor_seconds),
                "peak_gib": peak / 2**20,
                "pairs": pairs,
            }
        )
    )


def processor_time() -> float:
    """Seconds of all processors, spent by this process and its finished children."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def long_stream(rows: list[tuple[str, Texts]], count: int) -> Iterator[tuple[str, Texts]]:
    """``count`` prompts, each with words of its own, made as they are asked for."""
    for n, (id, turns) in enumerate(itertools.islice(itertools.cycle(rows), count)):
        yield f"{id}-{n}", (f"{n} {turns[0]}", *turns[1:])


def any_ngram(items: dict[str, list[Texts]], prompts: list[Prompt]) -> dict[str, Any]:
    """What most projects do: any shared 8-gram removes the row."""
    began = time.perf_counter()
    grams = {gram for of_task in items.values() for fields in of_task for gram in brute_force.of_row(fields)}
    indexed, spent = time.perf_counter(), processor_time()
    flagged = [p.id for p in prompts if not grams.isdisjoint(brute_force.of_row(p.turns))]
    done = time.perf_counter()
    times = {"index_s": indexed - began, "scan_s": done - indexed, "cpu_s": processor_time() - spent}
    return {"rows": len(prompts), **times, "flagged": flagged}


def rates(run: dict[str, Any], prompts: list[Prompt], items: dict[str, list[Texts]]) -> dict[str, float]:
    """kind → share of its prompts that are flagged; ``clean``: of all real and generated ones; ``precision``.

    From us, who say which item a prompt matches, a planted one counts only if it matches its own (or one of its text).
    """
    prompts = prompts[: run["rows"]]
    text = {f"{task}/{n}": squeezed("".join(f)) for task, of_task in items.items() for n, f in enumerate(of_task)}
    matched = defaultdict(set)
    for row, item in run.get("pairs", ()):
        matched[row].add(text[item])
    flagged = set(run.get("flagged", ())) | {
        p.id
        for p in prompts
        if p.id in matched and (p.kind not in PLANTED or text["{}/{}".format(*(p.item or ()))] in matched[p.id])
    }
    flagged_by_kind: Counter[str] = Counter(p.kind for p in prompts if p.id in flagged)
    count = Counter(p.kind for p in prompts)
    found = {kind: flagged_by_kind[kind] / count[kind] for kind in count}
    clean = [kind for kind in count if kind == "generated" or kind.startswith("real:")]
    false = sum(flagged_by_kind[kind] for kind in clean)
    true = sum(flagged_by_kind[kind] for kind in PLANTED)
    found["clean"] = false / max(1, sum(count[kind] for kind in clean))
    real = [kind for kind in clean if kind != "generated"]
    found["clean, real alone"] = sum(flagged_by_kind[kind] for kind in real) / max(1, sum(count[kind] for kind in real))
    hard = sum(flagged_by_kind[kind] for kind in HARD_NEGATIVES)
    found["precision"] = true / max(1, true + false + hard)
    return found


def print_table(runs: dict[str, dict[str, Any]], quality: dict[str, dict[str, float]]) -> None:
    kinds = [*PLANTED, *HARD_NEGATIVES, "real leak", "real near copy"]
    kinds += ["real, same passage", "clean", "clean, real alone", "precision"]
    kinds += sorted({kind for rates in quality.values() for kind in rates} - set(kinds))
    print("\n| | " + " | ".join(runs) + " |\n|---|" + "---:|" * len(runs))
    print("| prompts/s | " + " | ".join(f"{run['rows'] / run['scan_s']:,.0f}" for run in runs.values()) + " |")
    spread = [
        f"{run['rows'] / max(s):,.0f}–{run['rows'] / min(s):,.0f}" if (s := run.get("seconds")) else "-"
        for run in runs.values()
    ]
    print("| … lowest and highest | " + " | ".join(spread) + " |")
    print(
        "| prompts per processor second | "
        + " | ".join(f"{run['rows'] / run['cpu_s']:,.0f}" for run in runs.values())
        + " |"
    )
    print("| index, s | " + " | ".join(f"{run['index_s']:.1f}" for run in runs.values()) + " |")
    print(
        "| reading files, s | "
        + " | ".join(f"{run['read_s']:.1f}" if "read_s" in run else "in the above" for run in runs.values())
        + " |"
    )
    print(
        "| peak, GiB | "
        + " | ".join(f"{run['peak_gib']:.2f}" if "peak_gib" in run else "-" for run in runs.values())
        + " |"
    )
    for kind in kinds:
        print(
            f"| {kind} | "
            + " | ".join(f"{found[kind]:.2%}" if kind in found else "-" for found in quality.values())
            + " |"
        )
    print(flush=True)


def equals_brute_force(
    items: dict[str, list[Texts]], prompts: list[Prompt], subset: tuple[int, int]
) -> tuple[bool, str]:
    """The paper profile on every pair of a subset, and on every pair of the run that shares an 8-gram."""
    flat = [(task, fields) for task, of_task in items.items() for fields in of_task]
    first = {task: next(n for n, (other, _) in enumerate(flat) if other == task) for task in items}
    rows = sorted(prompts, key=lambda p: (p.item is None, p.kind))[: subset[0] * 4 // 5] + prompts[: subset[0] // 5]
    wanted_items = list(dict.fromkeys(first[p.item[0]] + p.item[1] for p in rows if p.item))[: subset[1] * 9 // 10]
    wanted_items += [n for n in range(0, len(flat), max(1, len(flat) // subset[1])) if n not in set(wanted_items)]
    some = [flat[n][1] for n in wanted_items[: subset[1]]]
    turns = [p.turns for p in rows]
    slow = brute_force.every_pair(some, turns)
    fast = dict(pairs_over(some, turns, HALF))
    equal = slow.keys() == fast.keys() and all(abs(float(slow[pair]) - fast[pair]) < 1e-12 for pair in slow)

    turns = [p.turns for p in prompts]
    every = [fields for _, fields in flat]
    pairs = over = 0
    ours = pairs_by_row(every, turns, Fraction(-1))
    for row, coverages in enumerate(brute_force.pairs_that_share(every, turns)):
        found = next(ours)
        pairs += len(coverages)
        over += sum(share > HALF for share in coverages.values())
        if coverages.keys() != found.keys() or any(abs(float(s) - found[i]) > 1e-12 for i, s in coverages.items()):
            print(f"row {row} ({prompts[row].id}) differs")
            equal = False
    told = f"{len(turns[: len(rows)]):,} × {len(some):,} pairs, {len(slow):,} of them matches"
    return equal, f"{told}; and {pairs:,} pairs that share an 8-gram, {over:,} of them matches"


def pairs_over(items: list[Texts], rows: list[Texts], threshold: Fraction) -> Iterator[tuple[tuple[int, int], float]]:
    for row, found in enumerate(pairs_by_row(items, rows, threshold)):
        yield from (((row, item), share) for item, share in found.items())


def pairs_by_row(items: list[Texts], rows: list[Texts], threshold: Fraction) -> Iterator[dict[int, float]]:
    """Row by row, item → coverage over the threshold, by the package's paper profile."""
    index = EvaluationIndex(
        {"all": [EvaluationItem(str(n), fields) for n, fields in enumerate(items)]}, PROFILES["paper"]
    )
    for batch, matches in match_batches(index, ((str(n), turns) for n, turns in enumerate(rows)), threshold):
        of_row: list[dict[int, float]] = [{} for _ in batch]
        for row, item, share in zip(*(column.tolist() for column in vars(matches).values()), strict=True):
            of_row[row][item] = share
        yield from of_row


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(main())
