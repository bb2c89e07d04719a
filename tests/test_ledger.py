"""The ledger: which databases it opens, what it says of those it does not, and what it keeps whatever happens."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from importers.fake_langsmith import agent_rows
from typer.testing import CliRunner

from ts_importers.files import FileImporter
from ts_langchain.cli.app import app
from ts_langchain.errors import ConfigurationError, LedgerError, SourceUnavailable
from ts_langchain.history import Import
from ts_langchain.incident import Incident
from ts_langchain.ledger import SCHEMA, UNNAMED, Batch, Ledger
from ts_langchain.report.summary import summarise
from ts_langchain.stored import dump_state

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in agent_rows(20)))
    return path


def test_a_ledger_opens_again(address: str) -> None:
    Ledger(address).close()
    again = Ledger(address)
    assert again.histories() == []
    again.close()


@pytest.mark.parametrize("version", [SCHEMA - 1, SCHEMA + 1])
def test_a_ledger_of_another_version_is_left_as_it_is(tmp_path: Path, version: int) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE schema (version INTEGER PRIMARY KEY)")
        db.execute("INSERT INTO schema VALUES (?)", (version,))
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"schema {version}, not {SCHEMA}.*--ledger"):
        Ledger(path)
    assert path.read_bytes() == before
    result = CliRunner().invoke(app, ["report", "--ledger", str(path)])
    assert result.exit_code == 1
    assert "TS_LANGCHAIN_LEDGER" in " ".join(result.stderr.split())


def test_a_file_that_is_no_ledger_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("My notes. " * 100)
    with pytest.raises(LedgerError, match="could not be opened"):
        Ledger(path)
    assert path.read_text() == "My notes. " * 100


@pytest.mark.parametrize("table", ["orders (id)", "sessions (id, customer)", "schema (name, version)"])
def test_another_programs_database_is_left_as_it_is(tmp_path: Path, table: str) -> None:
    path = tmp_path / "shop.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE {table}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"{path.name} is no ledger: it holds {table.split()[0]}"):
        Ledger(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_ledger_whose_making_was_cut_short_is_made_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    with sqlite3.connect(path) as db:  # as earlier versions could leave it
        db.execute("DROP TABLE schema")
        db.execute("DROP TABLE calls")
    db.close()
    ledger = Ledger(path)
    assert Import(FileImporter(write(tmp_path / "runs.jsonl")), ledger).run().done


def test_a_ledger_that_nobody_may_write_to_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "50% of #1?"
    ledger = Ledger(folder / "ledger.sqlite")
    history = Import(FileImporter(write(tmp_path / "runs.jsonl")), ledger).run()
    held = summarise(ledger, history).as_dict()
    ledger.close()
    # as for a folder that is read-only, also where the tests' user may write everywhere
    monkeypatch.setattr("ts_langchain.database.os.access", lambda path, _: path != folder)
    sealed = Ledger(folder / "ledger.sqlite")
    assert summarise(sealed, sealed.histories()[0]).as_dict() == held
    assert [p.name for p in folder.iterdir()] == ["ledger.sqlite"]
    with pytest.raises(LedgerError, match="readonly"):
        Import(FileImporter(write(tmp_path / "more.jsonl")), sealed).run()


@pytest.mark.skipif(sys.platform == "win32", reason="there folders of a user are that user's anyway")
def test_the_folder_of_a_ledger_is_nobody_elses(tmp_path: Path) -> None:
    """Ids of sessions and users are in it, and hashes of what may be guessed."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    Ledger(tmp_path / "made" / "for it" / "ledger.sqlite").close()
    Ledger(shared / "ledger.sqlite").close()
    assert (tmp_path / "made" / "for it").stat().st_mode & 0o777 == 0o700
    assert shared.stat().st_mode & 0o777 == 0o755  # whoever made it said who may look


def read_all(ledger: Ledger) -> None:
    for history in ledger.histories():
        list(ledger.incidents(history))
        list(ledger.calls(history))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE incidents SET incident = '{}'",
        "UPDATE incidents SET incident = substr(incident, 9)",
        "UPDATE incidents SET incident = '[1]'",
        "UPDATE histories SET label = 'x'",
        "UPDATE calls SET calls = x'00'",
        "UPDATE calls SET calls = x'789c030000000001'",
    ],
)
def test_a_ledger_that_is_damaged_says_so(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    Import(FileImporter(write(tmp_path / "runs.jsonl")), ledger).run()
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    again = Ledger(path)
    with pytest.raises(LedgerError, match=r"damaged.*--fresh|stored state cannot be read"):
        read_all(again)


def test_a_checkpoint_that_is_damaged_says_so(tmp_path: Path) -> None:
    path, runs = tmp_path / "ledger.sqlite", write(tmp_path / "runs.jsonl")
    Import(FileImporter(runs), Ledger(path)).run()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE histories SET replay = ?", (dump_state(None),))
    db.close()
    with pytest.raises(LedgerError, match=r"checkpoint .* is damaged.*--fresh"):
        Import(FileImporter(runs), Ledger(path)).run()


def test_what_cannot_be_a_ledger_is_told(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="is a directory: name a file"):
        Ledger(tmp_path)
    with pytest.raises(ConfigurationError, match="name is empty"):
        Ledger("")
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger(tmp_path / "none.sqlite", create=False)
    assert not list(tmp_path.iterdir())


def test_a_lock_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_langchain.database.PATIENCE_MS", 10)
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    assert Ledger(path).histories() == []
    with pytest.raises(LedgerError, match=r"locked\. Another program is writing to it: run this again"):
        Import(FileImporter(write(tmp_path / "runs.jsonl")), ledger)
    held.close()


def test_long_names_that_begin_alike_stay_apart(tmp_path: Path, address: str) -> None:
    rows = agent_rows(2)
    for row in rows:
        row["thread_id"] = "s" * 400 + str(row.get("thread_id") or row["trace_id"])
    path = tmp_path / f"{'n' * 230}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "rubbish\nmore of it\n")
    (tmp_path / "more.jsonl").write_text("")
    ledger = Ledger(address)
    summary = summarise(ledger, Import(FileImporter([path, tmp_path / "more.jsonl"]), ledger).run())
    assert summary.sessions == len({row["thread_id"] for row in rows}) > 1
    assert summary.skipped == {"not JSON": 2}
    assert summary.worst
    assert all(session.calls for session in summary.worst)


def test_a_wrong_setting_forgets_nothing(tmp_path: Path, address: str) -> None:
    path = write(tmp_path / "runs.jsonl")
    ledger = Ledger(address)
    history = Import(FileImporter(path), ledger).run()
    for name in ("runs.jsonl", "others.jsonl"):
        with pytest.raises(ConfigurationError, match="min_cals"):
            Import(FileImporter(write(tmp_path / name)), ledger, settings={"tool_loop.min_cals": 5}, fresh=True)
    assert ledger.histories() == [history]
    assert list(ledger.calls(history))


def test_fresh_forgets_only_for_something_new(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "runs.jsonl")
    ledger = Ledger(address)
    history = Import(FileImporter(path), ledger).run()
    held = summarise(ledger, history).as_dict()
    source = FileImporter(path)

    def down(_: Any) -> Any:
        raise SourceUnavailable("down")
        yield

    monkeypatch.setattr(source, "pages", down)
    with pytest.raises(SourceUnavailable):
        Import(source, ledger, settings={"tool_loop.min_calls": 5}, fresh=True).run()
    assert ledger.histories() == [history]
    assert summarise(ledger, history).as_dict() == held
    fresh = Import(FileImporter(path), ledger, fresh=True, checkpoint_runs=20)
    first = fresh.run(lambda _: fresh.stop())
    assert not first.done
    assert 0 < first.runs < history.runs
    assert summarise(ledger, Import(FileImporter(path), ledger).run()).as_dict() == held
    path.write_text("")
    empty = Import(FileImporter(path), ledger, fresh=True).run()
    assert (empty.id, empty.runs, empty.done) == (history.id, 0, True)
    assert ledger.histories() == [empty]
    assert not list(ledger.calls(empty))


def test_a_checkpoint_that_fails_loses_nothing(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "runs.jsonl")
    whole, locked = Ledger(tmp_path / "whole.sqlite"), Ledger(address)
    expected = summarise(whole, Import(FileImporter(path), whole).run()).as_dict()
    save, tries = locked.save, []

    def save_but_once(*args: Any, **kwargs: Any) -> None:
        tries.append(args)
        if len(tries) == 1:
            raise LedgerError("database is locked")
        save(*args, **kwargs)

    monkeypatch.setattr(locked, "save", save_but_once)
    with pytest.raises(LedgerError, match="locked"):
        Import(FileImporter(path), locked, checkpoint_runs=20).run()
    assert summarise(locked, Import(FileImporter(path), locked).run()).as_dict() == expected


@pytest.mark.parametrize("name", ["a?b.sqlite", "50%25.sqlite", "a#b.sqlite", "mode=ro&x.sqlite"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    Ledger(tmp_path / name).close()
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("://", "no SQLAlchemy URL"),
        ("nonsense://user:hunter2@host/db", "could not be opened"),
        ("sqlite+missing_driver://user:hunter2@host/db", "could not be opened"),
        ("oracle+oracledb://user:hunter2@host/db", "could not be opened"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_without_its_password(url: str, says: str) -> None:
    with pytest.raises(LedgerError, match=says) as raised:
        Ledger(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.skipif(sys.platform == "win32", reason="there a file that is open cannot be deleted")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_ledger_that_goes_away_under_an_import_is_told(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(tmp_path / "other.sqlite").close()
    source = write(tmp_path / "runs.jsonl")
    running = Import(FileImporter(source), Ledger(path), checkpoint_runs=20)

    def lose(_: Any) -> None:
        for part in tmp_path.glob("ledger.sqlite*"):
            part.unlink()
        if replaced:
            (tmp_path / "other.sqlite").rename(path)

    with pytest.raises(LedgerError, match=r"deleted or replaced meanwhile\. Run the import again"):
        running.run(lose)
    assert Import(FileImporter(source), Ledger(path)).run().done


def test_two_imports_of_one_history_at_a_time(tmp_path: Path, address: str) -> None:
    path = write(tmp_path / "runs.jsonl")
    ledger = Ledger(address)
    slow = Import(FileImporter(path), ledger)
    expected = summarise(ledger, Import(FileImporter(path), ledger).run()).as_dict()
    with pytest.raises(LedgerError, match="run this one again"):
        slow.run()
    assert summarise(ledger, Import(FileImporter(path), ledger).run()).as_dict() == expected


def test_two_ranges_of_one_history_at_a_time(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "runs.jsonl")
    ledger, whole = Ledger(address), Ledger(tmp_path / "whole.sqlite")
    expected = Import(FileImporter(path), whole).run()
    pages = list(FileImporter(path).pages())

    def part(number: int) -> Import:
        source = FileImporter(path)
        monkeypatch.setattr(source, "pages", lambda _: iter(pages[number::2]))
        return Import(source, ledger, asked={"part": number})

    first, second = part(0), part(1)
    first.run()
    with pytest.raises(LedgerError, match="run this one again"):
        second.run()
    history = part(1).run()
    assert history.runs == expected.runs
    assert list(ledger.incidents(history)) == list(whole.incidents(expected))


def test_a_model_without_a_name_is_no_tool(tmp_path: Path, address: str) -> None:
    path = tmp_path / "chat.jsonl"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]
    path.write_text(json.dumps({"messages": messages}))
    ledger = Ledger(address)
    summary = summarise(ledger, Import(FileImporter(path), ledger).run())
    assert {m.model: m.calls for m in summary.models} == {UNNAMED: 1, "": 1}


PEAK = """
import sys, tracemalloc
from ts_langchain.ledger import Ledger
from ts_langchain.report.summary import summarise
ledger = Ledger(sys.argv[1])
history = ledger.histories()[0]
summarise(ledger, history)  # what is made once is made
tracemalloc.start()
summarise(ledger, history)
print(tracemalloc.get_traced_memory()[1])
"""


def test_a_report_does_not_hold_the_incidents_of_a_history(address: str) -> None:
    def incident(number: int) -> Incident:
        found = Incident(f"i{number}", ("tool_loop", "retry_storm")[number % 2], f"s{number % 300}", number, 1e9, 1e9)
        found.wasted_nano, found.calls = number // 300, 1
        found.summary, found.call_ids = f"{number} " * 200, tuple(f"{number}-{n}" for n in range(16))
        return found

    ledger = Ledger(address)
    history = ledger.open_history("file", "x", {}, "", {}, 0.0)
    ledger.save(history, Batch(closed={f"i{n}": incident(n) for n in range(3_000)}))
    summary = summarise(ledger, history)
    assert [(r.rule, r.incidents, r.sessions, r.calls) for r in summary.rules] == [
        ("retry_storm", 1_500, 150, 1_500),
        ("tool_loop", 1_500, 150, 1_500),
    ]
    assert [s.session_id for s in summary.worst] == sorted(f"s{n}" for n in range(300))[:10]
    assert {(s.wasted_nano, *s.rules) for s in summary.worst} == {(45, "retry_storm"), (45, "tool_loop")}
    measured = subprocess.run([sys.executable, "-c", PEAK, address], stdout=subprocess.PIPE, check=True)
    assert int(measured.stdout) < 1_000_000  # the incidents themselves are ten times that
