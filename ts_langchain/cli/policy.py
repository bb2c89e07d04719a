"""`ts-langchain policy …` and `ts-langchain backtest`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from ts_langchain.backtest import Backtest, Result
from ts_langchain.cli.importing import named
from ts_langchain.cli.options import JsonOption, LedgerOption, PriceOption, parse_prices
from ts_langchain.cli.output import clear_errors, err, out, print_json
from ts_langchain.cli.report import chosen_history, imported
from ts_langchain.errors import ConfigurationError, UnreadableSource
from ts_langchain.policy import ACTIONS, RECOMMENDED, KillSwitch, Policy, line_in
from ts_langchain.report.terminal import cost, one_line, part, print_table, usd
from ts_langchain.rules import rule_classes

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN = 5
"""False stops that are listed."""

app = typer.Typer(
    no_args_is_help=True,
    help="Policies: what to do about waste, how much may be spent. Write one, check it, then `ts-langchain backtest`.",
)
PolicyArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A policy in YAML.")]


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = Path("policy.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
) -> None:
    """Writes a careful policy to start from: a dry run that steers before it stops."""
    with clear_errors():
        if path.is_dir():
            msg = f"{path} is a directory: name a file in it"
            raise ConfigurationError(msg)
        if path.exists() and not force:
            msg = f"{path} exists; --force writes over it"
            raise ConfigurationError(msg)
        try:
            path.write_text(RECOMMENDED, encoding="utf-8")
        except OSError as error:
            msg = f"{path} cannot be written: {error.strerror}"
            raise ConfigurationError(msg) from error
        again = f"ts-langchain backtest --policy {shlex.quote(str(path))}"
        out.print(f"{path} written. Next: {again}", markup=False, soft_wrap=True)


@app.command("check")
def check(path: PolicyArgument) -> None:
    """Reads a policy and says what is wrong with it, by line. Exit code 0 if nothing is."""
    with clear_errors():
        policy = Policy.from_file(path)
        _check_settings(policy, path)
        rules = ", ".join(sorted(policy.rules)) or "none"
        out.print(f"{escape(str(path))} is fine: mode {policy.mode}, rules {rules}, {len(policy.budgets)} budgets.")
        for warning in doubts(policy):
            err.print(f"[yellow]Note:[/] {escape(warning)}")


@app.command("show")
def show(
    path: Annotated[Path | None, typer.Argument(metavar="FILE", help="A policy. Default: the recommended one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Shows a policy with all defaults filled in, and what each action does."""
    with clear_errors():
        policy = Policy.from_file(path) if path is not None else Policy.recommended()
        if path is not None:
            _check_settings(policy, path)
        plain = policy.model_dump(mode="json")
        if as_json:
            print_json(plain)
            return
        out.print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), markup=False, end="")
        table = Table("action", "what it does", box=None, title="Actions", title_justify="left", title_style="bold")
        for action, what in ACTIONS.items():
            table.add_row(action, what)
        out.print()
        print_table(out, table)


def backtest(
    policies: Annotated[
        list[Path], typer.Option("--policy", metavar="FILE", help="A policy in YAML. Give two to compare them.")
    ],
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="HISTORY",
            help="Number of the history, see report --list. Default: the latest.",
            show_default=False,
        ),
    ] = None,
    success_tag: Annotated[
        str | None,
        typer.Option(help="Tag of runs that succeeded. Default: runs whose last model call was an answer."),
    ] = None,
    ledger: LedgerOption = None,
    price: PriceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tries a policy on an imported history: what it would have done, saved, and disturbed."""
    with clear_errors():
        named(success_tag, "--success-tag")
        book = imported(ledger)
        history = chosen_history(book, number)
        results = []
        for path in policies:
            policy = Policy.from_file(path)
            _check_settings(policy, path)
            run = Backtest(policy, prices=parse_prices(price), success_tag=success_tag)
            with err.status(f"Trying {escape(str(path))}"):
                results.append((path, run.run(book.calls(history))))
        if not results[0][1].calls and history.runs:
            msg = "this history was imported by a version that kept no calls; import it again with --fresh"
            raise UnreadableSource(msg)
        if as_json:
            print_json([{"policy": str(path), **result.as_dict()} for path, result in results])
            return
        for path, result in results:
            _print_result(path, result)
        if len(results) > 1:
            _print_comparison(results)


def _check_settings(policy: Policy, path: Path) -> None:
    from ts_langchain.pricing import Prices
    from ts_langchain.rules import build_rules

    def wrong(settings: Mapping[str, object]) -> str:
        try:
            build_rules(rule_classes(None), settings, Prices())
        except ConfigurationError as error:
            return str(error)
        return ""

    if said := wrong(policy.settings):
        where = next(((key,) for key, value in policy.settings.items() if wrong({key: value}) == said), ())
        msg = f"{path}: line {line_in(path, ('settings', *where))}: settings: {said}"
        raise ConfigurationError(msg)


def doubts(policy: Policy) -> list[str]:
    """What is allowed and yet probably not meant."""
    found = []
    actions = {s.do for r in (*policy.rules.values(), policy.default) for s in r.steps}
    if "reuse" in actions and not policy.safe_tools:
        found.append("a step says reuse, and safe_tools is empty: only tools marked read_only are answered for")
    found += policy.inert()
    if not actions and not policy.budgets and policy.kill_switch == KillSwitch() and policy.remote is None:
        found.append("it has no steps, no budgets and no kill switch: it does nothing")
    if policy.mode == "observe":
        found.append("mode is observe: decisions are recorded and nothing is done")
    return found


def _print_result(path: Path, result: Result) -> None:
    out.print(f"\n[bold]{escape(str(path))}[/]", highlight=False)
    out.print(
        f"{result.calls:,} calls in {result.sessions:,} sessions, {result.runs:,} runs of which {result.succeeded:,} "
        f"succeeded; {cost(result.nano, result.unpriced_calls)} spent"
    )
    if not result.actions:
        out.print("It would have done nothing.")
        return
    unpriced = 0 if result.nano else result.unpriced_calls
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("rule", no_wrap=True, overflow="fold")
    table.add_column("action")
    for column in ("taken", "sessions", "calls saved", "tokens saved", "saved", "false stops"):
        table.add_column(column, justify="right")
    for a in result.actions:
        stops = f"[red]{a.false_stops}[/]" if a.false_stops else "0"
        table.add_row(
            a.rule, a.action, f"{a.decisions:,}", f"{a.sessions:,}", f"{a.saved_calls:,}", f"{a.saved_tokens:,}",
            cost(a.saved_nano, unpriced if a.saved_tokens or a.action == "downgrade" else 0), stops,
        )  # fmt: skip
    print_table(out, table)
    share = f" ({result.saved_nano / result.nano:.1%})" if result.nano else ""
    if result.saved_nano < 0:  # a "downgrade" to a dearer model
        more = f" ({-result.saved_nano / result.nano:.1%})" if result.nano else ""
        out.print(f"It would have cost {usd(-result.saved_nano)} more{more}.", style="red")
    elif unpriced:
        out.print("What it would have saved in dollars is unknown.")
    else:
        out.print(f"It would have saved {usd(result.saved_nano)}{share}.")
    if result.hoped_nano:
        out.print(f"  {usd(result.hoped_nano)} of it only if the model does better once it is told.")
    if result.lost_nano:
        out.print(f"  {usd(result.lost_nano)} of it in runs that succeeded later on, and would not have.", style="red")
    if result.unpriced_calls:
        out.print(
            f"{result.unpriced_calls:,} calls have no known price: give one with --price MODEL=INPUT,OUTPUT; those "
            "that name no model have none.",
            style="yellow",
        )
    if result.estimated_calls:
        out.print(f"{result.estimated_calls:,} calls came without usage; it is estimated.")
    for decision in result.false_stops[:SHOWN]:
        out.print(
            f"  false stop: session {one_line(decision.session_id)}: {decision.action} by {decision.rule}", style="red"
        )
    if len(result.false_stops) > SHOWN:
        out.print(f"  and {len(result.false_stops) - SHOWN:,} more: --json lists them", style="red")


def _print_comparison(results: list[tuple[Path, Result]]) -> None:
    table = Table("policy", box=None, header_style="dim", title="Side by side", title_justify="left")
    for column in ("decisions", "saved", "share", "by false stops", "false stops"):
        table.add_column(column, justify="right")
    for path, r in results:
        share = f"{r.saved_nano / r.nano:.1%}" if r.nano else "-"
        table.add_row(
            escape(str(path)), f"{len(r.decisions):,}", part(r.saved_nano, r.nano, r.unpriced_calls), share,
            part(r.lost_nano, r.nano, r.unpriced_calls), f"{len(r.false_stops):,}",
        )  # fmt: skip
    out.print()
    print_table(out, table)
