"""Incidents as events for a TokenSentinel cloud: with their original time, in chunks, each event once.

An event's id is made from history and incident, a chunk's key from what it holds. Killed between a chunk and its
record, the next run sends the same chunk under the same key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypedDict
from uuid import uuid5

import orjson

from ts_langchain.deliver.annotations import NAMESPACE
from ts_langchain.deliver.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ts_langchain.incident import Incident
    from ts_langchain.ledger import History, Ledger

MAX_EVENTS = 100
MAX_BYTES = 512 * 1024


class Metadata(TypedDict):
    """What an event says beyond the fields of all events: counts and ids, no content."""

    event_id: str
    incident_id: str
    source: str
    scope: str
    severity: str
    summary: str
    calls: int
    findings: int
    wasted_tokens: int
    avoidable_usd: float
    unpriced_calls: int
    estimated: bool
    overlaps: list[str]
    last_seen_at: str


class WasteEvent(TypedDict):
    """One incident on the wire.

    `estimated_burn` is what it wasted in USD, `raised_at` when it was first found, in event time.
    """

    type: str
    confidence: float
    project: str
    session_id: str
    rule: str
    evidence: Mapping[str, Any]
    estimated_burn: float
    suggested_action: str
    raised_at: str
    metadata: Metadata
    tags: dict[str, str]
    sdk_version: str
    mode: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the cloud says of a chunk."""

    accepted: int
    rejected: int


class EventSink(Protocol):
    """A place that takes events, found by the entry-point group `ts_langchain.deliveries`.

    Attributes:
        name: Which place: its address and project. Never a secret.
    """

    name: str

    def send(self, events: Sequence[WasteEvent], key: str) -> Receipt:
        """Sends a chunk.

        Args:
            events: At most 100.
            key: Idempotency key of the chunk.

        Raises:
            AuthenticationFailed: The key was refused.
            SourceUnavailable: The place kept failing; the chunk may have arrived.
        """
        ...


def event_of(history: History, incident: Incident, project: str, sdk_version: str) -> WasteEvent:
    """An incident as an event."""
    return {
        "type": incident.rule,
        "confidence": incident.confidence,
        "project": project,
        "session_id": incident.session_id,
        "rule": incident.rule,
        "evidence": incident.evidence,
        "estimated_burn": incident.wasted_usd,
        "suggested_action": incident.suggestion,
        "raised_at": _iso(incident.opened_at),
        "metadata": {
            "event_id": str(uuid5(NAMESPACE, f"event\n{history.source}\n{history.scope}\n{incident.id}")),
            "incident_id": incident.id,
            "source": history.source,
            "scope": history.scope,
            "severity": incident.severity,
            "summary": incident.summary,
            "calls": incident.calls,
            "findings": incident.findings,
            "wasted_tokens": incident.wasted_tokens,
            "avoidable_usd": incident.avoidable_usd,
            "unpriced_calls": incident.unpriced_calls,
            "estimated": incident.estimated,
            "overlaps": list(incident.overlaps),
            "last_seen_at": _iso(incident.last_seen_at),
        },
        "tags": {},
        "sdk_version": sdk_version,
        "mode": "observe",
    }


def event_id(event: WasteEvent) -> str:
    """The id under which the cloud knows it."""
    return event["metadata"]["event_id"]


def chunks(events: Iterable[WasteEvent]) -> Iterator[list[WasteEvent]]:
    """Chunks of at most 100 events and, but for a single larger one, 512 KiB of JSON."""
    chunk: list[WasteEvent] = []
    size = 0
    for event in events:
        length = len(orjson.dumps(event)) + 1
        if chunk and (len(chunk) == MAX_EVENTS or size + length > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(event)
        size += length
    if chunk:
        yield chunk


def chunk_key(place: str, chunk: Sequence[WasteEvent]) -> str:
    """Idempotency key of a chunk: the same for the same events with the same figures."""
    return str(uuid5(NAMESPACE, f"chunk\n{place}\n{orjson.dumps(list(chunk)).decode()}"))


@dataclass(slots=True)
class Sent:
    """What a backfill did, or would do.

    Attributes:
        events: Events sent.
        accepted: Events the cloud accepted; those it knew already may be among them.
        rejected: Events it rejected. A chunk with one of them is sent again by the next backfill.
        known: Events not sent, since it had accepted them before.
        chunks: Requests.
    """

    events: int = 0
    accepted: int = 0
    rejected: int = 0
    known: int = 0
    chunks: int = 0


@dataclass(slots=True)
class Backfill:
    """Sends the incidents of one history.

    Args:
        ledger: The ledger.
        history: The history.
        project: The cloud's project.
        sink: Where they go; None for a dry run: nothing is sent and nothing recorded.
        place: Which place, for the record of what it has accepted: its address and project.
        sdk_version: Version of this library.
        again: Also send what was accepted before.
        on_progress: Told how many more events are done.

    Raises:
        LedgerError: The ledger cannot be used.
    """

    ledger: Ledger
    history: History
    project: str
    sink: EventSink | None
    place: str
    sdk_version: str
    again: bool = False
    on_progress: Callable[[int], None] | None = None
    sent: Sent = field(default_factory=Sent)

    def run(self) -> Sent:
        """Sends what the cloud does not have, the oldest first.

        Raises:
            AuthenticationFailed: The key was refused.
            SourceUnavailable: The cloud kept failing. What it accepted is recorded.
        """
        record = Record(self.ledger)
        place = str(uuid5(NAMESPACE, f"place\n{self.place}"))
        known = set() if self.again else record.events(place)
        for chunk in chunks(self._new(known)):
            ids = [event_id(event) for event in chunk]
            if self.sink is not None:
                receipt = self.sink.send(chunk, chunk_key(self.place, chunk))
                self.sent.accepted += receipt.accepted
                self.sent.rejected += receipt.rejected
                if not receipt.rejected:
                    record.accepted(place, ids)
            self.sent.events += len(chunk)
            self.sent.chunks += 1
            self._tell(len(chunk))
        return self.sent

    def _new(self, known: set[str]) -> Iterator[WasteEvent]:
        for incident in self.ledger.incidents(self.history, oldest_first=True):
            event = event_of(self.history, incident, self.project, self.sdk_version)
            if event_id(event) in known:
                self.sent.known += 1
                self._tell(1)
            else:
                yield event

    def _tell(self, done: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).isoformat()
