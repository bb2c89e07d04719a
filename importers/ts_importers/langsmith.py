"""History from LangSmith: the v2 query endpoint, and v1 where there is no v2 (self-hosted before 0.16).

Both answer newest first, and their cursors do not live long; see `ts_importers.windows` for how the range is walked.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ts_importers.http import Client, HTTPFailure
from ts_importers.langsmith_rows import run_from_row
from ts_importers.windows import WindowWalk
from ts_langchain.errors import ProjectNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ts_importers.base import OnWait, Skipped
    from ts_langchain.replay import Run

SERVICE = "LangSmith"
KEY_HINT = (
    "Check LANGSMITH_API_KEY; for a key of several workspaces set LANGSMITH_WORKSPACE_ID, for EU or self-hosted "
    "LangSmith set LANGSMITH_ENDPOINT."
)
ADDRESS_HINT = (
    "Check LANGSMITH_ENDPOINT: https://api.smith.langchain.com, https://eu.api.smith.langchain.com, or your own "
    "server's API."
)
RESOLUTION = timedelta(microseconds=1)
NO_V2 = frozenset({404, 405, 501})

V2_FIELDS = [
    "ID", "NAME", "RUN_TYPE", "START_TIME", "END_TIME", "STATUS", "ERROR", "EXTRA", "METADATA", "INPUTS", "OUTPUTS",
    "TAGS",
    "TRACE_ID", "THREAD_ID", "PARENT_RUN_IDS", "DOTTED_ORDER", "PROMPT_TOKENS", "COMPLETION_TOKENS",
    "PROMPT_TOKEN_DETAILS", "COMPLETION_TOKEN_DETAILS", "PROMPT_COST", "COMPLETION_COST", "TOTAL_COST",
]  # fmt: skip
V1_FIELDS = [
    "id", "name", "run_type", "start_time", "end_time", "status", "error", "extra", "inputs", "outputs", "tags",
    "trace_id", "parent_run_id", "dotted_order", "prompt_tokens", "completion_tokens", "prompt_token_details",
    "completion_token_details", "prompt_cost", "completion_cost", "total_cost",
]  # fmt: skip
V1_NEWER_FIELDS = frozenset({"prompt_token_details", "completion_token_details"})


class LangSmithImporter(WindowWalk):
    """Reads the runs of one project.

    Args:
        project: Name or id of the project.
        api_key: Key; never shown anywhere.
        since: Start of the range, inclusive; 30 days ago if None.
        until: End of the range, exclusive; now if None.
        endpoint: Address of the API, with or without `/api/v1`.
        workspace_id: For keys that belong to several workspaces.
        page_size: Rows per request, 1 to 1000 (v1: 100).
        limit: Stop after about so many rows.
        on_wait: Told of each wait before a retry.
        sleep: Waits; for tests.

    Raises:
        AuthenticationFailed: The key was refused.
        ProjectNotFound: There is no such project.
        SourceUnavailable: LangSmith could not be reached.
        UnreadableSource: The range is empty.
    """

    source = "langsmith"
    start_field = "start_time"

    def __init__(
        self,
        *,
        project: str,
        api_key: str,
        since: datetime | None = None,
        until: datetime | None = None,
        endpoint: str = "https://api.smith.langchain.com",
        workspace_id: str | None = None,
        page_size: int = 100,
        limit: int | None = None,
        on_wait: OnWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(since, until, limit)
        self.page_size = page_size
        headers = {"x-api-key": api_key}
        if workspace_id:
            headers["x-tenant-id"] = workspace_id
        base = endpoint.rstrip("/").removesuffix("/api/v1").removesuffix("/api/v2").removesuffix("/api")
        self._client = Client(
            base,
            headers,
            service=SERVICE,
            key_hint=KEY_HINT,
            address_hint=ADDRESS_HINT,
            on_wait=on_wait,
            sleep=sleep,
        )
        self.project_id, self.project_name = self._find(project)
        self.scope = f"{self._client.host}/{self.project_id}"
        self._v2 = True
        self._settled = False
        self._v1_fields = V1_FIELDS

    def describe(self) -> Mapping[str, str]:
        """What is imported, for people."""
        return {"LangSmith project": self.project_name, "from": self.span()}

    def _find(self, project: str) -> tuple[str, str]:
        try:
            project_id = str(UUID(project))
        except ValueError:
            found = self._client.get("/api/v1/sessions", {"name": project, "limit": 1})
        else:
            try:
                found = [self._client.get(f"/api/v1/sessions/{project_id}")]
            except HTTPFailure as error:
                if error.status not in (404, 422):
                    raise
                found = []
        if isinstance(found, list) and found and isinstance(found[0], dict) and found[0].get("id"):
            return str(found[0]["id"]), str(found[0].get("name") or project)
        known = self._client.get("/api/v1/sessions", {"limit": 10})
        names = [str(p.get("name")) for p in known if isinstance(p, dict)] if isinstance(known, list) else []
        there = f"There are: {', '.join(names)}." if names else "This key sees no projects at all."
        msg = f"LangSmith at {self._client.host} has no project {project!r}. {there}"
        raise ProjectNotFound(msg)

    def _run(self, row: dict[str, Any]) -> Run | Skipped | None:
        return run_from_row(row)

    # --- the two endpoints -------------------------------------------------------------------------

    def _query(self, start: datetime, end: datetime, cursor: str | None) -> tuple[list[Any], str | None]:
        return _rows(self._answer(start, end, cursor))

    def _answer(self, start: datetime, end: datetime, cursor: str | None) -> Any:
        if self._v2:
            try:
                answer = self._client.post("/api/v2/runs/query", self._v2_body(start, end, cursor))
            except HTTPFailure as error:
                if error.status not in NO_V2 or self._settled:
                    raise
                self._v2 = False
                self.notices.append("this LangSmith has no v2 run queries: the v1 endpoint was used")
            else:
                self._settled = True
                return answer
        try:
            return self._client.post("/api/v1/runs/query", self._v1_body(start, end, cursor))
        except HTTPFailure as error:
            if error.status != 422 or cursor is not None or self._v1_fields is not V1_FIELDS:
                raise
            # servers of before the token details refuse to be asked for them
            self._v1_fields = [name for name in V1_FIELDS if name not in V1_NEWER_FIELDS]
            self.notices.append("this LangSmith is too old to tell cached tokens apart: they count at the full price")
            return self._client.post("/api/v1/runs/query", self._v1_body(start, end, cursor))

    def _v2_body(self, start: datetime, end: datetime, cursor: str | None) -> dict[str, Any]:
        # min_start_time is always sent: left out it means "one day ago"
        body = {
            "project_ids": [self.project_id],
            "min_start_time": (start - RESOLUTION).isoformat(),
            "max_start_time": end.isoformat(),
            "page_size": self.page_size,
            "selects": V2_FIELDS,
        }
        return body | ({"cursor": cursor} if cursor else {})

    def _v1_body(self, start: datetime, end: datetime, cursor: str | None) -> dict[str, Any]:
        body = {
            "session": [self.project_id],
            "start_time": (start - RESOLUTION).isoformat(),
            "filter": f'lt(start_time, "{end.isoformat()}")',
            "limit": min(self.page_size, 100),
            "order": "asc",
            "select": self._v1_fields,
        }
        return body | ({"cursor": cursor} if cursor else {})


def _rows(answer: Any) -> tuple[list[Any], str | None]:
    """Rows and next cursor of an answer, of v2 (`items`, `next_cursor`) or v1 (`runs`, `cursors.next`)."""
    if not isinstance(answer, dict):
        return (answer, None) if isinstance(answer, list) else ([], None)
    rows = answer.get("items")
    if rows is None:
        rows = answer.get("runs", answer.get("data"))
    cursors = answer.get("cursors")
    cursor = answer.get("next_cursor") or (cursors.get("next") if isinstance(cursors, dict) else None)
    return rows if isinstance(rows, list) else [], cursor if isinstance(cursor, str) else None
