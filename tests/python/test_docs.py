# SPDX-License-Identifier: Apache-2.0
"""The documentation agrees with the code: examples compile, links lead somewhere, options exist."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

from instseg._bin import native_root
from instseg.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("**/*.md")),
    *sorted((ROOT / "demo").glob("**/*.md")),
]
COMMANDS = ("train", "eval", "predict", "convert", "info", "models", "data check")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def snippets() -> list[tuple[str, str]]:
    found = [(f"{page.name}:{i}", code) for page in PAGES for i, code in enumerate(blocks(page, "python"))]
    examples = sorted((ROOT / "examples" / "python").glob("*.py"))
    return found + [(path.name, path.read_text(encoding="utf-8")) for path in examples]


def test_there_is_documentation() -> None:
    names = {page.name for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "quickstart-python.md", "cli.md", "models.md"} <= names
    assert any(name.startswith("README.md") for name, _ in snippets())


@pytest.mark.parametrize(("name", "code"), snippets(), ids=[name for name, _ in snippets()])
def test_python_compiles_and_imports_exist(name: str, code: str) -> None:
    tree = ast.parse(code, filename=name)
    compile(tree, name, "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("instseg"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{name}: {node.module}.{alias.name}"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "instseg"
        ):
            assert hasattr(importlib.import_module("instseg"), node.attr), f"{name}: instseg.{node.attr}"


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{page.name} links to {target}"


def section(command: str) -> str:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    match = re.search(rf"^## {re.escape(command)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert match is not None, f"docs/cli.md has no section {command}"
    return match[1]


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_options_are_those_of_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    help_page = capsys.readouterr().out
    help_page = help_page[: help_page.index("Examples:")]
    assert options(section(f"instseg {command}")) == options(help_page) - {"--help"}


def test_documented_options_of_the_native_program() -> None:
    program = native_root() / "bin" / "instseg-infer"
    if not program.exists():
        pytest.skip("this build has no instseg-infer")
    page = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    documented = options(section("instseg-infer")) | options(section("instseg predict"))
    assert documented == options(page[: page.index("Examples:")]) - {"--help"}
