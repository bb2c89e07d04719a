"""A ledger on a real PostgreSQL: killed, cut off, shared, refused, and given what a server does not take."""

from __future__ import annotations

import json
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from cli.test_killed import contents, start, twenty_thousand
from importers.fake_langsmith import agent_rows
from servers.postgres import IN_AN_ADDRESS, PASSWORD
from typer.testing import CliRunner

from ts_importers.files import FileImporter
from ts_langchain.cli.app import app
from ts_langchain.deliver.record import Record, Written
from ts_langchain.errors import LedgerError
from ts_langchain.history import Import
from ts_langchain.ledger import SCHEMA, Ledger
from ts_langchain.report.summary import summarise

if TYPE_CHECKING:
    from pathlib import Path

    from servers.postgres import PostgresServer


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    return postgres.new_database()


def write(path: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or agent_rows(20)))
    return path


def run(*args: str) -> Any:
    return CliRunner().invoke(app, list(args), env={"TS_LANGCHAIN_LEDGER": None, "COLUMNS": "200"})


def tables(postgres: PostgresServer, database: str) -> set[str]:
    engine = sa.create_engine(postgres.address(database).replace("postgresql:", "postgresql+psycopg:"))
    found = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return found


def test_killed_and_interrupted_it_ends_as_a_file_does(postgres: PostgresServer, tmp_path: Path) -> None:
    path = str(twenty_thousand(tmp_path))
    begin = time.monotonic()
    assert start(tmp_path / "whole.sqlite", "import", "file", path).wait() == 0
    took = time.monotonic() - begin
    whole, chance, ended = contents(tmp_path / "whole.sqlite"), random.Random(7), []
    address = postgres.address(postgres.new_database())
    for how in (signal.SIGKILL, signal.SIGINT) * 3:
        process = start(address, "import", "file", path)
        time.sleep(took * chance.uniform(0.3, 0.7))
        process.send_signal(how)
        told = process.communicate()[1]
        assert process.returncode in (0, 130, -how), told
        ended.append(process.returncode)
        if process.returncode == 0:  # it was faster: once more from the beginning
            assert contents(address) == whole
            address = postgres.address(postgres.new_database())
    assert set(ended) != {0}
    process = start(address, "import", "file", path)
    told = process.communicate()[1]
    assert process.returncode == 0, told
    assert contents(address) == whole


def test_a_server_that_is_restarted(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    path = write(tmp_path / "runs.jsonl")
    whole = Ledger(tmp_path / "whole.sqlite")
    expected = summarise(whole, Import(FileImporter(path), whole).run()).as_dict()
    ledger = Ledger(postgres.address(database))

    def restart(_: Any) -> None:
        postgres.stop()
        postgres.start()

    # between two checkpoints nobody needs to know
    assert summarise(ledger, Import(FileImporter(path), ledger, checkpoint_runs=20).run(restart)).as_dict() == expected
    broken = Import(FileImporter(path), ledger, checkpoint_runs=20, fresh=True)
    try:
        with pytest.raises(LedgerError, match=r"could not be written: .*refused.*Run this again when") as raised:
            broken.run(lambda _: postgres.stop(at_once=True))
    finally:
        postgres.start()
    assert "\n" not in str(raised.value)
    assert summarise(ledger, Import(FileImporter(path), ledger).run()).as_dict() == expected


def test_a_connection_that_is_lost_within_a_checkpoint(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    path = write(tmp_path / "runs.jsonl")
    ledger = Ledger(postgres.address(database))
    importing = Import(FileImporter(path), ledger)

    def cut_off(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("INSERT INTO incidents"):
            postgres.do(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")  # noqa: S608

    sa.event.listen(ledger.engine, "before_cursor_execute", cut_off)
    with pytest.raises(LedgerError, match=r"could not be written: .*connection.*Run this again when"):
        importing.run()
    sa.event.remove(ledger.engine, "before_cursor_execute", cut_off)
    assert not list(ledger.run_keys(importing.history))
    assert Import(FileImporter(path), ledger).run().done


def test_many_make_one_ledger_at_once(postgres: PostgresServer, database: str) -> None:
    def open_and_write(number: int) -> None:
        ledger = Ledger(postgres.address(database))
        ledger.open_history("file", f"{number}", {}, "", {}, 0.0)
        Record(ledger).intend("langsmith", "x", {f"{number}": Written("tool_loop", "r", "c")})
        ledger.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_and_write, range(8)))
    ledger = Ledger(postgres.address(database))
    assert len(ledger.histories()) == len(Record(ledger).annotations("langsmith", "x")) == 8
    ledger.close()


def test_who_writes_waits_no_longer_than_for_a_file(
    postgres: PostgresServer, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(postgres.address(database))
    slow = Import(FileImporter(write(tmp_path / "runs.jsonl")), ledger)
    monkeypatch.setattr("ts_langchain.database.PATIENCE_MS", 50)
    with ledger.engine.begin() as other:
        other.execute(sa.text("SELECT 1 FROM histories FOR UPDATE"))
        assert Ledger(postgres.address(database)).histories()  # who reads does not wait
        with pytest.raises(LedgerError, match=r"lock timeout\. Another program is writing to it: run this again"):
            slow.run()
    assert Import(FileImporter(tmp_path / "runs.jsonl"), ledger).run().done


def test_names_that_a_server_does_not_take(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    rows = agent_rows(20)
    for number, row in enumerate(rows):
        row["name"] = f"{row['name']}\0"
        row["thread_id"] = ("{}\0", "{}\0\0", "\N{GRINNING FACE}" * 400 + "{}")[number % 3].format(row["trace_id"])
        row.setdefault("extra", {}).setdefault("metadata", {})["thread_id"] = row["thread_id"]
        row["extra"]["metadata"]["ls_model_name"] = ("gpt-4o\0", "m" * 500)[number % 2]
        row["total_tokens"] = row["prompt_tokens"] = 2**70
    path = write(tmp_path / "runs.jsonl", rows)
    with path.open("a") as file:
        file.write('rub\0bish\n{"run_type": "llm", "id": "\\u0000"}\n')
    reports = []
    for address in (postgres.address(database), tmp_path / "ledger.sqlite"):
        ledger = Ledger(address)
        history = Import(FileImporter(path), ledger).run()
        reports.append((summarise(ledger, history).as_dict(), list(ledger.incidents(history))))
        ledger.close()
    assert reports[0] == reports[1]
    assert reports[0][1]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_addresses_as_people_paste_them(postgres: PostgresServer, database: str, tmp_path: Path, scheme: str) -> None:
    address = postgres.address(database).replace("postgresql", scheme) + "?sslmode=prefer"
    source = str(write(tmp_path / "runs.jsonl"))
    assert run("import", "file", source, "--ledger", address).exit_code == 0
    asked = f"{address.replace(f':{IN_AN_ADDRESS}', '')}&password={IN_AN_ADDRESS}"
    for same in (address, asked):
        shown = run("report", "--ledger", same)
        assert "tool_loop" in shown.stdout
        assert "with the same --ledger" in shown.stdout
        assert IN_AN_ADDRESS not in shown.output


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("postgresql://owner:hunter2@127.0.0.1:{port}/postgres", "password authentication failed"),
        ("postgresql://owner@127.0.0.1:{port}/postgres?password=hunter2", "password authentication failed"),
        ("postgresql://owner:h@hunter2@127.0.0.1:{port}/postgres", "@ is written %40"),
        ("postgresql://owner:h@hunter2:x@127.0.0.1:{port}/postgres", "@ is written %40"),
        ("postgresql://owner:hunter2:{port}/postgres", "@ is written %40"),
        ("postgresql://owner:hunter2@127.0.0.1:{port}/postgres?schema=x", 'invalid connection option "schema"'),
        ("postgresql://owner:hunter2@127.0.0.1:1/postgres", "refused"),
        (f"postgresql://owner:{IN_AN_ADDRESS}@127.0.0.1:{{port}}/hunter", '"hunter" does not exist'),
    ],
)
def test_an_address_that_does_not_work(postgres: PostgresServer, address: str, says: str) -> None:
    shown = run("report", "--ledger", address.format(port=postgres.port))
    assert shown.exit_code == 1
    assert says in shown.stderr
    assert shown.stderr.count("\n") == 1
    assert not [part for part in ("hunter2", PASSWORD, IN_AN_ADDRESS) if part in shown.output]


def test_rights_that_are_missing(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    source = str(write(tmp_path / "runs.jsonl"))
    postgres.do("CREATE ROLE reader LOGIN PASSWORD 'read'")
    reader = postgres.address(database, "reader", "read")
    postgres.do("REVOKE CREATE ON SCHEMA public FROM public", database=database)
    refused = run("import", "file", source, "--ledger", reader)
    assert refused.exit_code == 1
    assert "could not be opened: permission denied for schema public" in refused.stderr
    assert run("import", "file", source, "--ledger", postgres.address(database)).exit_code == 0
    postgres.do("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", database=database)
    own = run("report", "--json", "--ledger", postgres.address(database))
    assert run("report", "--json", "--ledger", reader).stdout == own.stdout != ""
    refused = run("import", "file", source, "--ledger", reader)
    assert refused.exit_code == 1
    assert "could not be written: permission denied for table histories" in refused.stderr


def test_reading_makes_no_tables(postgres: PostgresServer, database: str) -> None:
    address = postgres.address(database)
    for args in (["report"], ["explain", "x"], ["annotate", "--dry-run"]):
        shown = run(*args, "--ledger", address)
        assert shown.exit_code == 2
        assert "nothing has been imported into the ledger" in shown.stderr
    assert run("report", "--list", "--json", "--ledger", address).stdout.strip() == "[]"
    assert not tables(postgres, database)


def test_a_database_that_others_use(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    address, source = postgres.address(database), str(write(tmp_path / "runs.jsonl"))
    postgres.do("CREATE TABLE orders (id int)", "CREATE TABLE sessions (id int)", database=database)
    refused = run("import", "file", source, "--ledger", address)
    assert refused.exit_code == 1
    assert "is no ledger: it holds sessions. It was left as it is" in refused.stderr
    assert tables(postgres, database) == {"orders", "sessions"}
    postgres.do("CREATE SCHEMA waste", database=database)
    apart = f"{address}?options=-csearch_path%3Dwaste"
    assert run("import", "file", source, "--ledger", apart).exit_code == 0
    assert "tool_loop" in run("report", "--ledger", apart).stdout
    assert tables(postgres, database) == {"orders", "sessions"}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (f"schema AS SELECT {SCHEMA - 1} AS version", f"schema {SCHEMA - 1}, not {SCHEMA}"),
        ("schema (name text)", "is no ledger: it holds schema"),
    ],
)
def test_a_ledger_of_another_version(postgres: PostgresServer, database: str, schema: str, says: str) -> None:
    postgres.do(f"CREATE TABLE {schema}", database=database)
    with pytest.raises(LedgerError, match=says):
        Ledger(postgres.address(database))
    assert tables(postgres, database) == {"schema"}
