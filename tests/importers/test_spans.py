"""Spans in files: OTLP JSON, SDK and Phoenix exports; conventions old and new.

The looping sessions of all rules go through these formats in `rules/test_textbook.py`. What is here is written by
hand after the conventions, except where OpenTelemetry's own SDK and encoder write it.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importers.test_rows import odd, replayed
from recorder import replay_of
from rules.talk import Talk
from rules.talk_files import (
    any_value,
    genai_attributes,
    openinference_attributes,
    openllmetry_attributes,
    otlp,
    pairs,
    phoenix,
)

from ts_importers.base import Importer
from ts_importers.files import FileImporter
from ts_importers.formats.attributes import nested
from ts_importers.formats.base import Setting
from ts_importers.formats.flat_spans import FlatSpans
from ts_importers.formats.otlp import OtlpSpans, hexadecimal, nanoseconds
from ts_langchain.call import Usage
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = 1_788_000_000
TRACE = "5b8aa5a2d2c872e8321cf37308d69df2"


def span(number: int, attributes: dict[str, Any], *, parent: int | None = None, **fields: Any) -> dict[str, Any]:
    """A span that starts `number` seconds after the first and takes half a second."""
    return {
        "traceId": TRACE,
        "spanId": f"{number + 1:016x}",
        "parentSpanId": "" if parent is None else f"{parent + 1:016x}",
        "name": "span",
        "startTimeUnixNano": str((BEGIN + number) * 10**9),
        "endTimeUnixNano": str((BEGIN + number) * 10**9 + 500_000_000),
        "attributes": pairs(attributes),
        "status": {},
        **fields,
    }


def request(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def runs(path: Path) -> list[Run]:
    found = []
    for page in FileImporter(path).pages():
        assert page.skipped == []
        found += page.runs
    return found


CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.provider.name": "openai"}


def test_a_chat_span_in_full(tmp_path: Path) -> None:
    tools = [{"type": "function", "name": "get_weather", "description": "d", "parameters": {"type": "object"}}]
    attributes = {
        **CHAT,
        "gen_ai.conversation.id": "conv-1",
        "gen_ai.agent.name": "weather",
        "gen_ai.request.temperature": 0.2,
        "gen_ai.request.max_tokens": 300,
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.system_instructions": [{"type": "text", "content": "Be brief."}],
        "gen_ai.input.messages": json.dumps(
            [
                {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]},
                {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "get_weather",
                                                 "arguments": {"city": "Paris"}}]},
                {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rainy"}]},
            ]
        ),
        "gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": "Rain."}],
                                    "finish_reason": "stop"}],
        "gen_ai.tool.definitions": tools,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "gen_ai.usage.cache_creation.input_tokens": 10,
        "gen_ai.usage.reasoning.output_tokens": 5,
    }  # fmt: skip
    [run] = runs(write(tmp_path / "a.json", request(span(0, attributes))))
    assert (run.run_type, run.thread_id, run.started_at, run.ended_at) == ("llm", "conv-1", BEGIN, BEGIN + 0.5)
    assert run.metadata == {
        "session_id": "conv-1",
        "langgraph_node": "weather",
        "ls_model_name": "gpt-4o-2024-08-06",
        "ls_provider": "openai",
    }
    assert run.inputs["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rainy"},
    ]
    assert run.outputs == {"message": {"role": "assistant", "content": "Rain."}, "finish_reason": "stop"}
    assert run.invocation_params == {"temperature": 0.2, "max_tokens": 300, "tools": tools}
    assert run.usage == {
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "input_token_details": {"cache_read": 60, "cache_creation": 10, "audio": 0},
        "output_token_details": {"reasoning": 5, "audio": 0},
    }


@pytest.mark.parametrize("name", ["openai.response.service_tier", "gen_ai.openai.response.service_tier"])
def test_the_service_tier_is_read(tmp_path: Path, name: str) -> None:
    counts = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20}
    [run] = runs(write(tmp_path / "a.json", request(span(0, {**CHAT, **counts, name: "flex"}))))
    recorder = replay_of(run)
    assert [(call.usage.total_tokens, call.tier) for call in recorder.seen] == [(120, "flex")]


@pytest.mark.parametrize(
    ("counts", "got"),
    [
        ({"gen_ai.usage.output_tokens": 10, "gen_ai.usage.reasoning.output_tokens": 500}, 510),
        (
            {
                "gen_ai.usage.output_tokens": 200,
                "gen_ai.usage.reasoning_tokens": 94,
                "llm.usage.total_tokens": 394,
            },
            294,
        ),
        (
            {
                "gen_ai.usage.output_tokens": 200,
                "gen_ai.usage.reasoning_tokens": 94,
                "gen_ai.usage.total_tokens": 300,
            },
            200,
        ),
    ],
)
def test_what_is_thought_apart_from_the_output_is_output(tmp_path: Path, counts: dict[str, Any], got: int) -> None:
    """Gemini's and xAI's own counts, as some instrumentations hand them on."""
    [run] = runs(write(tmp_path / "a.json", request(span(0, {**CHAT, "gen_ai.usage.input_tokens": 100, **counts}))))
    assert [(call.usage.input_tokens, call.usage.output_tokens) for call in replay_of(run).seen] == [(100, got)]


@pytest.mark.parametrize(("total", "sent"), [(8020, 8000), (5020, 5000), (0, 5000)])
def test_what_a_cache_brought_apart_from_the_input_is_input(tmp_path: Path, total: int, sent: int) -> None:
    """Anthropic's own count, where more was sent than came from the cache: the total tells."""
    counts = {"input_tokens": 5000, "output_tokens": 20, "cache_read_input_tokens": 3000, "total_tokens": total}
    told = {**CHAT, **{f"gen_ai.usage.{name}": value for name, value in counts.items() if value}}
    [run] = runs(write(tmp_path / "a.json", request(span(0, told))))
    assert [call.usage for call in replay_of(run).seen] == [Usage(sent, 20, 3000)]


def test_what_openinference_counts_apart_is_output(tmp_path: Path) -> None:
    counts = {"prompt": 32, "completion": 200, "completion_details.reasoning": 94, "total": 326}
    told = {"openinference.span.kind": "LLM", "llm.model_name": "grok-4"}
    told |= {f"llm.token_count.{name}": value for name, value in counts.items()}
    [run] = runs(write(tmp_path / "a.json", request(span(0, told))))
    assert [call.usage for call in replay_of(run).seen] == [Usage(32, 294, reasoning_tokens=94)]


def test_session_and_node_come_from_enclosing_spans(tmp_path: Path) -> None:
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner", "gen_ai.conversation.id": "conv"}
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "find", "gen_ai.tool.call.id": "c1"}
    chain = span(1, {}, parent=0)
    path = write(
        tmp_path / "a.jsonl",
        request(span(3, tool, parent=1), span(2, CHAT, parent=1)),
        request(chain, span(0, agent)),
    )
    source = FileImporter(path)
    [page] = source.pages()
    assert [(r.run_type, r.thread_id, r.metadata["langgraph_node"]) for r in page.runs] == [
        ("llm", "conv", "planner"),
        ("tool", "conv", "planner"),
    ]
    assert page.runs[1].tool_call_id == "c1"
    assert (source.total, page.ignored) == (4, 2)


def test_without_a_conversation_the_trace_is_the_session(tmp_path: Path) -> None:
    [run] = runs(write(tmp_path / "a.json", request(span(0, CHAT))))
    assert (run.thread_id, run.trace_id) == (None, TRACE)


def test_a_call_told_twice_counts_once(tmp_path: Path) -> None:
    """A framework's span encloses the one of the client library it uses."""
    wrapped = request(span(0, {}), span(1, CHAT, parent=0), span(2, CHAT, parent=1), span(4, CHAT, parent=0))
    [page] = FileImporter(write(tmp_path / "a.json", wrapped)).pages()
    assert [r.started_at - BEGIN for r in page.runs] == [1, 4]
    assert page.ignored == 2


def test_a_call_told_in_two_traces_counts_once(tmp_path: Path) -> None:
    """OpenInference's span of the client library stands in a trace of its own, beside LangChain's."""
    told = {"openinference.span.kind": "LLM", "llm.model_name": "gpt-5"}
    counts = {"llm.token_count.prompt": 2000, "llm.token_count.completion": 120}
    chain = {**told, **counts, "metadata": json.dumps({"thread_id": "t", "ls_provider": "openai"})}

    def at(number: int, begin: float, end: float, attributes: dict[str, Any]) -> dict[str, Any]:
        begins, ends = (str(int((BEGIN + t) * 1e9)) for t in (begin, end))
        times = {"startTimeUnixNano": begins, "endTimeUnixNano": ends}
        return span(number, attributes, traceId=f"{number + 1:032x}", **times)

    def imported(*spans: dict[str, Any]) -> list[float]:
        return [r.started_at - BEGIN for r in runs(write(tmp_path / "a.json", request(*spans)))]

    outer, inner = at(0, 0, 3, chain), at(1, 1, 2, {**told, **counts})
    assert imported(outer, inner) == imported(inner, outer) == [0]
    assert imported(inner) == [1]
    assert imported(at(0, 0, 3, {**told, **counts}), inner) == [0, 1]  # two of the library's, side by side
    assert imported(outer, at(1, 1, 2, chain)) == [0, 1]  # two of LangChain's
    assert imported(outer, at(1, 1, 4, {**told, **counts})) == [0, 1]  # it ends later
    assert imported(outer, at(1, 1, 2, {**told, **counts, "llm.token_count.prompt": 2001})) == [0, 1]
    assert imported(at(0, 0, 3, {**chain, "llm.token_count.prompt": 0}), at(1, 1, 2, told)) == [0]  # as far as told


def test_an_interrupt_is_no_tool_call(tmp_path: Path) -> None:
    """OpenInference closes the span of a tool that waits for a human as if all was well, with the exception in it."""
    raised = {"exception.type": "langgraph.errors.GraphInterrupt", "exception.message": "(Interrupt(value='ok?'),)"}
    event = {"name": "exception", "timeUnixNano": "1", "attributes": pairs(raised)}
    waits = {"openinference.span.kind": "TOOL", "tool.name": "approve", "input.value": "a"}
    answered = {"type": "tool", "data": {"content": "yes", "type": "tool", "tool_call_id": "call_1"}}
    done = {**waits, "output.value": json.dumps(answered), "output.mime_type": "application/json"}
    first, second = runs(
        write(tmp_path / "a.json", request(span(0, waits, status={"code": 1}, events=[event]), span(1, done)))
    )
    assert (first.error, first.outputs) == ("GraphInterrupt()", None)
    assert (second.error, second.tool_call_id) == (None, "call_1")
    assert [call.id for call in replay_of(first, second).seen] == [second.id]


def test_errors(tmp_path: Path) -> None:
    raised = {"exception.type": "openai.RateLimitError", "exception.message": "slow down\nplease"}
    event = {"name": "exception", "timeUnixNano": "1", "attributes": pairs(raised)}
    found = runs(
        write(
            tmp_path / "a.json",
            request(
                span(0, CHAT, status={"code": 2, "message": "x"}, events=[event]),
                span(1, CHAT, status={"code": "STATUS_CODE_ERROR", "message": "ValueError: no"}),
                span(2, {**CHAT, "error.type": "timeout"}),
                span(3, CHAT, status={"code": 1}),
                span(4, CHAT, status={"code": 2}),
            ),
        )
    )
    assert [r.error for r in found] == [
        "RateLimitError: slow down\nplease", "ValueError: no", "timeout()", None, "Error()",
    ]  # fmt: skip
    assert all(r.outputs is None for r in found if r.error)


def test_older_conventions_with_events(tmp_path: Path) -> None:
    call = [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}]

    def event(name: str, **attributes: Any) -> dict[str, Any]:
        return {"name": name, "timeUnixNano": "1", "attributes": pairs(attributes)}

    one_each = [
        event("gen_ai.system.message", content="Be brief."),
        event("gen_ai.user.message", content="Find it."),
        event("gen_ai.assistant.message", tool_calls=json.dumps(call)),
        event("gen_ai.tool.message", id="c1", content="nowhere"),
        event("gen_ai.choice", index=0, finish_reason="stop", message=json.dumps({"content": "No."})),
    ]
    two = [
        event("gen_ai.content.prompt", **{"gen_ai.prompt": json.dumps([{"role": "user", "content": "Find it."}])}),
        event(
            "gen_ai.content.completion",
            **{"gen_ai.completion": json.dumps([{"role": "assistant", "content": "No."}])},
        ),
    ]
    text = {"type": "text", "content": "No."}
    details = event(
        "gen_ai.client.inference.operation.details",
        **{"gen_ai.output.messages": [{"role": "assistant", "parts": [text], "finish_reason": "stop"}]},
    )
    first, second, third = runs(
        write(
            tmp_path / "a.json",
            request(span(0, CHAT, events=one_each), span(1, CHAT, events=two), span(2, CHAT, events=[details])),
        )
    )
    assert [m["role"] for m in first.inputs["messages"]] == ["system", "user", "assistant", "tool"]  # type: ignore[attr-defined]
    assert first.inputs["messages"][3]["tool_call_id"] == "c1"  # type: ignore[index]
    for run in (first, second, third):
        assert run.outputs is not None
        assert run.outputs["message"]["content"] == "No."  # type: ignore[index]


def test_retrieval_and_embeddings(tmp_path: Path) -> None:
    retrieval = {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.retrieval.query.text": "where",
        "gen_ai.retrieval.documents": [{"id": "d1", "score": 0.9}, {"id": "d2", "score": 0.8, "content": "text"}],
    }
    openinference = {
        "openinference.span.kind": "EMBEDDING",
        "embedding.model_name": "text-embedding-3-small",
        "embedding.embeddings.0.embedding.text": "one",
        "embedding.embeddings.1.embedding.text": "two",
        "llm.token_count.prompt": 7,
    }
    embeddings = {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "text-embedding-3-small",
        "gen_ai.prompt.0.content": "one",
        "gen_ai.usage.input_tokens": 3,
    }
    path = write(tmp_path / "a.json", request(span(0, retrieval), span(1, openinference), span(2, embeddings)))
    found = runs(path)
    assert [r.run_type for r in found] == ["retriever", "embedding", "embedding"]
    assert found[0].outputs == {
        "documents": [{"page_content": "d1", "metadata": {}}, {"page_content": "text", "metadata": {}}]
    }
    assert found[1].inputs == {"texts": ["one", "two"]}
    assert found[2].inputs == {"texts": ["one"]}
    assert [r.usage["input_tokens"] for r in found[1:] if r.usage] == [7, 3]


def test_costs_of_openinference(tmp_path: Path) -> None:
    attributes = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "some-model",
        "llm.cost.prompt": 0.01,
        "llm.cost.completion": 0.02,
        "llm.cost.total": 0.03,
        "llm.token_count.prompt": 10,
        "llm.token_count.prompt_details.cache_read": 90,
    }
    [run] = runs(write(tmp_path / "a.json", request(span(0, attributes))))
    assert run.cost is not None
    assert (run.cost.input_usd, run.cost.output_usd, run.cost.total_usd) == (0.01, 0.02, 0.03)
    assert run.usage is not None
    assert run.usage["input_tokens"] == 100  # parts that exceed the whole were left out of it


LOOP = Talk().system("You research.").user("Which plan has SSO?")
for _ in range(6):
    LOOP.ai("", ("fetch_page", {"url": "https://example.com"}, "nothing here"))
LOOP.ai("The enterprise plan.")


@pytest.mark.parametrize("attributes", [genai_attributes, openinference_attributes, openllmetry_attributes])
def test_however_it_is_packed_it_is_the_same(tmp_path: Path, attributes: Any) -> None:
    documents = otlp([LOOP], attributes)
    whole = {"resourceSpans": [r for d in documents for r in d["resourceSpans"]]}
    snake = json.loads(
        json.dumps(documents)
        .replace("resourceSpans", "resource_spans")
        .replace("scopeSpans", "scope_spans")
        .replace("startTimeUnixNano", "start_time_unix_nano")
        .replace("endTimeUnixNano", "end_time_unix_nano")
        .replace("parentSpanId", "parent_span_id")
        .replace("spanId", "span_id")
        .replace("traceId", "trace_id")
        .replace("stringValue", "string_value")
    )
    files = {
        "lines": write(tmp_path / "a.jsonl", *documents),
        "whole": write(tmp_path / "b.json", whole),
        "list": write(tmp_path / "c.json", documents),
        "snake": write(tmp_path / "d.jsonl", *snake),
    }
    (tmp_path / "e.json").write_text(json.dumps(whole, indent=2))
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(files["lines"].read_bytes()))
    expected = runs(files["lines"])
    assert len(expected) == 13
    assert [r.started_at for r in expected] == sorted(r.started_at for r in expected)
    for path in (*files.values(), tmp_path / "e.json", tmp_path / "f.jsonl.gz"):
        assert runs(path) == expected
    said = FileImporter(files["lines"]).notices
    title = "OpenInference spans (OTLP)" if attributes is openinference_attributes else "OpenTelemetry GenAI spans"
    assert said == [f"detected: {title}"]


def test_it_is_an_importer_and_says_what_it_found(tmp_path: Path) -> None:
    source = FileImporter(write(tmp_path / "a.jsonl", *phoenix([LOOP])))
    assert isinstance(source, Importer)
    assert source.notices == ["detected: OpenInference spans"]
    assert source.describe()["format"] == "OpenInference spans"
    flat = [
        {
            **{f"context.{k}": v for k, v in row["context"].items()},
            **{f"attributes.{k}": v for k, v in row["attributes"].items()},
            **{k: v for k, v in row.items() if k not in ("context", "attributes")},
        }
        for row in phoenix([LOOP])
    ]
    columns = FileImporter(write(tmp_path / "b.jsonl", *flat))
    assert [r for p in columns.pages() for r in p.runs] == [r for p in source.pages() for r in p.runs]


def test_any_position_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_importers.files.PAGE_ROWS", 4)
    for path in (
        write(tmp_path / "a.jsonl", *otlp([LOOP], genai_attributes)),
        write(tmp_path / "b.jsonl", *phoenix([LOOP])),
    ):
        pages = list(FileImporter(path).pages())
        assert len(pages) == 4
        for number, page in enumerate(pages):
            rest = [r for p in FileImporter(path).pages(page.position) for r in p.runs]
            assert rest == [r for p in pages[number:] for r in p.runs]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = span(5, CHAT)
    bad = [
        {k: v for k, v in span(0, CHAT).items() if k != "startTimeUnixNano"},
        {k: v for k, v in span(1, CHAT).items() if k != "endTimeUnixNano"},
        {**span(2, CHAT), "traceId": ""},
    ]
    path.write_text(f'{json.dumps(request(good, *bad))}\nno json\n[1]\n{{"resourceSpans": []}}\n')
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(path), ledger).run()
    assert (history.runs, history.skipped) == (1, 6)
    assert dict(ledger.skipped(history)) == {
        "line 1, row 2": "no start time",
        "line 1, row 3": "not ended",
        "line 1, row 4": "no span id or no trace id",
        "line 2": "not JSON",
        "line 3": "a list, not an object",
        "line 4": "nothing in it",
    }


def test_what_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    deep: dict[str, Any] = {"stringValue": "x"}
    for _ in range(120):
        deep = {"kvlistValue": {"values": [{"key": "k", "value": deep}]}}
    bad = span(1, CHAT)
    bad["attributes"].append({"key": "gen_ai.input.messages", "value": deep})
    [page] = FileImporter(write(tmp_path / "a.jsonl", request(span(0, CHAT), bad))).pages()
    assert len(page.runs) == 1
    assert [(s.where, s.why) for s in page.skipped] == [("line 1, row 2", "nested too deeply")]


def test_ids_times_and_trees() -> None:
    assert hexadecimal(base64.b64encode(bytes.fromhex(TRACE)).decode()) == TRACE
    assert hexadecimal("0x00F067AA0BA902B7") == "00f067aa0ba902b7"
    assert hexadecimal("0000000000000000") == ""
    assert hexadecimal("not=") == "not="
    assert nanoseconds("1788000000123456789") == 1788000000.123457
    assert nanoseconds(1788000000000000000) == 1788000000.0
    assert nanoseconds("-1") is nanoseconds(True) is nanoseconds("9" * 30) is nanoseconds(None) is None
    assert nested({"a.0.b": 1, "a.1.b": 2, "a": "value", "c": {"d": {"e.f": 3}}, "g.h": {"x.y": 4}}) == {
        "a": [{"b": 1}, {"b": 2}],
        "c": {"d": {"e": {"f": 3}}},
        "g": {"h": {"x.y": 4}},
    }


def test_spans_of_the_real_sdk(tmp_path: Path) -> None:
    """Written by OpenTelemetry's SDK: `to_json`, the console exporter, and protobuf's JSON of the OTLP encoding."""
    pytest.importorskip("opentelemetry.sdk")
    encoder = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")
    from google.protobuf.json_format import MessageToJson
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import Status, StatusCode

    provider, memory = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with (tmp_path / "console.json").open("w") as out:
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
        tracer = provider.get_tracer("test")
        with tracer.start_as_current_span("agent", attributes={"gen_ai.conversation.id": "conv"}):
            with tracer.start_as_current_span("chat gpt-4o", attributes={**CHAT, "gen_ai.usage.input_tokens": 9}) as s:
                s.set_attribute("gen_ai.response.finish_reasons", ["stop"])
            try:
                with tracer.start_as_current_span(
                    "execute_tool find",
                    attributes={
                        "gen_ai.operation.name": "execute_tool",
                        "gen_ai.tool.name": "find",
                        "gen_ai.tool.call.id": "c1",
                        "gen_ai.tool.call.arguments": '{"what": "it"}',
                    },
                ) as s:
                    s.set_status(Status(StatusCode.ERROR, "no"))
                    raise LookupError("not there")
            except LookupError:
                pass
    spans = memory.get_finished_spans()
    (tmp_path / "lines.jsonl").write_text("".join(s.to_json(indent=None) + "\n" for s in spans))
    (tmp_path / "otlp.json").write_text(MessageToJson(encoder.encode_spans(spans)))
    for name in ("console.json", "lines.jsonl", "otlp.json"):
        found = runs(tmp_path / name)
        assert [(r.run_type, r.thread_id) for r in found] == [("llm", "conv"), ("tool", "conv")]
        assert found[0].trace_id == f"{spans[0].context.trace_id:032x}"
        assert found[1].error is not None
        assert "not there" in found[1].error
        assert (found[1].name, found[1].tool_call_id, found[1].inputs) == ("find", "c1", {"what": "it"})


# --- nothing crashes -------------------------------------------------------------------------------

SETTING = Setting("line 1", 0.0)
KEYS = sorted(
    {*genai_attributes(LOOP.rows[0])[1], *genai_attributes(LOOP.rows[1])[1], *openllmetry_attributes(LOOP.rows[2])[1]}
    | {*openinference_attributes(LOOP.rows[2])[1], *openinference_attributes(LOOP.rows[1])[1]}
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([genai_attributes, openinference_attributes, openllmetry_attributes]),
    st.sampled_from([0, 1]),
    st.sampled_from(KEYS),
    odd,
)
def test_one_attribute_of_any_type(attributes: Any, row: int, key: str, value: Any) -> None:
    form = FlatSpans()
    flat = {
        "name": "span",
        "context": {"trace_id": TRACE, "span_id": "00f067aa0ba902b7"},
        "start_time": "2026-09-01T10:00:00Z",
        "end_time": "2026-09-01T10:00:01Z",
        "attributes": {**attributes(LOOP.rows[row])[1], key: value},
    }
    form.key(flat)
    for run in form.runs(flat, SETTING):
        if isinstance(run, Run):
            assert replayed(run).health().faults == {}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(span(0, {}))), odd, st.booleans())
def test_one_field_of_any_type(field: str, value: Any, flat: bool) -> None:
    form: Any = FlatSpans() if flat else OtlpSpans()
    row = phoenix([LOOP])[-1] if flat else span(0, genai_attributes(LOOP.rows[0])[1])
    names = dict(zip(sorted(span(0, {})), sorted(row), strict=False))
    row = {**row, names.get(field, field) if flat else field: value}
    form.recognises(row if flat else request(row))
    form.key(row)
    for run in form.runs(row, SETTING):
        if isinstance(run, Run):
            assert replayed(run).health().faults == {}


@settings(max_examples=100, deadline=None)
@given(odd)
def test_documents_of_any_type(value: Any) -> None:
    form = OtlpSpans()
    for document in (
        {"resourceSpans": value},
        {"resourceSpans": [{"scopeSpans": value}]},
        request({"attributes": value}),
        request({"attributes": [{"key": value, "value": {"stringValue": "a"}}]}),
    ):
        form.recognises(document)
        for row in form.rows(document):
            form.key(row)
            form.runs(row, SETTING)
    assert any_value("a") == {"stringValue": "a"}
