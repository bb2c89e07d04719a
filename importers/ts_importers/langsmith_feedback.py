"""Annotations as LangSmith feedback, one request each: what is sent at once is queued there, and nobody says what
became of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ts_importers.http import FAILED_TO_WRITE, Client, HTTPFailure
from ts_importers.langsmith import ADDRESS_HINT, KEY_HINT, SERVICE
from ts_importers.writing import each, place_of, reason
from ts_langchain.errors import ConfigurationError, ProjectNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ts_importers.base import OnWait
    from ts_langchain.deliver.annotations import Annotation, NotWritten

SOURCE = {"type": "api", "metadata": {"tool": "ts-langchain"}}


class LangSmithFeedback:
    """Writes feedback on the runs of one project.

    A trace's retention is not extended by it: thousands of notes on base traces would be billed.

    Args:
        scope: Which project, as the importer calls it: `host/project-id`, perhaps with a choice of runs behind it.
        api_key: Key with the right to write feedback; never shown anywhere.
        endpoint: Address of the API, with or without `/api/v1`; None for `https://` and the host of the scope.
        workspace_id: For keys that belong to several workspaces.
        on_wait: Told of each wait before a retry.
        sleep: Waits; for tests.

    Raises:
        AuthenticationFailed: The key was refused.
        ConfigurationError: The address is not the one the history came from, or it came from several projects.
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
        self.project_id = rest.partition("?")[0]  # behind it stands which runs were chosen
        try:
            UUID(self.project_id)
        except ValueError:
            msg = "a history of several LangSmith projects cannot be annotated: import each project by itself"
            raise ConfigurationError(msg) from None
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
        try:
            self._client.get(f"/api/v1/sessions/{self.project_id}")
        except HTTPFailure as error:
            if error.status not in (404, 422):
                raise
            msg = f"LangSmith at {host} no longer has the project {self.project_id}, or this key does not see it."
            raise ProjectNotFound(msg) from None

    def write(self, annotations: Sequence[Annotation]) -> Mapping[str, NotWritten]:
        """Creates or updates feedback."""
        return each(self._write, annotations, lambda a: a.id, self._client)

    def remove(self, ids: Sequence[str]) -> Mapping[str, NotWritten]:
        """Deletes feedback."""
        return each(self._remove, ids, str, self._client)

    def _write(self, annotation: Annotation) -> NotWritten | None:
        changed = {"score": annotation.cents, "comment": annotation.comment}
        path = f"/api/v1/feedback/{annotation.id}"
        try:
            if not annotation.again or not self._patched(path, changed):
                try:
                    self._client.post("/api/v1/feedback", self._body(annotation))
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

    def _body(self, annotation: Annotation) -> dict[str, Any]:
        body: dict[str, Any] = {
            "id": annotation.id,
            "run_id": annotation.run_id,
            "session_id": self.project_id,  # required since feedback is found by project
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

    def _remove(self, annotation_id: str) -> NotWritten | None:
        try:
            self._client.delete(f"/api/v1/feedback/{annotation_id}")
        except HTTPFailure as error:
            return reason(error) if error.status != 404 else None
        return None
