"""`posttrain ablate`: every variant on every seed, then one table with paired intervals."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.evaluation.compare import Compared, Scored

TRAINED = ("accuracy", "score", "kl_sample", "explained_variance")  # figures of training that tell variants apart
COMPARED = ("task", "id", "score", "outcome", "group", "cluster")  # what is kept of a record
LAST = 5  # steps whose mean says where a figure ended


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="such as recipes/ablations/nano-dpo.yaml")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where artifacts are kept (default: runs)")
    parser.add_argument("--only", action="append", default=[], metavar="VARIANT", help="these alone; may be repeated")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="in place of the file's")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="of all variants"
    )
    parser.add_argument("--dry-run", action="store_true", help="check every variant and say what would run")


def execute(args: argparse.Namespace) -> int:
    from posttrain.artifacts.atomic import write_json, write_text
    from posttrain.errors import PosttrainError
    from posttrain.evaluation.compare import Scored
    from posttrain.pipeline.runner import plan_recipe, run_recipe
    from posttrain.recipe.ablation import GIVEN, load_ablation, result_file, scored_stage, variant_recipe
    from posttrain.stages.report import evaluated

    ablation = load_ablation(args.file)
    if strange := set(args.only) - set(ablation.variants):
        raise PosttrainError(
            f"--only {', '.join(strange)}: no such variant. There are: {', '.join(ablation.variants)}."
        )
    for key in GIVEN.keys() & {text.partition("=")[0].strip() for text in args.overrides}:
        raise PosttrainError(f"--set {key}: {GIVEN[key]} decide the {key} of each variant.")
    first = next(iter(ablation.variants))
    names = [name for name in ablation.variants if not args.only or name in args.only]
    names += [other for name in names if (other := ablation.variants[name].against or first) not in names]
    names = [name for name in ablation.variants if name in names]
    seeds = args.seeds or ablation.seeds
    print(f"{ablation.name}: {len(names)} variants on seeds {', '.join(map(str, seeds))}", flush=True)
    if args.dry_run:
        made: set[tuple[str, str]] = set()
        for seed in seeds:
            for name in names:
                nodes, _ = plan_recipe(
                    variant_recipe(ablation, name, seed, args.overrides), runs=args.runs, until=ablation.evaluation
                )
                new = [node for node in nodes if node.artifact is None and (node.name, node.key) not in made]
                made |= {(node.name, node.key) for node in new}
                print(f"  {name}, seed {seed}: {', '.join(node.name for node in new) or 'nothing new'}")
        print(f"{len(made)} stages would run.")
        return 0
    scores: dict[str, list[Scored]] = {}
    besides: dict[str, list[Mapping[str, float]]] = {}
    for seed in seeds:
        for name in names:
            print(f"{name}, seed {seed}", flush=True)
            recipe = variant_recipe(ablation, name, seed, args.overrides)
            result = run_recipe(recipe, runs=args.runs, until=ablation.evaluation)
            found = evaluated(result.stages[ablation.evaluation].artifact.path)
            ((label, records),) = found.records.items()
            kept = [{key: record[key] for key in COMPARED if key in record} for record in records]
            scores.setdefault(name, []).append(Scored(name, found.scores["models"][label]["tasks"], kept))
            trained = result.stages.get(scored_stage(ablation, name, recipe))
            length = {"tokens of an answer": fmean(record["response_tokens"] for record in records)}
            besides.setdefault(name, []).append(length | (where_it_ended(trained.artifact.path) if trained else {}))
    against = {name: ablation.variants[name].against or first for name in names}
    rows = table_rows(scores, against, besides)
    file = Path(args.runs) / result_file(
        ablation, variant_recipe(ablation, first, seeds[0], args.overrides), names, seeds
    )
    text = markdown(ablation.description or ablation.name, seeds, rows)
    write_text(file.with_name(f"{file.name}.md"), text)
    write_json(file.with_name(f"{file.name}.json"), {"name": ablation.name, "seeds": list(seeds), "rows": rows})
    print(text)
    print(f"written to {file}.md and {file.name}.json beside it")
    return 0


def where_it_ended(stage: Path) -> dict[str, float]:
    """A trained stage's figures at the end of its training: means of its last steps."""
    from posttrain.report.curves import curves

    found = {curve.name: curve for curve in curves(stage / "metrics.jsonl")}
    return {name: fmean(value for _, value in found[name].points[-LAST:]) for name in TRAINED if name in found}


def table_rows(
    scores: "Mapping[str, Sequence[Scored]]",
    against: Mapping[str, str],
    besides: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[dict[str, Any]]:
    """One row for each variant. ``scores``: variant → what each seed's model scored; ``besides``: other figures.

    An instance's score is its mean over the seeds; the interval of the difference is over instances, paired, and
    ``by_seed`` shows how far the seeds themselves differ. Raises PosttrainError where nothing can be compared.
    """
    from posttrain.errors import PosttrainError
    from posttrain.evaluation.compare import compare
    from posttrain.evaluation.scores import suite_average

    def difference(a: "Sequence[Scored]", b: "Sequence[Scored]") -> "Compared":
        _, average, alone = compare(a, b)
        if average is None:
            raise PosttrainError(f"{a[0].label} and {b[0].label} share no scored task: {', '.join(alone)}.")
        return average

    rows = []
    for name, of_seeds in scores.items():
        by_seed = [suite_average(one.tasks)["mean"] for one in of_seeds]
        if None in by_seed:
            raise PosttrainError(f"{name}: no task was scored.")
        row: dict[str, Any] = {"variant": name, "mean": fmean(by_seed), "by_seed": by_seed}
        row["besides"] = {key: fmean(one[key] for one in besides[name]) for key in besides[name][0]}
        other = against[name]
        if other != name:
            found = difference(of_seeds, scores[other])
            row |= {"against": other, "difference": found.difference, "low": found.low, "high": found.high}
            seeds = zip(of_seeds, scores[other], strict=True)
            row["difference_by_seed"] = [difference([ours], [its]).difference for ours, its in seeds]
        rows.append(row)
    return rows


def markdown(title: str, seeds: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table: scores in percent, differences in points, bold where the interval leaves out 0."""
    from posttrain.report.markdown import table

    lines = []
    for row in rows:
        shown = [row["variant"], f"{100 * row['mean']:.1f}", ", ".join(f"{100 * mean:.1f}" for mean in row["by_seed"])]
        if "difference" in row:
            difference = f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
            sure = row["low"] > 0 or row["high"] < 0
            shown += [row["against"], f"**{difference}**" if sure else difference]
            shown.append(", ".join(f"{100 * one:+.1f}" for one in row["difference_by_seed"]))
        else:
            shown += ["", "", ""]
        lines.append(shown)
    head = ["variant", "score", "by seed", "against", "difference", "difference by seed"]
    named = list(dict.fromkeys(key for row in rows for key in row["besides"]))
    figures = [
        [row["variant"], *(f"{row['besides'][key]:.3g}" if key in row["besides"] else "" for key in named)]
        for row in rows
    ]
    listed = ", ".join(map(str, seeds))
    note = f"Seeds {listed}; 95 % intervals over instances, each the mean of its seeds."
    last = f"Means over the seeds; of training: the last {LAST} steps."
    return f"{title}\n\n{note}\n\n{table(head, lines)}\n\n{last}\n\n{table(['variant', *named], figures)}\n"
