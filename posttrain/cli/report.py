"""`posttrain report`."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_FOLDER", help="such as runs/quickstart")


def execute(args: argparse.Namespace) -> int:
    from posttrain.errors import PosttrainError

    path = Path(args.run) / "report.md"
    if not path.is_file():
        if not Path(args.run).is_dir():
            raise PosttrainError(f"{args.run}: no such folder. A run's folder is runs/<recipe name>.")
        raise PosttrainError(f"{path}: this run has no report yet. Finish it with `posttrain run RECIPE`.")
    print(path.read_text(encoding="utf-8"), end="")
    return 0
