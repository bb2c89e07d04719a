"""History from Langfuse: the v2 observations endpoint (Cloud, self-hosted 4.59 and later), and the older ones.

Whether there is a v2 endpoint is found out by asking. The older endpoint keeps session, user and tags with the trace,
so the traces of a window are read first.
"""

from __future__ import annotations

import base64
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ts_importers.http import Client, HTTPFailure
from ts_importers.langfuse_rows import run_from_observation
from ts_importers.windows import CursorRefused, PageSize, WindowWalk, rows_of
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ts_importers.base import OnWait, Skipped
    from ts_langchain.replay import Run

SERVICE = "Langfuse"
KEY_HINT = (
    "Check LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY (project settings, API keys), and that LANGFUSE_HOST is the "
    "region they belong to."
)
ADDRESS_HINT = "Check LANGFUSE_HOST: https://cloud.langfuse.com, https://us.cloud.langfuse.com, or your own server."
FIELDS = "core,basic,time,io,metadata,model,usage,prompt,trace_context"
# metadata is cut at 200 characters unless its keys are named; these are the ones that rules and sessions use
EXPANDED = "thread_id,session_id,conversation_id,ls_model_name,ls_provider,ls_temperature,langgraph_node,user_id"
NO_V2 = frozenset({404, 405, 501})
MAX_TRACES = 50_000
TRACE_LENGTH = timedelta(hours=6)
"""A trace begins at most so long before its observations."""


class LangfuseImporter(WindowWalk):
    """Reads the observations of one project; the keys say which.

    Args:
        public_key: Public key.
        secret_key: Secret key; never shown anywhere.
        since: Start of the range, inclusive; 30 days before its end if None.
        until: End of the range, exclusive; now if None or later.
        endpoint: Address of Langfuse.
        environment: Only this environment; all if None.
        page_size: Rows per request, 1 to 1000 (older endpoint: 100); None for as many as make 2 MB.
        limit: Stop after about so many rows.
        on_wait: Told of each wait before a retry.
        sleep: Waits; for tests.

    Raises:
        AuthenticationFailed: The keys were refused.
        SourceUnavailable: Langfuse could not be reached.
        ConfigurationError: The range is empty.
    """

    source = "langfuse"
    start_field = "startTime"
    too_much = frozenset({422})

    def __init__(
        self,
        *,
        public_key: str,
        secret_key: str,
        since: datetime | None = None,
        until: datetime | None = None,
        endpoint: str = "https://cloud.langfuse.com",
        environment: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
        on_wait: OnWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(since, until, limit, PageSize(page_size))
        self.environment = environment
        pair = f"{public_key.strip()}:{secret_key.strip()}".encode()
        self._client = Client(
            endpoint.rstrip("/").removesuffix("/api/public"),
            {"authorization": f"Basic {base64.b64encode(pair).decode()}"},
            service=SERVICE,
            key_hint=KEY_HINT,
            address_hint=ADDRESS_HINT,
            secrets=[secret_key.strip(), base64.b64encode(pair).decode()],
            on_wait=on_wait,
            sleep=sleep,
        )
        project_id, self.project_name = self._project()
        self.scope = f"{self._client.host}/{project_id}" + (f"/{environment}" if environment else "")
        self._v2 = True
        self._settled = False
        self._traces: Recent[str, dict[str, Any]] = Recent()
        self._lock = threading.Lock()

    def describe(self) -> Mapping[str, str]:
        """What is imported, for people."""
        shown = {"Langfuse project": self.project_name}
        return shown | ({"environment": self.environment} if self.environment else {})

    def _project(self) -> tuple[str, str]:
        answer = self._client.get("/api/public/projects")
        found = answer.get("data") if isinstance(answer, dict) else None
        first = found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}
        return str(first.get("id") or "project"), str(first.get("name") or first.get("id") or "project")

    def _run(self, row: dict[str, Any]) -> Run | Skipped | None:
        with self._lock:
            trace = self._traces.get(str(row.get("traceId")))
        return run_from_observation(row, trace)

    def _query(self, start: datetime, end: datetime, cursor: str | None, rows: int) -> tuple[list[Any], str | None]:
        if self._v2:
            try:
                answer = self._client.get("/api/public/v2/observations", self._v2_params(start, end, cursor, rows))
            except HTTPFailure as error:
                if error.status not in NO_V2 or self._settled:
                    raise
                self._v2 = False
                self.notices.append("this Langfuse has no v2 observations: the older endpoint was used")
            else:
                self._settled = True
                return rows_of(answer, self._client, "data"), _cursor(answer)
        if cursor is None:
            self._read_traces(start, end)
        params = {"limit": min(rows, 100), **self._range("StartTime", start, end)}
        return self._page_of("/api/public/observations", params, cursor)

    def _v2_params(self, start: datetime, end: datetime, cursor: str | None, rows: int) -> dict[str, str | int]:
        params: dict[str, str | int] = {
            "fields": FIELDS,
            "expandMetadata": EXPANDED,
            "limit": rows,
            **self._range("StartTime", start, end),
        }
        return params | ({"cursor": cursor} if cursor else {})

    def _range(self, what: str, start: datetime, end: datetime) -> dict[str, str | int]:
        # times are sent in whole milliseconds: the end is rounded up, what is too much is left out by the walk
        end += timedelta(milliseconds=1)
        params: dict[str, str | int] = {f"from{what}": _time(start), f"to{what}": _time(end)}
        return params | ({"environment": self.environment} if self.environment else {})

    def _read_traces(self, start: datetime, end: datetime) -> None:
        """Session, user and tags of the traces that observations of a window may belong to."""
        params = {"limit": 100, **self._range("Timestamp", start - TRACE_LENGTH, end)}
        cursor: str | None = None
        while True:
            found, cursor = self._page_of("/api/public/traces", params, cursor)
            for trace in found:
                if isinstance(trace, dict) and isinstance(trace.get("id"), str):
                    kept = {k: trace.get(k) for k in ("sessionId", "userId", "tags")}
                    with self._lock:
                        self._traces.pop(trace["id"], None)
                        self._traces[trace["id"]] = kept
            if cursor is None:
                break
        with self._lock:
            self._traces.limit(MAX_TRACES)

    def _page_of(self, path: str, params: dict[str, str | int], cursor: str | None) -> tuple[list[Any], str | None]:
        """Rows of a numbered page, and the cursor of the next one: its number and how many rows there are."""
        number, _, before = (cursor or "1/0").partition("/")
        page = int(number)
        answer = self._client.get(path, {"page": page, **params})
        rows = rows_of(answer, self._client, "data")
        meta = answer.get("meta") if isinstance(answer.get("meta"), dict) else {}
        pages, there = meta.get("totalPages"), meta.get("totalItems")
        there = there if type(there) is int else int(before)
        if there < int(before):
            raise CursorRefused  # some were deleted, and those behind them have moved to pages that were read
        more = rows and (page < pages if isinstance(pages, int) else True)
        return rows, f"{page + 1}/{there}" if more else None


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cursor(answer: Any) -> str | None:
    meta = answer.get("meta") if isinstance(answer, dict) else None
    cursor = meta.get("cursor") if isinstance(meta, dict) else None
    return cursor if isinstance(cursor, str) and cursor else None
