"""What all `ts-langchain import …` commands share: keys, ranges, progress, and the import itself."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ts_langchain.cli.options import parse_prices, parse_settings
from ts_langchain.cli.output import INTERRUPTED, err, out, print_json
from ts_langchain.cli.report import check_csv, show
from ts_langchain.errors import ConfigurationError
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger, existing_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ts_langchain.history import Progress as Done

IMPORTERS = "ts_langchain.importers"
DELIVERIES = "ts_langchain.deliveries"
LAST = "last"
OVERLAP = timedelta(hours=1)
"""What ended or arrived late is read again; what is known by its id counts once."""
EARLIEST, LATEST = 1970, 9999
"""Years between which a time is one."""
SHOWN = 5
KEYRING = "ts-langchain"


def registered(group: str, name: str) -> Any:
    """What a package has registered under this name in an entry-point group.

    Raises:
        ConfigurationError: There is none of this name.
    """
    found = {e.name: e for e in entry_points(group=group)}
    if name not in found:
        what = group.rpartition(".")[2]
        msg = f"{name!r} is not among the installed {what}: {', '.join(sorted(found)) or 'none'}"
        raise ConfigurationError(msg)
    return found[name].load()


def secret(what: str, *variables: str) -> str:
    """A key: from the environment, from the system's keyring, or typed in unseen.

    The keyring is asked where `keyring` is installed; there the key lies under the service `ts-langchain` and the name
    of the first variable.

    Args:
        what: The key's name, for people.
        variables: Environment variables, the first one found counts.

    Raises:
        ConfigurationError: There is none, and nobody to ask.
    """
    key = next((value for name in variables if (value := os.environ.get(name, "").strip())), None)
    key = key or _kept(variables[0])
    if not key:
        if not sys.stdin.isatty():
            msg = f"no key: set {variables[0]}"
            raise ConfigurationError(msg)
        key = str(typer.prompt(what, hide_input=True))
        _offer_to_keep(what, variables[0], key)
    return key


def _kept(name: str) -> str | None:
    """The key in the system's keyring; None without a keyring, or where it does not open."""
    try:
        import keyring

        return keyring.get_password(KEYRING, name)
    except Exception:  # noqa: BLE001 - backends raise whatever they like; then it is asked for
        return None


def _offer_to_keep(what: str, name: str, key: str) -> None:
    try:
        import keyring

        if keyring.get_keyring().priority <= 0:  # no real keyring on this machine
            return
    except Exception:  # noqa: BLE001
        return
    if not typer.confirm(f"Keep the {what} in the system's keyring?", default=False, err=True):
        return
    try:
        keyring.set_password(KEYRING, name, key)
    except Exception as error:  # noqa: BLE001
        err.print(f"[yellow]The keyring did not take it ({type(error).__name__}).[/]")


def run_import(
    source: Any,
    asked: dict[str, Any],
    ledger: str | None,
    setting: list[str] | None,
    price: list[str] | None,
    fresh: bool,
    as_json: bool,
    csv_file: Path | None,
    *,
    dry_run: bool = False,
) -> None:
    """Imports a source into the ledger, with progress, and shows the report.

    Args:
        source: An importer.
        asked: What the user asked for; the same again goes on with an interrupted import.
        ledger: Where results go.
        setting: Settings of rules.
        price: Own prices.
        fresh: Forget what was imported of this history before.
        as_json: Report as JSON.
        csv_file: Where to write incidents.
        dry_run: Only look at the first page; write nothing.
    """
    check_csv(csv_file)
    if asked.get("since") == LAST and not fresh:
        asked = _go_on_after_last(source, ledger) or asked
    if dry_run:
        _look(source, as_json)
        return
    for notice in (*(f"{label}: {value}" for label, value in _range(source).items()), *source.notices):
        err.print(escape(notice), style="dim", soft_wrap=True)  # paths stay whole
    book = Ledger(ledger)
    run = Import(source, book, settings=parse_settings(setting), prices=parse_prices(price), asked=asked, fresh=fresh)
    if run.resumes:
        err.print(f"Going on after {run.history.runs:,} rows.", style="dim")
    known = len(source.notices)
    with _progress(source) as tell, _stop_on_interrupt(run):
        history = run.run(tell)
    for notice in source.notices[known:]:
        err.print(escape(notice), style="dim", soft_wrap=True)  # paths stay whole
    if run.duplicates:
        err.print(f"{run.duplicates:,} rows were known already and counted once.", style="dim")
    health = run.sentinel.health()
    if health.faults:
        err.print(
            f"[yellow]{sum(health.faults.values()):,} faults inside ts-langchain[/]: {escape(str(dict(health.faults)))}"
        )
    show(book, history, as_json, csv_file, 0)
    if not history.done:
        raise typer.Exit(INTERRUPTED)


def _go_on_after_last(source: Any, ledger: str | None) -> dict[str, Any] | None:
    """`--since last`: begins a little before the latest call that the ledger knows of this history.

    Returns:
        What an interrupted import had been asked for, which is gone on with; None if there is none.
    """
    book = existing_ledger(ledger)
    last = book.last_call_at(source.source, source.scope) if book is not None else None
    if book is None or last is None:
        much = "the last 30 days are" if hasattr(source, "span") else "all of it is"
        err.print(f"Nothing of this history has been imported yet: {much}.", style="dim")
        return None
    begin = datetime.fromtimestamp(last, tz=UTC) - OVERLAP
    history = next(h for h in book.histories() if (h.source, h.scope) == (source.source, source.scope))
    position = None if history.done else history.position
    if position is not None and position.get("from"):
        begin = min(begin, datetime.fromisoformat(str(position["from"])))
    source.begin_at(begin)
    return history.range if position is not None else None


def _range(source: Any) -> dict[str, str]:
    """The range of time that a source reads, where it has one."""
    return {"range": source.span()} if hasattr(source, "span") else {}


def _look(source: Any, as_json: bool) -> None:
    """`--dry-run`: what would be read, and what its first page holds."""
    page = next(iter(source.pages()), None)
    runs = [run for run in page.runs if run.run_type != "chain"] if page is not None else []
    no_calls = page.ignored + len(page.runs) - len(runs) if page is not None else 0
    kinds = Counter(run.run_type for run in runs)
    first = datetime.fromtimestamp(runs[0].started_at, tz=UTC).isoformat(timespec="seconds") if runs else None
    found = {
        "source": source.source,
        "scope": source.scope,
        **source.describe(),
        **_range(source),
        "rows": source.total,
        "first_call_at": first,
        "first_page": {
            "calls": dict(kinds),
            "no_calls": no_calls,
            "unreadable": [{"where": s.where, "why": s.why} for s in page.skipped] if page is not None else [],
        },
        "notices": list(source.notices),
    }
    if as_json:
        print_json(found)
        return
    for label, value in {**source.describe(), **_range(source)}.items():
        out.print(f"{label}: {escape(value)}")
    if source.total is not None:
        out.print(f"rows: {source.total:,}")
    for notice in source.notices:
        out.print(escape(notice), style="dim", soft_wrap=True)
    if page is None:
        out.print("There is nothing to import.")
        return
    said = ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common()) or "no calls"
    out.print(
        f"first page: {said}; {no_calls:,} rows that are no calls, {len(page.skipped):,} that cannot be read"
        + (f"; the first call began at {first}" if first else "")
    )
    for row in page.skipped[:SHOWN]:
        out.print(f"  {escape(row.where)}: {escape(row.why)}", style="dim")
    out.print("Nothing was imported: this was a dry run.")


@contextmanager
def _progress(source: Any) -> Iterator[Any]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]} rows"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        # where nobody knows the number of rows, the share of the time range that has been read tells how far it is
        by_time = source.total is None and hasattr(source, "fraction")
        total = 1.0 if by_time else source.total
        task = bar.add_task(escape(f"Importing {source.source}"), total=total, rows="0", rate="")
        begin = monotonic()

        def tell(done: Done) -> None:
            speed = done.rows / max(0.001, monotonic() - begin)
            rate = f"{done.pages:,} pages, {speed:,.0f} rows/s"
            bar.update(task, completed=source.fraction if by_time else done.rows, rows=f"{done.rows:,}", rate=rate)

        yield tell


@contextmanager
def _stop_on_interrupt(run: Import) -> Iterator[None]:
    """The first Ctrl-C ends the page at hand and saves; the second one ends at once."""

    def first(*_: object) -> None:
        err.print("[yellow]Stopping after this page (Ctrl-C again: at once).[/]")
        run.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, first)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def show_wait(wait: Any) -> None:
    """Tells of a wait before a retry."""
    err.print(f"[yellow]Waiting {wait.seconds:.1f} s[/]: {escape(wait.reason)} (attempt {wait.attempt})")


def parse_time(text: str | None, option: str, *, end_of_day: bool = False) -> datetime | None:
    """An ISO day or time in UTC; a day as an end means its end.

    Raises:
        ConfigurationError: It is neither.
    """
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        if not EARLIEST <= at.year < LATEST:
            raise ValueError
    except ValueError:
        msg = f"{option} {text}: expected a day or time such as 2026-09-01 or 2026-09-01T12:00:00Z"
        raise ConfigurationError(msg) from None
    if len(text) <= 10 and end_of_day:
        at += timedelta(days=1)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def named(given: str | Path | None, what: str) -> None:
    """Refuses what is given and empty: of a path it would mean all that lies here, of a choice no choice.

    Raises:
        ConfigurationError: It is empty.
    """
    if given is not None and not str(given).strip():
        msg = f"{what}: which one? It is empty, as a shell variable is that is not set"
        raise ConfigurationError(msg)


def parse_range(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Start and end of a range; the start None for `last`, which is found in the ledger.

    Raises:
        ConfigurationError: One of them is no day or time, or nothing lies between them.
    """
    start = None if since == LAST else parse_time(since, "--since")
    end = parse_time(until, "--until", end_of_day=True)
    if start is not None and end is not None and start >= end:
        msg = f"nothing lies between --since {since} and --until {until}"
        raise ConfigurationError(msg)
    return start, end
