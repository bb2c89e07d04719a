"""History from LangSmith: the v2 query endpoint, and v1 where there is no v2 (self-hosted before 0.16).

Both answer newest first, and their cursors do not live long; see `ts_importers.windows` for how the range is walked.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from ts_importers.http import Client, HTTPFailure
from ts_importers.langsmith_projects import NO_V2, RESOLUTION, all_projects, is_experiment
from ts_importers.langsmith_rows import run_from_row
from ts_importers.windows import PageSize, WindowWalk, rows_of
from ts_langchain.errors import ProjectNotFound
from ts_langchain.fingerprint import text_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ts_importers.base import OnWait, Skipped
    from ts_importers.langsmith_projects import Project
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
# Seconds between requests: LangSmith's cloud allows an API key 15 v1 queries in 10 s and 300 v2 queries (its page on
# API rate limits, and the change to it that added v2).
CLOUD = ".smith.langchain.com"
V1_PACE, V2_PACE = 10 / 15, 10 / 300

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


class Only(NamedTuple):
    """Which runs of the projects are wanted."""

    filter: str | None = None
    trace_filter: str | None = None
    run_types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    root: bool = False

    def expression(self, *more: str) -> str | None:
        """All conditions on runs as one expression; None if there is none."""
        kinds = [f"eq(run_type, {_quoted(kind)})" for kind in self.run_types]
        parts = [
            *more,
            *([self.filter] if self.filter else ()),
            *([kinds[0] if len(kinds) == 1 else f"or({', '.join(kinds)})"] if kinds else ()),
            *(f"has(tags, {_quoted(tag)})" for tag in self.tags),
        ]
        return parts[0] if len(parts) == 1 else f"and({', '.join(parts)})" if parts else None

    def fields(self) -> dict[str, Any]:
        """What goes into a request besides the expression; the same in v1 and v2."""
        return ({"trace_filter": self.trace_filter} if self.trace_filter else {}) | (
            {"is_root": True} if self.root else {}
        )

    def __str__(self) -> str:
        said = [
            self.expression() or "",
            f"trace: {self.trace_filter}" if self.trace_filter else "",
            "root runs" if self.root else "",
        ]
        return "; ".join(part for part in said if part)


class LangSmithImporter(WindowWalk):
    """Reads the runs of one project, or of several as one history.

    Attachments are not asked for.

    Args:
        project: Name or id of a project, or several; in names `*` stands for anything.
        api_key: Key; never shown anywhere.
        filter: Only runs for which this expression of LangSmith's query language holds. This choice and the next four
            make another history in the ledger.
        trace_filter: Only runs of traces for whose root run it holds.
        run_types: Only runs of these types (`llm`, `tool`, `retriever`, `embedding`, `chain`); all if empty.
        tags: Only runs with all of these tags.
        root_only: Only root runs.
        experiments: Let `*` also stand for projects that hold an experiment on a dataset.
        since: Start of the range, inclusive; 30 days before its end if None.
        until: End of the range, exclusive; now if None or later.
        endpoint: Address of the API, with or without `/api/v1`.
        workspace_id: For keys that belong to several workspaces.
        page_size: Rows per request, 1 to 1000 (v1: 100); None for as many as make 2 MB.
        limit: Stop after about so many rows.
        on_wait: Told of each wait before a retry.
        sleep: Waits; for tests.

    Raises:
        AuthenticationFailed: The key was refused.
        ProjectNotFound: There is no such project.
        SourceUnavailable: LangSmith could not be reached.
        ConfigurationError: The range is empty.
    """

    source = "langsmith"
    start_field = "start_time"

    def __init__(
        self,
        *,
        project: str | Sequence[str],
        api_key: str,
        filter: str | None = None,  # noqa: A002 - LangSmith's word
        trace_filter: str | None = None,
        run_types: Sequence[str] = (),
        tags: Sequence[str] = (),
        root_only: bool = False,
        experiments: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        endpoint: str = "https://api.smith.langchain.com",
        workspace_id: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
        on_wait: OnWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(since, until, limit, PageSize(page_size))
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
        self.only = Only(filter, trace_filter, tuple(run_types), tuple(tags), root_only)
        self._experiments = experiments
        self.projects: dict[str, str] = {}
        self._workspaces: set[str] = set()
        names = {self._add(name) for name in ([project] if isinstance(project, str) else project)}
        self.projects = dict(sorted(self.projects.items()))
        if experiments and any("*" in name for name in names):
            names.add("experiments")
        self.scope = _scope(self._client.host, sorted(names | self._workspaces), self.only)
        if self._client.host.endswith(CLOUD):
            self._client.pace = V2_PACE
        self._v2 = True
        self._settled = False
        self._v1_fields = V1_FIELDS

    def describe(self) -> Mapping[str, str]:
        """What is imported, for people."""
        names = list(self.projects.values())
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        label = {"LangSmith project" if len(names) == 1 else "LangSmith projects": shown}
        return label | ({"only": str(self.only)} if str(self.only) else {})

    def _add(self, asked: str) -> str:
        """Adds the projects of a name, id or pattern. Returns the project's id, or the pattern, whatever it matches."""
        if "*" not in asked:
            project_id, name = self._find(asked)
            self.projects[project_id] = name
            return project_id
        pattern = re.compile(".*".join(map(re.escape, asked.split("*"))), re.DOTALL)
        found = [p for p in self._list() if pattern.fullmatch(p.name)]
        if not found:
            msg = f"LangSmith at {self._client.host} has no project like {asked!r}. {self._names()}"
            raise ProjectNotFound(msg)
        self.projects |= {p.id: p.name for p in found}
        self._workspaces |= {p.workspace for p in found if p.workspace}
        return asked

    def _list(self) -> Iterator[Project]:
        return all_projects(self._client, experiments=self._experiments)

    def _names(self) -> str:
        names = [name for _, name in zip(range(10), (p.name for p in self._list()), strict=False)]
        return f"There are: {', '.join(names)}." if names else "This key sees no projects at all."

    def _find(self, project: str) -> tuple[str, str]:
        try:
            project_id = str(UUID(project))
        except ValueError:
            # an empty name is no filter: any project would be found
            found = self._client.get("/api/v1/sessions", {"name": project, "limit": 1}) if project else []
        else:
            try:
                found = [self._client.get(f"/api/v1/sessions/{project_id}")]
            except HTTPFailure as error:
                if error.status not in (404, 422):
                    raise
                found = []
        row = found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}
        if not row.get("id"):
            msg = f"LangSmith at {self._client.host} has no project {project!r}. {self._names()}"
            raise ProjectNotFound(msg)
        name = str(row.get("name") or project)
        if is_experiment(row) and not self._experiments:
            self.notices.append(f"{name} is an experiment on a dataset: what it spent was spent on tests")
        return str(row["id"]), name

    def _run(self, row: dict[str, Any]) -> Run | Skipped | None:
        return run_from_row(row)

    # --- the two endpoints -------------------------------------------------------------------------

    def _query(self, start: datetime, end: datetime, cursor: str | None, rows: int) -> tuple[list[Any], str | None]:
        answer = self._answer(start, end, cursor, rows)
        return rows_of(answer, self._client, "items", "runs", "data"), _cursor(answer)

    def _answer(self, start: datetime, end: datetime, cursor: str | None, rows: int) -> Any:
        if self._v2:
            try:
                answer = self._client.post("/api/v2/runs/query", self._v2_body(start, end, cursor, rows))
            except HTTPFailure as error:
                if error.status not in NO_V2 or self._settled:
                    raise
                self._v2 = False
                if self._client.pace:
                    self._client.pace = V1_PACE
                self.notices.append("this LangSmith has no v2 run queries: the v1 endpoint was used")
            else:
                self._settled = True
                return answer
        try:
            return self._client.post("/api/v1/runs/query", self._v1_body(start, end, cursor, rows))
        except HTTPFailure as error:
            if error.status != 422 or cursor is not None or self._v1_fields is not V1_FIELDS:
                raise
            # servers of before the token details refuse to be asked for them
            self._v1_fields = [name for name in V1_FIELDS if name not in V1_NEWER_FIELDS]
            self.notices.append("this LangSmith is too old to tell cached tokens apart: they count at the full price")
            return self._client.post("/api/v1/runs/query", self._v1_body(start, end, cursor, rows))

    def _v2_body(self, start: datetime, end: datetime, cursor: str | None, rows: int) -> dict[str, Any]:
        # min_start_time is always sent: left out it means "one day ago"
        body = {
            "project_ids": list(self.projects),
            "min_start_time": (start - RESOLUTION).isoformat(),
            "max_start_time": end.isoformat(),
            "page_size": rows,
            "selects": V2_FIELDS,
            **self.only.fields(),
        }
        expression = self.only.expression()
        return body | ({"filter": expression} if expression else {}) | ({"cursor": cursor} if cursor else {})

    def _v1_body(self, start: datetime, end: datetime, cursor: str | None, rows: int) -> dict[str, Any]:
        body = {
            "session": list(self.projects),
            "start_time": (start - RESOLUTION).isoformat(),
            "filter": self.only.expression(f'lt(start_time, "{end.isoformat()}")'),
            **self.only.fields(),
            "limit": min(rows, 100),
            "order": "asc",
            "select": self._v1_fields,
        }
        return body | ({"cursor": cursor} if cursor else {})


def _scope(host: str, asked: Sequence[str], only: Only) -> str:
    """Names the history: what was asked for, and the workspace of a pattern.

    A pattern is the same history when it comes to match one project more.
    """
    which = asked[0] if len(asked) == 1 and "*" not in asked[0] else f"projects-{text_hash(' '.join(asked)):016x}"
    return f"{host}/{which}" + (f"?{text_hash(str(only)):016x}" if str(only) else "")


def _quoted(text: str) -> str:
    """A string of LangSmith's query language."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _cursor(answer: Any) -> str | None:
    """The next cursor of an answer, of v2 (`next_cursor`) or v1 (`cursors.next`)."""
    cursors = answer.get("cursors")
    cursor = answer.get("next_cursor") or (cursors.get("next") if isinstance(cursors, dict) else None)
    return cursor if isinstance(cursor, str) else None
