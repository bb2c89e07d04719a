"""A local Langfuse that takes scores, and observations to import.

A score replaces one of the same id, name and day, nothing else: one sent with another date is a second score. Newer
servers take lists (202, or 207 with counts only), older ones a score at a time.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from importers.test_langfuse import AUTH, FakeLangfuse
from servers.serving import Answer, Faults, Request

FIELDS = {"id", "traceId", "observationId", "name", "value", "dataType", "comment", "timestamp", "metadata"}


class LangfuseServer:
    """What the server holds."""

    def __init__(self, lists: bool = True, project: str = "proj-1") -> None:
        self.lists = lists
        self.project = project
        self.url = ""
        self.faults = Faults()
        self.requests: list[Request] = []
        self.scores: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.refused: set[str] = set()
        """Observations whose scores are refused."""
        self.history = FakeLangfuse(v2=True)
        self.auth = AUTH

    def answer(self, request: Request) -> Answer:
        """Answers a request."""
        if request.headers.get("authorization") != self.auth:
            return Answer(401, {"message": f"Invalid credentials {request.headers.get('authorization')}"})
        if request.path == "/api/public/projects":
            return Answer(body={"data": [{"id": self.project, "name": "shop"}]})
        if request.method == "GET" and (trace := request.query.get("traceId")):
            if request.path.endswith("/v2/observations") and not self.history.v2:
                return Answer(404, {"message": "not found"})
            return Answer(body={"data": [row for row in self.history.rows if row["traceId"] == trace][:1]})
        if request.method == "GET":
            status, body, _ = self.history.answer(request.path, request.query)
            return Answer(status, body)
        if request.method == "POST":
            assert request.path == "/api/public/scores"
            return self._create(request.body)
        assert request.method == "DELETE"
        score_id = request.path.removeprefix("/api/public/scores/")
        found = [key for key in self.scores if key[0] == score_id]
        for key in found:
            del self.scores[key]
        return Answer(202, {"message": "Score deletion queued"}) if found else Answer(404, {"message": "not found"})

    def _create(self, body: Any) -> Answer:
        if isinstance(body, dict):
            why = self._keep(body)
            return Answer(400, {"message": why}) if why else Answer(body={"id": body["id"]})
        if not self.lists:
            return Answer(400, {"message": "Invalid request data"})
        errors = [why for score in body if (why := self._keep(score))]
        if errors:
            counts = {"accepted": len(body) - len(errors), "rejected": len(errors)}
            return Answer(207, {**counts, "errors": [{"message": e} for e in errors]})
        return Answer(202, {"message": "Accepted"})

    def _keep(self, score: dict[str, Any]) -> str | None:
        if not FIELDS - {"comment", "metadata"} <= score.keys() <= FIELDS | {"environment", "source"}:
            return f"fields: {sorted(score)}"
        if score["observationId"] in self.refused:
            return "refused"
        assert type(score["value"]) in (int, float)
        at = datetime.fromisoformat(score["timestamp"])
        assert at.tzinfo is not None
        json.dumps(score)
        self.scores[score["id"], score["name"], at.date().isoformat()] = score
        return None
