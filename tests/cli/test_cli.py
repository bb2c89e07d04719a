"""The command line as a user meets it: exit codes, streams, messages."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from datetime import datetime, timedelta
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from importers.fake_langsmith import BEGIN, KEY, FakeLangSmith, agent_rows, serve
from keyring.backend import KeyringBackend
from rich.console import Console
from typer.testing import CliRunner

from ts_importers.files import FileImporter
from ts_importers.http import Client
from ts_langchain.cli.app import app
from ts_langchain.history import Import
from ts_langchain.ledger import UNNAMED, History, Ledger
from ts_langchain.report.summary import ModelFigures, RuleFigures, Summary
from ts_langchain.report.terminal import print_summary, usd
from ts_langchain.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = sorted(agent_rows(40), key=lambda r: (r["start_time"], r["id"]))


@pytest.fixture
def fake() -> Iterator[FakeLangSmith]:
    with serve(FakeLangSmith(list(ROWS))) as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return path


def run(tmp_path: Path, *args: str, env: dict[str, str | None] | None = None) -> Any:
    """The command in this process, its ledger in a scratch directory."""
    base = {"TS_LANGCHAIN_LEDGER": str(tmp_path / "ledger.sqlite"), "COLUMNS": "120"}
    base |= {"LANGSMITH_API_KEY": None, "LANGCHAIN_API_KEY": None, "LANGSMITH_ENDPOINT": None}  # type: ignore[dict-item]
    return CliRunner().invoke(app, list(args), env={**base, **(env or {})})


def langsmith(tmp_path: Path, fake: FakeLangSmith, *args: str, key: str = KEY) -> Any:
    env = {"LANGSMITH_API_KEY": key, "LANGSMITH_ENDPOINT": fake.url}
    given = ("--project", "my-agent") if "--project" not in args else ()
    since = ("--since", BEGIN.date().isoformat()) if "--since" not in args else ()
    return run(tmp_path, "import", "langsmith", *given, *since, *args, env=env)


def test_names_move_no_cursor_and_are_no_formula(tmp_path: Path, file: Path) -> None:
    """Sessions and models are named by others: by who writes to an app's users, or runs a server."""
    session, model = "\t=1+1\nmore\x1b]0;owned\x07\x1b[2J\x9b1m", "gpt\u202etpg \x1b[8m"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["thread_id"] = session
        row.setdefault("extra", {}).setdefault("metadata", {})
        row["extra"]["metadata"] |= {"thread_id": session, "ls_model_name": model, "ls_provider": None}
        row["outputs"] = json.loads(json.dumps(row["outputs"]).replace("gpt-4o-2024-08-06", "gpt\\u202e"))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = tmp_path / "incidents.csv"
    shown = run(tmp_path, "import", "file", str(file), "--csv", str(table))
    assert shown.exit_code == 0
    listed = run(tmp_path, "report", "--incidents", "3")
    for text in (shown.output, listed.output):
        assert "\ufffd" in text
        assert not {c for c in text if not c.isprintable() and c != "\n"}
        assert "more" in text
        assert not re.search(r"^\W*more", text, re.MULTILINE)
    with table.open(newline="") as opened:
        assert {row["session_id"][:3] for row in csv.DictReader(opened)} == {"'\t="}


def test_what_nobody_knows_the_price_of_costs_no_dollars_and_no_zero(tmp_path: Path) -> None:
    """`$0` would be a figure. The tokens are told, and how many calls it is of."""
    asked = {"type": "function", "id": "c", "function": {"name": "fetch", "arguments": '{"u": 1}'}}
    said: list[dict[str, Any]] = [{"role": "user", "content": "Find it."}]
    for n in range(5):
        said.append({"role": "assistant", "content": "", "tool_calls": [{**asked, "id": f"c{n}"}]})
        said.append({"role": "tool", "tool_call_id": f"c{n}", "content": "no"})
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"thread_id": "t", "model": "acme-1", "messages": said}) + "\n")
    assert run(tmp_path, "import", "file", str(path)).exit_code == 0
    report = run(tmp_path, "report", "--incidents", "9").output
    assert re.search(r"Spend +unknown", report)
    assert re.search(r"Wasted +unknown, [\d,]+ tokens", report)
    assert re.search(r"Avoidable +unknown:", report)
    assert "--price MODEL=INPUT,OUTPUT" in " ".join(report.split())
    assert "--model NAME" not in report
    assert re.search(r"tool_loop +1 +1 +4 +\d+ +unknown +unknown", report)
    assert re.search(r"\nt +10 +unknown +unknown +tool_loop", report)
    assert re.search(r"Wasted \d+ tokens,\s+unknown;", report)
    told = json.loads(run(tmp_path, "report", "--json").output)
    assert [(s["spend_usd"], s["unpriced_calls"]) for s in told["worst_sessions"]] == [(0, 5)]
    [incident] = Ledger(tmp_path / "ledger.sqlite").incidents(Ledger(tmp_path / "ledger.sqlite").histories()[0])
    assert re.search(r"avoidable +unknown", run(tmp_path, "explain", incident.id).output)
    policy = tmp_path / "p.yaml"
    policy.write_text("rules: {tool_loop: {steps: [{at: 1, do: warn}, {at: 2, do: stop}]}}")
    tried = run(tmp_path, "backtest", "--policy", str(policy), "--policy", str(policy)).output
    assert "unknown spent" in tried
    assert re.search(r"tool_loop +warn +1 +1 +0 +0 +\$0 ", tried)  # nothing is nothing at any price
    assert re.search(r"tool_loop +stop +1 +1 +\d+ +\d+ +unknown ", tried)
    assert "saved in dollars is unknown" in tried
    assert re.search(r"p\.yaml +\d+ +unknown +- +unknown", tried)
    policy.write_text("downgrade: {'*': 'gpt-4o-mini'}\nrules: {tool_loop: {steps: [{at: 1, do: downgrade}]}}")
    tried = run(tmp_path, "backtest", "--policy", str(policy)).output
    assert re.search(r"tool_loop +downgrade +1 +1 +0 +0 +unknown ", tried)  # no tokens saved, but dollars perhaps


def test_who_names_no_model_is_told_how_to_name_one(tmp_path: Path) -> None:
    """A price belongs to a name, so that `--price` would help as little as it did before."""
    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hi!"}]}\n')
    shown = run(tmp_path, "import", "file", str(path)).stdout
    assert "--fresh --model NAME" in shown
    assert "--price" not in shown
    shown = run(tmp_path, "import", "file", str(path), "--fresh", "--model", "gpt-4o").stdout
    assert "unknown" not in shown


@pytest.mark.parametrize(("source", "told"), [("file", True), ("langsmith", False)])
def test_only_a_file_can_be_given_a_model(source: str, told: bool) -> None:
    history = History(1, source, "here", {"file": "here"}, "", {})
    unnamed, known = ModelFigures(UNNAMED, "", unpriced_calls=2), RuleFigures("tool_loop", wasted_nano=3_000_000)
    unknown = RuleFigures("error_loop", unpriced_calls=1)
    console = Console(file=io.StringIO(), width=200)
    print_summary(console, Summary(history, calls=9, nano=10**7, models=[unnamed], rules=[known, unknown]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 calls (0 tokens) have no known price" in shown
    assert ("--fresh --model NAME" in shown) == told
    assert re.search(r"Avoidable +\$0:", shown)  # of what is known nothing; of the other rule nobody knows
    assert re.search(r"tool_loop .*\$0.00300 +\$0\s", shown)
    assert re.search(r"error_loop .*unknown +unknown", shown)


def test_a_policy_is_no_directory(tmp_path: Path) -> None:
    done = run(tmp_path, "policy", "init", str(tmp_path))
    assert done.exit_code == 2
    assert "is a directory: name a file in it" in done.stderr


def test_the_demo_writes_into_nothing_else(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    done = run(tmp_path, "demo", "--keep", str(other))
    assert (done.exit_code, done.stdout, other.read_text()) == (1, "", "mine")
    assert "not a database" in done.stderr


def test_an_empty_file_has_no_format(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text("")
    done = run(tmp_path, "import", "file", str(one))
    assert done.exit_code == 0
    assert "format none" in done.stdout
    assert "the file is empty" in done.stderr
    other.write_text('{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hi!"}]}\n')
    assert "format conversations" in run(tmp_path, "import", "file", str(one), str(other)).stdout


@pytest.mark.parametrize("source", [("langsmith", "-p", "x"), ("langfuse",), ("helicone",), ("parquet", "x")])
def test_an_empty_range_is_told_before_a_key_is_asked_for(tmp_path: Path, source: tuple[str, ...]) -> None:
    done = run(tmp_path, "import", *source, "--since", "2026-01-02", "--until", "2026-01-01")
    assert done.exit_code == 2
    assert "nothing lies between --since 2026-01-02 and --until 2026-01-01" in " ".join(done.stderr.split())


@pytest.mark.parametrize("source", ["langsmith", "langfuse", "helicone"])
def test_help_cuts_off_no_address(tmp_path: Path, source: str) -> None:
    shown = run(tmp_path, "import", source, "--help", env={"COLUMNS": "80"}).stdout
    assert "…" not in shown.replace("postgresql://…", "")


def test_the_ledger_of_the_demo_can_be_looked_at(tmp_path: Path) -> None:
    logger = logging.getLogger("ts_langchain")
    level = logger.level
    shown = run(tmp_path, "demo", "--keep", str(tmp_path / "kept.sqlite"), env={"COLUMNS": "400"}).stdout
    assert logger.level == level
    assert f"ts-langchain report --ledger {tmp_path / 'kept.sqlite'}" in shown
    assert run(tmp_path, "report", "--ledger", str(tmp_path / "kept.sqlite")).exit_code == 0


@pytest.mark.parametrize(
    "command",
    [
        "",
        "import",
        "import langsmith",
        "import langfuse",
        "import helicone",
        "import file",
        "import parquet",
        "import plugin",
        "report",
        "rules",
        "demo",
    ],
)
def test_help_teaches(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, *command.split(), "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_help_lists_what_one_needs_first_first(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help").stdout
    places = [shown.index(f"│ {name} ") for name in ("demo", "import", "report", "explain", "policy", "backtest")]
    assert places == sorted(places)


def test_import_langsmith_and_report_again(tmp_path: Path, fake: FakeLangSmith) -> None:
    done = langsmith(tmp_path, fake, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["complete"]
    assert result["rows"]["replayed"] == len([r for r in ROWS if r["run_type"] != "chain"])
    loops = {r["rule"]: r for r in result["rules"]}["tool_loop"]
    assert loops["incidents"] == 14
    assert 0 < result["avoidable_usd"] <= result["wasted_usd"] <= result["spend_usd"]
    assert json.loads(run(tmp_path, "report", "--json").stdout) == result
    shown = run(tmp_path, "report", "--incidents", "2").stdout
    assert "tool_loop" in shown
    assert KEY not in done.stdout + done.stderr + shown


def test_what_a_report_proposes_next_works_as_it_stands(tmp_path: Path, file: Path) -> None:
    def proposed(said: str) -> str:
        return said.rpartition("Next:\n  ts-langchain ")[2].partition("   ")[0]

    assert proposed(run(tmp_path, "import", "file", str(file)).stdout) == "report 1 --incidents 5"
    other = tmp_path / "another ledger.sqlite"
    run(tmp_path, "import", "file", str(file), "--ledger", str(other))
    said = proposed(run(tmp_path, "report", "--ledger", str(other)).stdout)
    shown = run(tmp_path, *shlex.split(said), env={"TS_LANGCHAIN_LEDGER": str(tmp_path / "none.sqlite")})
    assert shown.exit_code == 0, shown.stderr
    assert "tool_loop" in shown.stdout


def test_import_file_with_settings_prices_and_csv(tmp_path: Path, file: Path) -> None:
    table = tmp_path / "incidents.csv"
    done = run(
        tmp_path,
        "import",
        "file",
        str(file),
        "--set",
        "tool_loop.min_calls=4",
        "--price",
        "gpt-4o=1,2",
        "--csv",
        str(table),
    )
    assert done.exit_code == 0, done.stderr
    with table.open() as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 14
    assert {r["rule"] for r in rows} == {"tool_loop"}
    assert all(float(r["wasted_usd"]) >= float(r["avoidable_usd"]) >= 0 for r in rows)
    assert "detected: LangSmith runs" in done.stderr
    assert "detected: LangSmith runs" not in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["import", "file", "none.jsonl"], 1, "No such file"),
        (["import", "file", "-"], 1, "save it first"),
        (["import", "file", "x", "--format", "xml"], 2, "expected one of langsmith"),
        (["import", "file", "{file}", "--set", "tool_loop.min_cals=4"], 2, "tool_loop.min_calls"),
        (["import", "file", "{file}", "--set", "nonsense"], 2, "RULE.PARAM=VALUE"),
        (["import", "file", "{file}", "--price", "gpt-4o=cheap"], 2, "USD per million"),
        (["import", "file", "{file}", "--price", "gpt-4o=1e15,1"], 2, "USD per million"),
        (["import", "file", "{file}", "--date", "yesterday"], 2, "2026-09-01"),
        (["import", "file", "{file}", "--csv", "/no/such/place.csv"], 2, "--csv"),
        (["import", "langsmith", "--project", "x"], 2, "LANGSMITH_API_KEY"),
        (["import", "langsmith"], 2, "--project"),
        (["import", "langsmith", "--project", "x", "--run-type", "lm"], 2, "expected one of llm"),
        (["import", "langsmith", "--project", "x", "--since", "lately"], 2, "2026-09-01"),
        (["import", "langsmith", "--project", "x", "--until", "9999-12-31"], 2, "2026-09-01"),
        (["import", "langsmith", "--project", "x", "--until", "0001-01-01"], 2, "2026-09-01"),
        (["import", "langsmith", "--project", "x", "--since", "0001-01-01T00:00+05:00"], 2, "2026-09-01"),
        (["import", "plugin", "none"], 2, "langsmith"),
        (["report"], 2, "nothing has been imported"),
        (["report", "7"], 2, "nothing has been imported"),
        (["report", "--list", "--csv", "x.csv"], 2, "--list shows all histories"),
        (["report", "1", "--list"], 2, "--list shows all histories"),
        (["rules", "tool_lop"], 2, "did you mean tool_loop?"),
        (["rules", "xyz"], 2, "there are tool_loop"),
        (["import", "file", ""], 2, "PATH: which one?"),
        (["import", "parquet", ""], 2, "PATH_OR_URL: which one?"),
        (["import", "langsmith", "--project", ""], 2, "--project: which one?"),
        (["import", "langsmith", "--project", "x", "--tag", ""], 2, "--tag: which one?"),
        (["import", "langsmith", "--project", "x", "--trace-filter", " "], 2, "--trace-filter: which one?"),
        (["import", "langfuse", "--environment", ""], 2, "--environment: which one?"),
        (["import", "parquet", "x", "--project", ""], 2, "--project: which one?"),
        (["import", "file", "{file}", "--model", ""], 2, "--model: which one?"),
        (["backtest", "--policy", "x", "--success-tag", ""], 2, "--success-tag: which one?"),
        (["import", "file", "{file}", "--set", "zombie.enabled=1", "--set", "zombie.enabled=0"], 2, "given twice"),
        (["import", "file", "{file}", "--price", "m=1,2", "--price", "m=1,3"], 2, "given twice"),
        # told before a key is asked for or a server is
        (["import", "langsmith", "--project", "x", "--set", "tool_loop.min_cals=4"], 2, "tool_loop.min_calls"),
        (["import", "langfuse", "--dry-run", "--price", "m=nan,1"], 2, "USD per million"),
        (["report", "--ledger", "nosuch://db"], 1, "ledger"),
        (["report", "--ledger", ""], 2, "Its name is empty"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_are_told_clearly(tmp_path: Path, file: Path, args: list[str], code: int, says: str) -> None:
    done = run(tmp_path, *[a.replace("{file}", str(file)) for a in args])
    assert done.exit_code == code, done.output
    assert says in re.sub(r"[\s│]+", " ", done.stderr)
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "args", [["report"], ["explain", "x"], ["backtest", "--policy", "x"], ["annotate"], ["report", "--list"]]
)
def test_a_mistyped_ledger_is_named_and_not_made(tmp_path: Path, args: list[str]) -> None:
    wrong = tmp_path / "no" / "such" / f"{'long-' * 20}ledger.sqlite"
    done = run(tmp_path, *args, "--ledger", str(wrong))
    assert done.exit_code == (0 if "--list" in args else 2)
    assert str(wrong) in done.stderr  # in one piece
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("place", ["no/such/place.csv", "."])
def test_a_table_that_cannot_be_written_is_told_before_the_import(tmp_path: Path, file: Path, place: str) -> None:
    done = run(tmp_path, "import", "file", str(file), "--csv", str(tmp_path / place))
    assert done.exit_code == 2
    assert "directory" in done.stderr
    assert not (tmp_path / "ledger.sqlite").exists()


def test_json_is_all_there_is_on_stdout(tmp_path: Path, file: Path) -> None:
    assert json.loads(run(tmp_path, "report", "--list", "--json").stdout) == []
    assert json.loads(run(tmp_path, "import", "plugin", "--json").stdout) == []
    for args in (
        ["report"],
        ["explain", "x"],
        ["rules", "x"],
        ["import", "file", "none.jsonl"],
        ["policy", "show", "x"],
    ):
        failed = run(tmp_path, *args, "--json")
        assert (failed.exit_code > 0, failed.stdout) == (True, "")
        assert failed.stderr.startswith("Error: ")


def test_a_range_that_is_empty_and_a_key_that_is_blank_are_wrong_usage(tmp_path: Path, fake: FakeLangSmith) -> None:
    done = langsmith(tmp_path, fake, "--since", "2026-09-03", "--until", "2026-09-01")
    assert (done.exit_code, "nothing lies between" in done.stderr) == (2, True)
    blank = langsmith(tmp_path, fake, key=" \t")
    assert (blank.exit_code, blank.stderr) == (2, "Error: no key: set LANGSMITH_API_KEY\n")
    assert not fake.requests


@pytest.mark.parametrize("columns", ["20", "40", "80"])
def test_a_narrow_terminal_cuts_off_no_name_and_no_figure(tmp_path: Path, columns: str) -> None:
    session = "a-conversation-whose-id-is-longer-than-" + "x" * 60
    rows = agent_rows(3)
    for row in rows:
        row["thread_id"] = session
        row["extra"] = {"metadata": {**(row.get("extra") or {}).get("metadata", {}), "thread_id": session}}
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    env = {"COLUMNS": columns}
    done = run(tmp_path, "import", "file", str(path), env=env)
    assert done.stderr == "detected: LangSmith runs\n"  # notices name paths, which stay whole
    shown = done.stdout
    shown += run(tmp_path, "policy", "init", str(tmp_path / "p.yaml"), env=env).stdout
    shown += run(tmp_path, "backtest", "--policy", str(tmp_path / "p.yaml"), env=env).stdout
    shown += run(tmp_path, "rules", "vision_high_detail_misroute", env=env).stdout
    assert "…" not in shown
    report = json.loads(run(tmp_path, "report", "--json").stdout)
    [rule] = [r for r in report["rules"] if r["rule"] == "tool_loop"]
    assert f"{rule['wasted_tokens']:,}" in shown
    assert {"tool_loop", "gpt-4o-2024-08-06", "exempt_sessions"} <= set(shown.split())
    assert session[:40] in shown
    assert session[40:80] in shown
    assert session in "".join(run(tmp_path, "report", "--incidents", "1", env=env).stdout.split())


def test_a_downgrade_to_a_dearer_model_saves_nothing(tmp_path: Path, file: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text("rules: {tool_loop: {steps: [{at: 1, do: downgrade}]}}\ndowngrade: {gpt-4o-2024-08-06: o1-pro}\n")
    assert run(tmp_path, "import", "file", str(file)).exit_code == 0
    shown = run(tmp_path, "backtest", "--policy", str(policy)).stdout
    assert re.search(r"It would have cost \$[\d.]+ more \([\d.]+%\)", shown)
    assert "-$" in shown
    assert "$-" not in shown


@pytest.mark.parametrize(
    ("nano", "shown"),
    [(0, "$0"), (1, "<$0.00001"), (-1, "-<$0.00001"), (10_000, "$0.00001"), (9_999_999, "$0.01000"),
     (-50_000_000, "-$0.0500"), (1_234_567_000_000, "$1,234.57")],
)  # fmt: skip
def test_dollars(nano: int, shown: str) -> None:
    assert usd(nano) == shown


def test_a_shell_completes_a_line_that_is_not_right_yet() -> None:
    line = "ts-langchain import file --set a.b=1 --price x --da"
    env = {"_TS_LANGCHAIN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "7"}
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'ts-langchain'; from ts_langchain.cli import main; main()",
    ]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["--date"], "")


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "ts_langchain", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, version("ts-langchain"))


def test_wrong_key_unknown_project_and_server_down(
    tmp_path: Path, fake: FakeLangSmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = langsmith(tmp_path, fake, key="lsv2_pt_wrong_wrong_wrong")
    assert (wrong.exit_code, len(fake.requests)) == (3, 1)
    assert "LANGSMITH_API_KEY" in wrong.stderr
    assert "lsv2_pt_wrong_wrong_wrong" not in wrong.output
    unknown = langsmith(tmp_path, fake, "--project", "nope")
    assert unknown.exit_code == 1
    assert "my-agent" in unknown.stderr
    with serve(FakeLangSmith([])) as server:
        nothing = langsmith(tmp_path, server, "--json")
    assert nothing.exit_code == 0
    assert json.loads(nothing.stdout)["calls"] == 0

    def impatient(*args: Any, **kwargs: Any) -> Client:
        return Client(*args, **{**kwargs, "attempts": 2, "sleep": lambda _: None})

    monkeypatch.setattr("ts_importers.langsmith.Client", impatient)
    down = langsmith(tmp_path, server)  # it has been shut down
    assert down.exit_code == 4
    assert "no connection" in down.stderr
    assert "run the same command later" in " ".join(down.stderr.split())


def test_rules_are_listed_and_explained(tmp_path: Path) -> None:
    listed = run(tmp_path, "rules").stdout
    for rule in RULES.values():
        assert rule.name in listed
        explained = run(tmp_path, "rules", rule.name).stdout
        for setting in rule.Settings.model_fields:
            assert setting in explained
    narrow = run(tmp_path, "rules", "tool_loop", env={"COLUMNS": "80"}).stdout.partition("What to do")[0]
    lines = narrow.splitlines()
    assert all(len(f"{line} {following.split()[0]}") > 80 for line, following in pairwise(lines) if line and following)
    assert {r["rule"] for r in json.loads(run(tmp_path, "rules", "--json").stdout)} == {r.name for r in RULES.values()}


def test_an_incident_is_explained_and_can_be_silenced(tmp_path: Path, file: Path) -> None:
    run(tmp_path, "import", "file", str(file))
    shown = run(tmp_path, "report", "--incidents", "1").stdout
    found = re.search(r"tool_loop-[0-9a-f]{16}", shown)
    assert found is not None
    explained = run(tmp_path, "explain", found[0]).stdout
    assert "What to do" in explained
    assert "tool_loop.exempt_tools=fetch_page" in explained
    result = json.loads(run(tmp_path, "explain", found[0][:14], "--json").stdout)
    assert result["id"] == found[0]
    for offered in result["silenced_by"]:
        if "min_identical" in offered["setting"]:
            continue  # two of the settings are about the same number of calls
        again = run(
            tmp_path,
            "import",
            "file",
            str(file),
            "--set",
            offered["setting"],
            "--fresh",
            "--json",
            "--csv",
            str(tmp_path / "i.csv"),
        )
        assert again.exit_code == 0, again.output
        assert found[0] not in (tmp_path / "i.csv").read_text(), offered
    run(tmp_path, "import", "file", str(file), "--fresh")
    for wrong in ("nonsense", "tool_loop"):
        refused = run(tmp_path, "explain", wrong)
        assert refused.exit_code == 2
        assert "report 1 --incidents" in " ".join(refused.stderr.split())


def test_the_costliest_incidents_as_json_and_what_to_do_next(tmp_path: Path, file: Path) -> None:
    assert "report 1 --incidents 5" in " ".join(run(tmp_path, "import", "file", str(file)).stdout.split())
    plain = json.loads(run(tmp_path, "report", "--json").stdout)
    listed = json.loads(run(tmp_path, "report", "--json", "--incidents", "3").stdout)
    costliest = listed.pop("costliest_incidents")
    assert listed == plain
    assert len(costliest) == 3
    assert costliest == sorted(costliest, key=lambda i: -i["wasted_usd"])
    explained = json.loads(run(tmp_path, "explain", costliest[0]["id"], "--json").stdout)
    assert {k: explained[k] for k in costliest[0]} == costliest[0]
    assert "report 1 --incidents" not in run(tmp_path, "report", "--incidents", "3").stdout


def test_a_title_that_is_too_long_for_a_line_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 40 + ".jsonl")
    path.write_text(json.dumps(ROWS[0]) + "\n")
    assert path.name in run(tmp_path, "import", "file", str(path)).stdout


COMMAND = [sys.executable, "-c", "from ts_langchain.cli import main; main()"]


def start(tmp_path: Path, ledger: str, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "TS_LANGCHAIN_LEDGER": str(tmp_path / ledger), "COLUMNS": "120"}
    return subprocess.Popen([*COMMAND, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("args", [("report",), ("report", "--json"), ("rules",), ("rules", "--json"), ("--help",)])
def test_a_closed_pipe_ends_it_as_it_ends_other_commands(tmp_path: Path, file: Path, args: tuple[str, ...]) -> None:
    assert run(tmp_path, "import", "file", str(file)).exit_code == 0
    process = start(tmp_path, "ledger.sqlite", *args)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.parametrize("args", [("report",), ("report", "--json"), ("rules",), ("--version",)])
def test_a_full_disk_is_told(tmp_path: Path, file: Path, args: tuple[str, ...]) -> None:
    assert run(tmp_path, "import", "file", str(file)).exit_code == 0
    env = {**os.environ, "TS_LANGCHAIN_LEDGER": str(tmp_path / "ledger.sqlite")}
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run([*COMMAND, *args], env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: [Errno 28] No space left on device\n"


def test_a_closed_output_is_no_fault(tmp_path: Path) -> None:
    env = {**os.environ, "TS_LANGCHAIN_LEDGER": str(tmp_path / "ledger.sqlite")}
    for how in ((), ("--json",)):
        command = shlex.join([*COMMAND, "report", "--list", *how])
        done = subprocess.run(["sh", "-c", f"{command} >&-"], env=env, capture_output=True, check=False)  # noqa: S607
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


def test_an_output_that_is_not_utf8_loses_nothing(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "TS_LANGCHAIN_LEDGER": str(tmp_path / "ledger.sqlite")}
    name = tmp_path / "τ-bench.jsonl"
    name.write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    done = subprocess.run([*COMMAND, "import", "file", name, "--json"], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scope"] == str(name.resolve())


def test_interrupted_while_it_loads(tmp_path: Path) -> None:
    code = """if True:
        import sys
        class Finder:
            def find_spec(self, name, *_):
                if name == "ts_langchain.cli.app":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Finder())
    """
    done = subprocess.run([sys.executable, "-c", f"{code}\n{COMMAND[-1]}"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_interrupted_while_it_makes_its_commands() -> None:
    code = """if True:
        import typer.main
        def interrupted(_):
            raise KeyboardInterrupt
        typer.main.get_command = interrupted
    """
    done = subprocess.run([sys.executable, "-c", f"{code}\n{COMMAND[-1]}"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_an_import_under_other_settings_is_refused_until_fresh(tmp_path: Path, file: Path) -> None:
    assert run(tmp_path, "import", "file", str(file)).exit_code == 0
    refused = run(tmp_path, "import", "file", str(file), "--set", "tool_loop.min_calls=4")
    assert refused.exit_code == 1
    assert "--fresh" in refused.stderr
    assert run(tmp_path, "import", "file", str(file), "--set", "tool_loop.min_calls=4", "--fresh").exit_code == 0


def test_only_some_runs_of_some_projects(tmp_path: Path, fake: FakeLangSmith) -> None:
    done = langsmith(
        tmp_path, fake, "--run-type", "llm", "--run-type", "tool", "--filter", 'eq(name, "ChatOpenAI")', "--json"
    )
    assert done.exit_code == 0, done.stderr
    some = json.loads(done.stdout)
    assert some["rows"]["replayed"] == len([r for r in ROWS if r["name"] == "ChatOpenAI"])
    assert some["rows"]["no_calls"] == 0
    whole = json.loads(langsmith(tmp_path, fake, "--project", "my-*", "--json").stdout)
    assert whole["rows"]["replayed"] > some["rows"]["replayed"]
    assert whole["scope"] != some["scope"]  # two histories in the ledger, none mixed into the other
    assert len(Ledger(tmp_path / "ledger.sqlite").histories()) == 2


def test_a_dry_run_looks_and_writes_nothing(tmp_path: Path, fake: FakeLangSmith, file: Path) -> None:
    shown = langsmith(tmp_path, fake, "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert "LangSmith project: my-agent" in shown.stdout
    assert "dry run" in shown.stdout
    looked = json.loads(run(tmp_path, "import", "file", str(file), "--dry-run", "--json").stdout)
    assert looked["rows"] == len(ROWS)
    assert looked["first_page"]["calls"]["llm"] > 0
    assert run(tmp_path, "report").exit_code == 2  # nothing has been imported


def test_since_last_reads_only_what_is_new(tmp_path: Path, fake: FakeLangSmith) -> None:
    cut = ROWS[len(ROWS) // 2]["start_time"]
    fake.rows = [r for r in ROWS if r["start_time"] < cut]
    assert langsmith(tmp_path, fake).exit_code == 0
    fake.rows = list(ROWS)
    fake.requests.clear()
    done = langsmith(tmp_path, fake, "--since", "last", "--json")
    assert done.exit_code == 0, done.stderr
    asked = [body["min_start_time"] for path, body in fake.requests if path.endswith("runs/query")]
    assert min(asked) > (datetime.fromisoformat(cut) - timedelta(days=2)).isoformat()
    calls = [r for r in ROWS if r["run_type"] != "chain"]
    updated = json.loads(done.stdout)
    assert updated["rows"]["replayed"] == len(calls)
    whole = json.loads(langsmith(tmp_path, fake, "--ledger", str(tmp_path / "other.sqlite"), "--json").stdout)
    for figure in ("calls", "tokens", "spend_usd", "wasted_usd", "avoidable_usd", "incidents", "rules"):
        assert updated[figure] == whole[figure]


def test_a_report_is_about_the_whole_history(tmp_path: Path, fake: FakeLangSmith) -> None:
    langsmith(tmp_path, fake, "--until", "2026-09-30")
    before = run(tmp_path, "report").stdout
    again = langsmith(tmp_path, fake, "--since", "2026-09-25", "--until", "2026-09-30")
    assert "range: 2026-09-25 00:00 to 2026-10-01 00:00 UTC" in again.stderr
    shown = run(tmp_path, "report").stdout
    assert shown.splitlines()[1].startswith("LangSmith project my-agent ")
    figures, rows = before.split("Rows: ")
    assert shown.startswith(figures)
    assert "; 0 of the last" not in rows
    assert "; 0 of the last import are no calls" in shown


def test_histories_are_listed_by_name(tmp_path: Path, fake: FakeLangSmith, file: Path) -> None:
    langsmith(tmp_path, fake)
    run(tmp_path, "import", "file", str(file))
    calls = len([r for r in ROWS if r["run_type"] != "chain"])
    shown = run(tmp_path, "report", "--list").stdout.splitlines()
    assert shown[0].startswith(f"   2  file {file}, format LangSmith runs: {calls:,} rows")
    assert shown[1].startswith(f"   1  LangSmith project my-agent: {calls:,} rows")
    [_, told] = json.loads(run(tmp_path, "report", "--list", "--json").stdout)
    assert told["name"] == "LangSmith project my-agent"


def test_an_import_that_was_cut_short_is_listed_as_such(tmp_path: Path, file: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    cut = Import(FileImporter(file), ledger, checkpoint_runs=20)
    cut.run(lambda _: cut.stop())
    ledger.close()
    assert "rows, not complete" in run(tmp_path, "report", "--list").stdout
    assert [h["complete"] for h in json.loads(run(tmp_path, "report", "--list", "--json").stdout)] == [False]


def test_since_last_of_nothing_is_the_last_thirty_days(tmp_path: Path, fake: FakeLangSmith) -> None:
    done = langsmith(tmp_path, fake, "--since", "last")
    assert done.exit_code == 0
    assert "30 days" in done.stderr


class Keys(KeyringBackend):
    """A keyring in memory."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password


def test_a_key_may_lie_in_the_systems_keyring(
    tmp_path: Path, fake: FakeLangSmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys()
    monkeypatch.setattr("keyring.get_keyring", lambda: keys)
    monkeypatch.setattr("keyring.core.get_keyring", lambda: keys)
    without: dict[str, str | None] = {"LANGSMITH_ENDPOINT": fake.url}
    given = ("import", "langsmith", "-p", "my-agent", "--since", "2026-09-01")
    assert run(tmp_path, *given, env=without).exit_code == 2
    keys.set_password("ts-langchain", "LANGSMITH_API_KEY", KEY)
    done = run(tmp_path, *given, env=without)
    assert done.exit_code == 0, done.output
    assert KEY not in done.output


KEYRING = """
from pathlib import Path

from keyring.backend import KeyringBackend


class Written(KeyringBackend):
    priority = 1

    def get_password(self, service, username):
        return None

    def set_password(self, service, username, password):
        Path(__file__).with_suffix(".txt").write_text(f"{service} {username} {password}")
"""


@pytest.mark.parametrize("keep", ["y", "n"])
def test_a_key_is_asked_for_unseen_and_kept_if_wanted(tmp_path: Path, fake: FakeLangSmith, keep: str) -> None:
    pty = pytest.importorskip("pty")
    (tmp_path / "written.py").write_text(KEYRING)
    env = {k: v for k, v in os.environ.items() if k not in ("LANGSMITH_API_KEY", "LANGCHAIN_API_KEY")}
    env |= {"PYTHONPATH": str(tmp_path), "PYTHON_KEYRING_BACKEND": "written.Written", "LANGSMITH_ENDPOINT": fake.url}
    command = [sys.executable, "-c", "from ts_langchain.cli import main; main()", "import", "langsmith"]
    ours, theirs = pty.openpty()
    args = ("-p", "my-agent", "--since", "2026-09-01", "--dry-run")
    process = subprocess.Popen(
        [*command, *args], env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = b""
    for question, answer in ((b"LangSmith API key: ", KEY), (b"keyring? [y/N]: ", keep)):
        while question not in said:
            said += os.read(ours, 1024)
        os.write(ours, f"{answer}\n".encode())
    with contextlib.suppress(OSError):  # how the end of a terminal is told
        while more := os.read(ours, 1024):
            said += more
    os.close(ours)
    assert process.wait() == 0, said
    assert KEY.encode() not in said
    kept = tmp_path / "written.txt"
    assert kept.exists() is (keep == "y")
    assert keep == "n" or kept.read_text() == f"ts-langchain LANGSMITH_API_KEY {KEY}"
