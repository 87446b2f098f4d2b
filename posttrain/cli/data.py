"""`posttrain data`: mix, stats, decontaminate; inspect and show-matches are in data_view.py."""

import argparse
from pathlib import Path

KINDS = ("conversation", "preference", "verifiable")


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    mix = actions.add_parser(
        "mix", help="make the mixtures of a recipe, or one of the paper's, and print what is in them"
    )
    mix.add_argument(
        "recipe", help="a recipe, or one of tulu3-sft, tulu3-preference-8b, tulu3-preference-70b, tulu3-rlvr"
    )
    mix.add_argument("--stage", help="only this mixture of the recipe (default: all)")
    mix.add_argument(
        "--variant", choices=("full", "commercial-safe", "sample"), default="full", help="of a paper's mixture"
    )
    mix.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    mix.add_argument(
        "--expect", metavar="MIXTURE.json", help="fail unless the rows are those that this manifest tells of"
    )
    mix.add_argument("--runs", default="runs", metavar="DIR", help="where artifacts are kept (default: runs)")
    _mirror(mix)

    stats = actions.add_parser("stats", help="count rows, turns, characters and tokens")
    _rows(stats)
    _tokenizer(stats, required=False)

    inspect = actions.add_parser("inspect", help="show one row token by token, with what is trained")
    _rows(inspect)
    _tokenizer(inspect, required=True)
    inspect.add_argument("--row", type=int, default=1, metavar="N", help="the N-th good row (default: 1)")
    inspect.add_argument("--id", help="the row with this id, instead")
    inspect.add_argument("--max-tokens", type=int, default=1 << 31, help="cut as the trainer would")
    inspect.add_argument("--tokens", action="store_true", help="one token a line, with its id")

    clean = actions.add_parser("decontaminate", help="check files against the evaluations; write a copy without leaks")
    _rows(clean, several=True)
    clean.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for the copy, its card and the report"
    )
    clean.add_argument("--profile", choices=("strict", "paper"), default="strict")
    clean.add_argument("--policy", choices=("drop_rows", "drop_set", "keep"), default="drop_rows")
    clean.add_argument(
        "--item-threshold", type=float, metavar="SHARE", help="of an item's tokens (strict 0.85, paper 0.5)"
    )
    clean.add_argument("--set-threshold", type=float, default=0.02, metavar="SHARE", help="of an evaluation (0.02)")
    clean.add_argument("--processes", type=int, default=1, metavar="N")
    clean.add_argument(
        "--ray", type=int, default=0, metavar="WORKERS", help="on the Ray cluster at RAY_ADDRESS instead"
    )
    _evaluations(clean)

    shown = actions.add_parser("show-matches", help="what a report found, side by side")
    shown.add_argument("report", type=Path, help="decontamination.json, or the folder that holds it")
    _rows(shown, several=True)
    shown.add_argument("--task", help="only this evaluation")
    shown.add_argument("--count", type=int, default=10, metavar="N", help="at most N pairs of each (default: 10)")
    _evaluations(shown)


def execute(args: argparse.Namespace) -> int:
    from posttrain.cli import data_view

    return {
        "mix": _mix,
        "stats": _stats,
        "decontaminate": _decontaminate,
        "inspect": data_view.inspect,
        "show-matches": data_view.show_matches,
    }[args.action](args)


def _rows(parser: argparse.ArgumentParser, several: bool = False) -> None:
    parser.add_argument("files" if several else "file", nargs="+" if several else None, type=Path, metavar="FILE")
    parser.add_argument(
        "--rows", choices=KINDS, default="conversation", help="what the rows are (default: conversation)"
    )
    parser.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help="such as prompt=question")
    parser.add_argument("--value", action="append", default=[], metavar="COLUMN=TEXT", help="such as dataset=gsm8k")
    parser.add_argument("--header", metavar="A,B,C", default="", help="columns of a CSV or TSV file without a header")


def _tokenizer(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument("--tokenizer", required=required, metavar="MODEL", help="a model folder, nano, or a hub id")
    parser.add_argument("--chat-template", metavar="NAME", help="such as tulu; default: the tokenizer's own")
    parser.add_argument("--train-on", choices=("all_assistant_turns", "last_turn"), default="all_assistant_turns")


def _evaluations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", dest="suites", action="append", help="development, unseen (default: both)")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME=FILE:COLUMN",
        help="another evaluation: a file of rows and the column of its prompts, or several scored apart (A,B)",
    )
    _mirror(parser)


def _mirror(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mirror", action="append", default=[], metavar="ID=PATH", help="a local copy of a hub set")


def pairs(option: str, given: list[str]) -> dict[str, str]:
    """``["a=b"]`` as a mapping. PosttrainError for a pair without =."""
    from posttrain.errors import PosttrainError

    for pair in given:
        if "=" not in pair:
            raise PosttrainError(f"--{option} {pair}: write it as NAME=VALUE.")
    named = [pair.split("=", 1) for pair in given]
    if len(dict(named)) < len(named):
        raise PosttrainError(f"--{option} {' '.join(given)}: a name is given twice.")
    return dict(named)


def layout(args: argparse.Namespace):
    from posttrain.data.layouts import Layout

    header = tuple(args.header.split(",")) if args.header else ()
    return Layout(pairs("column", args.column), pairs("value", args.value), header)


def evaluations(args: argparse.Namespace):
    """(suites, what --against names)."""
    from posttrain.data.records import read_records
    from posttrain.decontamination.index import EvaluationItem
    from posttrain.errors import PosttrainError

    others = {}
    for name, place in pairs("against", args.against).items():
        file, _, columns = place.rpartition(":")
        if not file:
            raise PosttrainError(
                f"--against {name}={place}: name the column of the prompts, as in {name}={place}:question."
            )
        items = []
        for number, row in read_records(Path(file), limit=None, on_bad=None):
            fields = [row.get(column) for column in columns.split(",")]
            if not all(isinstance(text, str) for text in fields):
                raise PosttrainError(f"{file}:{number}: no text under {columns} (columns: {', '.join(row)}).")
            items.append(EvaluationItem(str(row.get("id", number)), tuple(map(str, fields))))
        others[name] = items
    return tuple(args.suites or ("development", "unseen")), others


def tokenizer(args: argparse.Namespace):
    """The tokenizer that the options name, None for none."""
    from posttrain.data.chat import prepare_tokenizer
    from posttrain.models.load import load_tokenizer
    from posttrain.stages.base import resolve_reference

    if args.tokenizer is None:
        return None
    return prepare_tokenizer(load_tokenizer(resolve_reference(args.tokenizer, {}, {})), args.chat_template)


def _mix(args: argparse.Namespace) -> int:
    import json

    from posttrain.cli.columns import table
    from posttrain.errors import PosttrainError
    from posttrain.pipeline.runner import run_recipe
    from posttrain.recipe.load import load_recipe
    from posttrain.recipe.schema import Recipe
    from posttrain.recipe.tables import TABLES

    if args.recipe in TABLES:
        stage = {"kind": "mixture", "table": args.recipe, "variant": args.variant}
        mirror = pairs("mirror", args.mirror)
        recipe = Recipe.model_validate({"name": args.recipe, "hub_mirror": mirror, "stages": {args.variant: stage}})
    else:
        recipe = load_recipe(args.recipe, args.overrides)
        recipe = recipe.model_copy(update={"hub_mirror": recipe.hub_mirror | pairs("mirror", args.mirror)})
    names = [name for name, settings in recipe.stages.items() if settings.kind == "mixture"]
    if args.stage not in (None, *names):
        raise PosttrainError(
            f"--stage {args.stage}: no mixture of {args.recipe}. There are: {', '.join(names) or 'none'}."
        )
    for name in [args.stage] if args.stage else names:
        folder = run_recipe(recipe, runs=args.runs, until=name).stages[name].artifact.path
        manifest = json.loads((folder / "mixture.json").read_text(encoding="utf-8"))
        rows = [("source", "read", "removed", "available", "requested", "used", "licences")]
        for part in manifest["sources"]:
            removed = ", ".join(f"{count} {reason}" for reason, count in part["removed"].items() if count) or "-"
            read, available, wanted, used = (f"{part[c]:,}" for c in ("read", "available", "requested", "used"))
            licences = ", ".join(f"{licence} {count:,}" for licence, count in part["licences"].items())
            rows.append((part["source"], read, removed, available, wanted, used, licences))
        print("\n".join([f"{name}: {manifest['rows']:,} rows, sha256 {manifest['data_sha256']}", *table(rows)]))
        print(f"rows, manifest and decontamination report: {folder}")
        if args.expect:
            _expect(manifest, json.loads(Path(args.expect).read_text(encoding="utf-8")), args.expect)
    return 0


def _expect(manifest: dict, expected: dict, name: str) -> None:
    from posttrain.errors import PosttrainError

    if manifest["data_sha256"] == expected["data_sha256"]:
        print(f"the same bytes as {name} tells of")
        return
    then = {part["source"]: part for part in expected["sources"]}
    differing = [
        f"{part['source']}: {column} is {part[column]}, was {then.get(part['source'], {}).get(column)}"
        for part in manifest["sources"]
        for column in ("provenance", "fraction", "count", "repeat", "limit", "removed", "used")
        if part[column] != then.get(part["source"], {}).get(column)
    ]
    raise PosttrainError(
        f"the rows are not those of {name}: {'; '.join(differing) or 'another seed, order or set of sources'}."
    )


def _stats(args: argparse.Namespace) -> int:
    from collections import Counter, defaultdict

    from posttrain.cli.columns import table
    from posttrain.cli.data_view import clean
    from posttrain.data.readers import read_rows
    from posttrain.data.rejects import Rejects
    from posttrain.data.statistics import Statistics
    from posttrain.recipe.tables import licence_of

    made = tokenizer(args)
    whole, of_source = Statistics(made, args.train_on), defaultdict(lambda: Statistics(made, args.train_on))
    licences: Counter[str] = Counter()
    rejects = Rejects(None)
    for row in read_rows(args.file, args.rows, layout=layout(args), rejected=rejects):
        whole.add(row)
        of_source[row.source].add(row)
        licences[str(row.extra.get("licence") or licence_of(row.source) or "unknown")] += 1
    columns = ["user_turns", "characters", *(["tokens", "trained_tokens"] if made else [])]
    rows = [("source", "rows", *columns)]
    told = {"all": whole, **(of_source if len(of_source) > 1 else {})}
    for name, statistics in told.items():
        shown = statistics.as_json()
        rows.append((name, f"{shown['rows']:,}", *(f"{shown[column]['total']:,}" for column in columns)))
    print("\n".join(table(rows)))
    shown = whole.as_json()
    for column in columns:
        bins = ", ".join(f"{bound} {count:,}" for bound, count in shown[column]["histogram"].items())
        print(f"{column} a row: mean {shown[column]['mean']:,}, longest {shown[column]['longest']:,}; {bins}")
    print("licences: " + ", ".join(f"{licence} {count:,}" for licence, count in licences.most_common()))
    for reason, count in rejects.reasons.most_common():
        print(f"left out: {count:,} bad rows as {clean(rejects.first[reason])}")
    return 0


def _decontaminate(args: argparse.Namespace) -> int:
    from posttrain.cli.columns import table
    from posttrain.errors import PosttrainError
    from posttrain.pipeline.progress import display
    from posttrain.stages.checked_copy import checked_copy

    if args.processes < 1 or args.ray < 0:
        raise PosttrainError("--processes is a number from 1, --ray one from 0 (no Ray).")
    suites, against = evaluations(args)
    progress = display()
    progress.start("checking", 0, "rows")
    made = checked_copy(
        args.files,
        args.out,
        kind=args.rows,
        layout=layout(args),
        suites=suites,
        against=against,
        hub_mirror=pairs("mirror", args.mirror),
        profile=args.profile,
        policy=args.policy,
        item_threshold=args.item_threshold,
        set_threshold=args.set_threshold,
        processes=args.processes,
        ray_workers=args.ray,
        on_rows=progress.advance,
    )
    progress.close()
    rows = [("evaluation", "items", "overlapping", "share", "rows", "verdict")]
    for found in sorted(made.report.evaluations, key=lambda found: -found.rate):
        verdict = "contaminated" if found.contaminated else "clean"
        counts = (f"{found.items:,}", f"{found.overlapping:,}", f"{found.rate:.2%}", f"{len(found.row_numbers):,}")
        rows.append((found.task, *counts, verdict))
    print("\n".join(table(rows)))
    if made.not_run:
        print(f"not checked against {', '.join(made.not_run)}: their data is not there (--mirror ID=PATH)")
    if made.rejected:
        print(f"{made.rejected:,} bad rows are set aside in {args.out}")
    print(f"{made.decision.action}: {len(made.decision.dropped):,} of {made.report.rows:,} rows left out, ", end="")
    print(f"{made.decision.reason}. The copy: {args.out}")
    return 0
