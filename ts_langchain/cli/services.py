"""`ts-langchain import langsmith`, `import langfuse`, `import helicone`: history that services hold."""

from __future__ import annotations

from typing import Annotated

import typer

from ts_langchain.cli.annotate import annotate_import, place_for
from ts_langchain.cli.importing import (
    IMPORTERS,
    named,
    parse_range,
    registered,
    run_import,
    secret,
    show_wait,
)
from ts_langchain.cli.options import (
    CLOUDS,
    AnnotateOption,
    CsvOption,
    DryRunOption,
    FreshOption,
    JsonOption,
    LedgerOption,
    LimitOption,
    PriceOption,
    SettingOption,
    SinceOption,
    UntilOption,
    endpoint_option,
)
from ts_langchain.cli.output import clear_errors
from ts_langchain.errors import ConfigurationError

RUN_TYPES = ("llm", "tool", "retriever", "embedding", "chain")

app = typer.Typer(
    no_args_is_help=True,
    help="Imports history and reports what it wasted. Interrupted, it goes on where it was.",
)


@app.command("langsmith")
def import_langsmith(
    project: Annotated[
        list[str],
        typer.Option(
            "--project",
            "-p",
            help="Name or id of a LangSmith project; `*` stands for anything. Repeated: they become one history.",
        ),
    ],
    since: SinceOption = None,
    until: UntilOption = None,
    endpoint: Annotated[
        str, endpoint_option("langsmith", "API address; for EU or self-hosted LangSmith.", "LANGSMITH_ENDPOINT")
    ] = CLOUDS["langsmith"],
    workspace: Annotated[
        str | None, typer.Option(envvar="LANGSMITH_WORKSPACE_ID", help="Workspace id, for keys of several.")
    ] = None,
    run_filter: Annotated[
        str | None,
        typer.Option("--filter", metavar="EXPRESSION", help="Only runs for which it holds: 'eq(status, \"error\")'."),
    ] = None,
    trace_filter: Annotated[
        str | None,
        typer.Option(metavar="EXPRESSION", help="Only traces for whose root run it holds: 'has(tags, \"prod\")'."),
    ] = None,
    run_type: Annotated[
        list[str] | None, typer.Option(help=f"Only runs of this type: {', '.join(RUN_TYPES)}. May be repeated.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only runs with this tag. Repeated: with all of them.")] = None,
    root_only: Annotated[bool, typer.Option("--root-only", help="Only root runs.")] = False,
    experiments: Annotated[
        bool, typer.Option("--experiments", help="Let `*` also stand for experiments on datasets.")
    ] = False,
    limit: LimitOption = None,
    dry_run: DryRunOption = False,
    ledger: LedgerOption = None,
    setting: SettingOption = None,
    price: PriceOption = None,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    csv_file: CsvOption = None,
    annotate: AnnotateOption = False,
) -> None:
    """Imports runs of LangSmith projects.

    Another choice of projects, or with --filter and its like of runs, is another history in the ledger. A loop is only
    seen if its calls are imported: choose traces (--trace-filter) rather than runs.

    The key is read from LANGSMITH_API_KEY (or LANGCHAIN_API_KEY), or asked for; never given on the command line.
    """
    with clear_errors(resumes=True):
        for name in project:
            named(name, "--project")
        for name in tag or ():
            named(name, "--tag")
        named(run_filter, "--filter")
        named(trace_filter, "--trace-filter")
        if unknown := sorted(set(run_type or ()) - set(RUN_TYPES)):
            msg = f"--run-type {unknown[0]}: expected one of {', '.join(RUN_TYPES)}"
            raise ConfigurationError(msg)
        start, end = parse_range(since, until)
        keys = {"api_key": secret("LangSmith API key", "LANGSMITH_API_KEY", "LANGCHAIN_API_KEY")}
        source = registered(IMPORTERS, "langsmith")(
            project=project,
            filter=run_filter,
            trace_filter=trace_filter,
            run_types=run_type or (),
            tags=tag or (),
            root_only=root_only,
            experiments=experiments,
            since=start,
            until=end,
            **keys,
            endpoint=endpoint,
            workspace_id=workspace,
            limit=limit,
            on_wait=show_wait,
        )
        asked = {"since": since, "until": until, "limit": limit}
        place = place_for(source.source, source.scope, endpoint, workspace, keys) if annotate and not dry_run else None
        run_import(source, asked, ledger, setting, price, fresh, as_json, csv_file, dry_run=dry_run)
        if place is not None:
            annotate_import(ledger, source.source, source.scope, place)


@app.command("langfuse")
def import_langfuse(
    since: SinceOption = None,
    until: UntilOption = None,
    endpoint: Annotated[
        str, endpoint_option("langfuse", "Address of Langfuse.", "LANGFUSE_HOST", "LANGFUSE_BASE_URL")
    ] = CLOUDS["langfuse"],
    environment: Annotated[str | None, typer.Option(help="Only this environment.")] = None,
    limit: LimitOption = None,
    dry_run: DryRunOption = False,
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
    with clear_errors(resumes=True):
        named(environment, "--environment")
        start, end = parse_range(since, until)
        keys = {
            "public_key": secret("Langfuse public key", "LANGFUSE_PUBLIC_KEY"),
            "secret_key": secret("Langfuse secret key", "LANGFUSE_SECRET_KEY"),
        }
        source = registered(IMPORTERS, "langfuse")(
            **keys,
            since=start,
            until=end,
            endpoint=endpoint,
            environment=environment,
            limit=limit,
            on_wait=show_wait,
        )
        asked = {"since": since, "until": until, "limit": limit}
        place = place_for(source.source, source.scope, endpoint, None, keys) if annotate and not dry_run else None
        run_import(source, asked, ledger, setting, price, fresh, as_json, csv_file, dry_run=dry_run)
        if place is not None:
            annotate_import(ledger, source.source, source.scope, place)


@app.command("helicone")
def import_helicone(
    since: SinceOption = None,
    until: UntilOption = None,
    endpoint: Annotated[
        str, endpoint_option("helicone", "API address; for EU or self-hosted Helicone.", "HELICONE_BASE_URL")
    ] = CLOUDS["helicone"],
    limit: LimitOption = None,
    dry_run: DryRunOption = False,
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
    with clear_errors(resumes=True):
        start, end = parse_range(since, until)
        source = registered(IMPORTERS, "helicone")(
            api_key=secret("Helicone API key", "HELICONE_API_KEY"),
            since=start,
            until=end,
            endpoint=endpoint,
            limit=limit,
            on_wait=show_wait,
        )
        asked = {"since": since, "until": until, "limit": limit}
        run_import(source, asked, ledger, setting, price, fresh, as_json, csv_file, dry_run=dry_run)
