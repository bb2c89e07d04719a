"""`ts-langchain rules`."""

from __future__ import annotations

import inspect
import re
from difflib import get_close_matches
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ts_langchain.cli.options import JsonOption
from ts_langchain.cli.output import clear_errors, out, print_json
from ts_langchain.errors import ConfigurationError
from ts_langchain.report.terminal import print_table
from ts_langchain.rules import known_rules


def rules(
    rule: Annotated[
        str | None, typer.Argument(help="Explain this rule. Without: list all.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Lists the rules, or explains one: what it finds, when it fires, when it does not, its settings."""
    known = known_rules()
    with clear_errors():
        if rule is not None and rule not in known:
            like = " or ".join(get_close_matches(rule, known))
            others = f"did you mean {like}?" if like else f"there are {', '.join(known)}"
            msg = f"there is no rule {rule!r}; {others}"
            raise ConfigurationError(msg)
    shown = {rule: known[rule]} if rule else known
    if as_json:
        print_json(
            [
                {
                    "rule": name,
                    "summary": first_line(cls),
                    "suggestion": cls.suggestion,
                    "settings": dict(cls.explain()),
                }
                for name, cls in shown.items()
            ]
        )
        return
    if rule is None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("rule", style="bold")
        table.add_column("finds")
        for name, cls in known.items():
            table.add_row(name, first_line(cls))
        print_table(out, table)
        out.print("\nExplain one with [bold]ts-langchain rules NAME[/].")
        return
    cls = known[rule]
    out.print(f"[bold]{rule}[/]\n")
    out.print(escape(paragraphs(cls)))
    out.print(f"\nWhat to do: {escape(cls.suggestion)}\n\n[bold]Settings[/] (as {rule}.NAME)")
    table = Table(box=None, padding=(0, 0, 0, 2), show_header=False)
    for name, text in cls.explain().items():
        default, _, description = text.partition(": ")
        table.add_row(name, escape(default), escape(description))
    print_table(out, table)


def paragraphs(cls: type) -> str:
    """A docstring without the line breaks inside its paragraphs: a terminal breaks lines where it ends."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(cls) or "")


def first_line(cls: type) -> str:
    """First sentence of a docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]
