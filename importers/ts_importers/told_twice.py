"""Model calls that several instrumentations tell: LangChain's, a client library's, that of the client itself.

Each of them writes a span of its own, in the same trace or in one of its own; all are one call, billed once. Spans are
put together in an index on disk, whatever order they came in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

LONGEST_CALL = 3_600.0
NEAR = 2.0  # seconds between two beginnings, or two ends, of what nobody counted
HOOKS = 0.5  # seconds between two that hear of the same event one after the other
SIDE_BY_SIDE = 64  # spans that are looked at: those that begin last before one does
STREAM = " (stream)"  # behind the name of a teller that tells of a stream once more when it has ended
_VERSION = re.compile(r"(?:[-@:](?:latest|preview|exp|v\d|\d{3,})[\w.:-]*)?")
BATCH = 1_000
MAX_DEPTH = 64

# the last that begin before a span; told by others; of calls that the span's own teller has not told of
_SAME_ANSWER, _SAME_COUNTS, _UNDER_WAY, _UNCOUNTED = (
    f"SELECT * FROM (SELECT * FROM tellings WHERE {where} ORDER BY started DESC, id LIMIT ?) o"  # noqa: S608 - constants
    " WHERE (teller <> ? OR framework <> ?) AND failed = ?"
    " AND NOT EXISTS (SELECT 1 FROM tellings t WHERE t.call = o.call AND t.teller = ? AND t.framework = ?)"
    for where in (
        "response = ? AND started <= ?",
        "sent = ? AND got = ? AND started BETWEEN ? AND ?",
        "started BETWEEN ? AND ?",
        "NOT (sent > 0 AND got > 0) AND started BETWEEN ? AND ?",
    )
)


class Telling(NamedTuple):
    """What one span tells of a model call.

    Attributes:
        ended: Seconds since the epoch.
        teller: The instrumentation.
        framework: LangChain told of it, and not the client library that it uses.
        provider: Provider, empty if it does not say.
        model: Model, empty if it does not say.
        response: The provider's id of the answer, empty if it does not say.
        failed: The call failed.
        content: 0, 1 for what was said or what was answered, 2 for both.
        sent: Tokens sent, 0 if it does not say.
        got: Tokens that came back, 0 if it does not say.
        usage: All tokens, as JSON; empty if it tells none.
    """

    ended: float
    teller: str
    framework: bool
    provider: str
    model: str
    response: str
    failed: bool
    content: int
    sent: int
    got: int
    usage: str


class _Span(NamedTuple):
    """A row of the index."""

    seq: int
    id: str
    parent: str
    trace: str
    started: float
    ended: float
    teller: str
    framework: int
    provider: str
    model: str
    response: str
    failed: int
    content: int
    sent: int
    got: int
    usage: str
    call: int


class Tellings:
    """Tellings of model calls, and which of them are the same call.

    Args:
        db: The index.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.execute(
            "CREATE TABLE tellings ("
            " seq INTEGER PRIMARY KEY, id TEXT, parent TEXT, trace TEXT, started REAL, ended REAL,"
            " teller TEXT, framework INT, provider TEXT, model TEXT, response TEXT, failed INT, content INT, sent INT,"
            " got INT, usage TEXT, call INT)"
        )
        # of what is told twice: what is left out, and what another telling counted
        db.execute("CREATE TABLE twins (seq INTEGER PRIMARY KEY, kept INT, usage TEXT)")

    def add(self, rows: list[tuple[object, ...]]) -> None:
        """Takes tellings in: number, id, parent, trace and start of the span, then what it tells."""
        self._db.executemany("INSERT INTO tellings VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,NULL)", rows)

    def settle(self) -> None:
        """Finds out which are the same call. To be called once all have been added."""
        db = self._db
        db.execute("CREATE INDEX telling_by_id ON tellings (id)")
        db.execute("CREATE INDEX telling_by_parent ON tellings (parent) WHERE parent <> ''")
        db.execute("CREATE INDEX telling_by_call ON tellings (call)")
        db.execute("UPDATE tellings SET call = (SELECT min(o.seq) FROM tellings o WHERE o.id = tellings.id)")
        self._join_enclosed()
        told = db.execute("SELECT count(*) FROM (SELECT 1 FROM tellings GROUP BY teller, framework)").fetchone()
        if told[0] > 1:
            self._join_others()
        self._choose()

    def _join_enclosed(self) -> None:
        """What lies in another model span is the same call; but of several, only one stands in for missing counts."""
        db = self._db
        found = db.execute(
            "UPDATE tellings AS t SET call = p.call FROM tellings p WHERE p.id = t.parent AND p.id <> t.id"
            " AND (p.sent > 0 OR p.got > 0 OR p.failed OR (t.sent = 0 AND t.got = 0) OR t.id ="
            " (SELECT o.id FROM tellings o WHERE o.parent = p.id AND o.parent <> '' AND (o.sent > 0 OR o.got > 0)"
            " ORDER BY o.started, o.id LIMIT 1))"
        )
        for _ in range(MAX_DEPTH):
            if found.rowcount < 1:
                return
            found = db.execute(
                "UPDATE tellings AS t SET call = o.call FROM tellings o WHERE o.seq = t.call AND o.call <> t.call"
            )

    def _join_others(self) -> None:
        """What others told of it, wherever their spans are."""
        db = self._db
        db.execute("CREATE INDEX telling_by_start ON tellings (started, id)")
        db.execute("CREATE INDEX uncounted_by_start ON tellings (started, id) WHERE NOT (sent > 0 AND got > 0)")
        db.execute("CREATE INDEX telling_by_response ON tellings (response) WHERE response <> ''")
        db.execute("CREATE INDEX telling_by_counts ON tellings (sent, got, started, id)")
        for candidates in (self._same_answer, self._same_counts, self._under_way):
            for span in self._spans():
                self._join(span, candidates)

    def _spans(self) -> Iterator[_Span]:
        """All in order of start, whatever the order of the files."""
        after: tuple[object, ...] = (float("-inf"), "", 0)
        while True:
            found = self._db.execute(
                "SELECT * FROM tellings WHERE (started, id, seq) > (?, ?, ?) ORDER BY started, id, seq LIMIT ?",
                (*after, BATCH),
            ).fetchall()
            yield from map(_Span._make, found)
            if len(found) < BATCH:
                return
            last = _Span._make(found[-1])
            after = last.started, last.id, last.seq

    # --- who it may be -----------------------------------------------------------------------------

    def _same_answer(self, span: _Span) -> list[_Span]:
        """Tellings of the same answer of the provider. A cache answers with the same one at another time."""
        if not span.response:
            return []
        found = self._others(span, _SAME_ANSWER, span.response, span.started)
        return [o for o in found if span.started <= o.ended + NEAR]

    def _same_counts(self, span: _Span) -> list[_Span]:
        """Tellings around it, or beside it, that count the same tokens."""
        if not span.sent and not span.got:
            return []
        earliest = span.started - LONGEST_CALL
        found = self._others(span, _SAME_COUNTS, span.sent, span.got, earliest, span.started)
        return [o for o in found if _around(o, span) or _beside(o, span)]

    def _under_way(self, span: _Span) -> list[_Span]:
        """Tellings around it, of which one does not count all tokens, that begin or end when it does."""
        near = _UNCOUNTED if span.sent and span.got else _UNDER_WAY
        found = self._others(span, near, span.started - LONGEST_CALL, span.started)
        return [o for o in found if _about(o, span)]

    def _others(self, span: _Span, query: str, *values: object) -> list[_Span]:
        """Tellings by others, of calls that this one's teller has not told of."""
        told = (span.teller, span.framework)
        found = self._db.execute(query, (*values, SIDE_BY_SIDE, *told, span.failed, *told))
        return [o for row in found if _may_be_one(o := _Span._make(row), span)]

    # --- putting them together ---------------------------------------------------------------------

    def _join(self, span: _Span, candidates: Callable[[_Span], list[_Span]]) -> None:
        """Puts a telling together with the nearest one of the same call, if there is one."""
        possible = candidates(span)
        if not possible:
            return
        possible.sort(key=lambda o: (o.trace != span.trace, o.ended - o.started, o.started, o.id))
        call = self._call_of(span)
        own = self._told(call)
        for other in possible:
            others = self._told(other.call)
            # nobody tells of one call twice: what the other has told of already was another call
            if other.call != call and all(_differ(a, b) and _same_model(a, b) for a in own for b in others):
                self._db.execute("UPDATE tellings SET call = ? WHERE call = ?", (other.call, call))
                return

    def _call_of(self, span: _Span) -> int:
        """What call it is by now."""
        return int(self._db.execute("SELECT call FROM tellings WHERE seq = ?", (span.seq,)).fetchone()[0])

    def _told(self, call: int) -> list[_Span]:
        """All that has been found to be the same call."""
        return [_Span._make(row) for row in self._db.execute("SELECT * FROM tellings WHERE call = ?", (call,))]

    def _choose(self) -> None:
        """Of each call the fullest telling is kept; with it goes what another counted and it did not."""
        self._db.execute(
            "INSERT INTO twins SELECT seq, place = 1, CASE WHEN sent > 0 AND got > 0 THEN '' ELSE"
            " coalesce((SELECT usage FROM tellings o WHERE o.call = n.call AND o.sent > 0 AND o.got > 0"
            " ORDER BY o.started, o.id, o.seq LIMIT 1), '') END"
            " FROM (SELECT *, count(*) OVER (PARTITION BY call) AS many, row_number() OVER (PARTITION BY call ORDER BY"
            " framework DESC, content DESC, sent > 0 AND got > 0 DESC, started, id, seq) AS place"
            " FROM tellings) n WHERE many > 1"
        )


def _around(outer: _Span, inner: _Span) -> bool:
    """True if one call lies within the other."""
    if outer.started == inner.started:
        return True
    return outer.started <= inner.started and inner.ended <= outer.ended


def _beside(one: _Span, other: _Span) -> bool:
    """True if two listened to LangChain, which tells one after the other: both begin together and end together."""
    if not one.framework or not other.framework or other.started > one.ended:
        return False
    return other.started - one.started <= HOOKS and abs(other.ended - one.ended) <= HOOKS


def _about(outer: _Span, inner: _Span) -> bool:
    if outer.sent and outer.got and inner.sent and inner.got:
        return False
    if inner.teller == outer.teller + STREAM:
        return abs(inner.started - outer.ended) <= NEAR
    near = inner.started - outer.started <= NEAR
    if _beside(outer, inner):
        return True
    if _around(outer, inner):
        return near or abs(outer.ended - inner.ended) <= NEAR
    # of a stream some end their span with its first piece, and count nothing
    return near and inner.started <= outer.ended and not outer.framework and not outer.sent and not outer.got


def _may_be_one(a: _Span, b: _Span) -> bool:
    """True if nothing that both tell says that these are two calls."""
    if a.response and b.response and a.response != b.response:
        return False
    if (a.sent and b.sent and a.sent != b.sent) or (a.got and b.got and a.got != b.got):
        return False
    return _same_model(a, b)


def _same_model(a: _Span, b: _Span) -> bool:
    """True if both called the same model, as far as they tell."""
    if a.model and b.model and not (_is_version_of(a.model, b.model) or _is_version_of(b.model, a.model)):
        return False
    # clients are used for other providers than the one that they are named after
    return not a.provider or not b.provider or a.provider == b.provider or (a.model == b.model != "")


def _is_version_of(name: str, model: str) -> bool:
    """True for the model itself and for a version of it: `gpt-4o-2024-08-06` of `gpt-4o`, but not `gpt-4o-mini`."""
    return name.startswith(model) and _VERSION.fullmatch(name, len(model)) is not None


def _differ(a: _Span, b: _Span) -> bool:
    """True if two instrumentations told of it."""
    return (a.teller, a.framework) != (b.teller, b.framework)
