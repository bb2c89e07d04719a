"""Walking a range of time in windows, the oldest first.

Services answer newest first, their cursors do not live long, and offsets shift while new rows arrive. Rules need
oldest first, and an import must go on after days. So the range is walked in windows; a window is read whole and sorted,
and its start is the position to go on from. Windows grow while they hold little and are halved when they hold too much,
so that memory stays bounded whatever the traffic. The next windows are read while one is worked on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ts_importers.base import Page, Position, Skipped
from ts_importers.http import HTTPFailure, TooLarge
from ts_importers.values import timestamp
from ts_langchain.errors import ConfigurationError, UnreadableSource

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ts_importers.http import Client
    from ts_langchain.replay import Run

DEFAULT_DAYS = 30
FIRST_WINDOW = timedelta(hours=1)
LONGEST_WINDOW = timedelta(days=30)
SHORTEST_WINDOW = timedelta(milliseconds=1)
WINDOW_ROWS = 1_000
FEW_ROWS = 250
WINDOWS_AT_ONCE = 4
RESTARTS = 5
FIRST_PAGE = 100
LARGEST_PAGE = 1_000
SMALLEST_PAGE = 10
PAGE_BYTES = 2_000_000
CURSOR_REFUSED = frozenset({400, 404, 410, 422})


class PageSize:
    """How many rows to ask for at a time.

    As many as make an answer of 2 MB by the rows read so far: 10 with images in them, 1000 of a few words.

    Args:
        fixed: As many, whatever they weigh; None to find out.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.rows = fixed or FIRST_PAGE
        self._fixed = fixed is not None

    def seen(self, rows: int, answer_bytes: int) -> None:
        """So many rows weighed so much."""
        if rows and not self._fixed:
            fitting = PAGE_BYTES * rows // max(1, answer_bytes)
            self.rows = max(SMALLEST_PAGE, min(LARGEST_PAGE, fitting))

    def too_large(self, rows: int) -> bool:
        """So many rows made an answer that is not read. False if fewer cannot be asked for."""
        self.rows = min(self.rows, max(1, rows // 10))
        return rows > 1


class WindowWalk(ABC):
    """Base of importers that ask a service for rows of a range of time.

    `_query` is called from several threads at once, but alone the first time.

    Attributes:
        fraction: How much of the range has been read, 0 to 1.

    Args:
        since: Start of the range, inclusive; 30 days before its end if None.
        until: End of the range, exclusive; now if None or later.
        limit: Stop after about so many rows.
        page_size: Rows per request.

    Raises:
        ConfigurationError: The range is empty.
    """

    _client: Client
    start_field: str
    """Name of the field that holds a row's start."""
    id_field = "id"
    """Name of the field that holds its id."""
    at_once = WINDOWS_AT_ONCE
    """How many windows are read at once."""
    too_much: Collection[int] = ()
    """What the service answers to a query that takes it too long: a shorter window is asked for."""

    def __init__(self, since: datetime | None, until: datetime | None, limit: int | None, page_size: PageSize) -> None:
        now = datetime.now(tz=UTC)
        self.until = min(until or now, now).astimezone(UTC)
        self.since = (since or self.until - timedelta(days=DEFAULT_DAYS)).astimezone(UTC)
        if self.since >= self.until:
            msg = f"nothing lies between --since {self.since.isoformat()} and --until {self.until.isoformat()}"
            raise ConfigurationError(msg)
        self.limit = limit
        self.page_size = page_size
        self.total: int | None = None
        self.notices: list[str] = []
        self.fraction = 0.0

    @abstractmethod
    def _query(self, start: datetime, end: datetime, cursor: str | None, rows: int) -> tuple[list[Any], str | None]:
        """A page of so many of the rows that start in [start, end), in any order, and the cursor of the next one."""

    @abstractmethod
    def _run(self, row: dict[str, Any]) -> Run | Skipped | None:
        """What a row stands for; None for rows that are no calls."""

    def _clients(self) -> Sequence[Client]:
        """All clients it asks with."""
        return (self._client,)

    def span(self) -> str:
        """The range, for people."""
        return f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC"

    def begin_at(self, at: datetime) -> None:
        """Moves the start of the range, to go on after an earlier import."""
        self.since = min(at.astimezone(UTC), self.until)

    def pages(self, position: Position | None = None) -> Iterator[Page]:
        """One page per window of time, the oldest first."""
        start = self.since
        if position and (at := timestamp(position.get("from"))) is not None:
            start = max(start, datetime.fromtimestamp(at, tz=UTC))
        rows = 0
        for begin, end, found in self._windows(start):
            rows += len(found)
            self.fraction = (end - self.since) / (self.until - self.since)
            if found:
                yield self._page(found, begin)
            if self.limit is not None and rows >= self.limit:
                return

    def _windows(self, start: datetime) -> Iterator[tuple[datetime, datetime, dict[str, Any]]]:
        """Begin, end and rows of each window, in order of time."""
        pool = ThreadPoolExecutor(self.at_once, thread_name_prefix=f"ts-langchain {self._client.service}")
        reading: deque[tuple[datetime, datetime, Future[dict[str, Any] | None]]] = deque()

        def read(begin: datetime, end: datetime) -> tuple[datetime, datetime, Future[dict[str, Any] | None]]:
            return begin, end, pool.submit(self._window, begin, end)

        width, many = FIRST_WINDOW, 1
        for client in self._clients():
            client.begin()
        try:
            while reading or start < self.until:
                while start < self.until and len(reading) < many:
                    end = min(start + width, self.until)
                    reading.append(read(start, end))
                    start = end
                begin, end, answer = reading.popleft()
                found = answer.result()
                many = self.at_once
                if found is None:  # too much for one window
                    middle = begin + max(SHORTEST_WINDOW, (end - begin) / 2)
                    width = middle - begin
                    reading.extendleft([read(middle, end), read(begin, middle)])
                    continue
                if len(found) < FEW_ROWS:
                    width = min(LONGEST_WINDOW, width * (16 if not found else 2))
                yield begin, end, found
        finally:
            for client in self._clients():
                client.give_up()
            pool.shutdown(wait=False, cancel_futures=True)

    def _page(self, rows: dict[str, Any], start: datetime) -> Page:
        page = Page([], {"from": start.isoformat()})
        for row in rows.values():
            run = self._run(row)
            if run is None:
                page.ignored += 1
            elif isinstance(run, Skipped):
                page.skipped.append(run)
            else:
                page.runs.append(run)
        page.runs.sort(key=lambda r: (r.started_at, r.id))
        return page

    def _window(self, start: datetime, end: datetime) -> dict[str, Any] | None:
        """All rows that start in [start, end), by id; None if it holds too many and can be split."""
        for _ in range(RESTARTS):
            try:
                return self._read(start, end)
            except CursorRefused:
                continue
        msg = (
            f"{self._client.service} at {self._client.host} refused its own cursors {RESTARTS} times; try again later."
        )
        raise UnreadableSource(msg)

    def _read(self, start: datetime, end: datetime) -> dict[str, Any] | None:
        rows: dict[str, Any] = {}
        cursor: str | None = None
        followed: set[str] = set()
        splittable = end - start > SHORTEST_WINDOW
        size = self.page_size.rows  # the same for all pages that a cursor leads through
        while True:
            try:
                found, following = self._query(start, end, cursor, size)
            except TooLarge as error:
                if self.page_size.too_large(size):
                    raise CursorRefused from error  # from the beginning of the window, in smaller pages
                raise
            except HTTPFailure as error:
                if error.status in self.too_much and splittable:
                    return None
                if cursor is not None and error.status in CURSOR_REFUSED:
                    raise CursorRefused from error
                raise
            self.page_size.seen(len(found), self._client.answer_bytes)
            for number, row in enumerate(found):
                nameless = f"{start.isoformat()} row {len(rows)}.{number}"
                if not isinstance(row, dict):
                    rows[nameless] = {}
                    continue
                started = timestamp(row.get(self.start_field))
                # the server may round the borders; a row belongs to the one window it starts in
                if started is None or start.timestamp() <= started < end.timestamp():
                    rows[str(row.get(self.id_field) or nameless)] = row
            if splittable and len(rows) > WINDOW_ROWS:
                return None
            if not following:
                return rows
            if following in followed:
                raise CursorRefused
            followed.add(following)
            cursor = following


def rows_of(answer: Any, client: Client, *names: str) -> list[Any]:
    """The rows of an answer, which stand under one of these names; null is an empty list there.

    Raises:
        UnreadableSource: There are none: nobody knows what was asked.
    """
    if isinstance(answer, dict):
        found = [answer[name] for name in names if isinstance(answer.get(name, ""), list | None)]
        if found:
            return next((rows for rows in found if rows is not None), [])
    msg = f"{client.host} answered without a list of rows ({' or '.join(names)}). {client.address_hint}"
    raise UnreadableSource(msg)


class CursorRefused(Exception):
    """The server no longer knows a cursor it gave out, gives it out again, or its rows have moved."""
