"""Pages that are made from the code: the start page, the rules, the command line."""

from __future__ import annotations

import gzip
import inspect
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in what is generated."""
    if "<!-- readme -->" in markdown:
        readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
        markdown = markdown.replace("<!-- readme -->", readme)
    if "<!-- rules -->" in markdown:
        markdown = markdown.replace("<!-- rules -->", rules())
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands())
    return markdown


def rules() -> str:
    """A section per rule, from docstring and settings."""
    from ts_langchain.rules import RULES

    shown = examples()
    parts = []
    for name, cls in RULES.items():
        rows = "\n".join(
            f"| `{name}.{key}` | `{default}` | {description} |"
            for key, text in cls.explain().items()
            for default, _, description in [text.partition(": ")]
        )
        doc = inspect.getdoc(cls) or ""
        table = f"| setting | default | meaning |\n|---|---|---|\n{rows}"
        parts.append(f"## {name}\n\n{doc}\n\n**What to do:** {cls.suggestion}\n\n{shown.get(name, '')}{table}\n")
    return "\n".join(parts)


def examples() -> dict[str, str]:
    """For each rule a labelled case that fires and one that must not, as short transcripts."""
    found: dict[str, str] = {}
    with gzip.open(ROOT / "benchmarks" / "detection" / "cases.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            case = json.loads(line)
            if case["id"].endswith("/3"):  # an English one
                title = "Fires" if case["positive"] else "Must not fire"
                said = transcript(case["rows"])
                found[case["rule"]] = found.get(case["rule"], "") + f"{title}:\n\n```text\n{said}\n```\n\n"
    return found


def transcript(rows: list[dict[str, Any]], most: int = 12) -> str:
    """What was said and called, a line each."""
    lines: list[str] = []
    users = 0
    for row in rows:
        if row["run_type"] == "llm":
            asked = [m for m in row["inputs"]["messages"] if m.get("role") == "user"]
            lines += [f"user    {clip(m['content'])}" for m in asked[users:]]
            users = len(asked)
            answer = row["outputs"]["message"]
            if row["error"]:
                lines.append(f"model   ! {clip(row['error'])}")
            elif answer["content"]:
                lines.append(f"model   {clip(answer['content'])}")
        elif row["run_type"] == "tool":
            output = (row["outputs"] or {}).get("output", row["error"])
            output = output["content"] if isinstance(output, dict) else output
            lines.append(f"tool    {row['name']}({clip(row['inputs'], 44)}) -> {clip(output, 44)}")
        else:
            documents = [d["page_content"] for d in (row["outputs"] or {}).get("documents", [])]
            lines.append(f"{row['run_type']:7} {clip(row['inputs'], 60)}" + (f" -> {documents}" if documents else ""))
    if len(lines) > most:
        lines[most - 2 :] = [f"        ... {len(lines) - most + 1} more", lines[-1]]
    return "\n".join(lines)


def clip(value: object, most: int = 90) -> str:
    """At most so many characters on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


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
