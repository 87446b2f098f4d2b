"""`posttrain init`: somebody's first recipe."""

import argparse
import json
import re
from pathlib import Path

COLUMNS = {"preference": {"chosen", "rejected"}, "verifiable": {"ground_truth"}, "conversation": {"messages"}}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", required=True, metavar="MODEL", help="a model folder, nano, or a hub id")
    rows = "JSONL: conversations, pairs or verifiable prompts, known by their columns; may be repeated"
    parser.add_argument("--data", required=True, action="append", metavar="FILE", help=rows)
    parser.add_argument(
        "--gpus", metavar="N or NxKIND", default="0", help="such as 8xH100; a bare N means H100s; 0: a CPU"
    )
    parser.add_argument("--out", metavar="FILE", help="default: the model's name, .yaml")


def execute(args: argparse.Namespace) -> int:
    import yaml

    from posttrain.cli.budget import config_of, rows_of
    from posttrain.errors import PosttrainError
    from posttrain.pipeline.resolve import check
    from posttrain.recipe.init import Wish, first_recipe
    from posttrain.recipe.plan import known, machine
    from posttrain.recipe.references import order
    from posttrain.recipe.schema import Recipe
    from posttrain.stages import load_stage

    out = Path(args.out or f"{name_of(Path(args.base).name)}-first.yaml")
    if out.exists():
        raise PosttrainError(f"{out} is there already. Choose another file: --out FILE.")
    data = {}
    for file in args.data:
        kind = kind_of(Path(file))
        if kind in data:
            raise PosttrainError(
                f"{file} and {data[kind]} both hold {kind} rows; join them, or add a source to the recipe."
            )
        data[kind] = file
    config = config_of(args.base)
    if config is None and args.base not in known()["models"]:
        raise PosttrainError(
            f"{args.base}: its sizes are unknown here. Download it and give its folder: --base FOLDER."
        )
    text_config = (config or {}).get("text_config", config or {})
    if text_config.get("final_logit_softcapping"):
        raise PosttrainError(f"{args.base}: it caps its logits after the head, which no loss here does. Take Gemma 3.")
    gpus = f"{args.gpus}xH100" if args.gpus.isdecimal() else args.gpus
    wish = Wish(
        name=name_of(out.stem),
        base=args.base,
        data=data,
        chat_template=None if has_template(args.base) else "tulu",
        context=text_config.get("max_position_embeddings", 8192),
        rows={kind: rows_of(file) or 0 for kind, file in data.items()},
        config=config,
        machine=None if args.gpus == "0" else machine(gpus),
    )
    text, unfit = first_recipe(wish)
    recipe = Recipe.model_validate(yaml.safe_load(text))
    check(recipe, order(recipe.stages), load_stage)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    stages = ", ".join(order(recipe.stages))
    if wish.machine is None or not unfit:
        print(f"{out}: checked, stages {stages}. Next: posttrain run {out}")
    else:
        print(f"{out}: valid, stages {stages}, but it does not fit on {wish.machine.gpus} × {wish.machine.name}.")
        print("\n".join(f"! {line}" for line in unfit))
    return 0


def name_of(text: str) -> str:
    """A recipe's name, made of what a name may hold."""
    return re.sub("[^a-z0-9._-]+", "-", text.lower()).strip("._-") or "mine"


def kind_of(path: Path) -> str:
    """The kind of rows by the first row's columns. Raises PosttrainError for a file that tells none."""
    from posttrain.artifacts.jsonl import read_jsonl
    from posttrain.errors import PosttrainError

    _, row = next(read_jsonl(path), (0, {}))
    for kind, columns in COLUMNS.items():
        if columns <= row.keys():
            return kind
    raise PosttrainError(
        f"{path}: its first row has the columns {', '.join(row) or '(none)'}. Wanted: messages; chosen and rejected; "
        "or messages, ground_truth and dataset. `layout:` in a recipe maps other columns."
    )


def has_template(base: str) -> bool:
    """Whether the tokenizer of a local model has a chat template of its own."""
    folder = Path(base)
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
