"""Shared by all tests."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers.postgres import PostgresServer

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def signals_reach_what_is_started() -> None:
    """What a test starts obeys signals, though the tests themselves run under `nohup`, or behind `&` of a script.

    What is ignored stays so in programs that are started; what has a handler does not.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """What a test, or a script that it loads, does to our log's level is of no concern to the others."""
    logger = logging.getLogger("ts_langchain")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def calm_collector() -> Iterator[None]:
    """For tests of vetoes: garbage is collected after the test, not in the middle of it.

    LangChain makes the coroutines of all handlers before it awaits the first; after a veto the others are garbage that
    was never awaited. Collected by chance while a named tuple is made, which has no builtins, CPython cannot even warn
    of it and reports a `KeyError: '__import__'` instead.
    """
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL; the test is skipped where none can be started."""
    from servers.postgres import PostgresServer

    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger is yet to be made, in each kind of database."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.address(server.new_database())
