"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ts_langchain.cli.output import clear_errors
from ts_langchain.errors import ConfigurationError
from ts_langchain.pricing import Prices, Rates
from ts_langchain.rules import build_rules, rule_classes

CLOUDS = {
    "langsmith": "https://api.smith.langchain.com",
    "langfuse": "https://cloud.langfuse.com",
    "helicone": "https://api.helicone.ai",
}
"""Where services are, if nothing else is said."""


def endpoint_option(service: str, about: str, *variables: str) -> Any:
    """An option for a service's address. Its help names the default itself: a narrow column would cut that off."""
    host = CLOUDS[service].removeprefix("https://")
    return typer.Option(envvar=[*variables], help=f"{about} Default: {host}.", show_default=False)


def _check_settings(ctx: typer.Context, given: list[str] | None) -> list[str] | None:
    """Refuses what no rule takes, before anything is read from anywhere; not while a shell completes the line."""
    with clear_errors():
        if given and not ctx.resilient_parsing:
            build_rules(rule_classes(None), parse_settings(given), Prices())
    return given


def _check_prices(ctx: typer.Context, given: list[str] | None) -> list[str] | None:
    with clear_errors():
        if given and not ctx.resilient_parsing:
            Prices(parse_prices(given))
    return given


LedgerOption = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        envvar="TS_LANGCHAIN_LEDGER",
        metavar="PATH_OR_URL",
        help="Database of results: a file, or postgresql://… Default: ledger.sqlite in your user data directory.",
    ),
]
SettingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="RULE.PARAM=VALUE",
        help="A rule's setting, e.g. tool_loop.min_calls=5. May be repeated.",
        callback=_check_settings,
    ),
]
PriceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        metavar="MODEL=INPUT,OUTPUT[,CACHE_READ]",
        help="Own price in USD per million tokens, e.g. my-model=3,12. May be repeated.",
        callback=_check_prices,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
CsvOption = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Also write all incidents to a CSV file.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Forget what was imported of this history before and start again.")
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME|last",
        help="First day or time (ISO), UTC; `last` goes on after what the ledger has. Default: 30 days before the end.",
    ),
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Last day (included) or time (excluded), UTC. Default: now.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Stop after about so many rows.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be read and what its first page holds; import nothing.")
]
AnnotateOption = Annotated[
    bool,
    typer.Option(
        "--annotate",
        help="Then write the incidents to the runs, as `ts-langchain annotate` does; `annotate --remove` undoes it.",
    ),
]


def parse_settings(given: list[str] | None) -> dict[str, object]:
    """`rule.param=value` to a mapping; values are JSON where they can be, else text; lists of names JSON or `a,b`."""
    settings: dict[str, object] = {}
    for item in given or ():
        key, equals, text = item.partition("=")
        if not equals or "." not in key:
            msg = f"--set {item}: expected RULE.PARAM=VALUE, for example tool_loop.min_calls=5"
            raise ConfigurationError(msg)
        if key in settings:
            msg = f"--set {key} was given twice: which one holds? A list is one value: --set {key}=a,b"
            raise ConfigurationError(msg)
        takes_names = key.rpartition(".")[2].startswith(("exempt_", "polling_", "long_"))
        try:
            value = orjson.loads(text)
        except ValueError:
            value = text.split(",") if takes_names else text
        if takes_names and not isinstance(value, list):
            value = [value if isinstance(value, str) else text]  # 17 is a name there, and so is null
        settings[key] = value
    return settings


def parse_prices(given: list[str] | None) -> dict[str, Rates]:
    """`model=input,output[,cache_read]` to prices."""
    prices: dict[str, Rates] = {}
    for item in given or ():
        model, _, text = item.rpartition("=")
        try:
            numbers = [float(n) for n in text.split(",")]
            if not model or len(numbers) not in (2, 3) or any(n < 0 for n in numbers):
                raise ValueError
        except ValueError:
            msg = f"--price {item}: expected MODEL=INPUT,OUTPUT[,CACHE_READ], USD per million tokens: my-model=3,12"
            raise ConfigurationError(msg) from None
        if model in prices:
            msg = f"--price {model} was given twice: which one holds?"
            raise ConfigurationError(msg)
        prices[model] = Rates(numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else None)
    return prices
