"""Rows of one or many files in order of start time, through an index on disk: memory does not grow with the history.

The index is a temporary SQLite database without a name. Rows that cannot be read from their place in a file
(many spans a line, gzipped files, lists) are unpacked into a temporary file, one a line.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import OrderedDict
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import orjson

from ts_importers.documents import Document, Documents, loads, why_unreadable
from ts_importers.told_twice import Tellings
from ts_langchain.errors import UnreadableSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ts_importers.formats.base import Format, Row

BATCH = 1_000
OPEN_FILES = 32
MAX_DEPTH = 64
KNOWN_SPANS = 20_000
_NOTHING = ("", "", "", "", None, None, "", 0)


class Place(NamedTuple):
    """A row in its place in the order.

    Attributes:
        number: Its number in the order, from 1.
        file: Number of its file.
        where: Its line, and which of several rows of it.
        row: The row; None if it could not be read.
        why: Why it could not.
        session: The conversation that its trace names.
        node: The node that an enclosing span names.
        inner: It is a call that another span records as well.
        usage: Usage that a span of the same call tells, and this one does not.
        size: Its bytes.
    """

    number: int
    file: int
    where: str
    row: Row | None
    why: str
    session: str | None
    node: str | None
    inner: bool
    size: int
    usage: dict[str, Any] | None = None


class TimeOrder:
    """The rows of files, in order of start time; rows without one follow the row before them.

    Args:
        files: Each file's documents and format. One of several that cannot be read to its end is named, and ends there.

    Attributes:
        total: Number of rows.
        calls: Number of spans that are calls.
        alone: Number of model calls that name no conversation, and that no other span encloses.

    Raises:
        UnreadableSource: The only file cannot be read to its end, or there is no room for the index.
    """

    def __init__(self, files: Sequence[tuple[Documents, Format]]) -> None:
        self.total = self.calls = self.alone = 0
        self._paths: list[Path | None] = []
        self._spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the index
        self._spans = any(f.spans for _, f in files)
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()
        self._known: OrderedDict[str, tuple[str, str, str | None, str]] = OrderedDict()
        self._db = sqlite3.connect("", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute(
            "CREATE TABLE rows (started REAL, file INT, line INT, sub INT, offset INT, why TEXT,"
            " id TEXT, parent TEXT, trace TEXT, kind TEXT, session TEXT, node TEXT, name TEXT, seq INT)"
        )
        self._tellings = Tellings(self._db)
        try:
            for number, (documents, form) in enumerate(files):
                self._paths.append(documents.path if documents.seekable and not form.spans else None)
                self._add(number, documents, form, several=len(files) > 1)
                documents.release()
            self._sort()
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):  # what could not be written cannot be written now either
                self._spool.close()
            where = tempfile.gettempdir()
            msg = f"temporary files in {where} cannot be written: {error}. TMPDIR names another place for them"
            raise UnreadableSource(msg) from error

    # --- making ------------------------------------------------------------------------------------

    def _add(self, file: int, documents: Documents, form: Format, *, several: bool) -> None:
        spooled = self._paths[file] is None
        before = float("-inf")
        rows: list[tuple[object, ...]] = []
        told: list[tuple[object, ...]] = []
        for line, raw, offset, why in _to_the_end(documents, several=several):
            if why:
                rows.append((before, file, line, 0, 0, why, *_NOTHING))
                continue
            if not raw.strip():
                continue
            document = loads(raw)
            if not isinstance(document, dict):
                why = why_unreadable(raw, document)
                rows.append((before, file, line, 0, 0, why, *_NOTHING))
                continue
            sub = 0
            for sub, row in enumerate(form.rows(document), 1):
                key = form.key(row)
                before = before if key.started is None else key.started
                try:
                    place, why = self._unpack(row) if spooled else offset, ""
                except TypeError:  # it can be parsed, but is too deep to be written
                    place, why = 0, "nested too deeply"
                about = (key.id, key.parent, key.trace, key.kind, key.session, key.node, key.name)
                seq = self.total + len(rows) + 1
                rows.append((before, file, line, sub, place, why, *about, seq))
                self.calls += bool(key.kind)
                if key.telling is not None:
                    told.append((seq, key.id, key.parent, key.trace, before, *key.telling))
                if len(rows) >= BATCH:
                    self._insert(rows, told)
            if not sub:
                rows.append((before, file, line, 0, 0, "nothing in it", *_NOTHING))
        self._insert(rows, told)

    def _unpack(self, row: Row) -> int:
        offset = self._spool.tell()
        self._spool.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        return offset

    def _insert(self, rows: list[tuple[object, ...]], told: list[tuple[object, ...]]) -> None:
        self._db.executemany("INSERT INTO rows VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)", rows)
        self._tellings.add(told)
        self.total += len(rows)
        rows.clear()
        told.clear()

    def _sort(self) -> None:
        db = self._db
        db.execute("CREATE TABLE ordered AS SELECT * FROM rows ORDER BY started, file, line, sub")
        db.execute("DROP TABLE rows")
        if self._spans:
            db.execute("CREATE INDEX by_id ON ordered (id)")
            self._tellings.settle()
            db.execute(
                "CREATE TABLE traces AS SELECT trace, session, min(rowid) FROM ordered"
                " WHERE session IS NOT NULL GROUP BY trace"
            )
            db.execute("CREATE UNIQUE INDEX by_trace ON traces (trace)")
            found = db.execute(
                "SELECT count(*) FROM ordered o LEFT JOIN twins USING (seq) WHERE kind = 'llm' AND parent = ''"
                " AND coalesce(kept, 1) AND NOT EXISTS (SELECT 1 FROM traces t WHERE t.trace = o.trace)"
            )
            self.alone = found.fetchone()[0]
        db.commit()
        self._spool.flush()

    # --- reading -----------------------------------------------------------------------------------

    def read(self, after: int = 0) -> Iterator[Place]:
        """Rows behind the first `after` of the order."""
        found = self._db.execute(
            "SELECT ordered.rowid, file, line, sub, offset, why, parent, trace, kind, session, node, name,"
            " kept, usage"
            " FROM ordered LEFT JOIN twins USING (seq) WHERE ordered.rowid > ? ORDER BY ordered.rowid",
            (after,),
        )
        for number, file, line, sub, offset, why, parent, trace, kind, session, node, name, kept, usage in found:
            where = f"line {line}" if sub <= 1 else f"line {line}, row {sub}"
            if why:
                yield Place(number, file, where, None, why, None, None, False, 0)
                continue
            raw = self._raw(file, offset)
            row = loads(raw)
            inner = False
            if trace:
                session = session or self._session_of(trace)
                outer = self._span(parent) if parent and kind and kind != "llm" else None
                # a framework's span and its client library's: one call, told twice
                inner = outer is not None and outer[1] == kind and (kind != "tool" or outer[3] == name)
                inner = inner or kept == 0
                node = node or self._node_of(parent)
            if isinstance(row, dict):
                yield Place(number, file, where, row, "", session, node, inner, len(raw), _dict(usage))
            else:
                yield Place(number, file, where, None, "the file has changed meanwhile", None, None, False, 0)

    def _raw(self, file: int, offset: int) -> bytes:
        path = self._paths[file]
        if path is None:
            self._spool.seek(offset)
            return self._spool.readline()
        handle = self._open.pop(file, None) or path.open("rb")
        self._open[file] = handle
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        handle.seek(offset)
        return handle.readline()

    def _session_of(self, trace: str) -> str | None:
        found = self._db.execute("SELECT session FROM traces WHERE trace = ?", (trace,)).fetchone()
        return found[0] if found else None

    def _span(self, span_id: str) -> tuple[str, str, str | None, str] | None:
        """Parent, kind, node and name of a span."""
        known = self._known.get(span_id)
        if known is None:
            known = self._db.execute(
                "SELECT parent, kind, node, name FROM ordered WHERE id = ? LIMIT 1", (span_id,)
            ).fetchone()
            if known is None:
                return None
            self._known[span_id] = known
            if len(self._known) > KNOWN_SPANS:
                self._known.popitem(last=False)
        return known

    def _node_of(self, span_id: str) -> str | None:
        for _ in range(MAX_DEPTH):
            span = self._span(span_id) if span_id else None
            if span is None:
                return None
            if span[2]:
                return span[2]
            span_id = span[0]
        return None


def _to_the_end(documents: Documents, *, several: bool) -> Iterator[Document]:
    """Documents, and in the place of those that cannot be read, of one of several files, why they cannot."""
    line = 0
    try:
        for document in documents.read():
            line = document.line
            yield document
    except UnreadableSource as error:
        if not several:
            raise
        yield Document(line + 1, b"", 0, str(error))


def _dict(usage: str | None) -> dict[str, Any] | None:
    found = loads(usage.encode()) if usage else None
    return found if isinstance(found, dict) else None
