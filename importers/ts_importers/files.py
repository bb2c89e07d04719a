"""History in files: JSON lines of LangSmith runs, or of OpenAI-style conversations; plain or gzipped.

A first pass only looks for times and line ends: it counts the rows, finds out the format, and sees whether
they are in order. Rows out of order are then read through an index of where each line begins.
"""

from __future__ import annotations

import gzip
import io
import zlib
from array import array
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, cast

import orjson

from ts_importers.base import Page, Position, Skipped
from ts_importers.langsmith_rows import run_from_row
from ts_importers.values import timestamp
from ts_langchain.errors import UnreadableSource
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Format = Literal["langsmith", "messages"]

PAGE_ROWS = 100
PAGE_BYTES = 4_000_000
MAX_LINE_BYTES = 256_000_000
PROBE_LINES = 50


class FileImporter:
    """Reads one file.

    Args:
        path: A `.jsonl` or `.json` file, gzipped or not. A `.json` file may hold one list of rows.
        format: `langsmith` or `messages`; found out if None.
        model: For conversations that name no model: the model to price them with.
        provider: For conversations that name no provider.
        day: For conversations without times: the day whose prices apply; the file's own date if None.

    Raises:
        UnreadableSource: The file is not there, or holds nothing that is known.
    """

    source = "file"

    def __init__(
        self,
        path: Path | str,
        *,
        format: Format | None = None,  # noqa: A002 - the word users know
        model: str | None = None,
        provider: str | None = None,
        day: date | None = None,
    ) -> None:
        self.path = Path(path)
        self.model = model
        self.provider = provider
        try:
            self.size = self.path.stat().st_size
            modified = datetime.fromtimestamp(self.path.stat().st_mtime, tz=UTC).date()
            with self.path.open("rb") as file:
                self._gzipped = file.read(2) == b"\x1f\x8b"
        except OSError as error:
            msg = f"{self.path} cannot be read: {error.strerror}"
            raise UnreadableSource(msg) from error
        self.scope = str(self.path.resolve())
        self.notices: list[str] = []
        self._whole = self._is_list()
        self.format: Format = format or self._detect()
        self.total, ordered = self._scan()
        self._index = None if ordered else self._make_index()
        self.day = day or modified
        if self.format == "messages":
            self.notices.append(
                f"conversations without times: one message a second was assumed, at the prices of {self.day}"
            )
        if not ordered:
            self.notices.append("rows are not in order of time: they are sorted while they are read")

    def describe(self) -> Mapping[str, str]:
        """What is imported, for people."""
        names = {"langsmith": "LangSmith runs", "messages": "OpenAI-style conversations"}
        return {"file": str(self.path), "format": names[self.format] + (", gzipped" if self._gzipped else "")}

    # --- finding out -------------------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        try:
            with self.path.open("rb") as raw:
                if self._gzipped:
                    with gzip.GzipFile(fileobj=raw) as unpacked:
                        yield io.BufferedReader(cast("io.RawIOBase", unpacked), 1 << 20)
                else:
                    yield raw
        except (OSError, EOFError, zlib.error) as error:
            msg = f"{self.path} cannot be read to its end: {error}. Rows before that were read."
            raise UnreadableSource(msg) from error

    def _is_list(self) -> list[dict[str, object]] | None:
        """The rows of a file that is one JSON list; None for JSON lines."""
        with self._open() as file:
            start = file.read(4096).lstrip()
            if not start.startswith(b"["):
                return None
            if self.size > MAX_LINE_BYTES:
                msg = (
                    f"{self.path} is one JSON list of {self.size:,} bytes; turn it into JSON lines first (jq -c '.[]')"
                )
                raise UnreadableSource(msg)
        with self._open() as file:
            try:
                rows = orjson.loads(file.read())
            except ValueError as error:
                msg = f"{self.path} begins like a JSON list but is none: {error}"
                raise UnreadableSource(msg) from error
        return rows if isinstance(rows, list) else None

    def _lines(self) -> Iterator[bytes]:
        if self._whole is not None:
            yield from (orjson.dumps(row) for row in self._whole)
            return
        with self._open() as file:
            yield from file

    def _detect(self) -> Format:
        seen = 0
        for line in self._lines():
            if not line.strip():
                continue
            row = _loads(line)
            if isinstance(row, dict):
                if "run_type" in row or ("dotted_order" in row and "start_time" in row):
                    self.notices.append("detected: LangSmith runs")
                    return "langsmith"
                if isinstance(row.get("messages"), list):
                    self.notices.append("detected: OpenAI-style conversations")
                    return "messages"
            seen += 1
            if seen >= PROBE_LINES:
                break
        if not seen:
            self.notices.append("the file is empty")
            return "langsmith"
        msg = (
            f"{self.path} holds neither LangSmith runs (JSON lines with run_type, start_time, …) nor "
            f"conversations (JSON lines with messages): the first {seen} lines have been looked at. "
            "Say which with --format langsmith or --format messages."
        )
        raise UnreadableSource(msg)

    def _scan(self) -> tuple[int, bool]:
        """Number of rows, and whether they are in order of start time."""
        count, ordered, last = 0, True, b""
        for line in self._lines():
            count += 1
            if ordered and self.format == "langsmith":
                started = _start_text(line)
                if started and last and len(started) == len(last) and started < last:
                    ordered = False
                last = started or last
        return count, ordered

    def _make_index(self) -> array[int]:
        """Line offsets in order of start time; whole lines are kept out of memory."""
        if self._gzipped and self._whole is None:
            msg = f"{self.path} is gzipped and its rows are not in order of time; unpack it first (gunzip -k)"
            raise UnreadableSource(msg)
        starts: list[tuple[bytes, int]] = []
        offset = 0
        for number, line in enumerate(self._lines()):
            starts.append((_start_text(line), number if self._whole is not None else offset))
            offset += len(line)
        starts.sort()
        return array("q", (offset for _, offset in starts))

    # --- reading -----------------------------------------------------------------------------------

    def pages(self, position: Position | None = None) -> Iterator[Page]:
        """Pages of up to 100 rows or 4 MB."""
        start = position or {}
        line = int(start.get("line") or 0)
        offset = int(start.get("offset") or 0)
        clock = float(start.get("clock") or self._epoch())
        page = Page([], {"line": line, "offset": offset, "clock": clock})
        size = 0
        for raw in self._from(line, offset):
            line += 1
            offset += len(raw)
            size += len(raw)
            clock = self._read(raw, line, clock, page)
            if len(page.runs) + len(page.skipped) + page.ignored >= PAGE_ROWS or size >= PAGE_BYTES:
                yield page
                page, size = Page([], {"line": line, "offset": offset, "clock": clock}), 0
        if page.runs or page.skipped or page.ignored:
            yield page

    def _epoch(self) -> float:
        return datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC).timestamp()

    def _from(self, line: int, offset: int) -> Iterator[bytes]:
        """Lines from a position on."""
        if self._whole is not None:
            order: Sequence[int] = self._index if self._index is not None else range(len(self._whole))
            yield from (orjson.dumps(self._whole[number]) for number in order[line:])
            return
        with self._open() as file:
            if self._index is not None:
                for place in self._index[line:]:
                    file.seek(place)
                    yield file.readline()
                return
            if not self._gzipped:
                file.seek(offset)
                yield from file
                return
            for number, raw in enumerate(file):
                if number >= line:
                    yield raw

    def _read(self, raw: bytes, line: int, clock: float, page: Page) -> float:
        """Reads one line into the page. Returns the made-up time after it."""
        if not raw.strip():
            return clock
        row = _loads(raw)
        where = f"line {line}"
        if row is None:
            cut = "" if raw.endswith(b"\n") else " (the line ends in the middle: was the file cut off?)"
            page.skipped.append(Skipped(where, f"not JSON{cut}"))
        elif not isinstance(row, dict):
            page.skipped.append(Skipped(where, f"a {type(row).__name__}, not an object"))
        elif self.format == "langsmith":
            run = run_from_row(row)
            if run is None:
                page.ignored += 1
            elif isinstance(run, Skipped):
                page.skipped.append(Skipped(where, run.why))
            else:
                page.runs.append(run)
        else:
            runs = conversation_runs(row, line, clock, self.model, self.provider)
            if isinstance(runs, str):
                page.skipped.append(Skipped(where, runs))
            elif runs:
                page.runs.extend(runs)
                return max(clock, runs[-1].ended_at) + 1
        return clock


def _loads(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except ValueError:
        return None


def _start_text(line: bytes) -> bytes:
    """The start time as it stands in the line; enough to compare neighbours by."""
    at = line.find(b'"start_time"')
    if at < 0:
        return b""
    first = line.find(b'"', at + 12)
    return line[first + 1 : line.find(b'"', first + 1)][:26].rstrip(b"Z+")


def conversation_runs(
    row: Mapping[str, object], line: int, clock: float, model: str | None, provider: str | None
) -> list[Run] | str:
    """The runs behind a conversation: a model run per assistant message, a tool run per tool message.

    Args:
        row: A conversation: `messages`, and optionally `id`, `model`, `created_at`, `usage` per message.
        line: Its line, which names the session where nothing else does.
        clock: Start of the conversation, seconds since the epoch, where it carries no time.
        model: Model, where the row names none.
        provider: Provider, where the row names none.

    Returns:
        The runs, or why they cannot be read.
    """
    messages = row.get("messages")
    if not isinstance(messages, list):
        return "no list of messages"
    if not all(isinstance(m, dict) for m in messages):
        return "a message is not an object"
    for key in ("created_at", "created", "timestamp"):
        started = timestamp(row.get(key))
        if started is not None:
            clock = started
            break
    session = next(
        (str(row[k]) for k in ("session_id", "thread_id", "conversation_id", "id") if row.get(k) not in (None, "")),
        f"line-{line}",
    )
    named = row.get("model")
    model = named if isinstance(named, str) and named else model
    metadata = {"session_id": session, "ls_model_name": model, "ls_provider": row.get("provider") or provider}
    tools = row.get("tools")
    params: dict[str, object] = {"tools": tools} if isinstance(tools, list) and tools else {}
    trace = f"{session}#{line}"
    runs: list[Run] = []
    asked: dict[str, tuple[str, object]] = {}
    for number, message in enumerate(messages):
        role = message.get("role")
        at = clock + number
        run_id = f"{trace}/{number}"
        if role == "assistant":
            for call in message.get("tool_calls") or ():
                if isinstance(call, dict):
                    function = call.get("function")
                    source = function if isinstance(function, dict) else call
                    args = source.get("arguments", source.get("args"))
                    asked[str(call.get("id"))] = (str(source.get("name") or "tool"), args)
            runs.append(
                Run(
                    run_id,
                    "llm",
                    model or "model",
                    at,
                    at + 0.5,
                    trace,
                    inputs={"messages": messages[:number]},
                    outputs={"message": message, "usage": message.get("usage") or _NONE},
                    metadata=metadata,
                    invocation_params=params,
                )
            )
        elif role == "tool":
            call_id = str(message.get("tool_call_id"))
            name, args = asked.get(call_id, (str(message.get("name") or "tool"), None))
            runs.append(
                Run(
                    run_id,
                    "tool",
                    name,
                    at,
                    at + 0.5,
                    trace,
                    inputs=_arguments(args),
                    outputs={"output": message},
                    metadata=metadata,
                    tool_call_id=call_id,
                )
            )
    return runs


_NONE: Mapping[str, object] = {}


def _arguments(args: object) -> Mapping[str, object]:
    if isinstance(args, str):
        parsed = _loads(args.encode("utf-8", "replace"))
        return parsed if isinstance(parsed, dict) else {"input": args}
    return args if isinstance(args, dict) else {}


def since_days(days: float) -> datetime:
    """That many days ago, in UTC."""
    return datetime.now(tz=UTC) - timedelta(days=days)
