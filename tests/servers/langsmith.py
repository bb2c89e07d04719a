"""A local LangSmith that takes feedback, as strict as its own SDK's requests let one be.

A run of another project or none at all is a 404, `session_id` is required, feedback is known by its id and its scores
have at most four decimals. With `upserts` off, an id that is there already is a 409.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from importers.fake_langsmith import KEY, FakeLangSmith
from servers.serving import Answer, Faults, Request

REQUIRED = {"id", "run_id", "session_id", "key", "score", "comment", "feedback_source", "extend_trace_retention"}
OPTIONAL = {"trace_id", "start_time", "created_at", "modified_at"}


@dataclass
class LangSmithServer(FakeLangSmith):
    """What the server holds."""

    upserts: bool = True
    feedback: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    key: str = KEY
    faults: Faults = field(default_factory=Faults)  # type: ignore[assignment]
    requests: list[Request] = field(default_factory=list)  # type: ignore[assignment]

    def answer(self, request: Request) -> Answer:
        """Answers a request."""
        path = request.path
        if path.endswith("/info"):
            return Answer(body={"version": "0.8.0", "instance_flags": {}})
        if request.headers.get("x-api-key") != self.key:
            return Answer(401, {"detail": f"Invalid token {request.headers.get('x-api-key')}"})
        if path == "/api/v2/runs/query" and not self.v2:
            return Answer(404, {"detail": "Not Found"})
        if path.endswith("/runs/query"):
            return Answer(body=self.query(path, request.body))
        if path.startswith("/api/v1/sessions"):
            rows: list[dict[str, Any]] = [{"id": i, "name": n} for n, i in self.projects.items()]
            if request.query.get("reference_free") != "true":
                rows += [{"id": i, "name": n, "reference_dataset_id": "d"} for n, i in self.experiments.items()]
            if path == "/api/v1/sessions":
                start, size = int(request.query.get("offset", 0)), int(request.query.get("limit", 100))
                assert size <= 100
                named = [r for r in rows if request.query.get("name") in (None, r["name"])]
                return Answer(body=named[start : start + size])
            found = [r for r in rows if path.endswith(r["id"])]
            return Answer(body=found[0]) if found else Answer(404, {"detail": "not found"})
        if path == "/api/v1/feedback" and request.method == "POST":
            return self._create(request.body)
        feedback_id = str(UUID(path.removeprefix("/api/v1/feedback/")))
        if feedback_id not in self.feedback:
            return Answer(404, {"detail": "Feedback not found"})
        if request.method == "PATCH":
            assert request.body.keys() <= {"score", "comment", "value", "correction"}
            self.feedback[feedback_id].update(request.body)
            return Answer(body=self.feedback[feedback_id])
        assert request.method == "DELETE"
        del self.feedback[feedback_id]
        return Answer(body={"message": "Feedback deleted"})

    def _create(self, body: dict[str, Any]) -> Answer:
        if not REQUIRED <= body.keys() <= REQUIRED | OPTIONAL:
            return Answer(422, {"detail": f"fields: {sorted(body)}"})
        run_id, session = str(UUID(body["run_id"])), str(UUID(body["session_id"]))
        row = next((r for r in self.rows if r["id"] == run_id), None)
        if row is None or run_id in self.gone or session != row["session_id"]:
            return Answer(404, {"detail": "Run not found"})
        assert body.get("trace_id") in (None, row["trace_id"])
        if "start_time" in body:
            assert datetime.fromisoformat(body["start_time"]) == datetime.fromisoformat(row["start_time"])
        assert body["feedback_source"]["type"] in ("api", "model")
        assert round(body["score"], 4) == body["score"]
        feedback_id = str(UUID(body["id"]))
        if feedback_id in self.feedback and not self.upserts:
            return Answer(409, {"detail": "Feedback already exists"})
        kept = {k: v for k, v in body.items() if k not in ("created_at", "modified_at")}
        self.feedback[feedback_id] = kept
        return Answer(body=kept)
