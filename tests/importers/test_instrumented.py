"""What others record of a run, each with its own LangChain instrumentation, imported and compared with the handler.

OpenInference's and OpenLLMetry's instrumentors and Langfuse's callback handler watch the same runs as ours. The spans
of the first two go through the file importer as OTLP JSON; those of Langfuse are put into the rows that its server
makes of them, attribute by attribute.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from recorder import Recorder, recorded, replay_of
from scenes import SCENES

from ts_importers.files import FileImporter
from ts_importers.langfuse_rows import run_from_observation
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ts_langchain.call import Call

sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
in_memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

# nobody records a model by the name it was asked for
FIELDS = {
    "kind", "session_id", "status", "error", "model", "provider", "usage", "tier", "cost", "tool_call_id", "siblings",
    "pending", "answer_chars", "finish_reason", "max_tokens", "tool_calls", "arguments", "messages", "chars",
    "tool_result_chars", "last_role", "tools", "requested",
}  # fmt: skip

# what a source does not record at all
LOST: dict[str, set[str]] = {
    "openinference": {"arguments"},  # a single argument stands without its name
    "openllmetry": {"finish_reason"},
    "langfuse": {"finish_reason", "error"},
}
# and what it does not record in one scene: None stands for the whole scene
LOST_IN: dict[tuple[str, str], set[str] | None] = {
    ("openinference", "two prompts at once"): {"session_id"},
    ("openinference", "tags, a name and a user"): {"session_id"},
    ("openllmetry", "two prompts at once"): {"session_id"},
    ("openllmetry", "tags, a name and a user"): {"session_id"},
    ("openllmetry", "half a stream"): {"answer_chars", "usage", "cost"},
    ("openllmetry", "blocks and an image"): {"answer_chars"},
    ("openllmetry", "anthropic's shapes"): {"chars"},
    ("openllmetry", "usage in detail"): {"usage"},
    ("openllmetry", "a service tier"): {"usage", "cost", "tier"},
    ("openllmetry", "cached for an hour"): {"usage", "cost"},
    ("openllmetry", "an invalid tool call"): {"tool_calls"},
    ("openllmetry", "what the gateway charged"): {"cost"},
    ("langfuse", "what the gateway charged"): {"cost"},
    ("openllmetry", "all that tools bring back"): {"chars", "tool_result_chars"},
    ("openllmetry", "a completion model"): {"session_id", "provider"},
    ("openllmetry", "completions in a batch"): {"session_id", "provider"},
    ("openllmetry", "a cache of responses"): {"usage", "cost"},
    ("openllmetry", "a retriever"): None,
    ("openllmetry", "a retriever inside of chains"): None,
    ("openllmetry", "a retriever that fails"): None,
    ("langfuse", "two prompts at once"): {"session_id"},
    ("langfuse", "tags, a name and a user"): {"session_id"},
    ("langfuse", "half a stream"): {"answer_chars", "usage", "cost"},
    ("langfuse", "a cache of responses"): {"usage", "cost"},
}


def facts(recorder: Recorder, lost: set[str]) -> list[dict[str, Any]]:
    """What is compared of each call, in an order of its own: some run side by side."""
    found = [{k: v for k, v in _facts(recorder, call).items() if k not in lost} for call in recorder.seen]
    return sorted(found, key=lambda call: repr(sorted(call.items())))


def _facts(recorder: Recorder, call: Call) -> dict[str, Any]:
    known = {name: getattr(call, name) for name in FIELDS & set(call._fields)}
    known["tool_calls"] = [asked[1:] for asked in call.tool_calls]
    known["cost"] = recorder.prices.cost(call)
    known["tools"] = call.toolset.names if call.toolset is not None else ()
    known["requested"] = call.requested_by is not None
    if call.prompt is not None:
        known |= {name: getattr(call.prompt, name) for name in FIELDS & set(call.prompt._fields)}
    if call.kind == "tool":
        known["name"] = call.name
    return known


class Spans:
    """The spans of one of the instrumentations, while it is on."""

    def __init__(self) -> None:
        self.memory = in_memory.InMemorySpanExporter()
        self.provider = sdk.TracerProvider()
        self.provider.add_span_processor(export.SimpleSpanProcessor(self.memory))
        self.callbacks: list[Any] = []

    def through_files(self, folder: Path) -> list[Run]:
        """Imported from OTLP JSON."""
        from google.protobuf.json_format import MessageToJson
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        path = folder / "spans.json"
        path.write_text(MessageToJson(encode_spans(self.memory.get_finished_spans())))
        pages = list(FileImporter(path).pages())
        assert not [skipped for page in pages for skipped in page.skipped]
        return [run for page in pages for run in page.runs]

    def through_rows(self, _folder: Path) -> list[Run]:
        """Imported from the observations that Langfuse's server makes of its SDK's spans."""
        rows = list(_observations(self.memory.get_finished_spans()))
        read = [run_from_observation(row) for row in rows]
        assert all(run is None or isinstance(run, Run) for run in read)
        return sorted((run for run in read if isinstance(run, Run)), key=lambda run: (run.started_at, run.id))


def _observations(spans: Iterable[Any]) -> Iterator[dict[str, Any]]:
    def value(text: Any) -> Any:
        with suppress(TypeError, ValueError):
            return json.loads(text)
        return text

    def time(nanoseconds: int) -> str:
        return datetime.fromtimestamp(nanoseconds / 1e9, tz=UTC).isoformat()

    spans = list(spans)
    about = "langfuse.observation."
    sessions = {s.context.trace_id: s.attributes["session.id"] for s in spans if "session.id" in s.attributes}
    for span in spans:
        told = span.attributes
        yield {
            "id": f"{span.context.span_id:016x}",
            "traceId": f"{span.context.trace_id:032x}",
            "parentObservationId": f"{span.parent.span_id:016x}" if span.parent else None,
            "type": str(told.get(f"{about}type", "span")).upper(),
            "name": span.name,
            "startTime": time(span.start_time),
            "endTime": time(span.end_time),
            "input": value(told.get(f"{about}input")),
            "output": value(told.get(f"{about}output")),
            "model": told.get(f"{about}model.name"),
            "modelParameters": value(told.get(f"{about}model.parameters")),
            "usageDetails": value(told.get(f"{about}usage_details")),
            "costDetails": value(told.get(f"{about}cost_details")),
            "metadata": {
                key.removeprefix(f"{about}metadata."): value(text)
                for key, text in told.items()
                if key.startswith(f"{about}metadata.")
            },
            "level": told.get(f"{about}level", "DEFAULT"),
            "statusMessage": told.get(f"{about}status_message"),
            "sessionId": sessions.get(span.context.trace_id),
            "userId": told.get("user.id"),
        }


@pytest.fixture(scope="module")
def openinference() -> Iterator[tuple[Spans, Any]]:
    module = pytest.importorskip("openinference.instrumentation.langchain")
    spans, instrumentor = Spans(), module.LangChainInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    yield spans, spans.through_files
    instrumentor.uninstrument()


@pytest.fixture(scope="module")
def openllmetry() -> Iterator[tuple[Spans, Any]]:
    module = pytest.importorskip("opentelemetry.instrumentation.langchain")
    spans, instrumentor = Spans(), module.LangchainInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    yield spans, spans.through_files
    instrumentor.uninstrument()


@pytest.fixture(scope="module")
def langfuse() -> tuple[Spans, Any]:
    client = pytest.importorskip("langfuse")
    handler = pytest.importorskip("langfuse.langchain")
    spans = Spans()
    with pytest.MonkeyPatch.context() as env:
        env.setenv("LANGFUSE_MEDIA_UPLOAD_ENABLED", "false")  # images would be sent to the cloud
        client.Langfuse(
            public_key="pk-test", secret_key="sk-test", base_url="http://127.0.0.1:9", tracer_provider=spans.provider,
            span_exporter=in_memory.InMemorySpanExporter(),
        )  # fmt: skip
    spans.callbacks = [handler.CallbackHandler(public_key="pk-test")]
    return spans, spans.through_rows


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("source", ["openinference", "openllmetry", "langfuse"])
def test_what_others_record_is_read_alike(
    source: str, scene: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    lost = LOST_IN.get((source, scene), set())
    if lost is None:
        pytest.skip(f"{source} records no {scene}")
    spans, read = request.getfixturevalue(source)
    spans.memory.clear()
    live, handler = recorded()
    config: dict[str, Any] = {"callbacks": [handler, *spans.callbacks]}
    config["configurable" if scene == "a human's approval" else "metadata"] = {"thread_id": "thread-1"}
    with suppress(ValueError, ConnectionError, RuntimeError):
        SCENES[scene](config)
    imported = replay_of(*read(tmp_path))
    assert sorted(imported.kinds()) == sorted(live.kinds())
    assert facts(imported, lost | LOST[source]) == facts(live, lost | LOST[source])
    for field in lost:  # what is said to be lost is
        assert facts(imported, (lost | LOST[source]) - {field}) != facts(live, (lost | LOST[source]) - {field}), field
