"""`ts-langchain explain`."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ts_langchain.cli.options import JsonOption, LedgerOption
from ts_langchain.cli.output import clear_errors, out, print_json
from ts_langchain.cli.report import chosen_history, imported
from ts_langchain.cli.rules import paragraphs
from ts_langchain.errors import ConfigurationError
from ts_langchain.report.terminal import one_line, part, print_incident, print_table
from ts_langchain.rules import known_rules


def explain(
    incident_id: Annotated[
        str, typer.Argument(metavar="INCIDENT", help="Its id, or the beginning of it: see report --incidents.")
    ],
    number: Annotated[
        int | None, typer.Option("--history", help="Number of the history, see report --list. Default: the latest.")
    ] = None,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explains an incident: what was seen, why it counts as waste, and which setting would have silenced it."""
    with clear_errors():
        book = imported(ledger)
        history = chosen_history(book, number)
        found = [i for i in book.incidents(history) if i.id.startswith(incident_id)]
        if len(found) != 1:
            what = f"{len(found)} incidents begin" if found else "no incident begins"
            msg = (
                f"{what} with {incident_id!r} in history {history.id}; ts-langchain report {history.id} --incidents 20 "
                "lists them, --history names another"
            )
            raise ConfigurationError(msg)
        incident = found[0]
        rule = known_rules().get(incident.rule)
        silencers = rule.silencers(incident.evidence, incident.session_id) if rule is not None else []
        if as_json:
            told = [{"setting": setting, "why": why} for setting, why in silencers]
            print_json({**incident.as_dict(), "silenced_by": told})
            return
        print_incident(out, incident)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        seen = f"{_time(incident.opened_at)} to {_time(incident.last_seen_at)}, {incident.findings} findings"
        table.add_row("seen", seen)
        table.add_row("session", one_line(incident.session_id))
        table.add_row("avoidable", part(incident.avoidable_nano, incident.wasted_nano, incident.unpriced_calls))
        for key, value in incident.evidence.items():
            table.add_row(escape(key), escape(str(value)))
        if incident.overlaps:
            table.add_row("overlaps", f"some of its tokens are counted for {escape(', '.join(incident.overlaps))}")
        table.add_row("call ids", escape(", ".join(incident.call_ids)))
        print_table(out, table)
        if rule is not None:
            out.print(f"\n{escape(paragraphs(rule))}")
        out.print(f"\n[bold]What to do[/]  {escape(incident.suggestion)}")
        out.print(
            "\n[bold]If it is wrong[/], one of these settings would have silenced it, with the rule's others at their "
            "defaults:"
        )
        for setting, why in silencers:
            out.print(f"  --set {escape(shlex.quote(setting))}   [dim]{escape(why)}[/]", soft_wrap=True)
        out.print(
            "It takes effect where it is given: to an import with --fresh, to Sentinel(settings=...), in a policy."
        )


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, tz=UTC):%Y-%m-%d %H:%M:%S}"
