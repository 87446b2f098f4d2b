"""Every command, recipe and page that the documentation names is there, and parses."""

import argparse
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from posttrain.cli.main import COMMANDS
from posttrain.recipe.ablation import load_ablation
from posttrain.recipe.load import load_recipe, validate_scales

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MENTIONED = re.compile(r"(?:^|`|\$ )(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?posttrain ([a-z]+\b[^`\n#|]*)", re.M)


def commands(page: Path) -> list[str]:
    """Command lines: in fences, after `$`, and in code spans that begin with the program's name."""
    found = MENTIONED.findall(page.read_text(encoding="utf-8"))
    return [re.split(r"\s{2,}", line.strip())[0] for line in found]  # what follows two spaces explains


def parser(name: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(name, exit_on_error=False)
    importlib.import_module(COMMANDS[name][0]).arguments(made)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    for line in commands(page):
        name, *rest = shlex.split(line.replace("…", "X"))
        assert name in COMMANDS, f"{page.name}: posttrain {line}: no such command"
        if rest and "--help" not in rest and not {"RECIPE", "COMMAND"} & set(rest):
            try:
                parser(name).parse_args(rest)
            except (SystemExit, argparse.ArgumentError) as error:
                pytest.fail(f"{page.name}: posttrain {line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_exist_and_load(page, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_TEST_DATA", "nowhere")
    for name in set(re.findall(r"recipes/[\w./-]+\.yaml", page.read_text(encoding="utf-8"))):
        path = ROOT / name
        assert load_ablation(path) if path.parent.name == "ablations" else validate_scales(path), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_in_the_text_load(page, tmp_path):
    for number, body in enumerate(
        re.findall(r"^```yaml[^\n]*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    ):
        content = yaml.safe_load(body)
        if "stages" in content:
            path = tmp_path / f"{number}.yaml"
            path.write_text(body.replace("extends: ", f"extends: {ROOT}/recipes/"))
            assert load_recipe(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_blocks_are_shell_and_start_what_is_there(page):
    """bash reads each block; what `-m posttrain.cli` is handed parses as it does after `posttrain`."""
    for body in re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        read = subprocess.run(["bash", "-n"], input=body, text=True, capture_output=True)
        assert read.returncode == 0 and not read.stderr, f"{page.name}: {read.stderr}"
        for line in re.findall(r"-m posttrain\.cli (.*)", body):
            name, *rest = shlex.split(line, comments=True)
            parser(name).parse_args(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in text


def test_every_command_is_documented():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in COMMANDS:
        assert re.search(rf"posttrain {name}\b", text), name


def test_pages_that_the_code_names_are_there():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "posttrain").rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"docs/[\w-]+\.md", text)}
    assert "docs/sandbox.md" in named
    assert {name for name in named if not (ROOT / name).exists()} == set()
