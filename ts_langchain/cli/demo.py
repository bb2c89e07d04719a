"""`ts-langchain demo`: the main job in half a minute, without keys or network."""

from __future__ import annotations

import shlex
import tempfile
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ts_langchain.cli.output import clear_errors, out

if TYPE_CHECKING:
    from ts_langchain.incident import Incident

QUESTION = "Which of our plans includes single sign-on?"


def demo(
    keep: Annotated[
        Path | None, typer.Option(help="Keep the ledger of the demo in this file.", show_default=False)
    ] = None,
) -> None:
    """Shows what ts-langchain does: a looping agent live, the same agent stopped, then recorded runs imported."""
    from ts_langchain.ledger import Ledger

    with clear_errors():
        if keep is not None:
            Ledger(keep).close()  # what is no ledger is said before anything is shown
        _live()
        _replay(keep)


def _live() -> None:
    from ts_langchain import TokenSentinelHandler, WasteBlocked
    from ts_langchain.cli.demo_agent import looping_graph
    from ts_langchain.report.terminal import print_incident, usd

    out.rule("[bold]1. A LangGraph agent runs into a loop", align="left")
    out.print(f'A real LangGraph agent on a scripted model is asked "{QUESTION}"')
    out.print("It fetches the same page again and again.\n")
    handler = TokenSentinelHandler(session_id="demo")

    def show(incident: Incident) -> None:
        out.print(f"  while it runs, after call {model.calls}:")
        print_incident(out, incident)

    handler.sentinel.on_incident(show)
    graph, model = looping_graph()
    _run(graph, handler)
    unguarded = model.calls
    found = handler.sentinel.incidents()[0]
    totals = handler.sentinel.totals("demo")
    spent = totals.nano if totals else 0
    out.print(
        f"\nWithout intervention: {unguarded} model calls billed, {usd(spent)}, "
        f"of which {usd(found.wasted_nano)} wasted.\n"
    )

    out.print("The same agent with [bold]callbacks=[TokenSentinelHandler(mode='block')][/]:\n")
    graph, model = looping_graph()
    try:
        _run(graph, TokenSentinelHandler(mode="block", session_id="demo"))
    except WasteBlocked as blocked:
        out.print(f"  [green]WasteBlocked[/] before call {model.calls + 1} was sent:", soft_wrap=True)
        out.print(f"  {escape(str(blocked))}", soft_wrap=True)
    out.print(f"\nWith mode='block': {model.calls} model calls billed instead of {unguarded}.\n")


def _run(graph: Any, handler: Any) -> None:
    import logging

    # langchain-core logs what a handler raises on purpose, and we what nobody listens to; here it is shown
    loggers = [logging.getLogger(name) for name in ("langchain_core.callbacks.manager", "ts_langchain")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        graph.invoke({"messages": [("user", QUESTION)]}, {"callbacks": [handler]})
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _replay(keep: Path | None) -> None:
    from ts_langchain.cli.importing import IMPORTERS, registered
    from ts_langchain.history import Import
    from ts_langchain.ledger import Ledger
    from ts_langchain.report.summary import summarise
    from ts_langchain.report.terminal import print_incident, print_summary

    out.rule("[bold]2. Recorded agent runs, imported and reported", align="left")
    out.print(
        "Real GPT-4o airline-support runs from τ-bench (Sierra, MIT licence), through the same handler.\n"
        "They carry no token counts: usage is estimated, and the report says so."
    )
    recorded = files("ts_langchain") / "demo_data" / "tau_bench_airline.jsonl.gz"
    with as_file(recorded) as path, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        from datetime import date

        source = registered(IMPORTERS, "file")(path, model="gpt-4o", provider="openai", day=date(2024, 6, 20))
        ledger = Ledger(keep or Path(scratch) / "ledger.sqlite")
        history = Import(source, ledger, fresh=True).run()
        history.label = {"file": path.name, "format": "conversations"}
        print_summary(out, summarise(ledger, history))
        out.print("\nThe costliest incidents:")
        for incident in islice(ledger.incidents(history), 4):
            print_incident(out, incident)
        ledger.close()
    if keep is not None:
        out.print(
            f"\nIts ledger is kept: ts-langchain report --ledger {shlex.quote(str(keep))}", markup=False, soft_wrap=True
        )
    out.print(
        "\nNext: [bold]ts-langchain import langsmith --project NAME[/], or add "
        "[bold]callbacks=[TokenSentinelHandler()][/] to your app."
    )
