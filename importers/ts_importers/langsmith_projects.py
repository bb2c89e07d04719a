"""The projects of a LangSmith workspace, and which of them a run is in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from ts_importers.http import HTTPFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ts_importers.http import Client
    from ts_langchain.deliver.annotations import Annotation

PROJECTS_PAGE = 100
NO_V2 = frozenset({404, 405, 501})
"""What a LangSmith without v2 run queries answers to one."""
RESOLUTION = timedelta(microseconds=1)


class Project(NamedTuple):
    """A project: its id, its name, and the id of its workspace, empty if that is not told."""

    id: str
    name: str
    workspace: str


def all_projects(client: Client, *, experiments: bool) -> Iterator[Project]:
    """All projects that a key sees, those that hold an experiment on a dataset only if wanted."""
    offset = 0
    while True:
        params: dict[str, str | int] = {"limit": PROJECTS_PAGE, "offset": offset}
        if not experiments:
            params["reference_free"] = "true"
        rows = client.get("/api/v1/sessions", params)
        rows = rows if isinstance(rows, list) else []
        for row in rows:
            # servers that do not know the parameter send experiments along
            if isinstance(row, dict) and row.get("id") and (experiments or not is_experiment(row)):
                yield Project(str(row["id"]), str(row.get("name") or row["id"]), str(row.get("tenant_id") or ""))
        if len(rows) < PROJECTS_PAGE:
            return
        offset += len(rows)


def is_experiment(project: Mapping[str, Any]) -> bool:
    """True for a project that holds an experiment on a dataset."""
    return bool(project.get("reference_dataset_id"))


class ProjectOf:
    """Finds out which project each run of several projects is in.

    Args:
        client: The connection.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._v2 = True
        self._projects = [p.id for p in all_projects(client, experiments=False)]
        self._experiments: list[str] | None = None

    def find(self, annotations: Sequence[Annotation]) -> dict[str, str]:
        """Project id by run id; without the runs that are no longer there."""
        found = self._search(self._projects, annotations)
        missing = [a for a in annotations if a.run_id not in found]
        if missing and self._experiments is None:  # they can be many, and are seldom imported
            known = set(self._projects)
            every = all_projects(self._client, experiments=True)
            self._experiments = [p.id for p in every if p.id not in known]
        return found | self._search(self._experiments or [], missing)

    def _search(self, projects: list[str], annotations: Sequence[Annotation]) -> dict[str, str]:
        found: dict[str, str] = {}
        for start in range(0, len(projects), PROJECTS_PAGE):
            if missing := [a for a in annotations if a.run_id not in found]:
                found |= self._ask(projects[start : start + PROJECTS_PAGE], missing)
        return found

    def _ask(self, projects: list[str], annotations: Sequence[Annotation]) -> dict[str, str]:
        ids = sorted({a.run_id for a in annotations})
        rows: list[Any] = []
        if self._v2:
            body = {"project_ids": projects, "ids": ids, "selects": ["ID", "PROJECT_ID"], "page_size": len(ids)}
            try:
                rows = _list(self._client.post("/api/v2/runs/query", body | _span(annotations)), "items")
            except HTTPFailure as error:
                if error.status not in NO_V2:
                    raise
                self._v2 = False
        if not self._v2:
            body = {"session": projects, "id": ids, "select": ["id", "session_id"], "limit": len(ids)}
            rows = _list(self._client.post("/api/v1/runs/query", body), "runs")
        named = {r.get("id"): r.get("project_id") or r.get("session_id") for r in rows if isinstance(r, dict)}
        return {str(run): str(project) for run, project in named.items() if project}


def _span(annotations: Sequence[Annotation]) -> dict[str, str]:
    """The range of time that holds the runs. It is always sent: left out it means "since yesterday"."""
    starts = [a.started_at or 0.0 for a in annotations]
    low, high = (datetime.fromtimestamp(at, tz=UTC) for at in (min(starts), max(starts)))
    if min(starts) == 0.0:
        high = datetime.now(tz=UTC)
    return {"min_start_time": (low - RESOLUTION).isoformat(), "max_start_time": (high + RESOLUTION).isoformat()}


def _list(answer: Any, name: str) -> list[Any]:
    rows = answer.get(name) if isinstance(answer, dict) else None
    return rows if isinstance(rows, list) else []
