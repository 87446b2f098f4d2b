"""DESIGN.md's edge list: which room may import which. Read from the sources, function-level imports included."""

import ast
from pathlib import Path

import pytest

import posttrain

PACKAGE = Path(posttrain.__file__).parent

NOTHING: set[str] = set()
STAGE_ROOMS = {
    "report",
    "demo",
    "preferences",
    "evaluation",
    "rl",
    "synthesis",
    "decontamination",
    "verifiers",
    "inference",
    "training",
    "data",
    "models",
    "nano",
    "sandbox",
    "recipe",
    "artifacts",
}
MAY_IMPORT = {
    "cli": {"pipeline", "recipe", "stages"} | STAGE_ROOMS,
    "pipeline": {"stages", "recipe", "artifacts"},
    "stages": STAGE_ROOMS,
    "report": {"evaluation", "artifacts"},
    "demo": {"inference", "artifacts"},
    "preferences": {"inference", "verifiers", "data", "artifacts"},
    "evaluation": {"inference", "verifiers", "data", "artifacts", "nano"},
    "rl": {"inference", "verifiers", "training", "models", "data"},
    "synthesis": {"inference", "verifiers", "data", "artifacts"},
    "decontamination": {"data"},
    "verifiers": {"sandbox"},
    "inference": {"models", "artifacts"},
    "training": {"models", "artifacts"},
    "data": {"artifacts"},
    "models": {"artifacts"},
    "nano": NOTHING,
    "sandbox": NOTHING,
    "recipe": NOTHING,
    "artifacts": NOTHING,
}
FOR_ALL = {"errors"}
FACADE = "posttrain"  # posttrain/__init__.py: what commands do, as calls; it imports any room, inside its functions


def imported(source: str, package: tuple[str, ...]) -> set[str]:
    """Dotted names below ``posttrain`` that a module of ``package`` imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            around = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join([*around, *([node.module] if node.module else [])])
            # `from posttrain import data` names a room in its list, `from posttrain.data import rows` in its module.
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "posttrain" else [base]
        elif isinstance(node, ast.Call):
            names = _named_in_call(node)
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == "posttrain"}
    return found


def _named_in_call(node: ast.Call) -> list[str]:
    """The module of ``import_module("…")`` and ``__import__("…")``."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0] if node.args else None
    if name in ("import_module", "__import__") and isinstance(first, ast.Constant) and isinstance(first.value, str):
        return [first.value]
    return []


def violations(source: str, path: Path) -> list[str]:
    """Forbidden imports of the module at ``path``, relative to the package's folder."""
    package = ("posttrain", *path.parent.parts)
    room = path.parts[0] if len(path.parts) > 1 else FACADE
    if room == FACADE:
        return []
    wrong = []
    for name in sorted(imported(source, package)):
        target = (name.split(".") + [FACADE])[1]
        if target not in MAY_IMPORT[room] | FOR_ALL | {room}:
            wrong.append(f"posttrain/{path}: {room}/ may not import {name}")
    return wrong


def modules() -> list[Path]:
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def test_rooms_import_only_what_the_design_lists():
    found = [line for path in modules() for line in violations((PACKAGE / path).read_text(encoding="utf-8"), path)]
    assert not found, "\n".join(found)


def test_every_room_is_in_the_edge_list():
    rooms = {path.parts[0] for path in modules() if len(path.parts) > 1}
    assert rooms <= set(MAY_IMPORT)


def test_nothing_lies_outside_the_rooms():
    assert {path.name for path in modules() if len(path.parts) == 1} == {"__init__.py", "errors.py"}


def test_the_edges_have_no_cycle():
    remaining = {room: set(targets) for room, targets in MAY_IMPORT.items()}
    while remaining:
        leaves = [room for room, targets in remaining.items() if not targets & set(remaining)]
        assert leaves, f"a cycle among {sorted(remaining)}"
        for leaf in leaves:
            del remaining[leaf]


@pytest.mark.parametrize(
    "source",
    [
        "import posttrain.stages.sft",
        "from posttrain import stages",
        "from posttrain import run",
        "from posttrain.cli import main",
        "from .. import pipeline",
        "from ..pipeline.runner import run_recipe",
        "def f():\n    from posttrain.rl import ppo",
        "if True:\n    import posttrain",
        "import importlib\nimportlib.import_module('posttrain.evaluation.run')",
    ],
)
def test_a_forbidden_import_is_seen_in_every_form(source):
    assert violations(source, Path("data/rows.py"))


@pytest.mark.parametrize(
    "source",
    [
        "from posttrain.artifacts.jsonl import read_jsonl",
        "from posttrain.errors import PosttrainError",
        "from . import rows",
        "from .rows import Conversation",
        "from ..artifacts import jsonl",
        "import json, torch",
    ],
)
def test_an_allowed_import_passes(source):
    assert not violations(source, Path("data/readers.py"))


def imports_at_top(source: str) -> set[str]:
    """Top-level packages imported when the module is, not inside its functions."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_recipe_imports_neither_torch_nor_transformers():
    for path in modules():
        if path.parts[0] == "recipe":
            assert not imports_at_top((PACKAGE / path).read_text(encoding="utf-8")) & {"torch", "transformers"}, path
