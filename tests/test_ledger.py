"""The ledger: which databases it opens, and what it says of those it does not."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from ts_langchain.cli.app import app
from ts_langchain.errors import LedgerError
from ts_langchain.ledger import SCHEMA, Ledger

if TYPE_CHECKING:
    from pathlib import Path


def test_a_ledger_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    again = Ledger(path)
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
