"""OTLP as JSON: what the collector's file exporter and `otlp/json` endpoints write, many spans a document."""

from __future__ import annotations

import base64
import binascii
from itertools import islice
from typing import TYPE_CHECKING, Any

from ts_importers.formats.attributes import ANSWERS, CONTENT, Attributes, nested
from ts_importers.formats.base import Key, Row, Setting, first
from ts_importers.formats.span import Span, key_of, run_from_span
from ts_importers.values import LATEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ts_importers.base import Skipped
    from ts_langchain.replay import Run

_SPANS = ("resourceSpans", "resource_spans")
_SCOPES = ("scopeSpans", "scope_spans", "instrumentationLibrarySpans", "instrumentation_library_spans")
_ERRORS = (2, "2", "STATUS_CODE_ERROR", "ERROR")
MAX_DEPTH = 40
PROBE_SPANS = 50
# attributes that tell whose spans these are
_OWN = {
    "openinference.span.kind": "OpenInference spans (OTLP)",
    "langsmith.span.kind": "LangSmith's spans (OTLP)",
    "langfuse.observation.type": "Langfuse's spans (OTLP)",
    "ai.operationId": "spans of Vercel's AI SDK (OTLP)",
}


class OtlpSpans:
    """Spans of OpenTelemetry: GenAI conventions, OpenInference, OpenLLMetry; a request with many spans a row."""

    name = "otlp"
    title = "OpenTelemetry GenAI spans"
    expects = "resourceSpans"
    spans = True

    def recognises(self, document: Row) -> str | None:
        if not isinstance(first(document, *_SPANS), list):
            return None
        rows = islice(self.rows(document), PROBE_SPANS)
        seen = {str(p.get("key")) for row in rows for p in _objects(row.get("attributes"))}
        return next((title for key, title in _OWN.items() if key in seen), self.title)

    def rows(self, document: Row) -> Iterator[Row]:
        for resource in _objects(first(document, *_SPANS)):
            for scope in _objects(first(resource, *_SCOPES)):
                about = first(scope, "scope", "instrumentationLibrary", "instrumentation_library")
                name = about.get("name") if isinstance(about, dict) else None
                for span in _objects(scope.get("spans")):
                    yield {**span, "scope": name} if isinstance(name, str) and name else span

    def key(self, row: Row) -> Key:
        pairs = row.get("attributes")
        if not isinstance(pairs, list):
            return key_of(span_of(row))
        kept = [p for p in pairs if not _is_content(p)]
        left_out = {str(p["key"]).startswith(ANSWERS) for p in pairs if _is_content(p)}
        return key_of(span_of({**row, "attributes": kept}), len(left_out))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        run = run_from_span(span_of(row), setting)
        return [run] if run is not None else []


def _is_content(pair: object) -> bool:
    return isinstance(pair, dict) and str(pair.get("key")).startswith(CONTENT)


def span_of(row: Row) -> Span:
    """A span in OTLP's JSON encoding."""
    status = row.get("status")
    status = status if isinstance(status, dict) else {}
    events = tuple((str(e.get("name") or ""), attributes_of(e.get("attributes"))) for e in _objects(row.get("events")))
    name = row.get("name")
    message = status.get("message")
    return Span(
        hexadecimal(first(row, "traceId", "trace_id")),
        hexadecimal(first(row, "spanId", "span_id")),
        hexadecimal(first(row, "parentSpanId", "parent_span_id")),
        name if isinstance(name, str) else "",
        nanoseconds(first(row, "startTimeUnixNano", "start_time_unix_nano")),
        nanoseconds(first(row, "endTimeUnixNano", "end_time_unix_nano")),
        status.get("code") in _ERRORS,
        message if isinstance(message, str) else "",
        nested(attributes_of(row.get("attributes"))),
        events,
        scope if isinstance(scope := row.get("scope"), str) else "",
    )


def attributes_of(pairs: object) -> Attributes:
    """A list of keys and values as a dict."""
    return {p["key"]: _value(p.get("value"), 0) for p in _objects(pairs) if isinstance(p.get("key"), str)}


def _value(value: object, depth: int) -> Any:
    """What an `AnyValue` holds. Whole numbers are strings in OTLP's JSON, bytes are base64."""
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        return None
    for kind, held in value.items():
        name = kind.replace("_", "").lower()
        if name in ("stringvalue", "boolvalue", "doublevalue", "bytesvalue"):
            return held
        if name == "intvalue":
            return _whole(held)
        if name in ("arrayvalue", "kvlistvalue") and isinstance(held, dict):
            inside = held.get("values")
            if name == "kvlistvalue":
                return {
                    p["key"]: _value(p.get("value"), depth + 1)
                    for p in _objects(inside)
                    if isinstance(p.get("key"), str)
                }
            return [_value(v, depth + 1) for v in inside] if isinstance(inside, list) else []
    return None


def _whole(held: object) -> object:
    if isinstance(held, str) and len(held) < 25:
        try:
            return int(held)
        except ValueError:
            return held
    return held


def nanoseconds(value: object) -> float | None:
    """Seconds since the epoch from nanoseconds, a number or (OTLP) a string of digits."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 25:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < LATEST * 1e9:
        return None
    # microseconds, as all other sources have them: what is the same time there must be the same time here
    return (int(value) + 500) // 1000 / 1_000_000


def hexadecimal(value: object) -> str:
    """An id in lower-case hexadecimal; generic protobuf encoders write base64, SDKs put 0x before it."""
    if not isinstance(value, str):
        return ""
    if value[-1:] == "=" and len(value) in (12, 24):
        try:
            return base64.b64decode(value, validate=True).hex()
        except binascii.Error:
            return value
    found = value.removeprefix("0x").lower()
    return "" if not found.strip("0") else found


def _objects(value: object) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
