"""`posttrain evaluate`: one model, one suite, by the same stage that recipes use; and what surrounds a run."""

import argparse
from pathlib import Path
from typing import Any

ASIDE = {
    "tasks": "every task and protocol",
    "inspect": "TASK: prompt, tokens, gold and extraction",
    "diff": "PROTOCOL PROTOCOL: where two differ",
    "rescore": "FOLDER: score its answers again, without a model",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    told = "; ".join(f"{name} {does}" for name, does in ASIDE.items())
    parser.add_argument("model", help=f"a model folder, nano, a hub id, or http://HOST/v1#NAME. Instead: {told}")
    parser.add_argument("of", nargs="*", metavar="...", help="what inspect, diff and rescore are of")
    parser.add_argument("--suite", choices=("development", "unseen"), default="development")
    parser.add_argument("--task", dest="tasks", action="append", default=[], help="one task, or @MODE; may be repeated")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N instances of each task")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="at most N new tokens an answer")
    parser.add_argument("--unseal", metavar="WHY", help="the reason to open the unseen suite; it is recorded")
    parser.add_argument("--chat-template", metavar="NAME", help="for a model whose tokenizer has none, such as tulu")
    parser.add_argument("--mirror", action="append", default=[], metavar="ID=PATH", help="a local copy of a hub set")
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="NAME=MODEL",
        help="a folder, http://HOST/v1#MODEL, or a file of judgements",
    )
    parser.add_argument("--n", type=int, default=1, help="instances that inspect shows")
    parser.add_argument("--tokenizer", default="nano", metavar="MODEL", help="whose tokens inspect shows")
    parser.add_argument("--output", metavar="DIR", help="where rescore writes (default: FOLDER/rescored)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where artifacts are kept (default: runs)")


def execute(args: argparse.Namespace) -> int:
    if args.model in ASIDE:
        return {"tasks": _tasks, "inspect": _inspect, "diff": _diff, "rescore": _rescore}[args.model](args)
    from posttrain.errors import PosttrainError
    from posttrain.pipeline.runner import run_recipe
    from posttrain.recipe.schema import Evaluate, Recipe

    if args.of:
        raise PosttrainError(f"posttrain evaluate takes one model, not also {args.of[0]!r}.")
    settings = Evaluate(
        kind="evaluate",
        suite=args.suite,
        models={_label(args.model): _asked(args.model, "")},
        tasks=tuple(args.tasks),
        judges=_judges(args),
        unseal=args.unseal,
        limit=args.limit,
        max_response_tokens=args.max_tokens,
        chat_template=args.chat_template,
    )
    recipe = Recipe(name="evaluate", device=args.device, hub_mirror=_mirror(args), stages={args.suite: settings})
    artifact = run_recipe(recipe, runs=args.runs).stages[args.suite].artifact
    _show(artifact.path)
    return 0


def _show(folder: Path) -> None:
    import json

    from posttrain.cli.columns import table
    from posttrain.evaluation.paper_results import beside
    from posttrain.evaluation.run import SCORES

    for label, model in json.loads((folder / SCORES).read_text(encoding="utf-8"))["models"].items():
        rows = [("task", "protocol", label, "95 %", "n", "paper: 8B; 70B SFT / DPO / RLVR", "")]
        for name, task in model["tasks"].items():
            told = f"{task['over_context']} over context" if task.get("over_context") else task.get("reason", "")
            paper = beside(task["protocol"])
            rows.append((name, task["protocol_hash"][:8], *_figures(task), str(task["n"]), paper, told[:90]))
        average = model["average"]
        for name, part in average.get("components", {}).items():
            rows.append((name, "", *_figures(_status(part, "incomplete")), "", beside(name), ""))
        left = f"without {len(average['missing'])} tasks" if average["missing"] else ""
        rows.append(("average", "", *_figures(_status(average, "not run")), str(average["n"]), "", left))
        print("\n".join(table(rows)))
    print(f"scores and every answer: {folder}")


def _status(average: Any, without: str) -> dict[str, Any]:
    return {"status": without if average["mean"] is None else "scored", **average}


def _figures(task: Any) -> tuple[str, str]:
    if task["status"] != "scored":
        return task["status"], ""
    return f"{100 * task['mean']:.1f}", f"[{100 * task['low']:.1f}, {100 * task['high']:.1f}]"


def _tasks(args: argparse.Namespace) -> int:
    from posttrain.cli.columns import table
    from posttrain.evaluation.suites import SUITE_OF, TASKS

    rows = [("task", "suite", "data", "shots", "asked", "answers", "metric", "over", "hash")]
    for name, task in TASKS.items():
        p = task.chat
        metric = f"pass@{p.k} of {p.samples}" if p.metric == "pass@k" else p.metric
        facts = (p.data, str(p.shots), p.format, p.answers, metric, p.averaged, p.hash[:8])
        rows.append((name, SUITE_OF[name], *facts))
    print("\n".join(table(rows)))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from posttrain.data.chat import prepare_tokenizer
    from posttrain.errors import PosttrainError
    from posttrain.evaluation.inspection import inspect
    from posttrain.evaluation.protocol import NotRun
    from posttrain.evaluation.suites import DEFAULTS, TASKS, check_task_names
    from posttrain.models.load import load_tokenizer
    from posttrain.stages.base import resolve_reference

    check_task_names(args.of)
    tokenizer = load_tokenizer(resolve_reference(args.tokenizer, {}, _mirror(args)))
    plain = args.chat_template is None and tokenizer.chat_template is None
    if not plain:
        prepare_tokenizer(tokenizer, args.chat_template)
    for name in args.of:
        task = TASKS[DEFAULTS.get(name, name)]
        try:
            for line in inspect(task, tokenizer, "plain" if plain else "chat", _mirror(args), args.n):
                print(line)
        except NotRun as reason:
            raise PosttrainError(f"{task.name}: {reason}") from None
    return 0


def _diff(args: argparse.Namespace) -> int:
    from posttrain.cli.columns import table
    from posttrain.errors import PosttrainError
    from posttrain.evaluation.protocol import difference
    from posttrain.evaluation.suites import DEFAULTS, TASKS, check_task_names

    check_task_names(args.of)
    if len(args.of) != 2:
        raise PosttrainError("posttrain evaluate diff takes two protocols, such as mmlu@paper mmlu@released.")
    a, b = (TASKS[DEFAULTS.get(name, name)].chat for name in args.of)
    rows = [("field", a.name, b.name), ("hash", a.hash[:12], b.hash[:12])]
    print("\n".join(table([*rows, *((name, repr(x), repr(y)) for name, x, y in difference(a, b))])))
    return 0


def _rescore(args: argparse.Namespace) -> int:
    from posttrain.errors import PosttrainError
    from posttrain.evaluation.rescore import rescore
    from posttrain.stages.chat_models import server

    if len(args.of) != 1:
        raise PosttrainError("posttrain evaluate rescore takes one folder, the one that an evaluation printed.")
    folder = Path(args.of[0])
    output = Path(args.output) if args.output else folder / "rescored"
    judges = {name: given if isinstance(given, str) else server(given) for name, given in _judges(args).items()}
    rescore(folder, _mirror(args), judges, output)
    _show(output)
    return 0


def _judges(args: argparse.Namespace) -> dict[str, Any]:
    """Name → path or endpoint."""
    return {name: _asked(given, name) for name, given in _pairs(args.judge, "--judge NAME=MODEL").items()}


def _asked(given: str, name: str) -> Any:
    """A path or hub id as it is; the endpoint behind ``http://HOST/v1#MODEL``, its key in OPENAI_API_KEY if set."""
    import os

    from posttrain.errors import PosttrainError
    from posttrain.recipe.data_settings import Endpoint

    if not given.startswith(("http://", "https://")):
        return given
    url, _, model = given.partition("#")
    if not (model or name):
        raise PosttrainError(f"{given}: write {url}#NAME, the model's name on that server.")
    key = "OPENAI_API_KEY" if os.environ.get("OPENAI_API_KEY") else None
    return Endpoint(base_url=url, model=model or name, api_key_env=key)


def _mirror(args: argparse.Namespace) -> dict[str, str]:
    return _pairs(args.mirror, "--mirror ID=PATH")


def _pairs(given: list[str], form: str) -> dict[str, str]:
    from posttrain.errors import PosttrainError

    found = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise PosttrainError(f"{pair}: write {form}.")
        found[name] = value
    return found


def _label(model: str) -> str:
    """What the model is called in the scores: the last part of its path, or the hub id."""
    return Path(model).resolve().name if Path(model).exists() else model.rpartition("#")[2]
