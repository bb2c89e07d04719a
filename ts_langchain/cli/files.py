"""`ts-langchain import file` and `import parquet`: history that lies in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ts_langchain.cli.importing import (
    IMPORTERS,
    named,
    parse_range,
    parse_time,
    registered,
    run_import,
    show_wait,
)
from ts_langchain.cli.options import (
    CsvOption,
    DryRunOption,
    FreshOption,
    JsonOption,
    LedgerOption,
    LimitOption,
    PriceOption,
    SettingOption,
)
from ts_langchain.cli.output import clear_errors
from ts_langchain.errors import ConfigurationError


def import_file(
    paths: Annotated[
        list[str], typer.Argument(help="Files, gzipped or not, or folders.", show_default=False, metavar="PATH...")
    ],
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="langsmith, otlp, openinference, otel, mlflow, litellm, bedrock, langfuse, helicone, exchanges or "
            "messages. Default: detected, file by file.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model of conversations that name none, to price them with.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Its provider.")] = None,
    day: Annotated[
        str | None,
        typer.Option("--date", help="Day (ISO) of conversations without times. Default: the file's."),
    ] = None,
    dry_run: DryRunOption = False,
    ledger: LedgerOption = None,
    setting: SettingOption = None,
    price: PriceOption = None,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    csv_file: CsvOption = None,
) -> None:
    """Imports files: LangSmith runs, OpenTelemetry or OpenInference spans, requests with responses, conversations.

    Several files, or a folder, are one history in order of time, with one report.
    """
    with clear_errors(resumes=True):
        for path in paths:
            named(path, "PATH")
        named(model, "--model")
        named(provider, "--provider")
        reader = registered(IMPORTERS, "file")
        if file_format is not None and file_format not in reader.formats:
            msg = f"--format {file_format}: expected one of {', '.join(reader.formats)}"
            raise ConfigurationError(msg)
        at = parse_time(day, "--date")
        source = reader(
            Path(paths[0]) if len(paths) == 1 else [Path(path) for path in paths],
            format=file_format,
            model=model,
            provider=provider,
            day=at.date() if at is not None else None,
        )
        asked = {"model": model, "provider": provider, "date": day}
        run_import(source, asked, ledger, setting, price, fresh, as_json, csv_file, dry_run=dry_run)


def import_parquet(
    path: Annotated[
        str,
        typer.Argument(
            help="A folder, a file, a pattern, or an address: s3://, gs://, https://.",
            show_default=False,
            metavar="PATH_OR_URL",
        ),
    ],
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only this project, by its id.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|last",
            help="First day or time (ISO), UTC; `last` goes on after what the ledger has. Default: all.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Last day (included) or time (excluded), UTC. Default: all.")
    ] = None,
    limit: LimitOption = None,
    dry_run: DryRunOption = False,
    ledger: LedgerOption = None,
    setting: SettingOption = None,
    price: PriceOption = None,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    csv_file: CsvOption = None,
) -> None:
    """Imports a bulk export of LangSmith or Langfuse: Parquet files, in a folder or an object store.

    Needs pip install 'ts-langchain[parquet]'. Keys of object stores are read from the environment (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, ...), never given on the command line.
    """
    with clear_errors(resumes=True):
        named(path, "PATH_OR_URL")
        named(project, "--project")
        start, end = parse_range(since, until)
        source = registered(IMPORTERS, "parquet")(
            path,
            project=project,
            since=start,
            until=end,
            limit=limit,
            on_wait=show_wait,
        )
        asked = {"project": project, "since": since, "until": until, "limit": limit}
        run_import(source, asked, ledger, setting, price, fresh, as_json, csv_file, dry_run=dry_run)
