"""Pages that are made from the code: the start page, the rules, the command line."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in what is generated."""
    if "<!-- readme -->" in markdown:
        markdown = markdown.replace("<!-- readme -->", (ROOT / "README.md").read_text(encoding="utf-8"))
    if "<!-- rules -->" in markdown:
        markdown = markdown.replace("<!-- rules -->", rules())
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands())
    return markdown


def rules() -> str:
    """A section per rule, from docstring and settings."""
    from ts_langchain.rules import RULES

    parts = []
    for name, cls in RULES.items():
        rows = "\n".join(
            f"| `{name}.{key}` | `{default}` | {description} |"
            for key, text in cls.explain().items()
            for default, _, description in [text.partition(": ")]
        )
        doc = inspect.getdoc(cls) or ""
        table = f"| setting | default | meaning |\n|---|---|---|\n{rows}"
        parts.append(f"## {name}\n\n{doc}\n\n**What to do:** {cls.suggestion}\n\n{table}\n")
    return "\n".join(parts)


def commands() -> str:
    """The help of each command."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from ts_langchain.cli.app import app

    def walk(command: Any, path: list[str]) -> list[list[str]]:
        below = getattr(command, "commands", {})
        return [path, *(p for name in sorted(below) for p in walk(below[name], [*path, name]))]

    parts = []
    for path in walk(get_command(app), []):
        shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output
        parts.append(f"## {' '.join(['ts-langchain', *path])}\n\n```text\n{shown.strip()}\n```\n")
    return "\n".join(parts)
