"""`ts-langchain backfill`."""

from __future__ import annotations

from typing import Annotated

import typer

from ts_langchain import __version__
from ts_langchain.cli.annotate import progress
from ts_langchain.cli.importing import DELIVERIES, named, registered, secret, show_wait
from ts_langchain.cli.options import JsonOption, LedgerOption
from ts_langchain.cli.output import FAILED, INTERRUPTED, clear_errors, err, out, print_json
from ts_langchain.cli.report import chosen_history, imported
from ts_langchain.deliver.backfill import Backfill
from ts_langchain.errors import ConfigurationError


def backfill(
    project: Annotated[str, typer.Option("--project", "-p", help="Project in the TokenSentinel cloud.")],
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="HISTORY",
            help="Number of the history, see report --list. Default: the latest.",
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(envvar="TOKEN_SENTINEL_ENDPOINT", help="Address of the TokenSentinel cloud.")
    ] = None,
    again: Annotated[bool, typer.Option("--all", help="Also send what was accepted before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sends incidents to a TokenSentinel cloud, with their original time.

    One event for each incident: rule, session, when, what it wasted, evidence in hashes and counts. No prompts, no
    answers. Nothing is ever sent without this command.

    It can be repeated at will: what the cloud has accepted is not sent again, and what comes twice it knows by its id
    (`metadata.event_id`). Interrupted, the same command goes on. Rejected events make it end with code 1.

    The key is read from TOKEN_SENTINEL_API_KEY, or asked for; never given on the command line.
    """
    with clear_errors(resumes=True):
        named(project, "--project")
        if endpoint is None:
            msg = "which cloud? Name its address with --endpoint or TOKEN_SENTINEL_ENDPOINT"
            raise ConfigurationError(msg)
        book = imported(ledger)
        history = chosen_history(book, number)
        key = "none" if dry_run else secret("TokenSentinel API key", "TOKEN_SENTINEL_API_KEY")
        sink = registered(DELIVERIES, "tokensentinel")(
            endpoint=endpoint, project=project, api_key=key, on_wait=show_wait
        )
        run = Backfill(book, history, project, None if dry_run else sink, sink.name, __version__, again)
        try:
            with progress("Sending events", sum(1 for _ in book.incidents(history))) as run.on_progress:
                sent = run.run()
        except KeyboardInterrupt:
            err.print("\n[yellow]Interrupted.[/] What was accepted is recorded: run the same command to go on.")
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            print_json(
                {
                    "history": history.id,
                    "project": project,
                    "dry_run": dry_run,
                    "events": sent.events,
                    "chunks": sent.chunks,
                    "accepted": sent.accepted,
                    "rejected": sent.rejected,
                    "known": sent.known,
                }
            )
        else:
            known = f"; {sent.known:,} were there already" if sent.known else ""
            verb = "would be sent" if dry_run else "sent"
            told = "" if dry_run else f": {sent.accepted:,} accepted, {sent.rejected:,} rejected"
            requests = f"{sent.chunks:,} request" + ("" if sent.chunks == 1 else "s")
            out.print(f"{sent.events:,} events {verb} in {requests}{told}{known}.")
        if sent.rejected:
            err.print(
                f"[red]{sent.rejected:,} events were rejected.[/] Their requests are sent again by the next backfill."
            )
            raise typer.Exit(FAILED)
