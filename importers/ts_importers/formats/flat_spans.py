"""One span a row, as SDKs print them and Phoenix exports them: `context`, `start_time`, `attributes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_importers.bodies import mapping
from ts_importers.formats.attributes import Attributes, nested
from ts_importers.formats.base import Key, Row, Setting, first
from ts_importers.formats.otlp import hexadecimal
from ts_importers.formats.span import Span, key_of, run_from_span
from ts_importers.values import LATEST, number, parsed, timestamp

if TYPE_CHECKING:
    from ts_importers.base import Skipped
    from ts_langchain.replay import Run

_FAILED = 2
_PAIR = 2
# of OpenInference; OpenTelemetry has a `kind` of its own
_KINDS = ("LLM", "CHAIN", "AGENT", "TOOL", "RETRIEVER", "RERANKER", "EMBEDDING", "GUARDRAIL", "EVALUATOR", "PROMPT")


class FlatSpans:
    """Spans of OpenTelemetry's SDKs: `span.to_json()`, the console exporter."""

    name = "otel"
    title = "OpenTelemetry SDK spans"
    expects = "context, start_time, attributes"
    spans = True

    def recognises(self, document: Row) -> str | None:
        return self.title if _is_span(document) else None

    def rows(self, document: Row) -> tuple[Row]:
        return (document,)

    def key(self, row: Row) -> Key:
        return key_of(span_of(row))

    def runs(self, row: Row, setting: Setting) -> list[Run | Skipped]:
        run = run_from_span(span_of(row), setting)
        return [run] if run is not None else []


class OpenInferenceSpans(FlatSpans):
    """The same with OpenInference's attributes, dotted or nested, as Phoenix exports them."""

    name = "openinference"
    title = "OpenInference spans"
    expects = "context, attributes.openinference.span.kind"

    def recognises(self, document: Row) -> str | None:
        found = _is_span(document) and span_of(document).attributes.get("openinference") is not None
        return self.title if found else None


def _is_span(document: Row) -> bool:
    context = document.get("context")
    named = "context.span_id" in document or (isinstance(context, dict) and "span_id" in context)
    return (named and "start_time" in document) or _is_of_javascript(document)


def _is_of_javascript(document: Row) -> bool:
    """True for a span as OpenTelemetry's JavaScript SDK holds it, times in seconds and nanoseconds."""
    context = document.get("spanContext")
    return isinstance(context, dict) and "spanId" in context and isinstance(document.get("startTime"), list)


def _of_python(row: Row) -> Row:
    """The same under the names of Python's SDK."""
    context, around = mapping(row.get("spanContext")), mapping(row.get("parentSpanContext"))
    status = mapping(row.get("status"))
    return {
        **row,
        "context": {"trace_id": context.get("traceId"), "span_id": context.get("spanId")},
        "parent_id": first(row, "parentSpanId") or around.get("spanId"),
        "start_time": _seconds(row.get("startTime")),
        "end_time": _seconds(row.get("endTime")),
        "status": {"code": "ERROR" if status.get("code") == _FAILED else "OK", "message": status.get("message")},
        "scope": first(row, "instrumentationScope", "instrumentationLibrary"),
    }


def _seconds(value: object) -> float | None:
    pair = [number(v, LATEST) for v in value] if isinstance(value, list) else []
    if len(pair) != _PAIR or pair[0] is None or pair[1] is None:
        return None
    return round(pair[0] + pair[1] / 1e9, 6)


def span_of(row: Row) -> Span:
    """A span as one object; columns of a data frame (`context.span_id`, `attributes.llm.model_name`) too."""
    if _is_of_javascript(row):
        row = _of_python(row)
    context = row.get("context")
    if not isinstance(context, dict):
        context = {k: row.get(f"context.{k}") for k in ("trace_id", "span_id")}
    status = row.get("status")
    status = status if isinstance(status, dict) else {}
    code = first(status, "status_code", "code") or row.get("status_code")
    said = first(status, "description", "message") or row.get("status_message")
    name = row.get("name")
    attributes = _attributes(row)
    kind, scope = row.get("span_kind"), first(row, "instrumentation_scope", "instrumentation_info", "scope")
    if "openinference" not in attributes and isinstance(kind, str) and kind in _KINDS and "gen_ai" not in attributes:
        attributes["openinference"] = {"span": {"kind": kind}}
    return Span(
        hexadecimal(context.get("trace_id")),
        hexadecimal(context.get("span_id")),
        hexadecimal(first(row, "parent_id", "parent_span_id")),
        name if isinstance(name, str) else "",
        timestamp(row.get("start_time")),
        timestamp(row.get("end_time")),
        str(code).upper().endswith("ERROR"),
        said if isinstance(said, str) else "",
        attributes,
        tuple(_events(row.get("events"))),
        name if isinstance(scope, dict) and isinstance(name := scope.get("name"), str) else "",
    )


def _attributes(row: Row) -> Attributes:
    found = row.get("attributes")
    if isinstance(found, dict):
        return nested(found)
    return nested(
        {k.removeprefix("attributes."): v for k, v in row.items() if k.startswith("attributes.") and v is not None}
    )


def _events(value: object) -> list[tuple[str, Attributes]]:
    events = []
    found: Any = parsed(value)
    for event in found if isinstance(found, list) else ():
        if isinstance(event, dict):
            attributes = event.get("attributes")
            if not isinstance(attributes, dict):  # Phoenix puts what an exception says beside its name
                attributes = {f"exception.{str(k).removeprefix('exception_')}": v for k, v in event.items()}
            events.append((str(event.get("name") or ""), attributes))
    return events
