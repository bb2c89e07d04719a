"""What the README and the docs show runs, and does what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import ts_importers
import ts_langchain
from ts_langchain.policy import Budget, Policy, RemotePolicy

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(page, match[1], id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, match in enumerate(BLOCK.finditer(page.read_text()))
]
MODULES = [
    info.name
    for package in (ts_langchain, ts_importers)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if "__main__" not in info.name
]


@pytest.mark.parametrize(("page", "code"), BLOCKS)
def test_code_on_the_page_runs(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "__docs__"}
    exec(compile(code, str(page), "exec"), scope)  # noqa: S102 - our own pages


def test_the_readme_shows_what_its_first_example_prints(capsys: pytest.CaptureFixture[str]) -> None:
    readme = PAGES[0].read_text()
    code = BLOCK.search(readme)
    shown = re.search(r"^```text\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert code is not None
    assert shown is not None
    exec(compile(code[1], "README.md", "exec"), {"__name__": "__docs__"})  # noqa: S102 - our own page
    assert capsys.readouterr().out == shown[1]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_on_the_page_exist(page: Path) -> None:
    from typer.main import get_command

    from ts_langchain.cli.app import app

    root: Any = get_command(app)
    for line in re.findall(r"^\s*(?:\$ )?(ts-langchain [^\n`#|]*)", page.read_text(), re.MULTILINE):
        words = line.split()[1:]
        command = root
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        if hasattr(command, "commands"):
            assert not words or words[0].startswith("-"), line
        options = {o for p in command.params for o in p.opts} | {"--help", "-h"}
        assert {w.partition("=")[0] for w in words if w.startswith("-")} <= options, line


def test_the_page_on_policies_shows_every_key_and_its_default() -> None:
    page = (ROOT / "docs" / "intervention.md").read_text()
    shown = re.search(r"^```yaml\n(version: 1\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert Policy.from_yaml(shown[1]) == Policy()

    def keys(model: type[BaseModel], given: dict[str, Any]) -> None:
        assert given.keys() == model.model_fields.keys(), model.__name__
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                keys(field.annotation, given[name])

    keys(Policy, yaml.safe_load(shown[1]))
    for name, model in (("budgets", Budget), ("remote", RemotePolicy)):
        line = re.search(rf"^{name}: .*#(.*)$", shown[1], re.MULTILINE)
        assert line is not None
        told = {key: value for key, _, value in (part.partition(": ") for part in re.split(r"[,;] | of ", line[1]))}
        told = {key.split()[-1]: value for key, value in told.items()}
        assert told.keys() >= model.model_fields.keys()
        for key, value in told.items():
            assert not value or yaml.safe_load(value) == model.model_fields[key].default, key
