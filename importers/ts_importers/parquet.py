"""Bulk exports of LangSmith and Langfuse: Parquet files in a folder or an object store, read by DuckDB.

Files may lie in any order and hold rows in any order. The rows of a span of time at a time are unpacked to disk and
read from there in order, so memory does not grow with the export, and neither does the disk that it takes.
"""

from __future__ import annotations

import glob
import os
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import orjson

from ts_importers.base import Page, Position, Skipped
from ts_importers.langfuse_rows import OBSERVATIONS, OLDER_OBSERVATIONS, TRACES
from ts_importers.object_store import WEB, failure, first_line, is_address, quoted, reach, without_secrets
from ts_importers.parquet_tables import LANGFUSE, TABLES, table_of
from ts_importers.retrying import ATTEMPTS, MayPass, retrying
from ts_langchain.errors import ConfigurationError, SourceUnavailable, UnreadableSource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from ts_importers.base import OnWait
    from ts_importers.parquet_tables import Table

PAGE_ROWS = 500
PAGE_BYTES = 4_000_000
CHUNK_ROWS = 50_000
FETCH_ROWS = 200
MAX_NAMED = 3
MEMORY_MB, MAX_MEMORY_MB = 100, 6_400
MAGIC = b"PAR1", b"PARE"  # the latter is encrypted
LEAST_BYTES = 12
CUT_OFF = "cut off, or no Parquet"
MINUTE = 60_000_000  # microseconds
LATEST = 253_402_300_799_000_000  # the last second that Python's calendar has
INTERRUPTED = "Query interrupted"
# columns of our own, by names that no table has
START, END, FILE = "ts_langchain_start", "ts_langchain_end", "ts_langchain_file"


class ParquetImporter:
    """Reads a bulk export.

    Args:
        path: A folder, a file, a glob pattern, or an address (`s3://`, `gs://`, `https://`).
        project: Only this project: its id, or its name where the export has names.
        since: Only runs that start at this time or later.
        until: Only runs that start before this time.
        limit: Stop after about so many rows.
        memory_mb: What DuckDB may use; more, with a notice, where row groups are larger.
        on_wait: Told of each wait before an object store is asked again.
        sleep: Waits; for tests.

    Raises:
        ConfigurationError: DuckDB is not installed, the address or the environment cannot be used, or the project
            cannot be told from others.
        UnreadableSource: There are no Parquet files, or they hold nothing that is known.
        SourceUnavailable: The object store cannot be reached.
        AuthenticationFailed: It refuses its keys.
    """

    source = "parquet"

    def __init__(
        self,
        path: Path | str,
        *,
        project: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        memory_mb: int = MEMORY_MB,
        on_wait: OnWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path, self.project, self.limit = str(path), project, limit
        self.since, self.until = since, until
        self._remote = is_address(self.path)
        self._shown = without_secrets(self.path) if self._remote else self.path
        self.scope = self._shown if self._remote else str(Path(self.path).resolve())
        if project is not None:
            self.scope += f" project={project}"
        self._memory = memory_mb
        self._retrying = retrying("the object store", on_wait=on_wait, sleep=sleep)
        self.notices: list[str] = []
        self._broken: list[str] = []
        self._db = _connect(memory_mb)
        if self._remote:
            with _interruptible():
                reach(self._db, self.path)
        self._traces = ""
        self._files = self._find_files()
        self._columns = self._describe_columns(self._files)
        self._table = self._recognise()
        # what lies before 1970 or after the year 9999 is no time, as elsewhere: such rows are named
        at = _micros("start_time", self._columns["start_time"])
        self._start = f"(CASE WHEN {at} BETWEEN 1 AND {LATEST} THEN {at} END)"
        self._from = self._join_traces()
        self._select = self._build_select()
        self._plan()
        self.notices.insert(0, f"detected: {self._table.title}, {sum(c.rows for c in self._chunks):,} rows")
        missing = [name for name in self._table.wanted if name not in self._columns]
        if missing:
            self.notices.append(
                f"the export has no {', '.join(missing)}: what needs them is not found (see {self._table.chosen_by})"
            )

    def describe(self) -> Mapping[str, str]:
        """What is imported, for people."""
        about = {"files": self._shown, "format": f"{self._table.title} (Parquet)"}
        if self.project is not None:
            about["project"] = self.project
        return about

    def begin_at(self, at: datetime) -> None:
        """Leaves out what started before, to go on after an earlier import."""
        self.since = at
        self._plan()

    # --- finding out -------------------------------------------------------------------------------

    def _find_files(self) -> str:
        """The files that DuckDB is to read, in SQL: patterns of names."""
        path = Path(self.path)
        if path.is_dir() and not self._remote:
            return self._find_in_folder(path)
        if self._remote and not (self.path.startswith(WEB) or "*" in self.path or self.path.endswith(".parquet")):
            return self._find_in_store(f"{self.path.rstrip('/')}/")
        return quoted(glob.escape(self.path) if path.is_file() else self.path)

    def _find_in_folder(self, folder: Path) -> str:
        """Its files, without hidden ones: what copying leaves behind is no Parquet.

        Raises:
            UnreadableSource: There are none.
        """
        found = sorted(f for f in folder.rglob("*.parquet") if not f.name.startswith(".") and f.is_file())
        if not found:
            msg = f"No files found in {self.path} whose names end with .parquet"
            raise UnreadableSource(msg)
        kinds = {f: f.parent.name for f in found if f.parent != folder}
        kind = _with_observations(kinds.values())
        self._name_left_out({f.parent.relative_to(folder).as_posix() for f in kinds}, kind)
        read = [f for f in found if kind is None or kinds.get(f) in (kind, TRACES)]
        broken = {f for f in read if not _is_whole(f)}
        if len(broken) < len(read):
            read = [f for f in read if f not in broken]
            self._broken = sorted(f.relative_to(folder).as_posix() for f in broken)
            self._say_left_out(self._broken, f"{CUT_OFF}; once they are whole, import again with --fresh")
        self._traces = _list_of(f for f in read if kinds.get(f) == TRACES)
        return _list_of(f for f in read if kind is None or kinds.get(f) == kind)

    def _find_in_store(self, folder: str) -> str:
        """Patterns: of the files in a list DuckDB would ask one by one how long they are."""
        names = self._query(f"SELECT file FROM glob({quoted(f'{folder}**/*.parquet')})")  # noqa: S608 - it is quoted
        folders = {str(name).removeprefix(folder).rpartition("/")[0] for (name,) in names}
        kinds = {name.rpartition("/")[2] for name in folders}
        kind = _with_observations(kinds)
        self._name_left_out(folders, kind)
        if TRACES in kinds:
            self._traces = quoted(f"{folder}**/{TRACES}/*.parquet")
        return quoted(f"{folder}**/*.parquet" if kind is None else f"{folder}**/{kind}/*.parquet")

    def _name_left_out(self, folders: Collection[str], kind: str | None) -> None:
        """Says which projects have only an older export, where others have a newer one, which is read."""
        projects = {name.rpartition("/")[0] for name in folders if name.rpartition("/")[2] == kind}
        older = sorted(name for name in folders if name.rpartition("/")[2] == OLDER_OBSERVATIONS)
        if kind == OBSERVATIONS:
            others = [name for name in older if name.rpartition("/")[0] not in projects]
            self._say_left_out(others, "older exports beside newer ones; import each by itself")

    def _say_left_out(self, names: Sequence[str], why: str) -> None:
        if names:
            more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
            self.notices.append(f"left out: {', '.join(names[:MAX_NAMED])}{more}: {why}")

    def _describe_columns(self, files: str) -> dict[str, str]:
        rows = self._query(f"DESCRIBE SELECT * FROM {_parquet(files)}")  # noqa: S608 - the path is quoted
        return {str(name): str(kind) for name, kind, *_ in rows}

    def _recognise(self) -> Table:
        table = table_of(self._columns)
        if table is None:
            known = " or a ".join(f"{t.title} ({', '.join(t.needed)})" for t in TABLES)
            there = ", ".join([name for name in self._columns if name != FILE][:20])
            msg = (
                f"{self._shown} holds nothing that is known: there are the columns {there}. Expected is a "
                f"{known}. Save others as JSON lines and use ts-langchain import file"
            )
            raise UnreadableSource(msg)
        return table

    def _join_traces(self) -> str:
        """The table of rows, in SQL. Langfuse's older exports keep session, user and tags in files of their own."""
        rows = _parquet(self._files)
        if self._table is not LANGFUSE or "session_id" in self._columns:
            return rows
        if not self._traces:
            self.notices.append(
                f"the export names no sessions, each trace counts as one: they are in its folder {TRACES}, or in its "
                "field group basic"
            )
            return rows
        columns = self._describe_columns(self._traces)
        found = {name: columns[name] for name in ("session_id", "user_id", "tags") if name in columns}
        about = ", ".join(["id", *(f"{'any_value' if name == 'tags' else 'max'}({name}) AS {name}" for name in found)])
        self._query(
            f"CREATE OR REPLACE TEMP TABLE traces AS SELECT {about} FROM {_parquet(self._traces)} GROUP BY id"  # noqa: S608 - the path is quoted
        )
        taken = "".join(f", t.{name}" for name in found if name not in self._columns)
        self._columns = found | self._columns
        return f"(SELECT o.*{taken} FROM {rows} o LEFT JOIN traces t ON t.id = o.trace_id)"  # noqa: S608 - as above

    def _build_select(self) -> str:
        """Each column as Python is to get it: times in microseconds, nested values as JSON."""
        parts = [f'{self._start} AS "{START}"', "CAST(id AS VARCHAR) AS id"]
        if "end_time" in self._columns:
            parts.append(f"""{_micros("end_time", self._columns["end_time"])} AS "{END}\"""")
        table = self._table
        for name in (*table.texts, *table.nested, *table.counts, *table.costs):
            kind = self._columns.get(name)
            if kind is None:
                continue
            if name in table.texts:
                parts.append(f'CAST("{name}" AS VARCHAR) AS "{name}"')
            elif name in table.nested:
                plain = kind in ("VARCHAR", "JSON")
                value = f'"{name}"' if plain else f'to_json("{name}")'
                parts.append(f'CAST({value} AS VARCHAR) AS "{name}"')
            else:
                parts.append(f'TRY_CAST("{name}" AS {"BIGINT" if name in table.counts else "DOUBLE"}) AS "{name}"')
        parts.append(f'"{FILE}" AS "{FILE}"')
        self._names = [*(p.rpartition(" AS ")[2].strip('"') for p in parts), "number"]
        return ", ".join(parts)

    def _plan(self) -> None:
        """What is read, in spans of time of about so many rows each. Reads the one column of start times."""
        self._where, self._values = self._filters()
        found = self._query(
            "SELECT min(minute), max(minute) + 1, sum(rows) FROM ("  # noqa: S608 - nothing in it comes from a user
            f" SELECT minute, rows, (sum(rows) OVER (ORDER BY minute) - rows) // {CHUNK_ROWS} AS chunk FROM ("
            f" SELECT coalesce({self._start} // {MINUTE}, -1) AS minute, count(*) AS rows FROM {self._from}"
            f" WHERE {self._where} GROUP BY 1)) GROUP BY chunk ORDER BY chunk",
            self._values,
        )
        self._chunks = [_Chunk(int(begin) * MINUTE, int(end) * MINUTE, int(rows)) for begin, end, rows in found]
        rows = sum(chunk.rows for chunk in self._chunks)
        self.total: int | None = rows if self.limit is None else min(rows, self.limit)

    def _filters(self) -> tuple[str, list[object]]:
        tests, values = [], []
        if self.since is not None:
            tests.append(f"{self._start} >= ?")
            values.append(_us(self.since))
        if self.until is not None:
            tests.append(f"{self._start} < ?")
            values.append(_us(self.until))
        bounds: list[object] = list(values)
        if self.project is not None:
            names = [n for n in self._table.projects if n in self._columns]
            if not names:
                msg = f"--project: {self._shown} does not say which project a run belongs to"
                raise ConfigurationError(msg)
            tests.append(f"({' OR '.join(f'CAST({n} AS VARCHAR) = ?' for n in names)})")
            bounds += [self.project] * len(names)
        return " AND ".join(tests) or "true", bounds

    # --- reading -----------------------------------------------------------------------------------

    def pages(self, position: Position | None = None) -> Iterator[Page]:
        """Pages of up to 500 rows or 4 MB."""
        start = position or {}
        begin, first = int(start.get("start") or -MINUTE), str(start.get("id") or "")
        taken = int(start.get("rows") or 0)
        broken = [] if start else [Skipped(name, CUT_OFF) for name in self._broken]
        for chunk in self._chunks:
            if chunk.end <= begin:
                continue
            rows = self._rows(chunk, begin, first)
            while self.limit is None or taken < self.limit:
                size = PAGE_ROWS if self.limit is None else min(PAGE_ROWS, self.limit - taken)
                page, taken = self._page(islice(rows, size), taken)
                if page is None:
                    break
                page.skipped[:0], broken = broken, []
                yield page

    def _page(self, rows: Iterator[dict[str, Any]], taken: int) -> tuple[Page | None, int]:
        page: Page | None = None
        size = 0
        for row in rows:
            if page is None:
                at = row["start_time"]
                since = None if at is None else datetime.fromtimestamp(at, tz=UTC).isoformat()
                page = Page([], {"start": row[START], "id": row["id"] or "", "rows": taken, "from": since})
            taken += 1
            size += row["size"]
            run = self._table.read(row)
            if run is None:
                page.ignored += 1
            elif isinstance(run, Skipped):
                page.skipped.append(Skipped(row["id"] or f"{row[FILE]}, row {row['number']}", run.why))
            else:
                page.runs.append(run)
            if size >= PAGE_BYTES:
                break
        return page, taken

    def _rows(self, chunk: _Chunk, begin: int, first: str) -> Iterator[dict[str, Any]]:
        """Rows of a span of time in order, from a start time and id on."""
        with tempfile.TemporaryFile() as spool:
            for _, _, offset in self._unpack(chunk, begin, first, spool):
                spool.seek(offset)
                yield _row(dict(zip(self._names, orjson.loads(spool.readline()), strict=True)))

    def _unpack(self, chunk: _Chunk, begin: int, first: str, spool: IO[bytes]) -> list[tuple[int, str, int]]:
        """Writes a span's rows, one a line. Returns start time, id and place of each, in order of time."""
        sql = (
            f"SELECT {self._select} FROM {self._from} WHERE {self._where}"  # noqa: S608 - as above
            f" AND coalesce({self._start}, {-MINUTE}) BETWEEN ? AND ?"
        )
        values = [*self._values, max(chunk.begin, begin), chunk.end - 1]
        keys: list[tuple[int, str, int]] = []
        number = 0

        def start() -> None:
            nonlocal number
            keys.clear()
            spool.seek(0)
            number = 0

        def take(rows: Sequence[tuple[Any, ...]]) -> None:
            nonlocal number
            for row in rows:
                key = (-MINUTE if row[0] is None else row[0], row[1] or "")
                if key >= (begin, first):
                    keys.append((*key, spool.tell()))
                    spool.write(orjson.dumps([*row, number], default=str, option=orjson.OPT_APPEND_NEWLINE))
                number += 1

        self._execute(_Query(sql, values, start, take))
        keys.sort()
        return keys

    def _query(self, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a query, all at once."""
        rows: list[tuple[Any, ...]] = []
        self._execute(_Query(sql, values, rows.clear, rows.extend))
        return rows

    def _execute(self, query: _Query) -> None:
        """Runs a query, and again if the object store fails in a way that may pass.

        Raises:
            UnreadableSource: Files are missing or broken.
            SourceUnavailable: The object store fails.
            AuthenticationFailed: The object store refuses its keys.
            KeyboardInterrupt: Ctrl-C ended the query.
        """
        try:
            with _interruptible():
                self._retrying(self._try, query)
        except MayPass as last:
            msg = (
                f"{self._shown} could not be read: {last.reason}, after {ATTEMPTS} attempts. What was imported is "
                "kept; run the same command later to go on."
            )
            raise SourceUnavailable(msg) from None

    def _try(self, query: _Query) -> None:
        """Runs a query. Files with large row groups need more memory than others: DuckDB gets it, and begins anew."""
        import duckdb

        while True:
            query.start()
            try:
                found = self._db.execute(query.sql, query.values)
                while rows := found.fetchmany(FETCH_ROWS):
                    query.take(rows)
            except duckdb.OutOfMemoryException as error:
                if self._memory >= MAX_MEMORY_MB:
                    msg = f"{self._shown}: row groups are too large for {self._memory} MB: {first_line(error)}"
                    raise UnreadableSource(msg) from error
                self._memory *= 4
                self.notices.append(f"large row groups: DuckDB may use {self._memory} MB")
                self._db.execute(f"SET memory_limit = '{self._memory}MB'")
            except duckdb.IOException as error:
                if self._remote:
                    raise failure(error, self.path) from None  # its message would show a signature
                raise self._unreadable(error) from error
            except duckdb.Error as error:
                raise self._unreadable(error) from error
            else:
                return

    def _unreadable(self, error: Exception) -> UnreadableSource:
        said = first_line(error).replace(self.path, self._shown)
        return UnreadableSource(f"{self._shown} cannot be read as Parquet: {said}")


class _Query(NamedTuple):
    """A query, and what its rows are for.

    Attributes:
        sql: The query.
        values: What its question marks stand for.
        start: Called before the first row, each time that it is run.
        take: Called with the rows, some at a time.
    """

    sql: str
    values: list[Any] | None
    start: Callable[[], object]
    take: Callable[[Sequence[tuple[Any, ...]]], object]


class _Chunk(NamedTuple):
    """A span of time, in microseconds, and its rows."""

    begin: int
    end: int
    rows: int


def _row(found: dict[str, Any]) -> dict[str, Any]:
    """A row with its times as the readers of rows take them, and its size."""
    found["size"] = sum(len(value) for value in found.values() if isinstance(value, str))
    start, end = found.get(START), found.get(END)
    found["start_time"] = start / 1e6 if start is not None else None
    found["end_time"] = end / 1e6 if end is not None else None
    found[START] = -MINUTE if start is None else start
    return found


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C in the middle of a query be one: DuckDB makes a RuntimeError of it."""
    try:
        yield
    except RuntimeError as error:
        if str(error) != INTERRUPTED:
            raise
        raise KeyboardInterrupt from error


@_interruptible()
def _connect(memory_mb: int) -> Any:
    """A database in little memory, that puts no temporary files of its own into the folder it runs in.

    Raises:
        ConfigurationError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError:
        msg = "Parquet is read with DuckDB, which is not installed: pip install 'ts-langchain[parquet]'"
        raise ConfigurationError(msg) from None
    db = duckdb.connect(config={"threads": 1, "memory_limit": f"{memory_mb}MB"})
    db.execute("SET temp_directory = ''")
    db.execute("SET TimeZone = 'UTC'")
    db.execute("SET enable_progress_bar = false")
    return db


def _micros(name: str, kind: str) -> str:
    """A time column in microseconds since the epoch; numbers are told by their size."""
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return f"epoch_us({name})"
    if kind in ("VARCHAR", "JSON"):
        number = _micros(f"TRY_CAST({name} AS DOUBLE)", "DOUBLE")
        return f"coalesce(epoch_us(TRY_CAST({name} AS TIMESTAMPTZ)), {number})"
    return (
        f"TRY_CAST(CASE WHEN {name} > 1e17 THEN {name} / 1000 WHEN {name} > 1e14 THEN {name}"
        f" WHEN {name} > 1e11 THEN {name} * 1000.0 ELSE {name} * 1000000.0 END AS BIGINT)"
    )


def _parquet(files: str) -> str:
    """Files as a table, in SQL."""
    return f"read_parquet({files}, union_by_name=true, binary_as_string=true, filename={quoted(FILE)})"


def _with_observations(kinds: Iterable[str]) -> str | None:
    """The folder of a Langfuse export that is read, None if it is another export."""
    found = set(kinds)
    return next((kind for kind in (OBSERVATIONS, OLDER_OBSERVATIONS) if kind in found), None)


def _is_whole(file: Path) -> bool:
    """False for a file that was not written, or not copied, to its end: there Parquet says what is in it."""
    try:
        with file.open("rb") as opened:
            if file.stat().st_size < LEAST_BYTES or opened.read(4) not in MAGIC:
                return False
            opened.seek(-4, os.SEEK_END)
            return opened.read() in MAGIC
    except OSError:
        return True  # whoever reads it says why that cannot be done


def _list_of(files: Iterable[Path]) -> str:
    """Files in SQL; empty if there are none."""
    names = ", ".join(quoted(glob.escape(str(f))) for f in files)
    return names and f"[{names}]"


def _us(at: datetime) -> int:
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return int(at.timestamp() * 1_000_000)
