"""Reports on a terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from ts_langchain.ledger import UNNAMED

if TYPE_CHECKING:
    from rich.console import Console

    from ts_langchain.incident import Incident
    from ts_langchain.report.summary import Summary

SESSION_CHARS = 40
LEAST_SHOWN = 0.00001
ANY_WIDTH = 10_000
RULE_CHARS = 4
_BROKEN = re.compile(r"[\r\n]")
COLOURS = {"high": "red", "medium": "yellow", "low": "cyan"}


def usd(nano: int) -> str:
    """Dollars with as many digits as the amount deserves."""
    sign, amount = "-" if nano < 0 else "", abs(nano) / 1e9
    if nano == 0:
        return "$0"
    if amount < LEAST_SHOWN:
        return f"{sign}<${LEAST_SHOWN:.5f}"
    if amount < 0.01:
        return f"{sign}${amount:.5f}"
    return f"{sign}${amount:,.4f}" if amount < 1 else f"{sign}${amount:,.2f}"


def one_line(name: str) -> str:
    """What others have named, as rich text of one line."""
    return escape(_BROKEN.sub("\ufffd", name))


def cost(nano: int, unpriced_calls: int) -> str:
    """Dollars; no $0 where nobody knows what any of it cost."""
    return "unknown" if unpriced_calls and not nano else usd(nano)


def part(nano: int, of: int, unpriced_calls: int) -> str:
    """Dollars that are a part of others: none of what is known are $0, and of what nobody knows they are unknown."""
    return cost(nano, 0 if of else unpriced_calls)


def print_table(console: Console, table: Table) -> None:
    """Prints a table and cuts off nothing: no name, id or figure is broken, be the terminal too narrow for them."""
    wide = console.options.update(max_width=ANY_WIDTH)
    for column in table.columns:
        column.min_width = max(Measurement.get(console, wide, cell).minimum for cell in (column.header, *column.cells))
    console.print(table, crop=False)


def print_summary(console: Console, summary: Summary) -> None:
    """Prints a report."""
    history = summary.history
    console.print()
    if len(history.name) < console.width - RULE_CHARS:
        console.rule(f"[bold]{escape(history.name)}", align="left")
    else:  # a rule would cut it off
        console.print(f"[bold]{escape(history.name)}", soft_wrap=True)
    if not summary.calls:
        console.print("No calls in this history.")
        _print_rows(console, summary)
        return
    share = f" ({summary.wasted_nano / summary.nano:.1%} of the spend)" if summary.nano else ""
    console.print(
        f"{summary.first_day} to {summary.last_day}: {summary.sessions:,} sessions, {summary.calls:,} calls, "
        f"{summary.tokens:,} tokens"
    )
    console.print(f"  Spend      [bold]{cost(summary.nano, summary.unpriced_calls)}[/]")
    unpriced = sum(r.unpriced_calls for r in summary.rules)
    wasted = cost(summary.wasted_nano, unpriced)
    avoidable = part(summary.avoidable_nano, summary.wasted_nano, unpriced)
    console.print(f"  Wasted     [bold red]{wasted}[/]{share}, {summary.wasted_tokens:,} tokens")
    console.print(f"  Avoidable  [bold]{avoidable}[/]: spent after the waste was first detected")
    if summary.rules:
        print_table(console, _rules(summary))
        print_table(console, _worst(summary))
    else:
        console.print("No waste found.")
    print_table(console, _models(summary))
    _print_rows(console, summary)


def print_incident(console: Console, incident: Incident) -> None:
    """Prints one incident on one or two lines."""
    colour = COLOURS.get(incident.severity, "default")
    console.print(
        f"[{colour}]{escape(incident.severity):>6}[/] [bold]{escape(incident.rule)}[/] {escape(incident.summary)} "
        f"Wasted {incident.wasted_tokens:,} tokens, {cost(incident.wasted_nano, incident.unpriced_calls)}; "
        f"confidence {incident.confidence:.0%}. "
        f"[dim]{incident.id} in session {one_line(incident.session_id)}[/]"
    )


def _rules(summary: Summary) -> Table:
    table = Table(title="Waste by rule", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("rule")
    for name in ("incidents", "sessions", "calls", "tokens", "wasted", "avoidable"):
        table.add_column(name, justify="right")
    for r in summary.rules:
        table.add_row(
            escape(r.rule),
            f"{r.incidents:,}",
            f"{r.sessions:,}",
            f"{r.calls:,}",
            f"{r.wasted_tokens:,}",
            cost(r.wasted_nano, r.unpriced_calls),
            part(r.avoidable_nano, r.wasted_nano, r.unpriced_calls),
        )
    return table


def _worst(summary: Summary) -> Table:
    table = Table(title="Worst sessions", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("session")
    for name in ("calls", "spend", "wasted"):
        table.add_column(name, justify="right")
    table.add_column("rules")
    for s in summary.worst:
        table.add_row(
            _folded(s.session_id),
            f"{s.calls:,}",
            cost(s.nano, s.unpriced_calls),
            cost(s.wasted_nano, s.unpriced_wasted),
            escape(", ".join(s.rules)),
        )
    return table


def _folded(session_id: str) -> str:
    """A long id on several lines."""
    return "\n".join(one_line(session_id[n : n + SESSION_CHARS]) for n in range(0, len(session_id), SESSION_CHARS))


def _models(summary: Summary) -> Table:
    table = Table(title="Spend by model", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model")
    for name in ("calls", "input", "cached", "output", "spend"):
        table.add_column(name, justify="right")
    for m in summary.models:
        unknown = f" + {m.unpriced_calls:,} calls at an unknown price" if m.unpriced_calls else ""
        table.add_row(
            one_line(m.model or "(tools and retrievers)"),
            f"{m.calls:,}",
            f"{m.input_tokens:,}",
            f"{m.cache_read_tokens:,}",
            f"{m.output_tokens:,}",
            ("unknown" if m.unpriced_calls == m.calls and m.calls else usd(m.nano) + unknown),
        )
    return table


def _how_to_price(summary: Summary) -> str:
    """A price belongs to a name: what names no model is given one first."""
    unpriced = {m.model for m in summary.models if m.unpriced_calls}
    said = []
    if unpriced - {UNNAMED}:
        said.append("To give one, import again with --fresh --price MODEL=INPUT,OUTPUT.")
    if UNNAMED in unpriced and summary.history.source == "file":
        said.append("Conversations that name no model are priced with --fresh --model NAME.")
    return " ".join(said)


def _print_rows(console: Console, summary: Summary) -> None:
    history = summary.history
    if summary.unpriced_calls:
        console.print(
            f"[yellow]{summary.unpriced_calls:,} calls ({summary.unpriced_tokens:,} tokens) have no known price and "
            f"are in no dollar figure.[/] {_how_to_price(summary)}".rstrip()
        )
    if summary.uncounted_calls:
        console.print(
            f"[yellow]{summary.uncounted_calls:,} calls of models tell neither tokens nor what was said:[/] what they "
            "cost is unknown and in no figure."
        )
    if summary.estimated_calls:
        console.print(
            f"{summary.estimated_calls:,} calls came without usage; it was estimated at 4 characters a token."
        )
    console.print(
        f"Rows: {history.runs:,} replayed, {history.skipped:,} unreadable"
        + (f", {history.late:,} out of order" if history.late else "")
        + f"; {history.ignored:,} of the last import are no calls"
        + ("" if history.done else "; [yellow]the import is not complete, run it again to go on[/]")
    )
    for why, number in summary.skipped.items():
        console.print(f"  [yellow]{number:,} unreadable[/]: {escape(why)}")
