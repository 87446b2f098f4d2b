"""`posttrain evaluate`: one model, one suite, by the same stage that recipes use."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model folder, nano, or a hub id")
    parser.add_argument("--suite", choices=("development", "unseen"), default="development")
    parser.add_argument("--task", dest="tasks", action="append", default=[], help="one task; may be repeated")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N instances of each task")
    parser.add_argument("--unseal", metavar="WHY", help="the reason to open the unseen suite; it is recorded")
    parser.add_argument("--chat-template", metavar="NAME", help="for a model whose tokenizer has none, such as tulu")
    parser.add_argument("--mirror", action="append", default=[], metavar="ID=PATH", help="a local copy of a hub set")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where artifacts are kept (default: runs)")


def execute(args: argparse.Namespace) -> int:
    from posttrain.cli.plan import table
    from posttrain.errors import PosttrainError
    from posttrain.pipeline.runner import run_recipe
    from posttrain.recipe.schema import Evaluate, Recipe

    mirror = {}
    for pair in args.mirror:
        hub_id, equals, path = pair.partition("=")
        if not equals:
            raise PosttrainError(f"--mirror {pair}: write ID=PATH.")
        mirror[hub_id] = path
    settings = Evaluate(
        kind="evaluate",
        suite=args.suite,
        models={_label(args.model): args.model},
        tasks=tuple(args.tasks),
        unseal=args.unseal,
        limit=args.limit,
        chat_template=args.chat_template,
    )
    recipe = Recipe(name="evaluate", device=args.device, hub_mirror=mirror, stages={args.suite: settings})
    result = run_recipe(recipe, runs=args.runs)
    artifact = result.stages[args.suite].artifact
    for label, mean in artifact.manifest["metrics"].items():
        print("\n".join(table([("model", "average"), (label, "not run" if mean is None else f"{mean:.4f}")])))
    print(f"scores and every answer: {artifact.path}")
    return 0


def _label(model: str) -> str:
    """What the model is called in the scores: the last part of its path, or the hub id."""
    return Path(model).resolve().name if Path(model).exists() else model
