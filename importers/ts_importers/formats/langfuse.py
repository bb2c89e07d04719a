"""Langfuse's observations, and traces with theirs, as its API and its exports give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ts_importers.bodies import mapping
from ts_importers.formats.base import Key, Row, Setting
from ts_importers.langfuse_rows import from_export, run_from_observation
from ts_importers.values import timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ts_importers.base import Skipped
    from ts_langchain.replay import Run

_OF_TRACE = ("sessionId", "userId", "tags")


class LangfuseObservations:
    """One observation a row, or a trace that holds its observations."""

    name = "langfuse"
    title = "Langfuse observations"
    expects = "traceId, type, startTime, or observations; of exports trace_id, project_id, type, start_time"
    spans = False

    def recognises(self, document: Row) -> str | None:
        if _is_exported(document):
            return "Langfuse observations (blob storage export)"
        found = _is_observation(document) or any(map(_is_observation, _inside(document)))
        return self.title if found else None

    def rows(self, document: Row) -> Iterable[Row]:
        if not (inside := _inside(document)):
            return (document,)
        about = mapping(document.get("trace")) or document  # what the web page downloads keeps the trace apart
        trace = {k: about.get(k) for k in _OF_TRACE}
        return [{"traceId": about.get("id"), **row, "trace": trace} for row in inside]

    def key(self, row: Row) -> Key:
        return Key(timestamp(row.get("startTime") or row.get("start_time")))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        del setting
        trace = row.get("trace")
        run = run_from_observation(
            from_export(row) if _is_exported(row) else row, trace if isinstance(trace, dict) else None
        )
        return [run] if run is not None else []


def _is_observation(row: Row) -> bool:
    return {"id", "type", "startTime"} <= row.keys() and not row.keys().isdisjoint({"traceId", "parentObservationId"})


def _is_exported(row: Row) -> bool:
    told = {"id", "trace_id", "project_id", "type", "start_time"} <= row.keys()
    return told and str(row["type"]).isupper()  # Opik's spans have the same fields, and other words for what they are


def _inside(document: Row) -> list[Row]:
    """The observations of a trace, of which what is none is a row that says nothing; lists of traces hold ids there."""
    found = document.get("observations")
    rows = [row if isinstance(row, dict) else {} for row in found] if isinstance(found, list) else []
    return rows if any(rows) else []
