"""`posttrain plan`."""

import argparse
import json
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file")
    parser.add_argument("--gpus", required=True, metavar="NxKIND", help="such as 8xH100, RTX4090, 64xH100")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--price", type=float, metavar="DOLLARS", help="of one GPU for an hour")
    parser.add_argument(
        "--efficiency", type=float, metavar="SHARE", help="of peak FLOP/s; default: the published runs'"
    )
    parser.add_argument("--json", action="store_true")


def execute(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from posttrain.cli.columns import table
    from posttrain.pipeline.progress import duration
    from posttrain.recipe.load import load_recipe
    from posttrain.recipe.plan import complaint, known, machine, plan, published_error

    recipe = load_recipe(args.recipe, args.overrides)
    on = machine(args.gpus, args.price)
    mirror = recipe.hub_mirror
    planned = plan(
        recipe,
        on,
        lambda reference: config_of(mirror.get(reference, reference)),
        lambda reference: rows_of(mirror.get(reference, reference)),
        efficiency=args.efficiency,
    )
    if args.json:
        print(json.dumps([asdict(stage) | {"gpu_hours": stage.gpu_hours} for stage in planned], indent=2))
        return 0
    rows = [("stage", "GPUs", "GiB/GPU", "tokens", "time", "GPU-hours", "cost", "disk")]
    for stage in planned:
        figures = (f"{stage.tokens / 1e6:,.1f}M", duration(stage.seconds), f"{stage.gpu_hours:,.1f}")
        rows.append(
            (
                stage.name,
                str(stage.gpus),
                f"{stage.memory:.1f}",
                *figures,
                f"${stage.cost:,.0f}",
                f"{stage.disk:,.0f} GiB",
            )
        )
    print(f"recipe {recipe.name} on {on.gpus} × {on.name} ({on.memory:g} GiB, ${on.price:g} an hour)")
    print("\n".join(table(rows)))
    hours, cost = sum(stage.gpu_hours for stage in planned), sum(stage.cost for stage in planned)
    print(f"in all {hours:,.1f} GPU-hours, ${cost:,.0f}. Preferences, data and evaluation are not counted.")
    for stage in planned:
        if stage.advice:
            print(f"! {complaint(stage, on)}")
    as_published = args.efficiency is None and not args.overrides and on.name == "H100"
    for stage in planned if as_published else ():
        if found := published_error(recipe, stage):
            stopped = f" for {known()['episodes'][recipe.name]:,} episodes" if stage.episodes else ""
            paper = f"the paper's run took {found[0]:,} H100-hours{stopped}"
            print(f"  {stage.name}: {paper}; this plan is {100 * found[1]:+.0f} % off.")
    return 0


def config_of(reference: str) -> dict[str, Any] | None:
    """The config.json of a local model, or of the shipped one. Raises PosttrainError for one that is none."""
    from posttrain.errors import PosttrainError
    from posttrain.nano import BASE_MODEL

    folder = BASE_MODEL if reference == "nano" else Path(reference).expanduser()
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PosttrainError(f"{path}: no JSON: {error}.") from None
    if not isinstance(config, dict):
        raise PosttrainError(f"{path}: no JSON object.")
    return config


def rows_of(reference: str) -> int | None:
    """The lines of a local JSONL file."""
    path = Path(reference).expanduser()
    if path.suffix != ".jsonl" or not path.is_file():
        return None
    with open(path, "rb") as file:
        return sum(1 for _ in file)
