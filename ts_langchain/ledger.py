"""The local database: incidents, sessions, spend, and how far each import has come. No content in it."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from ts_langchain.database import (
    MEANWHILE,
    SESSION_ID_LENGTH,
    connect,
    database_errors,
    identity,
    ledger_url,
    make_directory,
    one_at_a_time,
    shown_address,
    sqlite_file,
    storable,
    stored_id,
    writing,
)
from ts_langchain.errors import LedgerError, NoLedger
from ts_langchain.incident import Incident
from ts_langchain.stored import dump_state, load_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ts_langchain.call import Call
    from ts_langchain.pricing import Cost
    from ts_langchain.session import SessionState

# 2: other states of four rules; 3: conversations in a module of their own; 5: turns; 6: told by prompts; 8: supersteps
# 11: what had begun, and was asked for in words
SCHEMA = 22
DAY = 86_400
MAX_SKIPPED_LISTED = 1_000
BATCH = 500
MANY = 10_000
PLACE_LENGTH = 200
UNNAMED = "(unnamed model)"

_meta = sa.MetaData()


def _sorted(length: int) -> sa.types.TypeEngine[str]:
    """Text that is put in order: everywhere as SQLite does it, whatever a server's language."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


_histories = sa.Table(
    "histories",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("source", sa.String(50), nullable=False),
    sa.Column("scope", sa.String(500).with_variant(sa.String(), "postgresql"), nullable=False),  # a path may be long
    sa.Column("label", sa.JSON, nullable=False),
    sa.Column("settings", sa.String(20), nullable=False),
    sa.Column("range", sa.JSON, nullable=False),
    sa.Column("position", sa.JSON),
    sa.Column("replay", sa.LargeBinary),
    sa.Column("done", sa.Boolean, nullable=False, default=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("runs", sa.Integer, nullable=False, default=0),
    sa.Column("ignored", sa.Integer, nullable=False, default=0),
    sa.Column("skipped", sa.Integer, nullable=False, default=0),
    sa.Column("late", sa.Integer, nullable=False, default=0),
    sa.UniqueConstraint("source", "scope"),
)
_seen = sa.Table(
    "seen",
    _meta,
    sa.Column("history", sa.Integer, primary_key=True),
    sa.Column("run", sa.BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)
_sessions = sa.Table(
    "sessions",
    _meta,
    sa.Column("history", sa.Integer, primary_key=True),
    sa.Column("session_id", sa.String(SESSION_ID_LENGTH), primary_key=True),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("nano", sa.BigInteger, nullable=False),
    sa.Column("unpriced_calls", sa.Integer, nullable=False),
    sa.Column("failed_calls", sa.Integer, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
_incidents = sa.Table(
    "incidents",
    _meta,
    sa.Column("history", sa.Integer, primary_key=True),
    sa.Column("id", _sorted(100), primary_key=True),
    sa.Column("rule", sa.String(100), nullable=False, index=True),
    sa.Column("session_id", sa.String(SESSION_ID_LENGTH), nullable=False),
    sa.Column("opened_at", sa.Float, nullable=False),
    sa.Column("nano", sa.BigInteger, nullable=False),
    sa.Column("incident", sa.JSON, nullable=False),
)
_spend = sa.Table(
    "spend",
    _meta,
    sa.Column("history", sa.Integer, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("provider", sa.String(100), primary_key=True),
    sa.Column("model", sa.String(200), primary_key=True),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("failed_calls", sa.Integer, nullable=False),
    sa.Column("estimated_calls", sa.Integer, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("nano", sa.BigInteger, nullable=False),
    sa.Column("source_nano", sa.BigInteger, nullable=False),
    sa.Column("unpriced_calls", sa.Integer, nullable=False),
    sa.Column("unpriced_tokens", sa.BigInteger, nullable=False),
    sa.Column("uncounted_calls", sa.Integer, nullable=False),
)
_skipped = sa.Table(
    "skipped",
    _meta,
    sa.Column("history", sa.Integer, primary_key=True),
    sa.Column("place", _sorted(PLACE_LENGTH), primary_key=True),
    sa.Column("why", sa.String(300), nullable=False),
)
_calls = sa.Table(
    "calls",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("history", sa.Integer, nullable=False, index=True),
    sa.Column("calls", sa.LargeBinary, nullable=False),
)
_schema = sa.Table("schema", _meta, sa.Column("version", sa.Integer, primary_key=True))


@dataclass(slots=True)
class Spend:
    """What one model cost on one day.

    Attributes:
        day: Days since the epoch, UTC.
        provider: Provider, empty if unknown.
        model: Model, `UNNAMED` if unknown; empty for tools and retrievers.
        calls: Number of calls.
        failed_calls: Calls that failed.
        estimated_calls: Calls whose usage was estimated.
        input_tokens: All input, cached included.
        cache_read_tokens: The part read from the provider's cache.
        output_tokens: All output.
        nano: Known cost in nano-dollars.
        source_nano: The part of it the source itself reported.
        unpriced_calls: Calls with tokens and no known cost.
        unpriced_tokens: Their tokens.
        uncounted_calls: Calls of models that answered, and of which neither tokens nor content are told.
    """

    day: int
    provider: str
    model: str
    calls: int = 0
    failed_calls: int = 0
    estimated_calls: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    nano: int = 0
    source_nano: int = 0
    unpriced_calls: int = 0
    unpriced_tokens: int = 0
    uncounted_calls: int = 0

    def add(self, call: Call, cost: Cost | None) -> None:
        """Counts one call."""
        usage = call.usage
        self.calls += 1
        self.failed_calls += call.status == "error"
        self.estimated_calls += usage.estimated
        self.input_tokens += usage.input_tokens
        self.cache_read_tokens += usage.cache_read_tokens
        self.output_tokens += usage.output_tokens
        if cost is not None:
            nano = cost.input_nano + cost.output_nano
            self.nano += nano
            self.source_nano += nano if cost.source == "source" else 0
        elif usage.input_tokens or usage.output_tokens:
            self.unpriced_calls += 1
            self.unpriced_tokens += usage.input_tokens + usage.output_tokens
        if not (usage.input_tokens or usage.output_tokens) and call.source_cost is None:
            self.uncounted_calls += call.kind in ("model", "embedding") and call.status == "ok"


@dataclass(slots=True)
class History:
    """One imported history: what a source holds of one project, file or bucket.

    Attributes:
        id: Key in the ledger.
        source: Kind of place.
        scope: Which place.
        label: For people.
        settings: Fingerprint of the rules and settings it was replayed with.
        range: What was asked for, to recognise an interrupted import.
        position: Where to go on.
        replay: Calls under way at that position.
        done: False while an import is under way or was interrupted.
        updated_at: Wall-clock time of the last checkpoint.
        runs: Rows replayed.
        ignored: Rows of the last import that are no calls; they are not known by id.
        skipped: Rows that could not be read.
        late: Rows that came out of order.
    """

    id: int
    source: str
    scope: str
    label: dict[str, str]
    settings: str
    range: dict[str, Any]
    position: dict[str, Any] | None = None
    replay: bytes | None = None
    done: bool = False
    updated_at: float = 0.0
    runs: int = 0
    ignored: int = 0
    skipped: int = 0
    late: int = 0

    @property
    def name(self) -> str:
        """What people call it."""
        return ", ".join(f"{what} {which}" for what, which in self.label.items())


@dataclass(slots=True)
class Batch:
    """Everything one checkpoint writes, in one transaction."""

    seen: list[int] = field(default_factory=list)
    sessions: dict[str, SessionState] = field(default_factory=dict)
    closed: dict[str, Incident] = field(default_factory=dict)
    spend: dict[tuple[int, str, str], Spend] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)


class Ledger:
    """The database.

    Args:
        url: A path, or a SQLAlchemy URL; None for the SQLite file in the user's data directory. A file that nobody may
            write to can be read.
        create: Make it where there is none.

    Raises:
        NoLedger: There is none, and none is to be made.
        LedgerError: It cannot be opened, was written by another version, or holds something else.
    """

    def __init__(self, url: str | Path | None = None, *, create: bool = True) -> None:
        address = ledger_url(url)
        self.address = address
        shown = shown_address(address)
        file = sqlite_file(address)
        if file is not None and not (create or file.exists()):
            raise NoLedger(shown)
        if file is not None and file.is_dir():
            msg = f"the ledger {shown} is a directory: name a file in it with --ledger or TS_LANGCHAIN_LEDGER"
            raise LedgerError(msg)
        if file is not None and create:
            make_directory(file.parent)
        with database_errors(f"the ledger {shown} could not be opened"):
            self.engine = connect(address)
            with self.engine.begin() as db:
                version = _version(db)
                if version is None:
                    _refuse_what_is_no_ledger(db, shown)
                    if not create:
                        raise NoLedger(shown)
                    version = _make_tables(db)
                if version != SCHEMA:
                    msg = (
                        f"the ledger {shown} was written by another version of ts-langchain (schema {version}, not "
                        f"{SCHEMA}); name another with --ledger or TS_LANGCHAIN_LEDGER, and import again"
                    )
                    raise LedgerError(msg)

        self._file = file
        self._identity = identity(file)

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()

    def check_there(self, todo: str) -> None:
        """Refuses to go on without the ledger's file: SQLite would go on writing to what nobody finds again.

        Raises:
            LedgerError: It was deleted or replaced.
        """
        if identity(self._file) != self._identity:
            msg = f"the ledger {self._file} was deleted or replaced meanwhile. {todo}"
            raise LedgerError(msg)

    # --- histories ---------------------------------------------------------------------------------

    def histories(self) -> list[History]:
        """All histories, the latest first."""
        with _readable(), self.engine.connect() as db:
            rows = db.execute(sa.select(_histories).order_by(_histories.c.updated_at.desc())).mappings()
            return [History(**cast("dict[str, Any]", dict(row))) for row in rows]

    def open_history(
        self, source: str, scope: str, label: dict[str, str], settings: str, asked: dict[str, Any], now: float
    ) -> History:
        """The history of this source and scope, made if it is new."""
        with writing(self.engine) as db:
            where = (_histories.c.source == source) & (_histories.c.scope == scope)
            row = db.execute(sa.select(_histories).where(where)).mappings().first()
            if row is None:
                values = {
                    "source": source,
                    "scope": scope,
                    "label": label,
                    "settings": settings,
                    "range": asked,
                }
                db.execute(_histories.insert().values(**values, done=False, updated_at=now))
                row = db.execute(sa.select(_histories).where(where)).mappings().one()
            return History(**cast("dict[str, Any]", dict(row)))

    def forget(self, history: History) -> None:
        """Deletes a history and everything that came from it."""
        with writing(self.engine) as db:
            _empty(db, history.id)
            db.execute(_histories.delete().where(_histories.c.id == history.id))

    def save(self, history: History, batch: Batch, *, anew: bool = False) -> None:
        """Writes a checkpoint: all of it or nothing. `anew`: in place of everything that came from this history.

        Raises:
            LedgerError: It cannot be written, or another import has written to this history since it was read.
        """
        now = time.time()
        with writing(self.engine) as db:
            known = (_histories.c.id == history.id) & (_histories.c.updated_at == history.updated_at)
            values = {
                "label": history.label,
                "settings": history.settings,
                "range": history.range,
                "position": history.position,
                "replay": history.replay,
                "done": history.done,
                "updated_at": now,
                "runs": history.runs,
                "ignored": history.ignored,
                "skipped": history.skipped,
                "late": history.late,
            }
            if not db.execute(_histories.update().where(known).values(**values)).rowcount:
                msg = f"the ledger could not be written: {MEANWHILE}"
                raise LedgerError(msg)
            if anew:
                _empty(db, history.id)
            if batch.seen:
                db.execute(_seen.insert(), [{"history": history.id, "run": r} for r in batch.seen])
            states = list(batch.sessions.values())
            _replace(db, _sessions, "session_id", history.id, [_session_row(history.id, s) for s in states])
            incidents = {**batch.closed}
            for state in states:
                incidents.update((i.id, i) for i in state.incidents.values())
            _replace(db, _incidents, "id", history.id, [_incident_row(history.id, i) for i in incidents.values()])
            if batch.calls:
                packed = zlib.compress(dump_state(batch.calls), 1)
                db.execute(_calls.insert().values(history=history.id, calls=packed))
            for spend in batch.spend.values():
                _add_spend(db, history.id, spend)
            rows = [
                {"history": history.id, "place": stored_id(place, PLACE_LENGTH), "why": storable(why)[:300]}
                for place, why in batch.skipped.items()
            ]
            if rows and history.skipped - len(rows) < MAX_SKIPPED_LISTED:
                _replace(db, _skipped, "place", history.id, rows)
            self.check_there("Run the import again.")
        history.updated_at = now

    # --- what an import asks -----------------------------------------------------------------------

    def known_runs(self, history: History, keys: Sequence[int]) -> set[int]:
        """Which of these runs have been replayed before."""
        known: set[int] = set()
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            for start in range(0, len(keys), BATCH):
                part = keys[start : start + BATCH]
                query = sa.select(_seen.c.run).where(_seen.c.history == history.id, _seen.c.run.in_(part))
                known.update(db.execute(query).scalars())
        return known

    def run_keys(self, history: History) -> Iterator[int]:
        """Keys of all runs that have been replayed before."""
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            query = sa.select(_seen.c.run).where(_seen.c.history == history.id)
            yield from db.execute(query.execution_options(yield_per=MANY)).scalars()

    def session_ids(self, history: History) -> Iterator[str]:
        """Ids of all sessions that are stored, as `stored_id` makes them."""
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            query = sa.select(_sessions.c.session_id).where(_sessions.c.history == history.id)
            yield from db.execute(query.execution_options(yield_per=MANY)).scalars()

    def last_call_at(self, source: str, scope: str) -> float | None:
        """When the latest call of a history ended, None if there is none."""
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            query = (
                sa.select(sa.func.max(_sessions.c.last_at))
                .join(_histories, _histories.c.id == _sessions.c.history)
                .where(_histories.c.source == source, _histories.c.scope == scope)
            )
            return cast("float | None", db.execute(query).scalar())

    def load_session(
        self, history: History, session_id: str, modules: frozenset[str] = frozenset()
    ) -> SessionState | None:
        """A stored session, None if it is new."""
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            query = sa.select(_sessions.c.state).where(
                _sessions.c.history == history.id, _sessions.c.session_id == stored_id(session_id)
            )
            stored = db.execute(query).scalar()
        return cast("SessionState", load_state(stored, modules)) if stored is not None else None

    # --- what a backtest asks ----------------------------------------------------------------------

    def calls(self, history: History) -> Iterator[Call]:
        """All calls of a history, without content, in the order in which they ended."""
        where = _calls.c.history == history.id
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            numbers = list(db.execute(sa.select(_calls.c.id).where(where).order_by(_calls.c.id)).scalars())
        for number in numbers:
            with database_errors("the ledger could not be read"), self.engine.connect() as db:
                packed = db.execute(sa.select(_calls.c.calls).where(_calls.c.id == number)).scalar_one()
            with _readable():
                calls = load_state(zlib.decompress(packed))
            yield from calls

    # --- what a report asks ------------------------------------------------------------------------

    def spend(self, history: History) -> list[Spend]:
        """Spend by day, provider and model."""
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            rows = db.execute(sa.select(_spend).where(_spend.c.history == history.id)).mappings()
            return [Spend(**{k: v for k, v in row.items() if k != "history"}) for row in rows]

    def incidents(self, history: History, *, oldest_first: bool = False) -> Iterator[Incident]:
        """All incidents, the costliest or the oldest first."""
        by_time = (_incidents.c.opened_at, _incidents.c.id)
        order = by_time if oldest_first else (_incidents.c.nano.desc(), *by_time)
        with _readable(), self.engine.connect() as db:
            query = sa.select(_incidents.c.incident).where(_incidents.c.history == history.id).order_by(*order)
            for stored in db.execute(query.execution_options(stream_results=True, max_row_buffer=100)).scalars():
                yield Incident(
                    **{**stored, "call_ids": tuple(stored["call_ids"]), "overlaps": tuple(stored["overlaps"])}
                )

    def session_count(self, history: History) -> int:
        """Number of sessions."""
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            query = sa.select(sa.func.count()).select_from(_sessions).where(_sessions.c.history == history.id)
            return int(db.execute(query).scalar() or 0)

    def sessions(self, history: History, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Figures of some sessions, by id."""
        columns = [c for c in _sessions.c if c.name not in ("history", "state")]
        found = {}
        wanted = {stored_id(session_id): session_id for session_id in ids}
        stored = list(wanted)
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            for start in range(0, len(stored), BATCH):
                query = sa.select(*columns).where(
                    _sessions.c.history == history.id,
                    _sessions.c.session_id.in_(stored[start : start + BATCH]),
                )
                found.update({wanted[row["session_id"]]: dict(row) for row in db.execute(query).mappings()})
        return found

    def skipped(self, history: History) -> list[tuple[str, str]]:
        """Rows that could not be read: where and why; the first 1000."""
        with database_errors("the ledger could not be read"), self.engine.connect() as db:
            query = sa.select(_skipped.c.place, _skipped.c.why).where(_skipped.c.history == history.id)
            return [(place, why) for place, why in db.execute(query.order_by(_skipped.c.place))]

    def skipped_reasons(self, history: History) -> Counter[str]:
        """Why rows could not be read, of those listed."""
        return Counter(why for _, why in self.skipped(history))


@contextmanager
def _readable() -> Iterator[None]:
    """What was written and does not read as that any more is told as damage, as what the database itself finds.

    Raises:
        LedgerError: It does not.
    """
    with database_errors("the ledger could not be read"):
        try:
            yield
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            msg = (
                f"the ledger is damaged: it holds what cannot be read ({type(error).__name__}). Import the history "
                "again with --fresh, or name another with --ledger or TS_LANGCHAIN_LEDGER"
            )
            raise LedgerError(msg) from error


def day_of(at: float) -> int:
    """Days since the epoch, UTC."""
    return int(at // DAY)


def iso_day(day: int) -> str:
    """`2026-11-21`."""
    return datetime.fromtimestamp(day * DAY, tz=UTC).date().isoformat()


def existing_ledger(url: str | Path | None) -> Ledger | None:
    """A ledger to read from; None if there is none: none is made by asking for it."""
    try:
        return Ledger(url, create=False)
    except NoLedger:
        return None


def _version(db: sa.Connection) -> int | None:
    """The schema of a ledger; None if it is no ledger, or not yet."""
    known = sa.inspect(db)
    if not known.has_table(_schema.name) or "version" not in {c["name"] for c in known.get_columns(_schema.name)}:
        return None
    return db.execute(sa.select(_schema.c.version)).scalar()


def _make_tables(db: sa.Connection) -> int:
    """Makes all tables at once, or none; the schema they have then."""
    if db.dialect.name == "sqlite":
        # WAL + NORMAL: a checkpoint survives kill -9; only a power cut may lose the last ones, never corrupt
        db.exec_driver_sql("PRAGMA journal_mode=WAL")
    one_at_a_time(db)
    if (version := _version(db)) is not None:  # another process was faster
        return version
    _meta.create_all(db)
    db.execute(_schema.insert().values(version=SCHEMA))
    return SCHEMA


def _refuse_what_is_no_ledger(db: sa.Connection, shown: str) -> None:
    """Leaves a database alone that is somebody else's: nothing is to be added to it by a mistyped name.

    Raises:
        LedgerError: There are tables in it that are not ours.
    """
    known = sa.inspect(db)
    names = set(known.get_table_names())
    foreign = names - _meta.tables.keys() if db.dialect.name == "sqlite" else set()  # on servers many share one
    for name in names & _meta.tables.keys():
        if {c["name"] for c in known.get_columns(name)} != set(_meta.tables[name].columns.keys()):
            foreign.add(name)
    if foreign:
        msg = (
            f"{shown} is no ledger: it holds {', '.join(sorted(foreign)[:3])}. It was left as it is; name another with "
            "--ledger or TS_LANGCHAIN_LEDGER"
        )
        raise LedgerError(msg)


def _empty(db: sa.Connection, history: int) -> None:
    """Deletes everything that came from a history."""
    for table in (_seen, _sessions, _incidents, _spend, _skipped, _calls):
        db.execute(table.delete().where(table.c.history == history))


def _replace(db: sa.Connection, table: sa.Table, key: str, history: int, rows: list[dict[str, Any]]) -> None:
    """Insert or update, on any database."""
    if not rows:
        return
    column = table.c[key]
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        db.execute(table.delete().where(table.c.history == history, column.in_([r[key] for r in part])))
    db.execute(table.insert(), rows)


def _session_row(history: int, state: SessionState) -> dict[str, Any]:
    totals = state.totals
    return {
        "history": history,
        "session_id": stored_id(state.id),
        "started_at": state.started_at,
        "last_at": state.last_at,
        "calls": totals.calls,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "nano": totals.nano,
        "unpriced_calls": totals.unpriced_calls,
        "failed_calls": totals.failed_calls,
        "state": dump_state(state),
    }


def _incident_row(history: int, incident: Incident) -> dict[str, Any]:
    fields = {name: getattr(incident, name) for name in Incident.__slots__}
    return {
        "history": history,
        "id": incident.id,
        "rule": incident.rule,
        "session_id": stored_id(incident.session_id),
        "opened_at": incident.opened_at,
        "nano": incident.wasted_nano,
        "incident": {**fields, "call_ids": list(incident.call_ids), "overlaps": list(incident.overlaps)},
    }


def _add_spend(db: sa.Connection, history: int, spend: Spend) -> None:
    provider, model = stored_id(spend.provider, 100), stored_id(spend.model, 200)
    counted = [c.name for c in _spend.c if c.name not in ("history", "day", "provider", "model")]
    where = (
        (_spend.c.history == history)
        & (_spend.c.day == spend.day)
        & (_spend.c.provider == provider)
        & (_spend.c.model == model)
    )
    values = {name: _spend.c[name] + getattr(spend, name) for name in counted}
    if not db.execute(_spend.update().where(where).values(**values)).rowcount:
        fresh = {name: getattr(spend, name) for name in counted}
        db.execute(_spend.insert().values(history=history, day=spend.day, provider=provider, model=model, **fresh))
