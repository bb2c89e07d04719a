"""Bulk exports: LangSmith's documented columns and folders, written by DuckDB; Langfuse's, written by ClickHouse."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importers.export_history import HISTORY
from importers.fake_langsmith import agent_rows
from importers.test_rows import odd
from typer.testing import CliRunner

from ts_importers.base import Importer, Skipped
from ts_importers.files import FileImporter
from ts_importers.langfuse_rows import run_from_observation
from ts_importers.langsmith_rows import run_from_row
from ts_importers.parquet import ParquetImporter
from ts_importers.parquet_tables import LANGSMITH
from ts_langchain.cli.app import app
from ts_langchain.errors import ConfigurationError, SourceUnavailable, UnreadableSource
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Run
from ts_langchain.report.summary import summarise

duckdb = pytest.importorskip("duckdb")

ROWS = sorted(agent_rows(30), key=lambda r: (r["start_time"], r["id"]))
COLUMNS = {
    "id": "VARCHAR", "tenant_id": "VARCHAR", "session_id": "VARCHAR", "trace_id": "VARCHAR", "parent_run_id": "VARCHAR",
    "parent_run_ids": "VARCHAR[]", "name": "VARCHAR", "run_type": "VARCHAR", "start_time": "TIMESTAMPTZ",
    "end_time": "TIMESTAMPTZ", "status": "VARCHAR", "is_root": "BOOLEAN", "dotted_order": "VARCHAR",
    "inputs": "VARCHAR", "outputs": "VARCHAR", "error": "VARCHAR", "extra": "VARCHAR", "events": "VARCHAR",
    "tags": "VARCHAR[]", "feedback_stats": "VARCHAR", "total_tokens": "BIGINT", "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT", "total_cost": "DECIMAL(18,10)", "prompt_cost": "DECIMAL(18,10)",
    "completion_cost": "DECIMAL(18,10)", "first_token_time": "TIMESTAMPTZ",
}  # fmt: skip


def export(folder: Path, rows: list[dict[str, Any]], columns: dict[str, str] | None = None, *, parts: int = 2) -> Path:
    """Rows, in no order, as files in the folders of a bulk export."""
    columns = columns or COLUMNS
    place = folder / "export_id=e" / "tenant_id=t" / "session_id=project-1" / "runs" / "year=2026" / "month=9" / "day=1"
    place.mkdir(parents=True)
    mixed = sorted(rows, key=lambda r: str(r["id"])[::-1])
    for part in range(parts):
        source = folder / f"{part}.jsonl"
        plain = [
            {n: json.dumps(v) if columns[n] == "VARCHAR" and isinstance(v, (dict, list)) else v
             for n, v in {"session_id": "project-1", **row}.items() if n in columns}
            for row in mixed[part::parts]
        ]  # fmt: skip
        source.write_text("".join(json.dumps(r) + "\n" for r in plain))
        kinds = ", ".join(f"'{n}': '{k}'" for n, k in columns.items())
        duckdb.connect().execute(
            f"COPY (SELECT * FROM read_json('{source}', format='newline_delimited', columns={{{kinds}}}))"  # noqa: S608
            f" TO '{place}/{part}.parquet' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048)"
        )
        source.unlink()
    return folder


def runs(source: Any) -> list[Any]:
    return [run for page in source.pages() for run in page.runs]


def test_an_export_is_the_same_history_as_the_rows_of_the_api(tmp_path: Path) -> None:
    source = ParquetImporter(export(tmp_path / "export", ROWS))
    assert isinstance(source, Importer)
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({n: v for n, v in r.items() if n in COLUMNS}) + "\n" for r in ROWS))
    assert source.total == len(ROWS)
    assert source.notices == [f"detected: LangSmith bulk export, {len(ROWS)} rows"]
    expected = [run_from_row({n: v for n, v in row.items() if n in COLUMNS}) for row in ROWS]
    assert [
        (r.id, r.started_at, r.ended_at, r.inputs, r.outputs, r.metadata, r.usage, r.tags) for r in runs(source)
    ] == [
        (r.id, r.started_at, r.ended_at, r.inputs, r.outputs, r.metadata, r.usage, r.tags)
        for r in expected
        if r is not None and not hasattr(r, "why")
    ]
    first, second = Ledger(tmp_path / "1.sqlite"), Ledger(tmp_path / "2.sqlite")
    one = summarise(first, Import(source, first).run()).as_dict()
    two = summarise(second, Import(FileImporter(lines), second).run()).as_dict()
    for told in (one, two):
        for name in ("number", "source", "scope", "label"):
            told.pop(name, None)
    assert one == two


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_any_position_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("ts_importers.parquet.PAGE_ROWS", 11)
    monkeypatch.setattr("ts_importers.parquet.CHUNK_ROWS", chunk)
    folder = export(tmp_path / "export", ROWS)
    pages = list(ParquetImporter(folder).pages())
    assert len(pages) > 5
    assert [r.id for p in pages for r in p.runs] == [r["id"] for r in ROWS if r["run_type"] != "chain"]
    for number, page in enumerate(pages):
        position = json.loads(json.dumps(page.position))
        rest = [r.id for p in ParquetImporter(folder).pages(position) for r in p.runs]
        assert rest == [r.id for p in pages[number:] for r in p.runs]


def test_an_import_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_importers.parquet.PAGE_ROWS", 10)
    folder = export(tmp_path / "export", ROWS)
    whole, halves = Ledger(tmp_path / "whole.sqlite"), Ledger(tmp_path / "halves.sqlite")
    expected = summarise(whole, Import(ParquetImporter(folder), whole).run()).as_dict()
    first = Import(ParquetImporter(folder), halves, checkpoint_runs=20)
    history = first.run(lambda done: first.stop() if done.pages == 3 else None)
    assert not history.done
    again = Import(ParquetImporter(folder), halves)
    assert again.resumes
    assert summarise(halves, again.run()).as_dict() == expected


def test_filters_and_limit(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", ROWS)
    middle = datetime.fromisoformat(ROWS[len(ROWS) // 2]["start_time"])
    middle = middle if middle.tzinfo else middle.replace(tzinfo=UTC)
    early, late = ParquetImporter(folder, until=middle), ParquetImporter(folder, since=middle)
    assert runs(early) + runs(late) == runs(ParquetImporter(folder))
    assert runs(early)
    assert runs(late)
    limited = ParquetImporter(folder, limit=10)
    assert limited.total == 10
    assert sum(len(p.runs) + p.ignored + len(p.skipped) for p in limited.pages()) == 10
    assert len(runs(ParquetImporter(folder, project="project-1"))) == len(runs(ParquetImporter(folder)))
    other = ParquetImporter(folder, project="other")
    assert runs(other) == []
    assert other.scope != limited.scope


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMP_NS", "VARCHAR", "BIGINT", "DOUBLE"])
def test_times_of_any_type(tmp_path: Path, kind: str) -> None:
    rows = [dict(r) for r in ROWS[:20]]
    if kind in ("BIGINT", "DOUBLE"):
        for row in rows:
            for name in ("start_time", "end_time"):
                at = datetime.fromisoformat(row[name])
                seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
                row[name] = round(seconds * 1_000_000) if kind == "BIGINT" else seconds
    found = ParquetImporter(export(tmp_path / "e", rows, {**COLUMNS, "start_time": kind, "end_time": kind}))
    expected = runs(ParquetImporter(export(tmp_path / "f", [dict(r) for r in ROWS[:20]])))
    assert [(r.id, round(r.started_at, 4)) for r in runs(found)] == [(r.id, round(r.started_at, 4)) for r in expected]


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_times_that_are_numbers_may_be_text(tmp_path: Path, unit: int) -> None:
    rows = [dict(r) for r in ROWS[:20]]
    for row in rows:
        for name in ("start_time", "end_time"):
            row[name] = str(datetime.fromisoformat(row[name]).timestamp() * unit)
    found = ParquetImporter(export(tmp_path / "e", rows, {**COLUMNS, "start_time": "VARCHAR", "end_time": "VARCHAR"}))
    expected = runs(ParquetImporter(export(tmp_path / "f", [dict(r) for r in ROWS[:20]])))
    assert [(r.id, round(r.started_at, 3)) for r in runs(found)] == [(r.id, round(r.started_at, 3)) for r in expected]


def test_nested_columns_and_missing_ones(tmp_path: Path) -> None:
    few = {n: COLUMNS[n] for n in ("id", "name", "run_type", "start_time", "end_time", "prompt_tokens", "tags")}
    source = ParquetImporter(export(tmp_path / "few", ROWS[:20], few))
    assert len(runs(source)) == len([r for r in ROWS[:20] if r["run_type"] != "chain"])
    assert "no inputs, outputs, extra" in source.notices[-1]
    as_json = {**COLUMNS, "inputs": "JSON", "outputs": "JSON", "extra": "JSON"}
    assert runs(ParquetImporter(export(tmp_path / "json", ROWS, as_json))) == runs(
        ParquetImporter(export(tmp_path / "text", ROWS))
    )


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    bad = [
        {**ROWS[1], "id": "no-time", "start_time": None},
        {**ROWS[1], "id": None},
        {**ROWS[1], "id": "no-type", "run_type": None},
        {**ROWS[1], "id": "no-end", "end_time": None, "outputs": None, "error": None, "run_type": "llm"},
    ]
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(ParquetImporter(export(tmp_path / "e", [*ROWS, *bad], parts=1)), ledger).run()
    reasons = dict(ledger.skipped(history))
    assert history.skipped == 4
    assert reasons["no-time"] == "no start_time"
    assert reasons["no-type"] == "no run_type"
    assert reasons["no-end"] == "still running"
    [nameless] = [where for where in reasons if "parquet, row" in where]
    assert reasons[nameless] == "no id"


def test_wrong_files_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource, match="No files found"):
        ParquetImporter(tmp_path)
    (tmp_path / "a.parquet").write_text("this is no Parquet")
    with pytest.raises(UnreadableSource, match="cannot be read as Parquet"):
        ParquetImporter(tmp_path)
    duckdb.connect().execute(f"COPY (SELECT 1 AS x, 2 AS y) TO '{tmp_path}/a.parquet'")
    with pytest.raises(
        UnreadableSource, match=r"there are the columns x, y\. Expected is a LangSmith bulk export \(id, run_"
    ):
        ParquetImporter(tmp_path / "a.parquet")


def test_files_that_were_not_copied_to_their_end_are_left_out(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", ROWS, parts=4)
    one, other, *rest = sorted(folder.rglob("*.parquet"))
    one.write_bytes(one.read_bytes()[:-100])
    other.write_bytes(b"")
    source = ParquetImporter(folder)
    names = [file.relative_to(folder).as_posix() for file in (one, other)]
    assert any(n.startswith(f"left out: {', '.join(names)}: cut off, or no Parquet; once") for n in source.notices)
    assert [s for page in source.pages() for s in page.skipped] == [Skipped(n, "cut off, or no Parquet") for n in names]
    first, *others = source.pages()
    assert not [s for page in source.pages(first.position) for s in page.skipped]
    assert not [s for page in others for s in page.skipped]
    for file in (one, other):
        file.unlink()
    found = [run.id for run in runs(source)]
    assert found == [run.id for run in runs(ParquetImporter(folder))]
    assert 0 < len(found) < len(ROWS)
    for file in rest:
        file.write_bytes(b"PAR1PAR1")
    one.write_bytes(b"rubbish")
    with pytest.raises(UnreadableSource, match="cannot be read as Parquet"):
        ParquetImporter(folder)


def test_a_broken_file_of_what_is_not_read_is_no_loss(tmp_path: Path) -> None:
    shutil.copytree(LANGFUSE / "enriched", tmp_path / "export")
    place = tmp_path / "export" / "scores"
    place.mkdir(parents=True, exist_ok=True)
    (place / "part.parquet").write_bytes(b"PAR1 and half of it")
    source = ParquetImporter(tmp_path / "export")
    assert not any("cut off" in notice for notice in source.notices)
    assert not [s for page in source.pages() for s in page.skipped]


def test_without_duckdb_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'ts-langchain\[parquet\]'"):
        ParquetImporter(tmp_path)


def test_an_object_store_without_its_extension_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, with an empty home: nothing is installed, and nowhere to fetch it from."""
    code = (
        "import duckdb\n"
        "from ts_importers import parquet\n"
        "connect = duckdb.connect\n"
        "def offline(**kw):\n"
        "    db = connect(**kw)\n"
        "    db.execute(\"SET custom_extension_repository = 'http://127.0.0.1:9/none'\")\n"
        "    return db\n"
        "duckdb.connect = offline\n"
        "parquet.ParquetImporter('s3://bucket/export')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert SourceUnavailable.__name__ in done.stderr
    assert "httpfs" in done.stderr
    assert "copy the export to a folder" in done.stderr


def test_command(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", ROWS)
    env = {"TS_LANGCHAIN_LEDGER": str(tmp_path / "l.sqlite")}
    done = CliRunner().invoke(app, ["import", "parquet", str(folder), "--since", "2020-01-01", "--json"], env=env)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rules"]
    assert "detected: LangSmith bulk export" in done.stderr
    failed = CliRunner().invoke(app, ["import", "parquet", str(tmp_path / "none")], env=env)
    assert failed.exit_code == 1
    assert "cannot be read" in failed.stderr


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["id", "inputs", "outputs", "extra", "tags", "parent_run_ids", "error", "name"]), st.text() | odd
)
def test_one_column_of_any_value(name: str, value: Any) -> None:
    row = {"id": "r", "run_type": "llm", "start_us": 1, "end_us": 2, "inputs": "{}", "outputs": '{"message": {}}'}
    LANGSMITH.read({**row, name: value})


LANGFUSE = Path(__file__).parent.parent / "data" / "langfuse_export"


def exported() -> list[Run]:
    """What the recorded exports of Langfuse hold, as its API tells it."""
    rows = ({**row, "userId": "ada", "tags": ["exported"]} for row in HISTORY)
    found = [run for row in rows if isinstance(run := run_from_observation(row), Run)]
    return sorted(found, key=lambda run: (run.started_at, run.id))


@pytest.mark.parametrize("folder", ["enriched", "enriched/observations_v2", "legacy"])
def test_langfuses_exports_are_the_same_history_as_its_api(folder: str) -> None:
    source = ParquetImporter(LANGFUSE / folder)
    assert source.notices == ["detected: Langfuse blob storage export, 46 rows"]
    assert runs(source) == exported()
    assert [page.ignored for page in source.pages()] == [1]


def test_langfuses_older_export_without_its_traces() -> None:
    source = ParquetImporter(LANGFUSE / "legacy" / "observations")
    assert "names no sessions" in source.notices[1]
    assert [(r.id, r.thread_id, r.usage) for r in runs(source)] == [(r.id, None, r.usage) for r in exported()]


def test_langfuses_older_export_with_less_about_its_traces(tmp_path: Path) -> None:
    shutil.copytree(LANGFUSE / "legacy" / "observations", tmp_path / "observations")
    [traces] = (LANGFUSE / "legacy" / "traces").glob("*.parquet")
    (tmp_path / "traces").mkdir()
    duckdb.connect().execute(
        f"COPY (SELECT id, session_id, CAST(to_json(tags) AS VARCHAR) AS tags FROM '{traces}')"  # noqa: S608
        f" TO '{tmp_path}/traces/a.parquet'"
    )
    assert [(r.id, r.thread_id, r.tags) for r in runs(ParquetImporter(tmp_path))] == [
        (r.id, r.thread_id, r.tags) for r in exported()
    ]


def test_both_of_langfuses_exports_in_one_folder(tmp_path: Path) -> None:
    for part in ("enriched", "legacy"):
        shutil.copytree(LANGFUSE / part, tmp_path / "prefix" / "project", dirs_exist_ok=True)
    assert runs(ParquetImporter(tmp_path)) == exported()
    with pytest.raises(UnreadableSource, match="holds nothing that is known"):
        ParquetImporter(LANGFUSE / "enriched" / "scores")


def test_a_project_with_an_older_export_only_is_named(tmp_path: Path) -> None:
    shutil.copytree(LANGFUSE / "enriched", tmp_path / "one")
    shutil.copytree(LANGFUSE / "legacy", tmp_path / "one", dirs_exist_ok=True)
    assert len(ParquetImporter(tmp_path).notices) == 1
    shutil.copytree(LANGFUSE / "legacy", tmp_path / "two")
    source = ParquetImporter(tmp_path)
    assert source.notices[1] == "left out: two/observations: older exports beside newer ones; import each by itself"
    assert runs(source) == exported()


def test_fields_that_were_left_out_of_an_export_are_named(tmp_path: Path) -> None:
    [whole] = (LANGFUSE / "enriched" / "observations_v2").glob("*.parquet")
    duckdb.connect().execute(
        f"COPY (SELECT id, trace_id, project_id, type, parent_observation_id, start_time, end_time, name, level"  # noqa: S608
        f" FROM '{whole}') TO '{tmp_path}/a.parquet'"
    )
    source = ParquetImporter(tmp_path)
    assert source.notices[-1] == (
        "the export has no input, output, metadata, provided_model_name, usage_details: what needs them is not found "
        "(see its field groups)"
    )
    assert [run.id for run in runs(source)] == [run.id for run in exported()]
    assert not runs(ParquetImporter(tmp_path, project="another"))


def test_going_on_after_what_the_ledger_has(tmp_path: Path) -> None:
    """Files that an hourly export adds are imported, and nothing is counted twice."""
    env = {"TS_LANGCHAIN_LEDGER": str(tmp_path / "l.sqlite")}
    half = len(ROWS) // 2
    folder = export(tmp_path / "export", ROWS[:half])
    command = ["import", "parquet", str(folder), "--since", "last", "--json"]
    first = CliRunner().invoke(app, command, env=env)
    assert "Nothing of this history has been imported yet: all of it is." in first.stderr
    export(tmp_path / "more", ROWS[half:])
    [name] = {path.parent for path in (tmp_path / "more").rglob("*.parquet")}
    shutil.copytree(name, folder / "later")
    second = CliRunner().invoke(app, command, env=env)
    assert "detected" in second.stderr
    whole = CliRunner().invoke(app, [*command[:3], "--json"], env={"TS_LANGCHAIN_LEDGER": str(tmp_path / "w.sqlite")})
    found, expected = json.loads(second.stdout), json.loads(whole.stdout)
    assert found["calls"] > json.loads(first.stdout)["calls"]
    assert {**found, "rows": None} == {**expected, "rows": None}


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "290000-01-01T00:00:00Z"])
def test_rows_from_before_1970_and_beyond_the_calendar_are_named(at: str, tmp_path: Path) -> None:
    calls = [row for row in ROWS if row["run_type"] == "llm"][:3]
    odd = {**calls[1], "start_time": at}  # the first as Go writes a time that is not set
    pages = list(ParquetImporter(export(tmp_path / "export", [calls[0], odd, calls[2]])).pages())
    assert [run.id for page in pages for run in page.runs] == [calls[0]["id"], calls[2]["id"]]
    assert [(row.where, row.why) for page in pages for row in page.skipped] == [(odd["id"], "no start_time")]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_ctrl_c_in_the_middle_of_a_query_is_one(tmp_path: Path) -> None:
    source = ParquetImporter(export(tmp_path / "export", ROWS[:3]))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):  # of a query that would not end by itself
            source._query("SELECT sum(range) FROM range(1000000000000000)")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_names_of_columns_and_files_are_free(tmp_path: Path) -> None:
    names = ("filename", "minute", "rows", "chunk", "start_us", "end_us", "number", "size")
    rows = [{**r, **dict.fromkeys(names, "x")} for r in ROWS]
    plain = runs(ParquetImporter(export(tmp_path / "plain", ROWS)))
    folder = export(tmp_path / "other [a]", rows, {**COLUMNS, **dict.fromkeys(names, "VARCHAR")})
    (folder / "._0.parquet").write_bytes(b"left behind by copying")
    (folder / "notes.txt").write_text("about them")
    assert runs(ParquetImporter(folder)) == plain
    assert runs(ParquetImporter(f"{tmp_path}/plain/**/*.parquet")) == plain
