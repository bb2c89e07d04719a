"""What has been written where, in the ledger's database. Tables of its own: a ledger without them gets them.

The record is kept by source and scope, not by the number of a history: it outlives `import --fresh`, so what was
written of an earlier import can still be removed. The source of a file's says which service it went to.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ts_langchain.database import database_errors, one_at_a_time, writing
from ts_langchain.ledger import BATCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ts_langchain.ledger import Ledger

_meta = sa.MetaData()

_annotations = sa.Table(
    "annotations",
    _meta,
    sa.Column("source", sa.String(50), primary_key=True),
    sa.Column("scope", sa.String(500).with_variant(sa.String(), "postgresql"), primary_key=True),  # a path may be long
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("rule", sa.String(100), nullable=False),
    sa.Column("run", sa.String(300), nullable=False),
    sa.Column("content", sa.String(16), nullable=False),
    sa.Column("confirmed", sa.Boolean, nullable=False),
)
_backfilled = sa.Table(
    "backfilled",
    _meta,
    sa.Column("place", sa.String(36), primary_key=True),
    sa.Column("id", sa.String(36), primary_key=True),
)


@dataclass(frozen=True, slots=True)
class Written:
    """An annotation that was written, or was about to be when the program ended.

    Attributes:
        rule: The rule it tells of.
        run: The run it is on.
        content: Fingerprint of its score and comment.
        confirmed: False if nobody knows whether it arrived.
    """

    rule: str
    run: str
    content: str
    confirmed: bool = False


class Record:
    """What has been written where.

    Args:
        ledger: The ledger whose database holds it.

    Raises:
        LedgerError: The database cannot be used.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._engine = ledger.engine
        with database_errors("the ledger could not be read"):
            there = sa.inspect(self._engine).get_table_names()
        self._made = all(name in there for name in _meta.tables)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction. The tables are made with the first one: whoever only reads does without."""
        if not self._made:
            with writing(self._engine) as db:
                one_at_a_time(db)
                _meta.create_all(db)
            self._made = True
        with writing(self._engine) as db:
            yield db
            self._ledger.check_there("What was sent since then is not recorded: put the ledger back, or import again.")

    # --- annotations -------------------------------------------------------------------------------

    def annotations(self, source: str, scope: str) -> dict[str, Written]:
        """All annotations of a place that may exist, by id."""
        if not self._made:
            return {}
        t = _annotations
        query = sa.select(t.c.id, t.c.rule, t.c.run, t.c.content, t.c.confirmed)
        with database_errors("the ledger could not be read"), self._engine.connect() as db:
            rows = db.execute(query.where(t.c.source == source, t.c.scope == scope))
            return {id_: Written(rule, run, content, confirmed) for id_, rule, run, content, confirmed in rows}

    def intend(self, source: str, scope: str, annotations: Mapping[str, Written]) -> None:
        """To be called before they are sent: killed in between, they are still found and removed."""
        rows = _rows(source, scope, annotations)
        with self._writing() as db:
            for part in _parts(list(annotations)):
                db.execute(_annotations.delete().where(self._these(source, scope, part)))
            if rows:
                db.execute(_annotations.insert(), rows)

    def confirm(self, source: str, scope: str, ids: Iterable[str], *, there: bool = True) -> None:
        """They have arrived. `there=False`: nobody knows any more, since their removal is about to be asked for."""
        with self._writing() as db:
            for part in _parts(list(ids)):
                db.execute(_annotations.update().where(self._these(source, scope, part)).values(confirmed=there))

    def arrived(self, source: str, scope: str, annotations: Mapping[str, Written]) -> None:
        """They have arrived. One that another command has taken back meanwhile may have come before that or after."""
        t = _annotations.c
        with self._writing() as db:
            for part in _parts(list(annotations)):
                these = self._these(source, scope, part)
                db.execute(_annotations.update().where(these).values(confirmed=True))
                lost = set(part) - set(db.execute(sa.select(t.id).where(these)).scalars())
                if lost:
                    db.execute(_annotations.insert(), _rows(source, scope, {i: annotations[i] for i in sorted(lost)}))

    def taken_back(self, source: str, scope: str, ids: Iterable[str]) -> None:
        """They are gone. One that another command has written meanwhile may be there again."""
        confirmed = _annotations.c.confirmed
        with self._writing() as db:
            for part in _parts(list(ids)):
                these = self._these(source, scope, part)
                db.execute(_annotations.delete().where(these, sa.not_(confirmed)))
                db.execute(_annotations.update().where(these).values(confirmed=False))

    def forget(self, source: str, scope: str, ids: Iterable[str]) -> None:
        """They are gone, or never came to be."""
        with self._writing() as db:
            for part in _parts(list(ids)):
                db.execute(_annotations.delete().where(self._these(source, scope, part)))

    @staticmethod
    def _these(source: str, scope: str, ids: Sequence[str]) -> sa.ColumnElement[bool]:
        t = _annotations.c
        return sa.and_(t.source == source, t.scope == scope, t.id.in_(ids))

    # --- events ------------------------------------------------------------------------------------

    def events(self, place: str) -> set[str]:
        """Ids of the events that a place has accepted."""
        if not self._made:
            return set()
        with database_errors("the ledger could not be read"), self._engine.connect() as db:
            return set(db.execute(sa.select(_backfilled.c.id).where(_backfilled.c.place == place)).scalars())

    def accepted(self, place: str, ids: Sequence[str]) -> None:
        """A place has accepted these events."""
        t = _backfilled
        with self._writing() as db:
            for part in _parts(ids):
                db.execute(t.delete().where(t.c.place == place, t.c.id.in_(part)))
            if ids:
                db.execute(t.insert(), [{"place": place, "id": id_} for id_ in ids])


def _rows(source: str, scope: str, annotations: Mapping[str, Written]) -> list[dict[str, object]]:
    return [
        {
            "source": source, "scope": scope, "id": id_,
            "rule": w.rule, "run": w.run, "content": w.content, "confirmed": False,
        }
        for id_, w in annotations.items()
    ]  # fmt: skip


def _parts(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
