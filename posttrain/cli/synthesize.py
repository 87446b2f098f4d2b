"""`posttrain synthesize`: a recipe up to one of its synthesize stages."""

import argparse
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe")
    parser.add_argument("--stage", metavar="NAME", help="which, if the recipe has several")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where artifacts are kept (default: runs)")
    parser.add_argument("--estimate", action="store_true", help="calls, tokens, money and hours; nothing is asked")
    parser.add_argument("--prompts", type=int, metavar="N", help="for the estimate of a generator that reads prompts")
    parser.add_argument("--prompt-tokens", type=float, default=250, help="mean, for the estimate (default: 250)")
    parser.add_argument("--answer-tokens", type=float, default=350, help="mean, for the estimate (default: 350)")
    parser.add_argument("--tokens-per-second", type=float, default=30, help="of one request in flight (default: 30)")


def execute(args: argparse.Namespace) -> int:
    from posttrain.cli.preferences import stage_of
    from posttrain.pipeline.runner import run_recipe
    from posttrain.recipe.load import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    name = stage_of(recipe, "synthesize", args.stage)
    if args.estimate:
        settings: Any = recipe.stages[name]
        print("\n".join(_estimate(settings.generator, args)))
        return 0
    artifact = run_recipe(recipe, runs=args.runs, until=name).stages[name].artifact
    print(f"{artifact.manifest['rows']}\n{artifact.path}")
    return 0


def _estimate(wanted: Any, args: argparse.Namespace) -> list[str]:
    """The most that a generator may ask."""
    from posttrain.cli.preferences import asked_table
    from posttrain.errors import PosttrainError
    from posttrain.inference.budget import Price
    from posttrain.preferences.estimate import Asked
    from posttrain.recipe.data_settings import BestOf, Personas
    from posttrain.stages.chat_models import name_of, server
    from posttrain.synthesis.personas import calls_of

    if wanted == "nano":
        return ["the generator nano asks no model"]
    if isinstance(wanted, Personas):
        tried = wanted.candidates or 4 * wanted.count
        calls = tried * calls_of(wanted.task, wanted.votes)
        said = f"at most {tried:,} candidates for {wanted.count:,} rows"
    elif args.prompts is None:
        raise PosttrainError("--estimate: say how many prompts there are: --prompts N")
    else:
        calls = args.prompts * (wanted.samples if isinstance(wanted, BestOf) else wanted.attempts)
        said = f"{args.prompts:,} prompts, at most {calls // args.prompts} answers each"
    prompt, answer = args.prompt_tokens, args.answer_tokens

    def asked(role: str, model: Any, calls: int, read: float, written: float) -> Asked:
        price, concurrency = (Price(), 1) if isinstance(model, str) else (server(model).price, model.concurrency)
        return Asked(role, name_of(model), calls, calls * read, calls * written, price, concurrency)

    work = [asked("model", wanted.model, calls, prompt, answer)]
    judge = getattr(wanted, "judge", None)
    if judge is not None and isinstance(wanted, BestOf):
        work.append(asked("judge", judge, args.prompts, prompt + wanted.samples * answer, wanted.samples * answer))
    elif judge is not None:
        work.append(asked("judge", judge, calls, prompt + answer, 16))
    return [
        f"{said}; nothing has been asked",
        *asked_table(work, args.tokens_per_second),
        f"Assumed: {prompt:g} tokens a prompt, {answer:g} an answer; {args.tokens_per_second:g} tokens a second for "
        "each request in flight.",
    ]
