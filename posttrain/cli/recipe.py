"""`posttrain recipe check`."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="check")
    check = actions.add_parser("check", help="read the recipe at every scale and look for faults")
    check.add_argument("recipe")
    check.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")


def execute(args: argparse.Namespace) -> int:
    from posttrain.pipeline.resolve import check
    from posttrain.recipe.load import load_recipe, validate_scales
    from posttrain.recipe.references import order
    from posttrain.stages import load_stage

    scales = validate_scales(args.recipe, args.overrides)
    recipe = load_recipe(args.recipe, args.overrides)
    check(recipe, order(recipe.stages), load_stage)
    print(f"{args.recipe}: good. {len(recipe.stages)} stages: {', '.join(order(recipe.stages))}.")
    print(f"scales: {', '.join(scales)}.")
    return 0
