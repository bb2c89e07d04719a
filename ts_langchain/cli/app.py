"""All commands."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from ts_langchain import __version__
from ts_langchain.cli import files, plugins, policy, rules, services
from ts_langchain.cli.annotate import annotate
from ts_langchain.cli.backfill import backfill
from ts_langchain.cli.demo import demo
from ts_langchain.cli.explain import explain
from ts_langchain.cli.output import BROKEN_PIPE, FAILED, err, out
from ts_langchain.cli.report import report


class _InOrder(TyperGroup):
    """Lists the commands in the order in which one needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        first = ["demo", "import", "report", "explain", "rules", "policy", "backtest", "annotate", "backfill"]
        return sorted(super().list_commands(ctx), key=lambda name: first.index(name) if name in first else len(first))


app = typer.Typer(
    name="ts-langchain",
    cls=_InOrder,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Finds token waste in LangChain and LangGraph agents.\n\n"
    "Live: `callbacks=[TokenSentinelHandler()]`. Here: the same detector over the history you already have.\n\n"
    "Start with `ts-langchain demo`, then `ts-langchain import langsmith --project NAME`.",
)
services.app.command("file")(files.import_file)
services.app.command("parquet")(files.import_parquet)
services.app.command("plugin")(plugins.import_plugin)
app.add_typer(services.app, name="import")
app.add_typer(policy.app, name="policy")
app.command()(report)
app.command()(policy.backtest)
app.command(name="rules")(rules.rules)
app.command()(explain)
app.command()(annotate)
app.command()(backfill)
app.command()(demo)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""
    del version


def run() -> None:
    """Runs the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # terminals and files of other encodings than UTF-8
    try:
        try:
            app()
        finally:
            out.file.flush()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # of the help, which is written by a console of Typer's
            sys.exit(BROKEN_PIPE)
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left cannot be written at the end either
        if isinstance(error, BrokenPipeError):  # `ts-langchain report | head`
            sys.exit(BROKEN_PIPE)
        err.print(f"[red]Error:[/] {escape(str(error))}")
        sys.exit(FAILED)
