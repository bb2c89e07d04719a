"""History in files: LangSmith runs, OpenTelemetry and OpenInference spans, requests with responses, conversations.

A first pass finds out the format, counts the rows and sees whether they are in order. One file in order is
then read as it comes; rows out of order, spans and several files are read through an index on disk.
"""

from __future__ import annotations

import codecs
import os
import re
from contextlib import suppress
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from ts_importers import tables
from ts_importers.base import Page, Position, Skipped
from ts_importers.documents import Documents, loads, why_unreadable
from ts_importers.formats import FORMATS
from ts_importers.formats.attributes import attribute_names
from ts_importers.formats.base import Setting
from ts_importers.formats.retold import Retold
from ts_importers.langfuse_rows import BESIDE_OBSERVATIONS, OBSERVATIONS
from ts_importers.order import TimeOrder
from ts_importers.values import timestamp
from ts_langchain.errors import ConfigurationError, UnreadableSource
from ts_langchain.fingerprint import text_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ts_importers.documents import Document
    from ts_importers.formats.base import Format, Row
    from ts_importers.order import Place

EMPTY = "the file is empty"
PAGE_ROWS = 100
PAGE_BYTES = 4_000_000
PROBE_DOCUMENTS = 50
PROBE_SPANS = 1_000
MAX_PREFIXES = 20
MAX_SCOPE = 400
MAX_NAMED = 3
CONTINUED = ("bedrock", "exchanges", "helicone", "litellm")
"""Formats of which a row is told by the rows before it."""
TIMELESS = ("bedrock", "exchanges", "litellm")
"""Formats of which a row is read though it does not say when it was."""
RETOLD = "messages"
"""The format of which a row may tell again what the rows before it told."""
NESTED = ("langfuse", "langsmith")
"""Formats of which a row may hold others."""
MAX_COLUMNS, MAX_COLUMN_CHARS = 12, 40
WITHOUT_CALLS = {
    "langsmith": "only runs of type llm, tool, retriever and embedding are; are those inside the root runs missing?",
    "langfuse": "only generations, embeddings, tools and retrievers are",
    "messages": "only messages of an assistant or a tool are",
    "otlp": "only spans of model, tool, retriever and embedding calls are",
}
PAGES = ("data", "runs", "simulations")
"""Where APIs, and τ²-bench, put the rows of a page."""
SUFFIXES = (".json", ".jsonl", ".ndjson", ".traj", ".gz", ".log", ".txt", *tables.ENDINGS)
_START = re.compile(rb'"start_time"\s*:\s*"([^"]*)"')
_NESTED = re.compile(rb'"(?:child_runs|observations)"\s*:\s*\[\s*\{')


class FileImporter:
    """Reads one file, or several as one history.

    Args:
        path: A file, gzipped or not: JSON lines, one list, or objects printed over many lines; a folder, which
            stands for the files in it; or several of these.
        format: Name of a format (`ts_importers.formats.FORMATS`); found out for each file if None.
        model: For conversations that name no model: the model to price them with.
        provider: For conversations that name no provider.
        day: For conversations without times: the day whose prices apply; the date of the newest file if None.

    Raises:
        UnreadableSource: A file is not there, or holds nothing that is known.
        ConfigurationError: There is no such format.
    """

    source = "file"
    formats = tuple(FORMATS)

    def __init__(
        self,
        path: Path | str | Sequence[Path | str],
        *,
        format: str | None = None,  # noqa: A002 - the word users know
        model: str | None = None,
        provider: str | None = None,
        day: date | None = None,
    ) -> None:
        if format is not None and format not in FORMATS:
            msg = f"format {format!r} is not known; there are {', '.join(FORMATS)}"
            raise ConfigurationError(msg)
        given = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(p) for p in path]
        files, self.notices = _files(given)
        self._about: dict[str, list[str]] = {}  # what was found out about files
        self.path, self.model, self.provider = given[0], model, provider
        self.scope = _scope(given)
        self._several = len(given) > 1 or given[0].is_dir()
        self._files: list[tuple[Documents, Format]] = []
        for file, name in files.items():
            try:
                self._look_at(file, name, format)
            except UnreadableSource as error:
                if not self._several or not file.exists():
                    raise
                self._say_of(name, f"left out: {error}")
        self.notices += [_of_files(names, what) for what, names in self._about.items()]
        if not self._files:
            msg = f"{', '.join(map(str, given))}: none of the files can be read: {'; '.join(self.notices)}"
            raise UnreadableSource(msg)
        modified = max(d.path.stat().st_mtime for d, _ in self._files)
        self.day = day or datetime.fromtimestamp(modified, tz=UTC).date()
        # tells whether several files are the same as at the last sitting
        told = text_hash(repr([(str(d.path), d.size) for d, _ in self._files]))
        self._fingerprint = f"{told:016x}" if self._several else None
        self._order: TimeOrder | None = None
        self._retold = Retold()
        self.total, ordered = 0, not (self._several or any(f.spans or d.printed or d.table for d, f in self._files))
        if ordered:
            self.total, ordered = _scan(*self._files[0])
            if not ordered and not self._files[0][0].nested:
                self.notices.append("rows are not in order of time: they are sorted while they are read")
        if not ordered:
            self._order = TimeOrder(self._files)
            self.total = self._order.total
            if self.total and not self._order.calls and all(f.spans for _, f in self._files):
                self.notices.append(self._describe_strangers())
        self._describe_assumptions()

    @property
    def format(self) -> str:
        """Name of the format; of several, those names."""
        return ", ".join(dict.fromkeys(f.name for _, f in self._files))

    def describe(self) -> Mapping[str, str]:
        """What is imported, for people."""
        empty = self._about.get(EMPTY, ())
        told = [f.title for d, f in self._files if (d.name if self._several else "") not in empty]
        titles = ", ".join(dict.fromkeys(told)) or "none"
        packed = ", gzipped" if any(d.gzipped for d, _ in self._files) else ""
        if not self._several:
            return {"file": _shown(self.path), "format": titles + packed}
        return {"files": f"{len(self._files)} in {self.scope}", "format": titles + packed}

    # --- finding out -------------------------------------------------------------------------------

    def _look_at(self, file: Path, name: str, format: str | None) -> None:  # noqa: A002
        """Adds a file, if it is of a format that is known."""
        documents = Documents(file, name)
        form = self._detect(documents) if format is None else _given(documents, FORMATS[format])
        if form is not None:
            self._files.append((documents, form))
            if form.name in NESTED:
                with suppress(UnreadableSource):  # whoever reads on meets it again
                    documents.nested = any(map(_is_nested, islice(documents.read(), PROBE_DOCUMENTS)))
        if self._several:
            documents.release()

    def _detect(self, documents: Documents) -> Format | None:
        """The format of a file, any of them if it is empty; None, with a notice, if among several it is not known."""
        seen, broken = 0, ""
        for number, raw, _, why in documents.read():
            if not raw.strip() and not why:
                continue
            document = loads(raw)
            if not isinstance(document, dict) and not broken:
                broken = f"; line {number}: {why}" if why else f"; line {number} is {why_unreadable(raw, document)}"
            for form in FORMATS.values():
                if (title := _recognised(documents, form, document)) is not None:
                    self._say_of(documents.name, f"detected: {title}")
                    return form
            seen += 1
            if seen >= PROBE_DOCUMENTS:
                break
        if not seen:
            self._say_of(documents.name, EMPTY)
            return FORMATS["langsmith"]
        hint = _hint(documents)
        if self._several:
            self._say_of(documents.name, f"left out: {hint or 'nothing in it is known'}")
            return None
        if hint is not None:
            msg = f"{documents.path} {hint}"
            raise UnreadableSource(msg)
        looked = "its first line has" if seen == 1 else f"its first {seen} lines have"
        known = "".join(f"\n  {f.title} ({f.expects})" for f in FORMATS.values())
        msg = (
            f"{documents.path} holds nothing that is known: {looked} been looked at{broken}.\n"
            f"Expected are JSON lines, or one JSON list, of{known}\nSay which with --format {', '.join(FORMATS)}."
        )
        raise UnreadableSource(msg)

    def _say_of(self, name: str, what: str) -> None:
        self._about.setdefault(what, []).append(name if self._several else "")

    def _describe_assumptions(self) -> None:
        names = {f.name for _, f in self._files}
        if "messages" in names:
            self.notices.append(
                f"conversations without times: one message a second was assumed, at the prices of {self.day}"
            )
        alone = self._order is not None and self._order.alone > 0
        if alone or not names.isdisjoint(CONTINUED):
            self.notices.append(
                "requests that name no conversation: one that goes on from an earlier prompt belongs to the same"
            )

    def _describe_strangers(self) -> str:
        """Says that none of the spans is a call, and what attributes they have."""
        order = cast("TimeOrder", self._order)
        rows = (place.row for place in islice(order.read(), PROBE_SPANS) if place.row is not None)
        prefixes = sorted({".".join(name.split(".")[:2]) for row in rows for name in attribute_names(row)})
        seen = f"their attributes are {', '.join(prefixes[:MAX_PREFIXES])}" if prefixes else "they have no attributes"
        more = " and more" if len(prefixes) > MAX_PREFIXES else ""
        return f"no span is a call of a model or a tool in a convention that is known: {seen}{more}"

    # --- reading -----------------------------------------------------------------------------------

    def pages(self, position: Position | None = None) -> Iterator[Page]:
        """Pages of up to 100 rows or 4 MB."""
        start = position or {}
        if start.get("files") != self._fingerprint:
            start = {}  # other files than then: from the beginning; what was counted is known by its id
        line, offset = int(start.get("line") or 0), int(start.get("offset") or 0)
        clock = float(start.get("clock") or self._epoch())
        self._retold = Retold()
        if line and any(form.name == RETOLD for _, form in self._files):
            self._hear_again(line)
        page = Page([], self._position(line, offset, clock))
        size = 0
        rows, calls, strange = 0, bool(line), False
        for found in self._rows(line, offset):
            clock = self._take(found, clock, page)
            rows, calls, strange = rows + 1, calls or bool(page.runs), strange or page.ignored > 0
            size += found.size
            if len(page.runs) + len(page.skipped) + page.ignored >= PAGE_ROWS or size >= PAGE_BYTES:
                yield page
                page, size = Page([], self._position(found.line, found.offset, clock)), 0
        if page.runs or page.skipped or page.ignored:
            yield page
        if rows and not calls:
            self._say_without_calls(rows, strange=strange)

    def _hear_again(self, line: int) -> None:
        """What rows before this position told, which the sitting that read them has taken along."""
        for found in self._rows(0, 0):
            if found.line > line:
                return
            self._take(found, 0.0, Page([], {}))

    def _say_without_calls(self, rows: int, *, strange: bool) -> None:
        """Says so, and of which kind calls are, where some rows are of another."""
        names = ["otlp" if f.spans else f.name for _, f in self._files] if strange else []
        why = "; ".join(dict.fromkeys(WITHOUT_CALLS[n] for n in names if n in WITHOUT_CALLS))
        self._say(f"no calls: none of the {rows:,} rows is one that can be read" + (f" ({why})" if why else ""))

    def _say(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)

    def _rows(self, line: int, offset: int) -> Iterator[_Found]:
        """Rows from a position on."""
        if self._order is None:
            documents, form = self._files[0]
            for number, raw, begin, why in documents.read(line, offset):
                if raw.strip() or why:
                    row = loads(raw)
                    known = isinstance(row, dict)
                    yield _Found(
                        form,
                        cast("Row", row) if known else None,
                        f"line {number}",
                        "" if known else why or why_unreadable(raw, row),
                        number,
                        begin + len(raw),
                        len(raw),
                    )
            return
        for place in self._order.read(line):
            documents, form = self._files[place.file]
            where = f"{documents.name} {place.where}" if self._several else place.where
            yield _Found(form, place.row, where, place.why, place.number, 0, place.size, place)

    def _take(self, found: _Found, clock: float, page: Page) -> float:
        """Reads a row into the page. Returns the made-up time after it."""
        if found.row is None:
            page.skipped.append(Skipped(found.where, found.why))
            return clock
        place = found.place
        if place is not None and place.inner:
            page.ignored += 1
            return clock
        setting = Setting(
            found.where,
            clock,
            self.model,
            self.provider,
            place.session if place is not None else None,
            place.node if place is not None else None,
            place.usage if place is not None else None,
            self._retold,
        )
        read = found.form.runs(found.row, setting)
        if not read:
            page.ignored += 1
        elif found.form.name in TIMELESS and found.form.key(found.row).started is None:
            self._say(
                "requests that do not say when they were: each is taken to be a second after the one before, the first "
                f"to be of {self.day}"
            )
        for run in read:
            if isinstance(run, Skipped):
                page.skipped.append(Skipped(found.where, run.why))
            else:
                page.runs.append(run)
                clock = max(clock, run.ended_at + 1)
        return clock

    def _position(self, line: int, offset: int, clock: float) -> Position:
        position: Position = {"line": line, "offset": offset, "clock": clock}
        if self._fingerprint is not None:
            position["files"] = self._fingerprint
        return position

    def _epoch(self) -> float:
        return datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC).timestamp()


class _Found(NamedTuple):
    """A row, where it is, and where the next one begins."""

    form: Format
    row: Row | None
    where: str
    why: str
    line: int
    offset: int
    size: int
    place: Place | None = None


def _files(given: Sequence[Path]) -> tuple[dict[Path, str], list[str]]:
    """The files that were given, folders replaced by the files in them; and what was left out.

    Each has a name of its own, by which its rows are known and files are ordered: the way to it from what all have in
    common. Folders of days hold files of the same names.

    Raises:
        UnreadableSource: There is none.
    """
    common = os.path.commonpath([p.resolve() if p.is_dir() else p.resolve().parent for p in given])
    files: dict[Path, str] = {}
    notices = []
    for path in given:
        if not path.is_dir():
            files[path] = _shown(os.path.relpath(path.resolve(), common))
            continue
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        wanted = [p for p in inside if p.suffix in SUFFIXES]
        if not wanted:
            msg = f"{path} is a directory without files that end in {', '.join(SUFFIXES)}"
            if any(p.suffix == ".parquet" for p in inside):
                msg += "; for Parquet there is ts-langchain import parquet"
            raise UnreadableSource(msg)
        if projects := {p.parent.parent for p in wanted if p.parent.name == OBSERVATIONS}:
            beside = {project / name for project in projects for name in BESIDE_OBSERVATIONS}
            wanted = [p for p in wanted if p.parent not in beside]
            notices.append(f"{path}: a blob storage export of Langfuse, of which {OBSERVATIONS} is read")
        files |= {p: _shown(os.path.relpath(path.resolve() / p.relative_to(path), common)) for p in wanted}
        if others := sum(p.suffix not in SUFFIXES for p in inside):
            notices.append(f"{path}: {others} files with other endings were left out")
    return dict(sorted(files.items(), key=lambda file: file[1])), notices


def _of_files(names: list[str], what: str) -> str:
    """What was found out about files: of a few by name."""
    if len(names) > MAX_NAMED:
        return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED:,} more files: {what}"
    return f"{', '.join(names)}: {what}" if names[0] else what


def _scope(given: Sequence[Path]) -> str:
    """The path; of several, what they have in common and their names, in an order of their own."""
    paths = sorted({_shown(p.resolve()) for p in given})
    if len(paths) == 1:
        return paths[0]
    common = os.path.commonpath(paths)
    names = ", ".join(os.path.relpath(p, common) for p in paths)
    scope = f"{common}: {names}"
    if len(scope) <= MAX_SCOPE:
        return scope
    return f"{common[:MAX_SCOPE]}: {len(paths)} paths, {text_hash(names):016x}"


def _shown(path: Path | str) -> str:
    """A path as text; names that are not UTF-8 with their bytes spelled out."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _hint(documents: Documents) -> str | None:
    """What to do with a file of another kind."""
    with documents.path.open("rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        return (
            "is Parquet: ts-langchain import parquet reads exports of LangSmith and Langfuse; save others as JSON lines"
        )
    if magic == b"PK\x03\x04":
        return "is a zip archive: unpack it first"
    if magic.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "is in UTF-16, as PowerShell writes it: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
    seen = (loads(document.raw) for document in islice(documents.read(), PROBE_DOCUMENTS))
    found = [row for document in seen if isinstance(document, dict) for row in (document, *_of_page(document))]
    why = next((why for row in found if (why := _stranger(row)) is not None), None)
    if why is None and documents.table and found:
        names = ", ".join(name[:MAX_COLUMN_CHARS] for name in [*found[0]][:MAX_COLUMNS])
        if not names.isprintable():
            return "is no table of text"
        more = ", ..." if len(found[0]) > MAX_COLUMNS else ""
        return f"is a table of no export that is known: its columns are {names}{more}"
    return why


def _of_page(document: Row) -> list[Row]:
    """The first rows of a page of an API."""
    pages = (document.get(name) for name in PAGES)
    return [row for page in pages if isinstance(page, list) for row in page[:PROBE_DOCUMENTS] if isinstance(row, dict)]


def _stranger(row: Row) -> str | None:
    """What a row is that is known, and cannot be read."""
    if {"custom_id", "body"} <= row.keys() or ({"recordId", "modelInput"} <= row.keys() and "modelOutput" not in row):
        return "is the input of a batch, before anything was answered: import its output"
    if {"response_id", "request_created_at", "request_body"} <= row.keys():
        return (
            "is a table of Helicone's, which holds no answers: export JSON lines (--format jsonl --include-body), or "
            "use ts-langchain import helicone"
        )
    if {"id", "timestamp", "project_id"} <= row.keys() and not row.keys().isdisjoint({"session_id", "data_type"}):
        return "holds traces or scores of Langfuse, no calls: they are in its folder observations"
    if {"id", "timestamp"} <= row.keys() and not row.keys().isdisjoint({"htmlPath", "sessionId", "traceId"}):
        return (
            "holds traces or scores of Langfuse, no calls: export its table of observations, as JSON, or use "
            "ts-langchain import langfuse"
        )
    if {"sessionId", "message"} <= row.keys() or ("payload" in row and row.get("type") == "session_meta"):
        return (
            "is a session of a coding agent (Claude Code, Codex), which tells of one answer in many lines and is not "
            "read; what LangSmith, Langfuse or OpenTelemetry recorded of it is"
        )
    return None


def _given(documents: Documents, form: Format) -> Format:
    """The format that was asked for, its rows unwrapped if the file holds pages of an API."""
    for document in islice(documents.read(), PROBE_DOCUMENTS):
        if _recognised(documents, form, loads(document.raw)) is not None:
            break
    return form


def _recognised(documents: Documents, form: Format, document: object) -> str | None:
    """What a document is in a format, for people; a page of an API is what its rows are."""
    if not isinstance(document, dict):
        return None
    title = form.recognises(document)
    for name in PAGES if title is None else ():
        rows = document.get(name)
        for row in rows[:PROBE_DOCUMENTS] if isinstance(rows, list) else ():
            if isinstance(row, dict) and (title := form.recognises(row)) is not None:
                documents.wrapped = name
                return f"{title}, in pages of an API"
    return title


def _scan(documents: Documents, form: Format) -> tuple[int, bool]:
    """Number of rows, and whether they are in order of start time."""
    count, ordered = 0, not documents.nested
    before: bytes | float = b""
    for document in documents.read():
        count += 1
        if not documents.nested and form.name in NESTED and _is_nested(document):
            documents.nested, ordered = True, False
        if not ordered:
            continue
        started: bytes | float = _start_text(document.raw) if form.name == "langsmith" else b""
        if not started:  # LangSmith's, much the largest files, mostly go without parsing
            row = loads(document.raw)
            at = form.key(row).started if isinstance(row, dict) else None
            started = b"" if at is None else at
        if started:
            ordered = not before or not _is_earlier(started, before)
            before = started
    return count, ordered


def _is_nested(document: Document) -> bool:
    """True for a run of LangSmith's, or a trace of Langfuse's, that holds those inside it."""
    return _NESTED.search(document.raw) is not None


def _start_text(line: bytes) -> bytes:
    """The start time as it stands in the line, enough to compare neighbours by; empty if it is no text."""
    found = _START.search(line)
    return found[1][:26].rstrip(b"Z+") if found is not None else b""


def _is_earlier(started: bytes | float, before: bytes | float) -> bool:
    if isinstance(started, bytes) and isinstance(before, bytes) and len(started) == len(before):
        return started < before
    at, last = (timestamp(t.decode(errors="replace")) if isinstance(t, bytes) else t for t in (started, before))
    return at is not None and last is not None and at < last
