"""The command line as a user meets it: exit codes, streams, messages."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from importers.fake_langsmith import BEGIN, KEY, FakeLangSmith, agent_rows, serve
from typer.testing import CliRunner

from ts_importers.http import Client
from ts_langchain.cli.app import app
from ts_langchain.ledger import Ledger
from ts_langchain.report.summary import summarise
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
    return run(tmp_path, "import", "langsmith", *given, "--since", BEGIN.date().isoformat(), *args, env=env)


@pytest.mark.parametrize("command", ["", "import", "import langsmith", "import file", "report", "rules", "demo"])
def test_help_teaches(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, *command.split(), "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


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
        (["import", "file", "x", "--format", "xml"], 2, "expected one of langsmith"),
        (["import", "file", "{file}", "--set", "tool_loop.min_cals=4"], 2, "tool_loop.min_calls"),
        (["import", "file", "{file}", "--set", "nonsense"], 2, "RULE.PARAM=VALUE"),
        (["import", "file", "{file}", "--price", "gpt-4o=cheap"], 2, "USD per million"),
        (["import", "file", "{file}", "--date", "yesterday"], 2, "2026-09-01"),
        (["import", "file", "{file}", "--csv", "/no/such/place.csv"], 2, "--csv"),
        (["import", "langsmith", "--project", "x"], 2, "LANGSMITH_API_KEY"),
        (["import", "langsmith"], 2, "--project"),
        (["report"], 2, "nothing has been imported"),
        (["report", "7"], 2, "no history 7"),
        (["rules", "tool_lop"], 2, "tool_loop"),
        (["report", "--ledger", "nosuch://db"], 1, "ledger"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_are_told_clearly(tmp_path: Path, file: Path, args: list[str], code: int, says: str) -> None:
    done = run(tmp_path, *[a.replace("{file}", str(file)) for a in args])
    assert done.exit_code == code, done.output
    assert says in re.sub(r"[\s│]+", " ", done.stderr)
    assert "Traceback" not in done.output


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
        assert "report --incidents" in refused.stderr


COMMAND = [sys.executable, "-c", "from ts_langchain.cli import main; main()"]


def start(tmp_path: Path, ledger: str, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "TS_LANGCHAIN_LEDGER": str(tmp_path / ledger), "COLUMNS": "120"}
    return subprocess.Popen([*COMMAND, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    path = tmp_path / "long.jsonl"
    rows = sorted(agent_rows(900, seed=3), key=lambda r: (r["start_time"], r["id"]))
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def result(ledger: Path) -> Any:
    book = Ledger(ledger)
    history = book.histories()[0]
    return summarise(book, history).as_dict(), [asdict(i) for i in book.incidents(history)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_it_goes_on_with_the_same_result(
    tmp_path: Path, long_file: Path, how: signal.Signals
) -> None:
    assert start(tmp_path, "whole.sqlite", "import", "file", str(long_file)).wait() == 0
    pieces = tmp_path / "pieces.sqlite"
    for pause in (0.9, 1.2, 1.5):
        process = start(tmp_path, "pieces.sqlite", "import", "file", str(long_file))
        time.sleep(pause)
        process.send_signal(how)
        process.communicate()
        assert process.returncode in (0, 130, -how)
    process = start(tmp_path, "pieces.sqlite", "import", "file", str(long_file))
    process.communicate()
    assert process.returncode == 0
    assert result(pieces) == result(tmp_path / "whole.sqlite")


def test_a_broken_pipe_is_no_error(tmp_path: Path, file: Path) -> None:
    assert run(tmp_path, "import", "file", str(file)).exit_code == 0
    process = start(tmp_path, "ledger.sqlite", "report", "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.wait()


def test_an_import_under_other_settings_is_refused_until_fresh(tmp_path: Path, file: Path) -> None:
    assert run(tmp_path, "import", "file", str(file)).exit_code == 0
    refused = run(tmp_path, "import", "file", str(file), "--set", "tool_loop.min_calls=4")
    assert refused.exit_code == 1
    assert "--fresh" in refused.stderr
    assert run(tmp_path, "import", "file", str(file), "--set", "tool_loop.min_calls=4", "--fresh").exit_code == 0
