"""`posttrain preferences build | inspect | report`."""

import argparse
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="build | inspect | report")
    build = actions.add_parser("build", help="run a recipe up to its preference stage")
    build.add_argument("recipe")
    build.add_argument("--stage", metavar="NAME", help="which, if the recipe has several")
    build.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    build.add_argument("--runs", default="runs", metavar="DIR", help="where artifacts are kept (default: runs)")
    build.add_argument("--estimate", action="store_true", help="calls, tokens, money and hours; nothing is asked")
    build.add_argument("--prompts", type=int, metavar="N", help="for the estimate (default: the counts of the parts)")
    build.add_argument("--prompt-tokens", type=float, default=250, help="mean, for the estimate (default: 250)")
    build.add_argument("--answer-tokens", type=float, default=350, help="mean, for the estimate (default: 350)")
    build.add_argument("--rating-tokens", type=float, default=70, help="with its rationale (default: 70)")
    build.add_argument("--tokens-per-second", type=float, default=30, help="of one request in flight (default: 30)")
    inspect = actions.add_parser("inspect", help="prompts with all answers, ratings and reasons")
    inspect.add_argument("artifact", help="the folder of a preference set")
    inspect.add_argument("--id", help="one prompt, with every rationale and the requests that it came from")
    inspect.add_argument("--limit", type=int, default=5, metavar="N", help="how many prompts (default: 5)")
    report = actions.add_parser("report", help="yield, costs, agreement and biases")
    report.add_argument("artifact", help="the folder of a preference set")


def execute(args: argparse.Namespace) -> int:
    return {"build": _build, "inspect": _inspect, "report": _report}[args.action](args)


def _build(args: argparse.Namespace) -> int:
    from posttrain.recipe.load import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    name = stage_of(recipe, "preferences", args.stage)
    if args.estimate:
        print("\n".join(_estimate(recipe.stages[name], args)))
        return 0
    from posttrain.pipeline.runner import run_recipe

    artifact = run_recipe(recipe, runs=args.runs, until=name).stages[name].artifact
    print(f"{artifact.manifest['rows']}\nposttrain preferences report {artifact.path}")
    return 0


def stage_of(recipe: Any, kind: str, wanted: str | None) -> str:
    """The recipe's stage of that kind. Raises PosttrainError where there is none or, without ``wanted``, several."""
    from posttrain.errors import PosttrainError

    names = [name for name, stage in recipe.stages.items() if stage.kind == kind]
    if wanted is not None and wanted not in names:
        raise PosttrainError(f"--stage {wanted}: no {kind} stage of the recipe; it has: {', '.join(names) or 'none'}.")
    if wanted is None and len(names) != 1:
        raise PosttrainError(f"recipe {recipe.name} has {len(names)} {kind} stages ({', '.join(names)}); name --stage.")
    return wanted or names[0]


def _estimate(settings: Any, args: argparse.Namespace) -> list[str]:
    from posttrain.errors import PosttrainError
    from posttrain.inference.budget import Price
    from posttrain.preferences.estimate import Lengths, Model, estimate
    from posttrain.recipe.data_settings import AspectJudge, PromptSelection
    from posttrain.stages.chat_models import name_of, server
    from posttrain.stages.preferences import pool_of

    count = args.prompts
    if count is None and isinstance(settings.prompts, PromptSelection):
        counts = [part.count for part in settings.prompts.parts if part.count is not None]
        count = sum(counts) if len(counts) == len(settings.prompts.parts) else None
    if count is None:
        raise PosttrainError("--estimate: not every part of the prompts has a count; say how many: --prompts N")

    def model(one: Any) -> Model:
        if isinstance(one, str):
            return one, Price(), 1
        return name_of(one), server(one).price, one.concurrency

    judge = settings.judge if isinstance(settings.judge, AspectJudge) else None
    models = [settings.policy, *(one for one, _ in pool_of(settings))]
    work = estimate(
        count,
        policy=model(settings.policy),
        pool=[model(one) for one in models[1:]],
        judge=model(judge.model) if judge else None,
        responses=settings.responses,
        on_policy=settings.on_policy,
        aspects=judge.aspects if judge else (),
        single_call=bool(judge and judge.single_call),
        swap=bool(judge and judge.swap),
        lengths=Lengths(args.prompt_tokens, args.answer_tokens, args.rating_tokens),
    )
    remote = {name_of(one) for one in models if not isinstance(one, str)}
    return [
        f"{count:,} prompts, {settings.responses} answers each; nothing has been asked",
        *asked_table(
            work, args.tokens_per_second, [one for one in work if one.role != "judge" and one.model in remote]
        ),
        f"Assumed: {args.prompt_tokens:g} tokens a prompt, {args.answer_tokens:g} an answer, {args.rating_tokens:g} a "
        f"rating; {args.tokens_per_second:g} tokens a second for each request in flight; all endpoints answer at once, "
        "then the judge.",
    ]


def asked_table(work: Any, tokens_per_second: float, at_once: Any = ()) -> list[str]:
    """A line for each model's part of the work, and their sum; of those ``at_once`` the slowest counts."""
    from posttrain.cli.plan import table

    rows: list[tuple[str, ...]] = [("", "model", "calls", "tokens in", "tokens out", "money", "hours")]
    for one in work:
        numbers = (one.calls, one.prompt_tokens, one.completion_tokens)
        hours = one.hours(tokens_per_second)
        rows.append((one.role, one.model, *(f"{n:,.0f}" for n in numbers), f"{one.cost:,.2f}", f"{hours:,.1f}"))
    totals = [sum(getattr(one, name) for one in work) for name in ("calls", "prompt_tokens", "completion_tokens")]
    cost = sum(one.cost for one in work)
    hours = max((one.hours(tokens_per_second) for one in at_once), default=0.0)
    hours += sum(one.hours(tokens_per_second) for one in work if one not in at_once)
    rows.append(("all", "", *(f"{n:,.0f}" for n in totals), f"{cost:,.2f}", f"{hours:,.1f}"))
    return table(rows)


def _records(artifact: str) -> Any:
    from posttrain.artifacts.jsonl import read_jsonl

    return (row for _, row in read_jsonl(Path(artifact) / "candidates.jsonl"))


def _inspect(args: argparse.Namespace) -> int:
    from itertools import islice

    from posttrain.errors import PosttrainError

    rows = _records(args.artifact)
    if args.id is not None:
        rows = [row for row in rows if row["id"] == args.id]
        if not rows:
            raise PosttrainError(f"{args.artifact}: holds no prompt {args.id}.")
    for row in islice(rows, args.limit):
        print(f"== {row['id']} ({row['source']})" + (f", no pair: {row['reason']}" if row["reason"] else ""))
        for message in row["messages"]:
            print(f"[{message['role']}] {message['content']}")
        for place, one in enumerate(row["candidates"]):
            mark = {row["chosen"]: "chosen", row["rejected"]: "rejected"}.get(place, "")
            policy = ", on-policy" if one["on_policy"] else ""
            print(f"-- {place} {mark} {one['model']}{policy}: rating {one['rating']}, checks {one['outcomes']}")
            print(one["text"])
            for aspect, score in one.get("aspects", {}).items():
                print(f"   {aspect}: {score['rating']} {score['ratings']}")
                if args.id is not None:
                    print("".join(f"     {text}\n" for text in score["rationales"]), end="")
                    print(f"     requests: {', '.join(score['requests'])}")
            if args.id is not None and "request" in one:
                print(f"   request: {one['request']}")
        print()
    return 0


def _report(args: argparse.Namespace) -> int:
    from posttrain.artifacts.manifest import read_manifest
    from posttrain.cli.columns import table

    manifest = read_manifest(Path(args.artifact))

    def lines(content: dict[str, Any], way: str = "") -> list[tuple[str, str]]:
        found = []
        for name, value in content.items():
            if isinstance(value, dict):
                found += lines(value, f"{way}{name} / ") or [(f"{way}{name}", "none")]
            else:
                found.append((f"{way}{name}", "none" if value is None else str(value)))
        return found

    metrics = dict(manifest["metrics"])
    endpoints = metrics.pop("endpoints", {})
    print("\n".join(table([*lines(manifest["rows"]), *lines(metrics)])))
    if endpoints:
        print("\n".join(table(_costs(endpoints))))
    return 0


def _costs(endpoints: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for each endpoint: all answers used, and what this run asked for them."""
    rows: list[tuple[str, ...]] = [("endpoint", "answers", "tokens in", "out", "money", "asked", "attempts", "failed")]
    for name, used in endpoints.items():
        numbers = [f"{used[one]:,}" for one in ("answers", "prompt_tokens", "completion_tokens")]
        asked = used["asked"]
        failed = ", ".join(f"{count} {kind}" for kind, count in asked["failures"].items()) or "none"
        rows.append((name, *numbers, f"{used['cost']:,.4g}", str(asked["answers"]), str(asked["attempts"]), failed))
    total = [f"{sum(used[one] for used in endpoints.values()):,}" for one in ("answers", "prompt_tokens")]
    money = sum(used["cost"] for used in endpoints.values())
    out = sum(used["completion_tokens"] for used in endpoints.values())
    asked = sum(used["asked"]["answers"] for used in endpoints.values())
    attempts = sum(used["asked"]["attempts"] for used in endpoints.values())
    return [*rows, ("all", *total, f"{out:,}", f"{money:,.4g}", str(asked), str(attempts), "")]
