"""`ts-langchain import …` and `ts-langchain report`."""

from __future__ import annotations

import csv
import os
import signal
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

from ts_langchain.cli.options import (
    AnnotateOption,
    CsvOption,
    FreshOption,
    JsonOption,
    LedgerOption,
    PriceOption,
    SettingOption,
    parse_prices,
    parse_settings,
)
from ts_langchain.cli.output import INTERRUPTED, clear_errors, err, out, print_json
from ts_langchain.errors import ConfigurationError
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.report.summary import summarise
from ts_langchain.report.terminal import print_incident, print_summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ts_langchain.history import Progress as Done
    from ts_langchain.ledger import History

app = typer.Typer(
    no_args_is_help=True,
    help="Imports history and reports what it wasted. Interrupted, it goes on where it was.",
)


def importer(name: str) -> Any:
    """The importer registered under the entry-point group `ts_langchain.importers`.

    Raises:
        ConfigurationError: There is none of this name.
    """
    found = {e.name: e for e in entry_points(group="ts_langchain.importers")}
    if name not in found:
        msg = f"no importer {name!r} is installed; there are {', '.join(sorted(found)) or 'none'}"
        raise ConfigurationError(msg)
    return found[name].load()


@app.command("langsmith")
def import_langsmith(
    project: Annotated[str, typer.Option("--project", "-p", help="Name or id of the LangSmith project.")],
    since: Annotated[str | None, typer.Option(help="First day or time (ISO), UTC. Default: 30 days ago.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Last day (included) or time (excluded), UTC. Default: now.")
    ] = None,
    endpoint: Annotated[
        str, typer.Option(envvar="LANGSMITH_ENDPOINT", help="API address; for EU or self-hosted LangSmith.")
    ] = "https://api.smith.langchain.com",
    workspace: Annotated[
        str | None, typer.Option(envvar="LANGSMITH_WORKSPACE_ID", help="Workspace id, for keys of several.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after about so many rows.")] = None,
    ledger: LedgerOption = None,
    setting: SettingOption = None,
    price: PriceOption = None,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    csv_file: CsvOption = None,
    annotate: AnnotateOption = False,
) -> None:
    """Imports runs of a LangSmith project.

    The key is read from LANGSMITH_API_KEY (or LANGCHAIN_API_KEY), or asked for; never given on the command line.
    """
    with clear_errors():
        start, end = parse_time(since, "--since"), parse_time(until, "--until", end_of_day=True)
        key = _secret("LangSmith API key", "LANGSMITH_API_KEY", "LANGCHAIN_API_KEY")
        source = importer("langsmith")(
            project=project,
            since=start,
            until=end,
            api_key=key,
            endpoint=endpoint,
            workspace_id=workspace,
            limit=limit,
            on_wait=_show_wait,
        )
        asked = {"since": since, "until": until, "limit": limit}
        _import(source, asked, ledger, setting, price, fresh, as_json, csv_file)
        if annotate:
            _annotate(source, ledger, endpoint, workspace, api_key=key)


@app.command("langfuse")
def import_langfuse(
    since: Annotated[str | None, typer.Option(help="First day or time (ISO), UTC. Default: 30 days ago.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Last day (included) or time (excluded), UTC. Default: now.")
    ] = None,
    endpoint: Annotated[
        str, typer.Option(envvar=["LANGFUSE_HOST", "LANGFUSE_BASE_URL"], help="Address of Langfuse.")
    ] = "https://cloud.langfuse.com",
    environment: Annotated[str | None, typer.Option(help="Only this environment.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after about so many rows.")] = None,
    ledger: LedgerOption = None,
    setting: SettingOption = None,
    price: PriceOption = None,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    csv_file: CsvOption = None,
    annotate: AnnotateOption = False,
) -> None:
    """Imports observations of a Langfuse project, Cloud or self-hosted.

    The keys are read from LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or asked for; never given on the command line.
    """
    with clear_errors():
        start, end = parse_time(since, "--since"), parse_time(until, "--until", end_of_day=True)
        public_key = _secret("Langfuse public key", "LANGFUSE_PUBLIC_KEY")
        secret_key = _secret("Langfuse secret key", "LANGFUSE_SECRET_KEY")
        source = importer("langfuse")(
            public_key=public_key,
            secret_key=secret_key,
            since=start,
            until=end,
            endpoint=endpoint,
            environment=environment,
            limit=limit,
            on_wait=_show_wait,
        )
        asked = {"since": since, "until": until, "limit": limit}
        _import(source, asked, ledger, setting, price, fresh, as_json, csv_file)
        if annotate:
            _annotate(source, ledger, endpoint, None, public_key=public_key, secret_key=secret_key)


@app.command("helicone")
def import_helicone(
    since: Annotated[str | None, typer.Option(help="First day or time (ISO), UTC. Default: 30 days ago.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Last day (included) or time (excluded), UTC. Default: now.")
    ] = None,
    endpoint: Annotated[
        str, typer.Option(envvar="HELICONE_BASE_URL", help="API address; for EU or self-hosted Helicone.")
    ] = "https://api.helicone.ai",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after about so many rows.")] = None,
    ledger: LedgerOption = None,
    setting: SettingOption = None,
    price: PriceOption = None,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    csv_file: CsvOption = None,
) -> None:
    """Imports requests from Helicone.

    The key is read from HELICONE_API_KEY, or asked for; never given on the command line.
    """
    with clear_errors():
        source = importer("helicone")(
            api_key=_secret("Helicone API key", "HELICONE_API_KEY"),
            since=parse_time(since, "--since"),
            until=parse_time(until, "--until", end_of_day=True),
            endpoint=endpoint,
            limit=limit,
            on_wait=_show_wait,
        )
        asked = {"since": since, "until": until, "limit": limit}
        _import(source, asked, ledger, setting, price, fresh, as_json, csv_file)


def _secret(what: str, *variables: str) -> str:
    """A key from the environment, or typed in unseen.

    Raises:
        ConfigurationError: There is none, and nobody to ask.
    """
    key = next((value for name in variables if (value := os.environ.get(name))), None)
    if not key:
        if not sys.stdin.isatty():
            msg = f"no key: set {variables[0]}"
            raise ConfigurationError(msg)
        key = str(typer.prompt(what, hide_input=True))
    return key


def report(
    number: Annotated[
        int | None,
        typer.Argument(help="Number of the history, see --list. Default: the latest.", show_default=False),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List all imported histories.")] = False,
    incidents: Annotated[int, typer.Option(min=0, help="Also show so many incidents, the costliest first.")] = 0,
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
                print_json([{"number": h.id, "source": h.source, "scope": h.scope, "rows": h.runs} for h in histories])
            for h in () if as_json else histories:
                out.print(f"{h.id:>4}  {h.source}  {escape(h.scope)}  {h.runs:,} rows")
            return
        _show(book, chosen_history(book, number), as_json, csv_file, incidents)


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


def _import(
    source: Any,
    asked: dict[str, Any],
    ledger: str | None,
    setting: list[str] | None,
    price: list[str] | None,
    fresh: bool,
    as_json: bool,
    csv_file: Path | None,
) -> None:
    for notice in source.notices:
        err.print(escape(notice), style="dim")
    book = Ledger(ledger)
    run = Import(source, book, settings=parse_settings(setting), prices=parse_prices(price), asked=asked, fresh=fresh)
    if run.resumes:
        err.print(f"Going on after {run.history.runs:,} rows.", style="dim")
    known = len(source.notices)
    with _progress(source) as show, _stop_on_interrupt(run):
        history = run.run(show)
    for notice in source.notices[known:]:
        err.print(escape(notice), style="dim")
    if run.duplicates:
        err.print(f"{run.duplicates:,} rows were known already and counted once.", style="dim")
    health = run.sentinel.health()
    if health.faults:
        err.print(
            f"[yellow]{sum(health.faults.values()):,} faults inside ts-langchain[/]: {escape(str(dict(health.faults)))}"
        )
    _show(book, history, as_json, csv_file, 0)
    if not history.done:
        raise typer.Exit(INTERRUPTED)


def _annotate(source: Any, ledger: str | None, endpoint: str, workspace: str | None, **keys: str) -> None:
    from ts_langchain.cli.annotate import annotate_import

    annotate_import(ledger, source.source, source.scope, endpoint, workspace, keys)


def _show(book: Ledger, history: History, as_json: bool, csv_file: Path | None, incidents: int) -> None:
    summary = summarise(book, history)
    if csv_file is not None:
        _write_csv(book, history, csv_file)
    if as_json:
        print_json(summary.as_dict())
        return
    print_summary(out, summary)
    if incidents:
        out.print()
    for incident, _ in zip(book.incidents(history), range(incidents), strict=False):
        print_incident(out, incident)


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


@contextmanager
def _progress(source: Any) -> Iterator[Any]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} rows"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(escape(f"Importing {source.source}"), total=source.total, rate="")

        def show(done: Done) -> None:
            speed = bar.tasks[task].speed
            rate = f"{done.pages:,} pages" + (f", {speed:,.0f} rows/s" if speed else "")
            bar.update(task, completed=done.rows, rate=rate)

        yield show


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


def _show_wait(wait: Any) -> None:
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
    except ValueError:
        msg = f"{option} {text}: expected a day or time such as 2026-09-01 or 2026-09-01T12:00:00Z"
        raise ConfigurationError(msg) from None
    if len(text) <= 10 and end_of_day:
        at += timedelta(days=1)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
