"""`ts-langchain report`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ts_langchain.cli.options import CsvOption, JsonOption, LedgerOption
from ts_langchain.cli.output import clear_errors, out, print_json
from ts_langchain.errors import ConfigurationError
from ts_langchain.ledger import History, Ledger
from ts_langchain.report.summary import summarise
from ts_langchain.report.terminal import print_incident, print_summary


def report(
    number: Annotated[
        int | None,
        typer.Argument(help="Number of the history, see --list. Default: the latest.", show_default=False),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List all imported histories.")] = False,
    incidents: Annotated[
        int,
        typer.Option(min=0, help="Also show so many incidents, the costliest first (JSON: costliest_incidents)."),
    ] = 0,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
    csv_file: CsvOption = None,
) -> None:
    """Shows the report of an imported history again."""
    with clear_errors():
        book = Ledger(ledger)
        histories = book.histories()
        if listing:
            if as_json:
                print_json(
                    [
                        {"number": h.id, "source": h.source, "scope": h.scope, "name": h.name, "rows": h.runs}
                        for h in histories
                    ]
                )
            for h in () if as_json else histories:
                about = f"{h.id:>4}  {escape(h.name)}: {h.runs:,} rows  [dim]{h.source} {escape(h.scope)}[/]"
                out.print(about, soft_wrap=True)
            return
        show(book, chosen_history(book, number), as_json, csv_file, incidents)


def chosen_history(book: Ledger, number: int | None) -> History:
    """The history of this number, or the latest.

    Raises:
        ConfigurationError: There is none.
    """
    chosen = next((h for h in book.histories() if number in (None, h.id)), None)
    if chosen is None:
        which = f"no history {number} in" if number is not None else "nothing has been imported into"
        msg = f"{which} this ledger; see ts-langchain report --list, or ts-langchain import --help"
        raise ConfigurationError(msg)
    return chosen


def show(book: Ledger, history: History, as_json: bool, csv_file: Path | None, incidents: int) -> None:
    """Prints a history's report, and writes its incidents to a CSV file if asked to.

    Raises:
        ConfigurationError: The CSV file cannot be written.
    """
    summary = summarise(book, history)
    if csv_file is not None:
        _write_csv(book, history, csv_file)
    costliest = [incident for incident, _ in zip(book.incidents(history), range(incidents), strict=False)]
    if as_json:
        listed = {"costliest_incidents": [i.as_dict() for i in costliest]} if incidents else {}
        print_json({**summary.as_dict(), **listed})
        return
    print_summary(out, summary)
    if costliest:
        out.print()
    for incident in costliest:
        print_incident(out, incident)
    if summary.rules and not incidents:
        out.print(
            f"Next: ts-langchain report {history.id} --incidents 5 lists the costliest incidents, ts-langchain explain "
            "says why one is waste, ts-langchain policy init begins a policy to backtest.",
            style="dim",
        )


CSV_FIELDS = (
    "id", "rule", "session_id", "severity", "confidence", "opened_at", "last_seen_at", "findings", "calls",
    "wasted_input_tokens", "wasted_output_tokens", "wasted_usd", "avoidable_usd", "wasted_seconds",
    "unpriced_calls", "estimated", "overlaps", "summary",
)  # fmt: skip


def _write_csv(book: Ledger, history: History, path: Path) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(CSV_FIELDS)
            for incident in book.incidents(history):
                writer.writerow(_cell(getattr(incident, name)) for name in CSV_FIELDS)
    except OSError as error:
        msg = f"--csv {path}: {error.strerror}"
        raise ConfigurationError(msg) from error


def _cell(value: object) -> object:
    """A spreadsheet must not take a session id for a formula."""
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
