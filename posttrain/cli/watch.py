"""`posttrain watch`: a run, live in the terminal."""

import argparse
import contextlib
import time
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_FOLDER", help="such as runs/quickstart; it may belong to another process")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="how often to look (default: 2)")
    parser.add_argument("--once", action="store_true", help="look once and end")


def execute(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.live import Live

    from posttrain.errors import PosttrainError
    from posttrain.report.watch import look, table

    run = Path(args.run)
    if not run.is_dir():
        raise PosttrainError(f"{run}: no such folder. A run's folder is runs/<recipe name>.")
    if not 0.1 <= args.every <= 3600:
        raise PosttrainError(f"--every {args.every:g}: between 0.1 and 3600 seconds are wanted.")
    console = Console()
    if args.once or not console.is_terminal:
        console.print(table(look(run)))
        return 0
    with (
        contextlib.suppress(KeyboardInterrupt),  # the way out
        Live(table(look(run), console.height), console=console, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(args.every)
            live.update(table(look(run), console.height), refresh=True)
    return 0
