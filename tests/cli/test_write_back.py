"""`annotate`, `--annotate` and `backfill` as a user meets them: killed, interrupted, refused, and silent about keys."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from importers.export_history import HISTORY
from importers.fake_langsmith import KEY, agent_rows
from importers.test_langfuse import AUTH, PUBLIC, SECRET
from servers import cloud as cloud_server
from servers.cloud import CloudServer
from servers.langfuse import LangfuseServer
from servers.langsmith import LangSmithServer
from servers.serving import serving
from typer.testing import CliRunner

from ts_langchain.cli.app import app
from ts_langchain.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = agent_rows(40)
COMMAND = [sys.executable, "-c", "from ts_langchain.cli import main; main()"]
UNSET = (
    "LANGSMITH_API_KEY", "LANGCHAIN_API_KEY", "LANGSMITH_ENDPOINT", "LANGSMITH_WORKSPACE_ID", "LANGFUSE_HOST",
    "LANGFUSE_BASE_URL", "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY", "TOKEN_SENTINEL_API_KEY",
    "TOKEN_SENTINEL_ENDPOINT",
)  # fmt: skip
SECRETS = (KEY, SECRET, AUTH.removeprefix("Basic "), cloud_server.KEY)


@pytest.fixture
def langsmith() -> Iterator[LangSmithServer]:
    with serving(LangSmithServer(list(RUNS))) as server:
        yield server


@pytest.fixture
def langfuse() -> Iterator[LangfuseServer]:
    with serving(LangfuseServer()) as server:
        yield server


@pytest.fixture
def cloud() -> Iterator[CloudServer]:
    with serving(CloudServer()) as server:
        yield server


def environment(tmp_path: Path, server: Any) -> dict[str, str]:
    env = {"TS_LANGCHAIN_LEDGER": str(tmp_path / "ledger.sqlite"), "COLUMNS": "200"}
    if isinstance(server, LangSmithServer):
        return {**env, "LANGSMITH_API_KEY": KEY, "LANGSMITH_ENDPOINT": server.url}
    if isinstance(server, LangfuseServer):
        keys = {"LANGFUSE_PUBLIC_KEY": PUBLIC, "LANGFUSE_SECRET_KEY": SECRET}
        return {**env, **keys, "LANGFUSE_HOST": server.url}
    return {**env, "TOKEN_SENTINEL_API_KEY": cloud_server.KEY, "TOKEN_SENTINEL_ENDPOINT": server.url}


def run(tmp_path: Path, server: Any, *args: str, **env: str | None) -> Any:
    """The command in this process."""
    given: dict[str, str | None] = {**dict.fromkeys(UNSET), **environment(tmp_path, server), **env}
    return CliRunner().invoke(app, list(args), env=given)


def start(tmp_path: Path, server: Any, *args: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    env = {k: v for k, v in os.environ.items() if k not in UNSET} | environment(tmp_path, server)
    return subprocess.Popen([*COMMAND, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def imports(server: Any, *more: str) -> list[str]:
    kind = ["langsmith", "--project", "my-agent"] if isinstance(server, LangSmithServer) else ["langfuse"]
    return ["import", *kind, "--since", "2026-08-31", "--until", "2026-10-10", *more]


def held(server: Any) -> dict[Any, Any]:
    if isinstance(server, CloudServer):
        return dict(server.events)
    return dict(server.feedback if isinstance(server, LangSmithServer) else server.scores)


@pytest.fixture(params=["langsmith", "langfuse"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_a_dry_run_writes_nothing_at_all(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even tables, so it works on a ledger in a folder that nobody may write to."""
    assert run(tmp_path, server, *imports(server)).exit_code == 0
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    before = path.read_bytes()
    monkeypatch.setattr("ts_langchain.database.os.access", lambda place, _: place != tmp_path)
    for command in (["annotate"], ["backfill", "--project", "shop"]):
        done = run(tmp_path, server, *command, "--dry-run", "--json", TOKEN_SENTINEL_ENDPOINT="http://127.0.0.1:1")
        assert done.exit_code == 0, done.output
    assert path.read_bytes() == before
    assert held(server) == {}


@pytest.mark.parametrize("command", ["annotate", "backfill"])
def test_help_teaches(tmp_path: Path, command: str) -> None:
    shown = " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"}).stdout.split())
    assert "No prompts" in shown
    assert "never given on the command line" in shown


def test_import_and_annotate_then_take_it_back(server: Any, tmp_path: Path) -> None:
    done = run(tmp_path, server, *imports(server, "--annotate", "--json"))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["complete"], "stdout is the report"
    assert "Annotations: 42 written." in done.stderr
    assert len(held(server)) == 42
    again = run(tmp_path, server, "annotate", "--json")
    assert json.loads(again.stdout)["unchanged"] == 42
    dry = run(tmp_path, server, "annotate", "--remove", "--dry-run", LANGSMITH_API_KEY=None, LANGFUSE_SECRET_KEY=None)
    assert "42 would be removed" in dry.stdout
    assert len(held(server)) == 42
    gone = run(tmp_path, server, "annotate", "1", "--remove")
    assert (gone.exit_code, gone.stdout) == (0, "Annotations: 42 removed.\n")
    assert held(server) == {}
    assert "nothing to do" in run(tmp_path, server, "annotate", "--remove").stdout


def test_several_projects_are_annotated_as_one_history(langsmith: LangSmithServer, tmp_path: Path) -> None:
    langsmith.projects["my-other"] = "0c0c0c0c-0000-4000-8000-000000000002"
    several = [
        "import",
        "langsmith",
        "--project",
        "my-*",
        "--since",
        "2026-08-31",
        "--until",
        "2026-10-10",
        "--annotate",
    ]
    done = run(tmp_path, langsmith, *several)
    assert done.exit_code == 0, done.output
    assert "Annotations: 42 written." in done.stderr
    assert len(held(langsmith)) == 42


def test_an_import_without_it_sends_nothing(server: Any, tmp_path: Path) -> None:
    assert run(tmp_path, server, *imports(server)).exit_code == 0
    assert held(server) == {}


@pytest.mark.parametrize(
    ("args", "env", "code", "says"),
    [
        (["annotate", "7"], {}, 2, "no history 7"),
        (["annotate", "--rule", "tool_lop"], {}, 2, "no rule tool_lop"),
        (["annotate", "--remove", "--min-usd", "1"], {}, 2, "--rule only"),
        (["annotate"], {"LANGSMITH_API_KEY": None}, 2, "set LANGSMITH_API_KEY"),
        (["annotate"], {"LANGSMITH_API_KEY": "wrong_key_0123456789"}, 3, "LANGSMITH_API_KEY"),
        (["annotate", "--endpoint", "https://eu.example"], {}, 2, "set LANGSMITH_ENDPOINT"),
        (["backfill"], {}, 2, "--project"),
        (["backfill", "-p", "", "--endpoint", "https://cloud.example"], {}, 2, "--project: which one?"),
        (["backfill", "-p", "shop"], {}, 2, "TOKEN_SENTINEL_ENDPOINT"),
        (["backfill", "-p", "shop", "--endpoint", "https://cloud.example"], {}, 2, "set TOKEN_SENTINEL_API_KEY"),
        (["backfill", "-p", "shop", "--endpoint", "cloud"], {"TOKEN_SENTINEL_API_KEY": "x"}, 2, "https://host"),
    ],
)
def test_mistakes_are_told_clearly(
    langsmith: LangSmithServer, tmp_path: Path, args: list[str], env: dict[str, str | None], code: int, says: str
) -> None:
    run(tmp_path, langsmith, *imports(langsmith))
    done = run(tmp_path, langsmith, *args, **env)
    assert done.exit_code == code, done.output
    assert says in re.sub(r"[\s│]+", " ", done.stderr)
    assert "Traceback" not in done.output
    assert "wrong_key" not in done.output
    assert held(langsmith) == {}


def test_runs_of_a_file_are_annotated_where_they_are_said_to_be(langsmith: LangSmithServer, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in RUNS))
    run(tmp_path, langsmith, "import", "file", str(file))
    for args, says in (
        ([], "imported from file: say with --to langsmith or langfuse"),
        (["--to", "helicone"], "expected langsmith or langfuse"),
    ):
        done = run(tmp_path, langsmith, "annotate", *args)
        assert done.exit_code == 2
        assert says in " ".join(done.stderr.split())
    for address in ("http://[::1", "no address"):
        nowhere = run(tmp_path, langsmith, "annotate", "--to", "langsmith", "--endpoint", address)
        assert "must be like https://host" in " ".join(nowhere.stderr.split())
    by_name = langsmith.url.replace("http://127.0.0.1", "HTTP://LocalHost")  # a host is the same in capitals
    done = run(tmp_path, langsmith, "annotate", "--to", "langsmith", LANGSMITH_ENDPOINT=by_name)
    assert done.exit_code == 0, done.output
    assert len(held(langsmith)) == 42
    assert run(tmp_path, langsmith, "annotate", "--to", "langsmith", "--remove").exit_code == 0
    assert held(langsmith) == {}
    run(tmp_path, langsmith, *imports(langsmith))
    wrong = run(tmp_path, langsmith, "annotate", "--to", "langfuse")
    assert wrong.exit_code == 2
    assert "came from langsmith" in wrong.stderr


def test_what_was_written_to_one_service_is_not_taken_for_there_at_another(
    langsmith: LangSmithServer, langfuse: LangfuseServer, tmp_path: Path
) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in RUNS))
    run(tmp_path, langsmith, "import", "file", str(file))
    assert run(tmp_path, langsmith, "annotate", "--to", "langsmith").exit_code == 0
    would = run(tmp_path, langfuse, "annotate", "--to", "langfuse", "--dry-run", "--json")
    assert json.loads(would.stdout)["written"] == 42
    elsewhere = run(tmp_path, langfuse, "annotate", "--to", "langfuse")
    assert "does not know the trace" in elsewhere.stderr
    assert run(tmp_path, langfuse, "annotate", "--to", "langfuse", "--remove").exit_code == 0
    assert len(held(langsmith)) == 42
    assert run(tmp_path, langsmith, "annotate", "--to", "langsmith", "--remove").exit_code == 0
    assert held(langsmith) == {}


def test_a_history_that_no_service_has_cannot_be_annotated(langsmith: LangSmithServer, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.open_history("helicone", "api.helicone.ai/1a2b", {}, "", {}, 0.0)
    ledger.close()
    for args in ([], ["--to", "langsmith"]):
        done = run(tmp_path, langsmith, "annotate", *args)
        assert done.exit_code == 2
        assert "imported from helicone, which takes no annotations" in " ".join(done.stderr.split())
    assert langsmith.requests == []


@pytest.mark.parametrize("v2", [True, False])
def test_an_export_of_langfuse_is_annotated_in_its_project_and_no_other(tmp_path: Path, v2: bool) -> None:
    pytest.importorskip("duckdb")
    export = Path(__file__).parent.parent / "data" / "langfuse_export" / "enriched"
    with serving(LangfuseServer()) as server:
        assert run(tmp_path, server, "import", "parquet", str(export)).exit_code == 0
        server.history.v2, server.history.rows = v2, []
        other = run(tmp_path, server, "annotate", "--to", "langfuse")
        assert other.exit_code == 1
        assert "does not know the trace" in other.stderr
        assert held(server) == {}
        server.history.rows = HISTORY
        done = run(tmp_path, server, "annotate", "--to", "langfuse", "--json")
        assert done.exit_code == 0, done.output
        counts = json.loads(done.stdout)
        known = {row["id"] for row in HISTORY}
        assert len(held(server)) == counts["written"] + counts["updated"] == 8
        assert {score["observationId"] for score in held(server).values()} <= known


def test_gone_runs_are_named_and_refusals_end_with_1(langsmith: LangSmithServer, tmp_path: Path) -> None:
    run(tmp_path, langsmith, *imports(langsmith))
    tool = next(r["id"] for r in RUNS if r["run_type"] == "tool")
    every = {r["id"] for r in RUNS if r["run_type"] == "tool"}
    langsmith.gone = every
    done = run(tmp_path, langsmith, "annotate")
    assert done.exit_code == 0
    assert "42 skipped: it is no longer there" in done.stderr
    assert "and 32 more" in done.stderr
    langsmith.gone.clear()
    langsmith.projects = {"my-agent": str(tool)}
    lost = run(tmp_path, langsmith, "annotate")
    assert lost.exit_code == 1
    assert "no longer has the project" in " ".join(lost.stderr.split())


@pytest.mark.parametrize("what", ["annotate", "import", "remove"])
def test_killed_in_the_middle_it_goes_on_with_the_same_result(server: Any, tmp_path: Path, what: str) -> None:
    if isinstance(server, LangfuseServer):
        server.lists = False  # one request each: something to be in the middle of
    assert run(tmp_path, server, *imports(server, "--annotate")).exit_code == 0
    whole = held(server)
    assert len(whole) == 42
    if what != "remove":
        assert run(tmp_path, server, "annotate", "--remove").exit_code == 0
        assert held(server) == {}
    args = {"annotate": ["annotate"], "import": imports(server, "--annotate"), "remove": ["annotate", "--remove"]}[what]
    for further in (5, 9, 13):
        server.requests.clear()
        server.faults.reached.clear()
        server.faults.stop_after = further
        process = start(tmp_path, server, *args)
        assert server.faults.reached.wait(30)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    server.faults.stop_after = None
    assert 0 < len(held(server)) < 42
    if what == "import":  # killed and then taken back: nothing may be left
        assert run(tmp_path, server, "annotate", "--remove").exit_code == 0
        assert held(server) == {}
    process = start(tmp_path, server, *args)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert held(server) == ({} if what == "remove" else whole)


def test_a_removal_that_was_killed_is_written_anew(server: Any, tmp_path: Path) -> None:
    assert run(tmp_path, server, *imports(server, "--annotate")).exit_code == 0
    whole = held(server)
    server.requests.clear()
    server.faults.reached.clear()
    server.faults.stop_after = 9
    process = start(tmp_path, server, "annotate", "--remove")
    assert server.faults.reached.wait(30)
    process.kill()
    process.communicate()
    server.faults.stop_after = None
    assert 0 < len(held(server)) < len(whole)
    assert run(tmp_path, server, "annotate").exit_code == 0
    assert held(server) == whole
    again = run(tmp_path, server, "annotate", "--json")
    assert json.loads(again.stdout)["unchanged"] == len(whole)


def test_a_killed_backfill_goes_on_with_the_same_result(cloud: CloudServer, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in agent_rows(700, seed=5)))
    assert run(tmp_path, cloud, "import", "file", str(file)).exit_code == 0
    dry = run(tmp_path, cloud, "backfill", "-p", "shop", "--dry-run", TOKEN_SENTINEL_API_KEY=None)
    assert "234 events would be sent in 3 requests." in dry.stdout
    for stop_after in (1, 1):
        cloud.requests.clear()
        cloud.faults.reached.clear()
        cloud.faults.stop_after = stop_after
        process = start(tmp_path, cloud, "backfill", "-p", "shop")
        assert cloud.faults.reached.wait(30)
        process.kill()
        process.communicate()
    cloud.faults.stop_after = None
    assert len(cloud.events) == 200
    done = run(tmp_path, cloud, "backfill", "-p", "shop", "--json")
    assert done.exit_code == 0, done.output
    assert len(cloud.events) == 234
    assert json.loads(done.stdout)["known"] == 200
    cloud.rejects = {"tool_loop"}
    rejected = run(tmp_path, cloud, "backfill", "-p", "shop", "--all")
    assert rejected.exit_code == 1
    assert "234 rejected" in rejected.stdout
    assert "234 events were rejected" in rejected.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_while_waiting_it_ends_at_once_and_says_how_to_go_on(
    langsmith: LangSmithServer, tmp_path: Path, how: signal.Signals
) -> None:
    run(tmp_path, langsmith, *imports(langsmith))
    langsmith.faults.queue = ["rate_date"] * 100  # half a minute each
    process = start(tmp_path, langsmith, "annotate")
    deadline = time.monotonic() + 20
    while len(langsmith.faults.queue) > 97 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(how)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + how
    assert "Waiting" in err
    assert "annotate --remove" in " ".join(err.split())
    assert "Traceback" not in err


def test_interrupted_while_a_server_is_silent_it_ends_at_once(langsmith: LangSmithServer, tmp_path: Path) -> None:
    run(tmp_path, langsmith, *imports(langsmith))
    langsmith.faults.stop_after = 5
    process = start(tmp_path, langsmith, "annotate")
    assert langsmith.faults.reached.wait(30)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert "What was sent is recorded" in err
    langsmith.faults.stop_after = None
    assert run(tmp_path, langsmith, "annotate").exit_code == 0
    assert len(held(langsmith)) == 42


def test_nohup_keeps_it_from_ending_with_its_terminal(langsmith: LangSmithServer, tmp_path: Path) -> None:
    run(tmp_path, langsmith, *imports(langsmith))
    langsmith.faults.stop_after = 5
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as it is handed on to whatever nohup starts
    try:
        process = start(tmp_path, langsmith, "annotate")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert langsmith.faults.reached.wait(30)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.kill()
    process.communicate()


class SilentServer(LangSmithServer):
    """Knows its projects, and never says what is in them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked, self.ended = threading.Event(), threading.Event()

    def answer(self, request: Any) -> Any:
        if "runs/query" in request.path:
            self.asked.set()
            self.ended.wait(60)
        return super().answer(request)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_an_import_that_is_terminated_does_not_wait_for_a_silent_server(tmp_path: Path, how: signal.Signals) -> None:
    with serving(SilentServer(list(RUNS))) as server:
        process = start(tmp_path, server, *imports(server))
        try:
            assert server.asked.wait(30)
            time.sleep(0.3)
            began = time.monotonic()
            process.send_signal(how)
            _, err = process.communicate(timeout=30)
            assert time.monotonic() - began < 5
        finally:
            server.ended.set()
    assert process.returncode == 128 + how
    assert "What is done is kept" in err
    assert "Traceback" not in err


def test_an_import_interrupted_twice_does_not_wait_for_a_silent_server(tmp_path: Path) -> None:
    with serving(SilentServer(list(RUNS))) as server:
        process = start(tmp_path, server, *imports(server))
        try:
            assert server.asked.wait(30)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
            assert time.monotonic() - began < 5
        finally:
            server.ended.set()
            process.kill()
    assert process.returncode == 130
    assert "Ctrl-C again" in err
    assert "Interrupted." in err


# --- keys -------------------------------------------------------------------------------------------


def test_no_key_shows_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not in logs of any logger, output, errors, the ledger's bytes; also when the server quotes it."""
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, name)
    said = ""
    with serving(LangSmithServer(list(RUNS))) as smith, serving(LangfuseServer()) as fuse, serving(CloudServer()) as to:
        for server in (smith, fuse):
            server.faults.queue = ["rate_seconds", "bad_gateway", "lost"]
            said += run(tmp_path, server, *imports(server, "--annotate")).output
            said += run(tmp_path, server, "annotate", "--remove").output
            said += run(tmp_path, to, "backfill", "-p", "shop").output
        smith.key, fuse.auth = "another", "another"  # keys revoked: the servers quote them in their refusals
        for server in (smith, fuse):
            history = "1" if server is smith else "2"
            refused = run(tmp_path, server, "annotate", history)
            assert refused.exit_code == 3
            said += refused.output + repr(refused.exception)
    assert run(tmp_path, to, "backfill", "-p", "shop").exit_code == 0  # all there: a dead cloud is not asked
    shown = said + caplog.text + "".join(repr(vars(r)) for r in caplog.records)
    assert "HTTP Request" in shown, "loggers were on"
    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    for secret in SECRETS:
        assert secret not in shown
        assert secret.encode() not in stored


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_no_key_shows_in_the_process_list(langsmith: LangSmithServer, tmp_path: Path) -> None:
    langsmith.faults.stop_after = 3
    process = start(tmp_path, langsmith, *imports(langsmith, "--annotate"))
    try:
        assert langsmith.faults.reached.wait(30)
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"langsmith" in shown
        assert KEY.encode() not in shown
    finally:
        process.kill()
        out, err = process.communicate()
    assert KEY not in out + err


def test_a_ledger_of_before_still_opens(langsmith: LangSmithServer, tmp_path: Path) -> None:
    run(tmp_path, langsmith, *imports(langsmith))
    book = Ledger(tmp_path / "ledger.sqlite")
    with book.engine.connect() as db:
        names = [r[0] for r in db.exec_driver_sql("select name from sqlite_master where type = 'table'")]
    assert "annotations" not in names, "an import alone makes no table"
    assert run(tmp_path, langsmith, "annotate").exit_code == 0
    assert len(Ledger(tmp_path / "ledger.sqlite").histories()) == 1
