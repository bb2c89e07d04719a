"""LangSmith's bulk exports: Parquet files in a folder or an object store, read by DuckDB.

Files may lie in any order and hold rows in any order. The rows of a span of time at a time are unpacked to disk and
read from there in order, so memory does not grow with the export, and neither does the disk that it takes.
"""

from __future__ import annotations

import glob
import os
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import orjson

from ts_importers.base import Page, Position, Skipped
from ts_importers.langsmith_rows import run_from_row
from ts_langchain.errors import ConfigurationError, SourceUnavailable, UnreadableSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PAGE_ROWS = 500
PAGE_BYTES = 4_000_000
CHUNK_ROWS = 50_000
FETCH_ROWS = 200
MEMORY_MB, MAX_MEMORY_MB = 100, 6_400
MINUTE = 60_000_000  # microseconds
INTERRUPTED = "Query interrupted"
# columns of our own, by names that no table has
START, END, FILE = "ts_langchain_start", "ts_langchain_end", "ts_langchain_file"
REMOTE = ("s3://", "s3a://", "gs://", "gcs://", "r2://", "http://", "https://", "hf://", "az://", "abfss://")
_JSON = ("inputs", "outputs", "extra", "tags", "parent_run_ids", "prompt_token_details", "completion_token_details")
_TEXTS = ("id", "name", "run_type", "trace_id", "parent_run_id", "thread_id", "status", "error", "ls_model_name")
_COUNTS = ("prompt_tokens", "completion_tokens")
_COSTS = ("prompt_cost", "completion_cost", "total_cost")
_NEEDED = ("id", "run_type", "start_time")


class ParquetImporter:
    """Reads a bulk export.

    Args:
        path: A folder, a file, a glob pattern, or an address (`s3://`, `gs://`, `https://`).
        project: Only this project: its id, or its name where the export has names.
        since: Only runs that start at this time or later.
        until: Only runs that start before this time.
        limit: Stop after about so many rows.
        memory_mb: What DuckDB may use; more, with a notice, where row groups are larger.

    Raises:
        ConfigurationError: DuckDB is not installed, or the project cannot be told from others.
        UnreadableSource: There are no Parquet files, or they hold no LangSmith runs.
        SourceUnavailable: The object store cannot be reached or refuses its keys.
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
    ) -> None:
        self.path, self.project, self.limit = str(path), project, limit
        self.since, self.until = since, until
        self._remote = self.path.startswith(REMOTE)
        self._shown = _without_secrets(self.path) if self._remote else self.path
        self.scope = self._shown if self._remote else str(Path(self.path).resolve())
        if project is not None:
            self.scope += f" project={project}"
        self._memory = memory_mb
        self.notices: list[str] = []
        self._db = _connect(memory_mb)
        self._pattern = self._files()
        if self._remote:
            _reach(self._db, self._shown)
        self._columns = self._describe_columns()
        # what lies before 1970 is no time, as elsewhere: such rows are named
        self._start = f"nullif(greatest({_micros('start_time', self._columns['start_time'])}, 0), 0)"
        self._select = self._build_select()
        self._where, self._values = self._filters()
        self._chunks = self._plan()
        self.total: int | None = sum(c.rows for c in self._chunks)
        if limit is not None:
            self.total = min(self.total, limit)
        missing = [n for n in ("inputs", "outputs", "extra") if n not in self._columns]
        self.notices.append(f"detected: LangSmith bulk export, {sum(c.rows for c in self._chunks):,} rows")
        if missing:
            self.notices.append(
                f"the export has no {', '.join(missing)}: what needs them is not found (see export_fields)"
            )

    def describe(self) -> Mapping[str, str]:
        """What is imported, for people."""
        about = {"files": self._shown, "format": "LangSmith bulk export (Parquet)"}
        if self.project is not None:
            about["project"] = self.project
        return about

    # --- finding out -------------------------------------------------------------------------------

    def _files(self) -> str:
        """The files that DuckDB is to read, in SQL: patterns of names."""
        if self._remote:
            if self.path.startswith(("http://", "https://")) or "*" in self.path or self.path.endswith(".parquet"):
                return _quoted(self.path)
            return _quoted(f"{self.path.rstrip('/')}/**/*.parquet")
        path = Path(self.path)
        if path.is_dir():  # without hidden ones: what copying leaves behind is no Parquet
            found = sorted(f for f in path.rglob("*.parquet") if not f.name.startswith(".") and f.is_file())
            if not found:
                msg = f"No files found in {self.path} whose names end with .parquet"
                raise UnreadableSource(msg)
            return f"[{', '.join(_quoted(glob.escape(str(f))) for f in found)}]"
        return _quoted(glob.escape(self.path) if path.is_file() else self.path)

    def _describe_columns(self) -> dict[str, str]:
        rows = self._query(f"DESCRIBE SELECT * FROM {self._table()}")  # noqa: S608 - the path is quoted
        columns = {str(name): str(kind) for name, kind, *_ in rows}
        missing = [n for n in _NEEDED if n not in columns]
        if missing:
            msg = (
                f"{self._shown} holds no LangSmith runs: columns {', '.join(missing)} are missing; "
                f"there are {', '.join(list(columns)[:20])}. Expected is a bulk export of LangSmith, or a table of its "
                "runs; save others as JSON lines and use ts-langchain import file"
            )
            raise UnreadableSource(msg)
        return columns

    def _table(self) -> str:
        return f"read_parquet({self._pattern}, union_by_name=true, filename={_quoted(FILE)})"

    def _build_select(self) -> str:
        """Each column as Python is to get it: times in microseconds, nested values as JSON."""
        parts = [f'{self._start} AS "{START}"', "CAST(id AS VARCHAR) AS id"]
        if "end_time" in self._columns:
            parts.append(f"""{_micros("end_time", self._columns["end_time"])} AS "{END}\"""")
        for name in (*_TEXTS, *_JSON, *_COUNTS, *_COSTS):
            kind = self._columns.get(name)
            if kind is None or name == "id":
                continue
            if name in _TEXTS:
                parts.append(f'CAST("{name}" AS VARCHAR) AS "{name}"')
            elif name in _JSON:
                plain = kind in ("VARCHAR", "JSON")
                value = f'"{name}"' if plain else f'to_json("{name}")'
                parts.append(f'CAST({value} AS VARCHAR) AS "{name}"')
            else:
                parts.append(f'TRY_CAST("{name}" AS {"BIGINT" if name in _COUNTS else "DOUBLE"}) AS "{name}"')
        parts.append(f'"{FILE}" AS "{FILE}"')
        self._names = [*(p.rpartition(" AS ")[2].strip('"') for p in parts), "number"]
        return ", ".join(parts)

    def _filters(self) -> tuple[str, list[object]]:
        start = self._start
        tests, values = [], []
        if self.since is not None:
            tests.append(f"{start} >= ?")
            values.append(_us(self.since))
        if self.until is not None:
            tests.append(f"{start} < ?")
            values.append(_us(self.until))
        bounds: list[object] = list(values)
        if self.project is not None:
            names = [n for n in ("session_id", "session_name", "project_name") if n in self._columns]
            if not names:
                msg = f"--project: {self._shown} does not say which project a run belongs to"
                raise ConfigurationError(msg)
            tests.append(f"({' OR '.join(f'CAST({n} AS VARCHAR) = ?' for n in names)})")
            bounds += [self.project] * len(names)
        return " AND ".join(tests) or "true", bounds

    def _plan(self) -> list[_Chunk]:
        """Spans of time of about so many rows each. Reads the one column of start times."""
        found = self._query(
            "SELECT min(minute), max(minute) + 1, sum(rows) FROM ("  # noqa: S608 - nothing in it comes from a user
            f" SELECT minute, rows, (sum(rows) OVER (ORDER BY minute) - rows) // {CHUNK_ROWS} AS chunk FROM ("
            f" SELECT coalesce({self._start} // {MINUTE}, -1) AS minute, count(*) AS rows FROM {self._table()}"
            f" WHERE {self._where} GROUP BY 1)) GROUP BY chunk ORDER BY chunk",
            self._values,
        )
        return [_Chunk(int(begin) * MINUTE, int(end) * MINUTE, int(rows)) for begin, end, rows in found]

    # --- reading -----------------------------------------------------------------------------------

    def pages(self, position: Position | None = None) -> Iterator[Page]:
        """Pages of up to 500 rows or 4 MB."""
        start = position or {}
        begin, first = int(start.get("start") or -MINUTE), str(start.get("id") or "")
        taken = int(start.get("rows") or 0)
        for chunk in self._chunks:
            if chunk.end <= begin:
                continue
            rows = self._rows(chunk, begin, first)
            while self.limit is None or taken < self.limit:
                size = PAGE_ROWS if self.limit is None else min(PAGE_ROWS, self.limit - taken)
                page, taken = self._page(islice(rows, size), taken)
                if page is None:
                    break
                yield page

    def _page(self, rows: Iterator[dict[str, Any]], taken: int) -> tuple[Page | None, int]:
        page: Page | None = None
        size = 0
        for row in rows:
            if page is None:
                page = Page([], {"start": row[START], "id": row["id"] or "", "rows": taken})
            taken += 1
            size += row["size"]
            run = run_from_row(row)
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
            f"SELECT {self._select} FROM {self._table()} WHERE {self._where}"  # noqa: S608 - as above
            f" AND coalesce({self._start}, {-MINUTE}) BETWEEN ? AND ?"
        )
        values = [*self._values, max(chunk.begin, begin), chunk.end - 1]
        keys: list[tuple[int, str, int]] = []

        def restart() -> None:
            keys.clear()
            spool.seek(0)

        for number, row in enumerate(self._stream(sql, values, restart)):
            key = (-MINUTE if row[0] is None else row[0], row[1] or "")
            if key >= (begin, first):
                keys.append((*key, spool.tell()))
                spool.write(orjson.dumps([*row, number], default=str, option=orjson.OPT_APPEND_NEWLINE))
        keys.sort()
        return keys

    def _query(self, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a query, all at once."""
        return list(self._stream(sql, values, lambda: None))

    def _stream(self, sql: str, values: list[Any] | None, restart: Callable[[], object]) -> Iterator[tuple[Any, ...]]:
        """Rows of a query as they come.

        Files with large row groups need more memory than others: DuckDB gets it, and begins anew.

        Raises:
            UnreadableSource: Files are missing or broken.
            SourceUnavailable: The object store fails.
            KeyboardInterrupt: Ctrl-C ended the query.
        """
        import duckdb

        with _interruptible():
            while True:
                try:
                    found = self._db.execute(sql, values)
                    while rows := found.fetchmany(FETCH_ROWS):
                        yield from rows
                except duckdb.OutOfMemoryException as error:
                    if self._memory >= MAX_MEMORY_MB:
                        msg = f"{self._shown}: row groups are too large for {self._memory} MB: {self._line(error)}"
                        raise UnreadableSource(msg) from error
                    self._memory *= 4
                    self.notices.append(f"large row groups: DuckDB may use {self._memory} MB")
                    self._db.execute(f"SET memory_limit = '{self._memory}MB'")
                    restart()
                except duckdb.HTTPException as error:
                    why = self._line(error)
                    msg = f"{self._shown} cannot be read: {why}. Keys are taken from AWS_* in the environment."
                    raise SourceUnavailable(msg) from error
                except duckdb.Error as error:
                    msg = f"{self._shown} cannot be read as Parquet: {self._line(error)}"
                    raise UnreadableSource(msg) from error
                else:
                    return

    def _line(self, error: Exception) -> str:
        return _line(error).replace(self.path, self._shown)


class _Chunk(NamedTuple):
    """A span of time, in microseconds, and its rows."""

    begin: int
    end: int
    rows: int


def _row(found: dict[str, Any]) -> dict[str, Any]:
    """A row as LangSmith's API gives it."""
    size = 0
    for name in _JSON:
        value = found.get(name)
        if isinstance(value, str):
            size += len(value)
            if value[:1] in ("{", "["):
                try:
                    found[name] = orjson.loads(value)
                except ValueError:
                    found[name] = None
    found["size"] = size
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


@_interruptible()
def _reach(db: Any, address: str) -> None:
    """Makes an object store readable; its keys come from the environment.

    Raises:
        SourceUnavailable: DuckDB's extension for it is not there and cannot be loaded.
    """
    import duckdb

    try:
        db.execute("INSTALL httpfs")
        db.execute("LOAD httpfs")
    except duckdb.Error as error:
        msg = (
            f"{address}: DuckDB reads object stores with its extension httpfs, which is not installed and could not "
            f"be fetched ({_line(error)}). Install it where there is a network (INSTALL httpfs in DuckDB), or copy "
            "the export to a folder."
        )
        raise SourceUnavailable(msg) from error
    if address.startswith(("http://", "https://")):
        return
    kind = "gcs" if address.startswith(("gs://", "gcs://")) else "r2" if address.startswith("r2://") else "s3"
    env = os.environ
    options = [f"TYPE {kind}"]
    if env.get("AWS_ACCESS_KEY_ID"):
        endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or ""
        plain, _, host = endpoint.rpartition("://")
        for name, value in (
            ("KEY_ID", env["AWS_ACCESS_KEY_ID"]),
            ("SECRET", env.get("AWS_SECRET_ACCESS_KEY")),
            ("SESSION_TOKEN", env.get("AWS_SESSION_TOKEN")),
            ("REGION", env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")),
            ("ENDPOINT", host.rstrip("/")),
            ("URL_STYLE", "path" if host else None),
        ):
            if value:
                options.append(f"{name} {_quoted(value)}")
        if plain == "http":
            options.append("USE_SSL false")
    elif kind == "s3":
        try:
            db.execute("INSTALL aws")
            db.execute("LOAD aws")
        except duckdb.Error:
            return  # a public bucket needs no keys; a refusal says so
        options.append("PROVIDER credential_chain")
    else:
        return
    try:
        db.execute(f"CREATE SECRET ({', '.join(options)})")
    except duckdb.Error:
        msg = f"{address}: DuckDB does not accept the keys in AWS_* in the environment"
        raise SourceUnavailable(msg) from None  # its message would show them


def _micros(name: str, kind: str) -> str:
    """A time column in microseconds since the epoch; numbers are told by their size."""
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return f"epoch_us({name})"
    if kind in ("VARCHAR", "JSON"):
        return f"epoch_us(TRY_CAST({name} AS TIMESTAMPTZ))"
    return (
        f"TRY_CAST(CASE WHEN {name} > 1e17 THEN {name} / 1000 WHEN {name} > 1e14 THEN {name}"
        f" WHEN {name} > 1e11 THEN {name} * 1000.0 ELSE {name} * 1000000.0 END AS BIGINT)"
    )


def _without_secrets(address: str) -> str:
    """An address without user, password and query: signed addresses carry a key there, DuckDB takes one there."""
    scheme, _, rest = address.partition("://")
    if not scheme.startswith("http"):  # where a question mark may stand for any character
        plain, _, query = address.partition("?")
        return plain if "=" in query else address
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _us(at: datetime) -> int:
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return int(at.timestamp() * 1_000_000)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
