"""`ts-langchain report`."""

from __future__ import annotations

import csv
import os
import shlex
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import URL

from ts_langchain.cli.options import CsvOption, JsonOption, LedgerOption
from ts_langchain.cli.output import clear_errors, err, out, print_json
from ts_langchain.database import ledger_url, shown_address
from ts_langchain.errors import ConfigurationError
from ts_langchain.ledger import History, Ledger, existing_ledger
from ts_langchain.report.summary import summarise
from ts_langchain.report.terminal import one_line, print_incident, print_summary


def report(
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="HISTORY", help="Number of the history, see --list. Default: the latest.", show_default=False
        ),
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
        if listing:
            if number is not None or incidents or csv_file is not None:
                msg = "--list shows all histories: it goes with --json and --ledger only"
                raise ConfigurationError(msg)
            _print_list(ledger, as_json)
            return
        book = imported(ledger)
        show(book, chosen_history(book, number), as_json, csv_file, incidents)


def _print_list(ledger: str | None, as_json: bool) -> None:
    book = existing_ledger(ledger)
    histories = book.histories() if book is not None else []
    if as_json:
        print_json(
            [
                {
                    "number": h.id,
                    "source": h.source,
                    "scope": h.scope,
                    "name": h.name,
                    "rows": h.runs,
                    "complete": h.done,
                }
                for h in histories
            ]
        )
    elif not histories:
        err.print(f"Nothing has been imported into {escape(shown_address(ledger_url(ledger)))} yet.", soft_wrap=True)
    for h in () if as_json else histories:
        rows = f"{h.runs:,} rows" + ("" if h.done else ", not complete")
        about = f"{h.id:>4}  {one_line(h.name)}: {rows}  [dim]{h.source} {one_line(h.scope)}[/]"
        out.print(about, soft_wrap=True)


def imported(ledger: str | None) -> Ledger:
    """A ledger to read from: none is made by asking for it.

    Raises:
        ConfigurationError: There is none.
    """
    book = existing_ledger(ledger)
    if book is None:
        raise ConfigurationError(_nothing(ledger_url(ledger)))
    return book


def chosen_history(book: Ledger, number: int | None) -> History:
    """The history of this number, or the latest.

    Raises:
        ConfigurationError: There is none.
    """
    histories = book.histories()
    if not histories:
        raise ConfigurationError(_nothing(book.address))
    chosen = next((h for h in histories if number in (None, h.id)), None)
    if chosen is None:
        msg = f"no history {number} in the ledger {shown_address(book.address)}: ts-langchain report --list shows all"
        raise ConfigurationError(msg)
    return chosen


def _nothing(address: URL) -> str:
    return (
        f"nothing has been imported into the ledger {shown_address(address)}; import with ts-langchain import, or name "
        "another with --ledger or TS_LANGCHAIN_LEDGER"
    )


def show(book: Ledger, history: History, as_json: bool, csv_file: Path | None, incidents: int) -> None:
    """Prints a history's report, and writes its incidents to a CSV file if asked to.

    Raises:
        ConfigurationError: The CSV file cannot be written.
    """
    check_csv(csv_file)
    summary = summarise(book, history)
    if csv_file is not None:
        _write_csv(book, history, csv_file)
    costliest = list(islice(book.incidents(history), incidents))
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
            "Next:\n"
            f"  ts-langchain report {history.id} --incidents 5{_chosen(book)}   the costliest incidents\n"
            "  ts-langchain explain INCIDENT   why one is waste\n"
            "  ts-langchain policy init   a policy to backtest",
            style="dim",
            markup=False,
            soft_wrap=True,
        )


def _chosen(book: Ledger) -> str:
    """The option that names this ledger in another command, empty where it is named without one."""
    if book.address == ledger_url(os.environ.get("TS_LANGCHAIN_LEDGER") or None):
        return ""
    shown = shown_address(book.address)
    if ledger_url(shown) != book.address:  # with a password in it, which is not shown
        return " with the same --ledger"
    return f" --ledger {shlex.quote(shown)}"


CSV_FIELDS = (
    "id", "rule", "session_id", "severity", "confidence", "opened_at", "last_seen_at", "findings", "calls",
    "wasted_input_tokens", "wasted_output_tokens", "wasted_usd", "avoidable_usd", "wasted_seconds",
    "unpriced_calls", "estimated", "overlaps", "summary",
)  # fmt: skip


def check_csv(path: Path | None) -> None:
    """Refuses a place where no file can be, before an import of an hour is done.

    Raises:
        ConfigurationError: It is a folder, or in none.
    """
    if path is None:
        return
    if path.is_dir():
        msg = f"--csv {path} is a directory: name a file in it"
        raise ConfigurationError(msg)
    if not path.parent.is_dir():
        msg = f"--csv {path}: there is no directory {path.parent}"
        raise ConfigurationError(msg)


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
    """A spreadsheet must not take a session id for a formula, blanks before it or not."""
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    return f"'{value}" if isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@") else value
