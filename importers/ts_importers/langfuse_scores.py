"""Annotations as Langfuse scores on observations.

Scores are sent as lists; where the server takes one score at a time only (self-hosted before lists), or refuses some of
a list without saying which, one by one. Langfuse takes a score for an observation it does not have.
"""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ts_importers.http import FAILED_TO_WRITE, Client, HTTPFailure
from ts_importers.langfuse import ADDRESS_HINT, KEY_HINT, NO_V2, SERVICE
from ts_importers.writing import each, place_of, reason
from ts_langchain.deliver.annotations import NotWritten
from ts_langchain.errors import ProjectNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ts_importers.base import OnWait
    from ts_langchain.deliver.annotations import Annotation

PATH = "/api/public/scores"
NO_LISTS = frozenset({400, 404, 405, 413, 422, 501})


class LangfuseScores:
    """Writes scores on the observations of one project; the keys say which.

    A score is replaced by one of the same id, name and day: each is dated with the start of its observation, never
    with today.

    Args:
        scope: Which project, as the importer calls it: `host/project-id`, and the environment if only one was read;
            `/` for that of the keys, which then has to know the first trace.
        public_key: Public key.
        secret_key: Secret key; never shown anywhere.
        endpoint: Address of Langfuse; None for `https://` and the host of the scope.
        on_wait: Told of each wait before a retry.
        sleep: Waits; for tests.

    Raises:
        AuthenticationFailed: The keys were refused.
        ConfigurationError: The address is not the one the history came from.
        ProjectNotFound: The keys belong to another project.
        SourceUnavailable: Langfuse could not be reached.
    """

    batch = 100

    def __init__(
        self,
        *,
        scope: str,
        public_key: str,
        secret_key: str,
        endpoint: str | None = None,
        on_wait: OnWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        host, project, *environment = scope.split("/")
        self._environment = {"environment": environment[0]} if environment else {}
        self._lists = True
        pair = f"{public_key.strip()}:{secret_key.strip()}".encode()
        self._client = Client(
            (endpoint or f"https://{host}").rstrip("/").removesuffix("/api/public"),
            {"authorization": f"Basic {base64.b64encode(pair).decode()}"},
            service=SERVICE,
            key_hint=KEY_HINT,
            address_hint=ADDRESS_HINT,
            secrets=[secret_key.strip(), base64.b64encode(pair).decode()],
            failed=FAILED_TO_WRITE,
            on_wait=on_wait,
            sleep=sleep,
        )
        place_of(self._client, host, "LANGFUSE_HOST")
        answer = self._client.get("/api/public/projects")
        found = answer.get("data") if isinstance(answer, dict) else None
        ids = [str(p.get("id") or "project") for p in found if isinstance(p, dict)] if isinstance(found, list) else []
        self._checked = bool(project)
        if project and project not in (ids or ["project"]):
            msg = f"these keys belong to another Langfuse project than the history ({project}). {KEY_HINT}"
            raise ProjectNotFound(msg)

    def write(self, annotations: Sequence[Annotation]) -> Mapping[str, NotWritten]:
        """Creates or replaces scores."""
        dated = [a for a in annotations if a.trace_id and a.started_at is not None]
        unknown = NotWritten("the ledger does not know its trace: import this history again with --fresh")
        failed = {a.id: unknown for a in annotations if not a.trace_id or a.started_at is None}
        if dated and not self._checked:
            self._check(dated[0])
        if dated and not (self._lists and self._listed(dated)):
            failed |= each(self._write, dated, lambda a: a.id, self._client)
        return failed

    def remove(self, ids: Sequence[str]) -> Mapping[str, NotWritten]:
        """Deletes scores."""
        return each(self._remove, ids, str, self._client)

    def _check(self, annotation: Annotation) -> None:
        """Refuses a project that does not know a trace: Langfuse takes scores for what it has never seen.

        Raises:
            ProjectNotFound: It is another one.
        """
        for path in ("/api/public/v2/observations", "/api/public/observations"):
            try:
                answer = self._client.get(path, {"traceId": str(annotation.trace_id), "limit": 1})
            except HTTPFailure as error:
                if error.status not in NO_V2:
                    raise
                continue
            if not (isinstance(answer, dict) and answer.get("data")):
                msg = f"the project of these keys does not know the trace {annotation.trace_id}. {KEY_HINT}"
                raise ProjectNotFound(msg)
            break
        self._checked = True

    def _listed(self, annotations: Sequence[Annotation]) -> bool:
        """True if the whole list was accepted."""
        try:
            answer = self._client.post(PATH, [self._body(a) for a in annotations])
        except HTTPFailure as error:
            if error.status not in NO_LISTS:
                raise
            self._lists = error.status == 413
            return False
        return not (isinstance(answer, dict) and answer.get("rejected"))

    def _write(self, annotation: Annotation) -> NotWritten | None:
        try:
            self._client.post(PATH, self._body(annotation))
        except HTTPFailure as error:
            return reason(error)
        return None

    def _body(self, annotation: Annotation) -> dict[str, Any]:
        at = datetime.fromtimestamp(annotation.started_at or 0.0, tz=UTC)
        return {
            "id": annotation.id,
            "traceId": annotation.trace_id,
            "observationId": annotation.run_id,
            "name": annotation.key,
            "value": annotation.cents,
            "dataType": "NUMERIC",
            "comment": annotation.comment,
            "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "metadata": {"tool": "ts-langchain", "incident": annotation.incident_id},
            **self._environment,
        }

    def _remove(self, annotation_id: str) -> NotWritten | None:
        try:
            self._client.delete(f"{PATH}/{annotation_id}")
        except HTTPFailure as error:
            return reason(error) if error.status != 404 else None
        return None
