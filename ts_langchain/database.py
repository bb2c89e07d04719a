"""Where a ledger lies: SQLite files and PostgreSQL servers, how they are written to, and what they say if they fail."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from ts_langchain.errors import ConfigurationError, LedgerError
from ts_langchain.fingerprint import ID_LENGTH, text_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSION_ID_LENGTH = ID_LENGTH
PATIENCE_MS = 30_000
"""How long is waited for another program that writes to the same."""
PSYCOPG = {"client_encoding": "utf8", "prepare_threshold": None}
"""Names in any script, also where the server's are not; nothing prepared, which poolers as PgBouncer give to others."""
PRIVATE = 0o700
MEANWHILE = "another command wrote the same meanwhile. Nothing is lost: run this one again."


def ledger_url(url: str | Path | None) -> sa.URL:
    """A SQLAlchemy URL from a URL, a path, or nothing. PostgreSQL is spoken to by psycopg if no driver is named.

    Raises:
        LedgerError: It is no URL.
        ConfigurationError: It is empty.
    """
    if isinstance(url, str) and "://" in url:
        return _server_url(url)
    if url is None:
        from platformdirs import user_data_path

        url = user_data_path("ts-langchain") / "ledger.sqlite"
    if not str(url).strip():
        msg = "which ledger? Its name is empty, as that of a shell variable that is not set"
        raise ConfigurationError(msg)
    return sa.URL.create("sqlite", database=str(Path(url).expanduser()))


def _server_url(url: str) -> sa.URL:
    """What people paste, as SQLAlchemy wants it.

    Raises:
        LedgerError: It is no URL, or a password is not written as in one. It is not told what came out of it, which
            may be a part of the password.
    """
    address = None
    with suppress(ArgumentError, ValueError):
        address = sa.engine.make_url(url)
    password_and_host = url.partition("://")[2].partition(":")[2]
    if address is None or (address.password and password_and_host.count("@") > 1):
        msg = "the ledger's address is no SQLAlchemy URL. In a user's name or a password @ is written %40, : %3A, / %2F"
        raise LedgerError(msg)
    if address.drivername in ("postgres", "postgresql"):
        address = address.set(drivername="postgresql+psycopg")
    return address


def shown_address(address: sa.URL) -> str:
    """A ledger as messages name it: its file, or its URL without the password."""
    file = sqlite_file(address)
    if file is not None:
        return str(file)
    open_ = address.difference_update_query([name for name in address.query if "pass" in name])
    return open_.render_as_string(hide_password=True)


def sqlite_file(address: sa.URL) -> Path | None:
    """The file of a SQLite ledger; None for other databases, and for those in memory."""
    name = address.database
    in_file = address.get_backend_name() == "sqlite" and name and not name.startswith((":memory:", "file:"))
    return Path(name) if in_file and name else None


def identity(file: Path | None) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None if there is none."""
    try:
        found = file.stat() if file is not None else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found is not None else None


def make_directory(path: Path) -> None:
    """Makes the directory of a ledger, which nobody else may look into; one that is there stays as it is.

    Raises:
        LedgerError: It cannot be made.
    """
    try:
        path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"the directory {path} could not be made ({error.strerror}); name another with --ledger"
        raise LedgerError(msg) from error


def connect(address: sa.URL) -> sa.Engine:
    """An engine for this address. A SQLite file in a folder that nobody may write to is opened for reading."""
    file = sqlite_file(address)
    engine = sa.create_engine(
        _read_only(file) if file is not None and _is_sealed(file) else address,
        pool_pre_ping=file is None,  # servers are restarted, and drop who was silent for long
        connect_args=PSYCOPG if address.drivername == "postgresql+psycopg" else {},
    )
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _tune_sqlite)
    return engine


def _is_sealed(file: Path) -> bool:
    """True if SQLite cannot put its own files beside this one, and nobody else has: it can be read all the same."""
    return file.is_file() and not os.access(file.parent, os.W_OK) and not Path(f"{file}-wal").exists()


def _read_only(file: Path) -> sa.URL:
    """An address for reading a file that does not change."""
    how = {"mode": "ro", "immutable": "1", "uri": "true"}
    return sa.URL.create("sqlite", database=file.resolve().as_uri(), query=how)


def _tune_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={PATIENCE_MS}")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction: all of it or nothing, and no endless wait for another one."""
    with database_errors("the ledger could not be written"), engine.begin() as db:
        _wait_no_longer(db)
        yield db


def one_at_a_time(db: sa.Connection) -> None:
    """Of the programs that are about to make tables, only one goes on until its transaction has ended."""
    if db.dialect.name == "sqlite":
        db.exec_driver_sql("BEGIN IMMEDIATE")  # Python's driver begins no transaction before CREATE TABLE
    elif db.dialect.name == "postgresql":
        _wait_no_longer(db)
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(run_key("ts-langchain"))))


def _wait_no_longer(db: sa.Connection) -> None:
    """SQLite's patience is that of its connection."""
    if db.dialect.name == "postgresql":
        db.exec_driver_sql(f"SET LOCAL lock_timeout = {PATIENCE_MS}")


@contextmanager
def database_errors(what: str) -> Iterator[None]:
    """Turns what a database raises into a `LedgerError` that says what could not be done."""
    try:
        yield
    except ImportError as error:
        msg = (
            f"{what}: {_in_one_line(error)}. Install the driver of that database; PostgreSQL's is installed with "
            "pip install 'ts-langchain[postgres]' and used for postgresql://"
        )
        raise LedgerError(msg) from error
    except IntegrityError as error:
        msg = f"{what}: {MEANWHILE}"
        raise LedgerError(msg) from error
    except NoSuchModuleError as error:
        msg = f"{what}: no such database is known ({error}). A file needs no ://, SQLite files begin with sqlite:///."
        raise LedgerError(msg) from error
    except SQLAlchemyError as error:
        reason = _in_one_line(getattr(error, "orig", None) or type(error).__name__)
        todo = "Run this again when that is mended, or name another with --ledger or TS_LANGCHAIN_LEDGER."
        if "locked" in reason or "lock timeout" in reason:
            todo = "Another program is writing to it: run this again when that has ended."
        msg = f"{what}: {reason}. {todo}"
        raise LedgerError(msg) from error


def _in_one_line(error: object) -> str:
    """The first line of what a driver says; the others show the statement, or guess."""
    return str(error).strip().partition("\n")[0].rstrip(".:")


def run_key(run_id: str) -> int:
    """64-bit signed key of a run id."""
    value = text_hash(run_id)
    return value - (1 << 64) if value >= 1 << 63 else value


def stored_id(given: str, most: int = SESSION_ID_LENGTH) -> str:
    """An id as a column holds it: one that is too long or not `storable` is changed, and stays apart from others."""
    kept = storable(given)
    return given if kept == given and len(given) <= most else f"{kept[: most - 17]}~{text_hash(given):016x}"


def storable(text: str) -> str:
    """Text that every database takes: without NUL, which PostgreSQL refuses, and without halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
