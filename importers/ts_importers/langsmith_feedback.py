"""Annotations as LangSmith feedback, one request each: what is sent at once is queued there, and nobody says what
became of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ts_importers.http import FAILED_TO_WRITE, Client, HTTPFailure
from ts_importers.langsmith import ADDRESS_HINT, KEY_HINT, SERVICE
from ts_importers.langsmith_projects import ProjectOf
from ts_importers.writing import GONE, each, place_of, reason
from ts_langchain.errors import ProjectNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ts_importers.base import OnWait
    from ts_langchain.deliver.annotations import Annotation, NotWritten

SOURCE = {"type": "api", "metadata": {"tool": "ts-langchain"}}


class LangSmithFeedback:
    """Writes feedback on the runs of a project, or of several: then LangSmith is asked which one each run is in.

    A trace's retention is not extended by it: thousands of notes on base traces would be billed.

    Args:
        scope: Which history, as the importer calls it: `host/` and the id of its project or a name for several; `/`
            where it is not known.
        api_key: Key with the right to write feedback; never shown anywhere.
        endpoint: Address of the API, with or without `/api/v1`; None for `https://` and the host of the scope.
        workspace_id: For keys that belong to several workspaces.
        on_wait: Told of each wait before a retry.
        sleep: Waits; for tests.

    Raises:
        AuthenticationFailed: The key was refused.
        ConfigurationError: The address is not the one the history came from.
        ProjectNotFound: The project is no longer there.
        SourceUnavailable: LangSmith could not be reached.
    """

    batch = 100

    def __init__(
        self,
        *,
        scope: str,
        api_key: str,
        endpoint: str | None = None,
        workspace_id: str | None = None,
        on_wait: OnWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        host, _, rest = scope.partition("/")
        self.project_id = _project_id(rest.partition("?")[0])  # behind it stands which runs were chosen
        base = (endpoint or f"https://{host}").rstrip("/")
        headers = {"x-api-key": api_key}
        if workspace_id:
            headers["x-tenant-id"] = workspace_id
        self._client = Client(
            base.removesuffix("/api/v1").removesuffix("/api/v2").removesuffix("/api"),
            headers,
            service=SERVICE,
            key_hint=KEY_HINT,
            address_hint=ADDRESS_HINT,
            failed=FAILED_TO_WRITE,
            on_wait=on_wait,
            sleep=sleep,
        )
        place_of(self._client, host, "LANGSMITH_ENDPOINT")
        self._project_of = ProjectOf(self._client) if self.project_id is None else None
        if self.project_id is not None:
            self._check(host)

    def _check(self, host: str) -> None:
        """Refuses a project that is gone."""
        try:
            self._client.get(f"/api/v1/sessions/{self.project_id}")
        except HTTPFailure as error:
            if error.status not in (404, 422):
                raise
            msg = f"LangSmith at {host} no longer has the project {self.project_id}, or this key does not see it."
            raise ProjectNotFound(msg) from None

    def write(self, annotations: Sequence[Annotation]) -> Mapping[str, NotWritten]:
        """Creates or updates feedback."""
        known = self._project_of.find(annotations) if self._project_of is not None else {}
        return each(lambda a: self._write(a, known), annotations, lambda a: a.id, self._client)

    def remove(self, ids: Sequence[str]) -> Mapping[str, NotWritten]:
        """Deletes feedback."""
        return each(self._remove, ids, str, self._client)

    def _write(self, annotation: Annotation, known: Mapping[str, str]) -> NotWritten | None:
        project_id = self.project_id or known.get(annotation.run_id)
        if project_id is None:
            return GONE
        changed = {"score": annotation.cents, "comment": annotation.comment}
        path = f"/api/v1/feedback/{annotation.id}"
        try:
            if not annotation.again or not self._patched(path, changed):
                try:
                    self._client.post("/api/v1/feedback", _body(annotation, project_id))
                except HTTPFailure as error:
                    if error.status != 409:
                        raise
                    self._client.patch(path, changed)
        except HTTPFailure as error:
            return reason(error)
        return None

    def _patched(self, path: str, changed: dict[str, Any]) -> bool:
        """False if there is no such feedback."""
        try:
            self._client.patch(path, changed)
        except HTTPFailure as error:
            if error.status != 404:
                raise
            return False
        return True

    def _remove(self, annotation_id: str) -> NotWritten | None:
        try:
            self._client.delete(f"/api/v1/feedback/{annotation_id}")
        except HTTPFailure as error:
            return reason(error) if error.status != 404 else None
        return None


def _body(annotation: Annotation, project_id: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": annotation.id,
        "run_id": annotation.run_id,
        "session_id": project_id,  # required since feedback is found by project
        "key": annotation.key,
        "score": annotation.cents,
        "comment": annotation.comment,
        "feedback_source": SOURCE,
        "extend_trace_retention": False,
    }
    if annotation.trace_id:
        body["trace_id"] = annotation.trace_id
    if annotation.started_at is not None:
        body["start_time"] = datetime.fromtimestamp(annotation.started_at, tz=UTC).isoformat()
    return body


def _project_id(name: str) -> str | None:
    """The id of the one project that a history is of; None if it is of several."""
    try:
        UUID(name)
    except ValueError:
        return None
    return name
