"""`ts-langchain import plugin`: importers that other packages bring."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape

from ts_langchain.cli.importing import IMPORTERS, registered, run_import
from ts_langchain.cli.options import (
    CsvOption,
    DryRunOption,
    FreshOption,
    JsonOption,
    LedgerOption,
    PriceOption,
    SettingOption,
)
from ts_langchain.cli.output import clear_errors, out, print_json
from ts_langchain.errors import ConfigurationError

OWN = frozenset({"langsmith", "langfuse", "helicone", "file", "parquet"})


def import_plugin(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The importer. Left out: lists those there are.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="KEY=VALUE", help="What the importer wants to know. May be repeated."),
    ] = None,
    dry_run: DryRunOption = False,
    ledger: LedgerOption = None,
    setting: SettingOption = None,
    price: PriceOption = None,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    csv_file: CsvOption = None,
) -> None:
    """Imports through an importer that another package brings (entry-point group `ts_langchain.importers`).

    Its options are passed on as they are; values that are JSON are read as such. Keys belong into environment
    variables, not here.
    """
    with clear_errors(resumes=True):
        if name is None:
            others = sorted(e.name for e in entry_points(group=IMPORTERS) if e.name not in OWN)
            if as_json:
                print_json(others)
                return
            for other in others:
                out.print(escape(other))
            if not others:
                out.print("No other importer is installed.")
            return
        options = _parse(option)
        try:
            source = registered(IMPORTERS, name)(**options)
        except TypeError as error:
            msg = f"the importer {name} does not take these options ({error})"
            raise ConfigurationError(msg) from None
        run_import(source, {"options": options}, ledger, setting, price, fresh, as_json, csv_file, dry_run=dry_run)


def _parse(given: list[str] | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in given or ():
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier():
            msg = f"--option {item}: expected KEY=VALUE"
            raise ConfigurationError(msg)
        try:
            options[key] = orjson.loads(text)
        except ValueError:
            options[key] = text
    return options
