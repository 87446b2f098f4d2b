"""`posttrain run`."""

import argparse
import time


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file, such as recipes/quickstart.yaml")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting: scale=smoke, seed=2, stages.sft.learning_rate=1e-5; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the stages, what is done and what would run")
    parser.add_argument("--until", metavar="STAGE", help="run this stage and what it needs, nothing else")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where artifacts are kept (default: runs)")
    parser.add_argument(
        "--ray-workers", type=int, default=0, metavar="N", help="so many ranks on the Ray cluster of RAY_ADDRESS"
    )


def execute(args: argparse.Namespace) -> int:
    from posttrain.recipe.load import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    if args.dry_run:
        from posttrain.cli.plan import describe_plan
        from posttrain.pipeline.runner import plan_recipe

        nodes, _ = plan_recipe(recipe, runs=args.runs, until=args.until)
        print(describe_plan(recipe, nodes))
        return 0
    if args.ray_workers:
        from posttrain.pipeline.ray_train import run_on_ray
        from posttrain.pipeline.runner import device_of

        run_on_ray(recipe, workers=args.ray_workers, gpus=device_of(recipe) == "cuda", runs=args.runs, until=args.until)
    from posttrain.cli.plan import describe_result
    from posttrain.pipeline.launch import leads
    from posttrain.pipeline.runner import run_recipe

    if not leads():
        run_recipe(recipe, runs=args.runs, until=args.until)
        return 0
    print(f"recipe {recipe.name}, seed {recipe.seed}, scale {recipe.scale}", flush=True)
    began = time.monotonic()
    result = run_recipe(recipe, runs=args.runs, until=args.until)
    print(describe_result(result, time.monotonic() - began))
    return 0
