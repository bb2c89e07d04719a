"""A local TokenSentinel cloud: events are known by their id, a request by its idempotency key."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from servers.serving import Answer, Faults, Request

KEY = "tsk_not_a_real_key_0123456789"
FIELDS = {
    "type", "confidence", "project", "session_id", "rule", "evidence", "estimated_burn", "suggested_action",
    "raised_at", "metadata", "tags", "sdk_version", "mode",
}  # fmt: skip


class CloudServer:
    """What the server holds."""

    def __init__(self, backfill: bool = True) -> None:
        self.backfill = backfill
        self.url = ""
        self.faults = Faults()
        self.requests: list[Request] = []
        self.events: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, Any] = {}
        self.counts = True
        """Whether it says how many it accepted."""
        self.most_bytes = 10**9
        """Of a body; of a larger one it takes nothing."""
        self.rejects: set[str] = set()
        """Rules whose events are rejected."""

    def answer(self, request: Request) -> Answer:
        """Answers a request."""
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return Answer(401, {"detail": f"bad key {request.headers.get('authorization')}"})
        if request.path == "/v1/events:backfill" and not self.backfill:
            return Answer(404, {"detail": "Not Found"})
        if request.path == "/v1/events:backfill":
            assert request.query == {"project": request.body["project"]}
        else:
            assert request.path == "/v1/events"
        if len(json.dumps(request.body)) > self.most_bytes:
            return Answer(413)
        key = request.headers["idempotency-key"]
        assert self.keys.setdefault(key, request.body) == request.body, "one key, two bodies"
        assert request.body.keys() == {"project", "events"}
        assert 1 <= len(request.body["events"]) <= 100
        rejected = 0
        for event in request.body["events"]:
            assert event.keys() == FIELDS
            assert event["project"] == request.body["project"]
            assert datetime.fromisoformat(event["raised_at"]).tzinfo is not None
            if event["rule"] in self.rejects:
                rejected += 1
            else:
                self.events[event["metadata"]["event_id"]] = event
        if not self.counts:
            return Answer(202)
        return Answer(body={"accepted": len(request.body["events"]) - rejected, "rejected": rejected})
