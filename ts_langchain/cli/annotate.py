"""`ts-langchain annotate`, and `--annotate` of the import commands."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ts_langchain.cli.importing import DELIVERIES, registered, secret, show_wait
from ts_langchain.cli.options import CLOUDS, JsonOption, LedgerOption
from ts_langchain.cli.output import FAILED, INTERRUPTED, clear_errors, err, out, print_json
from ts_langchain.cli.report import chosen_history, imported
from ts_langchain.deliver.annotate import Annotate, Outcome
from ts_langchain.deliver.record import Record
from ts_langchain.errors import ConfigurationError
from ts_langchain.ledger import Ledger
from ts_langchain.rules import known_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ts_langchain.deliver.annotations import Annotator
    from ts_langchain.ledger import History

MAX_NAMED = 10
SERVICES = ("langsmith", "langfuse")
"""Those that take annotations."""
EXPORTS = ("file", "parquet")
"""Sources whose runs may be those of such a service."""
MAX_LISTED = 1_000


def annotate(
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="HISTORY",
            help="Number of the history, see report --list. Default: the latest.",
            show_default=False,
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what was written, all of it or of --rule.")] = False,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", metavar="RULE", help="Only this rule. May be repeated.")
    ] = None,
    min_usd: Annotated[
        float, typer.Option(min=0.0, metavar="USD", help="Only incidents that wasted at least so much.")
    ] = 0.0,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="SERVICE",
            help="langsmith or langfuse: whose runs they are that came from a file or an export.",
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="Address of the service. Default: LANGSMITH_ENDPOINT or LANGFUSE_HOST, else where the history came "
            "from, of an export the service's cloud.",
            show_default=False,
        ),
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(envvar="LANGSMITH_WORKSPACE_ID", help="LangSmith workspace, for keys of several.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written or removed; send nothing. Needs no key.")
    ] = False,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Writes incidents to where the runs are: LangSmith feedback, Langfuse scores.

    Each call that an incident names (its first 16) gets one note `token_waste.RULE`: what happened, what to do, and as
    its score the call's even part of what the incident wasted, in US cents. No prompts, no answers.

    It can be repeated at will: what is there is left alone, what changed is brought up to date, and notes of incidents
    that no longer exist are removed. `--remove` takes back exactly what was written.

    Keys are read from LANGSMITH_API_KEY, or LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or asked for; never given on
    the command line.

    Try it out: `ts-langchain annotate --dry-run`, then `ts-langchain annotate --rule tool_loop --min-usd 0.01`.
    """
    with clear_errors(resumes=True), _own_interrupt():
        if remove and min_usd:
            msg = "--min-usd chooses what is written; --remove takes --rule only"
            raise ConfigurationError(msg)
        book = imported(ledger)
        history = chosen_history(book, number)
        service = _service(history, to)
        _known(rule, book, history)
        scope = history.scope if history.source == service else None
        place = None if dry_run else place_for(service, scope, endpoint, workspace)
        outcome = write_back(book, history, place, service, remove=remove, rules=frozenset(rule or ()), min_usd=min_usd)
        if as_json:
            print_json(_as_dict(history, outcome, dry_run))
        else:
            print_outcome(outcome, dry_run, out.print)
        if outcome.refused:
            raise typer.Exit(FAILED)


def annotate_import(ledger: str | None, source: str, scope: str, place: Annotator) -> None:
    """What `--annotate` of an import does once the history is complete."""
    with _own_interrupt():
        book = Ledger(ledger)
        history = next(h for h in book.histories() if (h.source, h.scope) == (source, scope))
        outcome = write_back(book, history, place, source)
        print_outcome(outcome, dry_run=False, show=err.print)
        if outcome.refused:
            raise typer.Exit(FAILED)


def place_for(
    source: str, scope: str | None, endpoint: str | None, workspace: str | None, keys: Mapping[str, str] | None = None
) -> Annotator:
    """Where annotations of a history go, with the keys given or those of the environment.

    Args:
        source: The service.
        scope: Which history of it; None for an export, which does not say.
        endpoint: Its address, None for what the environment says.
        workspace: LangSmith workspace.
        keys: Keys, None for those of the environment.

    Raises:
        ConfigurationError: Nothing can be written there, or there is no key.
    """
    kwargs: dict[str, Any] = {"on_wait": show_wait}
    if source == "langsmith":
        kwargs["endpoint"] = endpoint or os.environ.get("LANGSMITH_ENDPOINT")
        kwargs["workspace_id"] = workspace
        keys = keys or {"api_key": secret("LangSmith API key", "LANGSMITH_API_KEY", "LANGCHAIN_API_KEY")}
    else:
        kwargs["endpoint"] = endpoint or os.environ.get("LANGFUSE_HOST") or os.environ.get("LANGFUSE_BASE_URL")
        keys = keys or {
            "public_key": secret("Langfuse public key", "LANGFUSE_PUBLIC_KEY"),
            "secret_key": secret("Langfuse secret key", "LANGFUSE_SECRET_KEY"),
        }
    if scope is None:
        kwargs["endpoint"] = kwargs["endpoint"] or CLOUDS[source]
        scope = "/"
    place: Annotator = registered(DELIVERIES, source)(scope=scope, **kwargs, **keys)
    return place


def write_back(
    book: Ledger,
    history: History,
    place: Annotator | None,
    service: str,
    *,
    remove: bool = False,
    rules: frozenset[str] = frozenset(),
    min_usd: float = 0.0,
) -> Outcome:
    """Writes or removes, with a progress bar; a dry run without a place."""
    run = Annotate(book, history, place, service)
    what = "Removing" if remove else "Annotating"
    if not history.done and not remove:
        err.print("The import of this history is not complete: only what is there so far is annotated.", style="dim")
    total = run.count(rules=rules, min_usd=min_usd, removing=remove)
    with progress(f"{what} {service}", total) as advance:
        run.on_progress = advance
        return run.remove(rules=rules) if remove else run.write(rules=rules, min_usd=min_usd)


def print_outcome(outcome: Outcome, dry_run: bool, show: Callable[[str], None]) -> None:
    """One line of counts; what could not be written is named on stderr."""
    would = "would be " if dry_run else ""
    counts = {
        f"{would}written": outcome.written,
        f"{would}updated": outcome.updated,
        f"{would}removed": outcome.removed,
        "unchanged": outcome.unchanged,
    }
    said = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n) or "nothing to do"
    show(f"Annotations: {said}.")
    reasons = Counter(n.why for _, n in outcome.not_written)
    for why, number in reasons.most_common():
        runs = [run for run, n in outcome.not_written if n.why == why]
        named = ", ".join(runs[:MAX_NAMED]) + (f" and {number - MAX_NAMED:,} more" if number > MAX_NAMED else "")
        err.print(f"[yellow]{number:,} skipped[/]: {escape(why)}: {escape(named)}")


def _as_dict(history: History, outcome: Outcome, dry_run: bool) -> dict[str, Any]:
    return {
        "history": history.id,
        "source": history.source,
        "scope": history.scope,
        "dry_run": dry_run,
        "written": outcome.written,
        "updated": outcome.updated,
        "unchanged": outcome.unchanged,
        "removed": outcome.removed,
        "gone": outcome.gone,
        "refused": outcome.refused,
        "not_written": [
            {"run_id": run, "why": n.why, "gone": n.gone} for run, n in outcome.not_written[:MAX_LISTED]
        ],
    }  # fmt: skip


def _service(history: History, to: str | None) -> str:
    """The service that has the runs of a history: the one it came from, or for a file the one that is named.

    Raises:
        ConfigurationError: It is not said, or another one.
    """
    known = " or ".join(SERVICES)
    if to is not None and to not in SERVICES:
        msg = f"--to {to}: expected {known}"
        raise ConfigurationError(msg)
    own = history.source if history.source in SERVICES else None
    if own is not None and to not in (None, own):
        msg = f"--to {to}: history {history.id} came from {own}"
        raise ConfigurationError(msg)
    if own is None and history.source not in EXPORTS:
        msg = (
            f"history {history.id} was imported from {history.source}, which takes no annotations. ts-langchain report "
            "--list shows all histories"
        )
        raise ConfigurationError(msg)
    if own is None and to is None:
        msg = (
            f"history {history.id} was imported from {history.source}: say with --to {known} whose runs they are; of "
            "others nothing can be annotated. ts-langchain report --list shows all histories"
        )
        raise ConfigurationError(msg)
    return own or str(to)


def _known(names: list[str] | None, book: Ledger, history: History) -> None:
    """Refuses names that are neither of a rule nor of anything written."""
    if unknown := sorted(set(names or ()) - known_rules().keys()):
        written = Record(book).annotations(history.source, history.scope).values()
        if unknown := sorted(set(unknown) - {w.rule for w in written}):
            msg = f"no rule {', '.join(unknown)}; ts-langchain rules lists them"
            raise ConfigurationError(msg)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where that is a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(escape(what), total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def _own_interrupt() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        err.print(
            "\n[yellow]Interrupted.[/] What was sent is recorded: run the same command to go on, "
            "or ts-langchain annotate --remove to take it back."
        )
        raise typer.Exit(INTERRUPTED) from None
