"""An import that is killed or interrupted, at any moment and however often, ends with the same ledger."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from importers.fake_langsmith import KEY, FakeLangSmith, agent_rows, serve

from ts_langchain.ledger import Ledger, _meta
from ts_langchain.report.summary import summarise

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-c", "from ts_langchain.cli import main; main()"]
TABLES = _meta.tables
WHEN_AND_HOW_FAR = {"updated_at", "position", "replay"}


def start(ledger: Path | str, *args: str, **env: str) -> subprocess.Popen[str]:
    full = {**os.environ, "TS_LANGCHAIN_LEDGER": str(ledger), "COLUMNS": "120", **env}
    return subprocess.Popen([*COMMAND, *args], env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(path: Path | str) -> dict[str, Any]:
    """All that the ledger holds, but when it was written, how far it came, and what is packed.

    Packed sessions are what later imports go on with; they are not compared byte by byte.
    """
    ledger = Ledger(path)
    held: dict[str, Any] = {}
    with ledger.engine.connect() as db:
        for table in ("histories", "seen", "sessions", "incidents", "spend", "skipped"):
            rows = [dict(row) for row in db.execute(sa.select(TABLES[table])).mappings()]
            dropped = WHEN_AND_HOW_FAR | ({"state"} if table == "sessions" else set())
            held[table] = sorted(repr(sorted((k, v) for k, v in row.items() if k not in dropped)) for row in rows)
    [history] = ledger.histories()
    held["calls"] = [call._replace(arguments=None, answer_text=None) for call in ledger.calls(history)]
    held["report"] = summarise(ledger, history).as_dict()
    ledger.close()
    return held


def twenty_thousand(folder: Path) -> Path:
    rows = agent_rows(2_223, seed=3)[:20_000]
    assert len(rows) == 20_000
    path = folder / "runs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    path = str(twenty_thousand(tmp_path))
    begin = time.monotonic()
    assert start(tmp_path / "whole.sqlite", "import", "file", path).wait() == 0
    took = time.monotonic() - begin
    whole, pieces = contents(tmp_path / "whole.sqlite"), tmp_path / "pieces.sqlite"
    chance, killed = random.Random(20), 0
    while killed < 20:
        process = start(pieces, "import", "file", path)
        time.sleep(took * chance.uniform(0.1, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if process.returncode == 0:  # it came to its end before the twentieth: once more from the beginning
            assert contents(pieces) == whole
            pieces = tmp_path / f"pieces-{killed}.sqlite"
    process = start(pieces, "import", "file", path)
    told = process.communicate()[1]
    assert process.returncode == 0, told
    assert contents(pieces) == whole


@pytest.mark.parametrize(
    ("how", "since"),
    [
        (signal.SIGKILL, "2026-09-01"),
        (signal.SIGINT, "2026-09-01"),
        (signal.SIGINT, "last"),
        (signal.SIGTERM, "2026-09-01"),
    ],
)
def test_an_import_from_a_service(tmp_path: Path, how: signal.Signals, since: str) -> None:
    with serve(FakeLangSmith(agent_rows(300, seed=3))) as fake:
        env = {"LANGSMITH_API_KEY": KEY, "LANGSMITH_ENDPOINT": fake.url}
        base = ("import", "langsmith", "--project", "my-agent", "--until", "2026-09-30")
        begin = time.monotonic()
        assert start(tmp_path / "whole.sqlite", *base, "--since", "2026-09-01", **env).wait() == 0
        took = time.monotonic() - begin
        args = (*base, "--since", "2026-09-01")
        ledger, chance, interrupted = tmp_path / "pieces.sqlite", random.Random(4), 0
        while interrupted < 3:
            process = start(ledger, *args, **env)
            time.sleep(took * chance.uniform(0.4, 0.8))
            process.send_signal(how)
            process.communicate()
            assert process.returncode in (0, 128 + how, -how)
            interrupted += process.returncode != 0
            if process.returncode == 0:  # it was faster: once more from the beginning
                ledger = tmp_path / f"pieces-{random.getrandbits(32)}.sqlite"
        process = start(ledger, *base, "--since", since, **env)
        told = process.communicate()[1]
        assert process.returncode == 0, told
    pieces, whole = contents(ledger), contents(tmp_path / "whole.sqlite")
    if since == "last":  # the range that was read last is named, and rows in it that are no calls are counted
        for held in (pieces, whole):
            del held["histories"], held["report"]["rows"]["no_calls"]
    assert pieces == whole


AT = {
    "while it loads": "from ts_langchain.cli import main; sys.meta_path.insert(0, Loading())",
    "before the command": "from ts_langchain.cli import main, app; app.app = end",
    "after the command": "from ts_langchain.cli import main, app; app.out.file.flush = end",
}


@pytest.mark.parametrize("moment", AT)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_tells_the_signal_whenever_it_comes(tmp_path: Path, moment: str, how: signal.Signals) -> None:
    program = (
        "import os, sys\n"
        f"def end(*_, sent=[]): sent or (sent.append(1), os.kill(os.getpid(), {int(how)}))\n"
        "class Loading:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'ts_langchain.cli.report': end()\n"
        f"{AT[moment]}\nmain()"
    )
    env = {**os.environ, "TS_LANGCHAIN_LEDGER": str(tmp_path / "none.sqlite")}
    ended = subprocess.run(
        [sys.executable, "-c", program, "rules"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 128 + how, ended.stderr
    assert "Traceback" not in ended.stderr
