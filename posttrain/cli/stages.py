"""`posttrain stages`."""

import argparse
import ast
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # nothing to choose


def execute(args: argparse.Namespace) -> int:
    from posttrain import stages

    del args
    folder = Path(stages.__path__[0])
    width = max(map(len, stages.MODULES))
    for kind, module in stages.MODULES.items():
        # Parsed, not imported: half of the stages need torch, and this is a list of one-liners.
        source = (folder / module.rpartition(".")[2]).with_suffix(".py").read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        print(f"  {kind:<{width}}  {summary}")
    return 0
