"""`import file` with several files and a folder, and `import parquet`: killed, they go on with the same result."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from cli.test_killed import contents, start
from importers.fake_langsmith import agent_rows
from rules.talk import Talk
from rules.talk_files import genai_attributes, otlp, phoenix
from typer.testing import CliRunner

from ts_langchain.cli.app import app

if TYPE_CHECKING:
    from pathlib import Path


def talks(count: int) -> list[Talk]:
    """Sessions that loop, a few seconds apart."""
    made = []
    for number in range(count):
        talk = Talk(f"s{number}", at=number * 3).system("You research.").user(f"Which plan has SSO, {number}?")
        for _ in range(5):
            talk.ai("", ("fetch_page", {"url": f"https://example.com/{number}"}, "nothing here"))
        made.append(talk.ai("None."))
    return made


def spans(folder: Path) -> list[str]:
    """Two files of OTLP, each with every second document, and one as Phoenix exports it."""
    folder.mkdir()
    documents: list[Any] = otlp(talks(260), genai_attributes)
    for name, rows in (
        ("a.jsonl", documents[::2]),
        ("b.jsonl", documents[1::2]),
        ("c.json", phoenix([Talk().ai("Hi")])),
    ):
        (folder / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return ["import", "file", str(folder)]


def export(folder: Path) -> list[str]:
    """A bulk export, in no order."""
    duckdb = pytest.importorskip("duckdb")
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(r) + "\n" for r in agent_rows(900, seed=3)))
    duckdb.connect().execute(
        f"COPY (SELECT * REPLACE (to_json(inputs)::VARCHAR AS inputs, to_json(outputs)::VARCHAR AS outputs)"  # noqa: S608
        f" FROM read_json('{rows}', sample_size=-1) ORDER BY hash(id)) TO '{folder}/a.parquet'"
    )
    return ["import", "parquet", str(folder)]


@pytest.mark.parametrize("history", [spans, export])
def test_killed_it_goes_on_with_the_same_result(tmp_path: Path, history: Any) -> None:
    command = history(tmp_path / "history")
    begin = time.monotonic()
    assert start(tmp_path / "whole.sqlite", *command).wait() == 0
    took = time.monotonic() - begin
    for share in (0.4, 0.55, 0.7, 0.85):
        process = start(tmp_path / "pieces.sqlite", *command)
        time.sleep(took * share)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
    process = start(tmp_path / "pieces.sqlite", *command)
    process.communicate()
    assert process.returncode == 0
    whole = contents(tmp_path / "whole.sqlite")
    assert whole["incidents"]
    assert contents(tmp_path / "pieces.sqlite") == whole


def test_what_was_detected_is_told(tmp_path: Path) -> None:
    command = spans(tmp_path / "history")
    files = sorted(str(p) for p in (tmp_path / "history").iterdir())
    env = {"TS_LANGCHAIN_LEDGER": str(tmp_path / "l.sqlite"), "COLUMNS": "200"}
    done = CliRunner().invoke(app, ["import", "file", *files, "--json"], env=env)
    assert done.exit_code == 0, done.output
    assert "a.jsonl, b.jsonl: detected: OpenTelemetry GenAI spans" in done.stderr
    assert "c.json: detected: OpenInference spans" in done.stderr
    told = json.loads(done.stdout)
    assert told["scope"] == f"{tmp_path / 'history'}: a.jsonl, b.jsonl, c.json"
    folder = json.loads(CliRunner().invoke(app, [*command, "--json"], env=env).stdout)
    assert folder["rules"] == told["rules"]
    assert folder["rows"] == told["rows"]
    single = CliRunner().invoke(app, ["import", "file", files[0], "--format", "otlp", "--json"], env=env)
    assert json.loads(single.stdout)["scope"] == files[0]
