"""Spans of Vercel's AI SDK, made by hand in the shapes that its versions 4 to 6 write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from importers.test_rows import odd, replayed
from importers.test_spans import BEGIN, TRACE, request, runs, span, write
from recorder import replay_of

from ts_importers.files import FileImporter
from ts_importers.formats.base import Setting
from ts_importers.formats.otlp import OtlpSpans
from ts_langchain.call import Usage
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from pathlib import Path

TOOLS = [json.dumps({"type": "function", "name": "find", "description": "d", "inputSchema": {"type": "object"}})]


def generated(messages: list[Any], **more: Any) -> dict[str, Any]:
    """Attributes of a model call that asks for a tool."""
    return {
        "operation.name": "ai.generateText.doGenerate support",
        "ai.operationId": "ai.generateText.doGenerate",
        "ai.model.provider": "openai.responses",
        "ai.model.id": "gpt-4o-mini",
        "ai.settings.maxOutputTokens": 50,
        "ai.telemetry.metadata.sessionId": "s1",
        "ai.telemetry.metadata.userId": "ada",
        "ai.prompt.messages": json.dumps(messages),
        "ai.prompt.tools": TOOLS,
        "ai.response.finishReason": "tool-calls",
        "ai.response.text": "I look.",
        "ai.response.toolCalls": json.dumps([{"toolCallId": "c1", "toolName": "find", "input": '{"what": "it"}'}]),
        "ai.response.model": "gpt-4o-mini-2024-07-18",
        "ai.usage.inputTokens": 100,
        "ai.usage.cachedInputTokens": 60,
        "ai.usage.outputTokens": 20,
        "ai.usage.reasoningTokens": 5,
        "gen_ai.system": "openai.responses",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        **more,
    }


USER = {"role": "user", "content": [{"type": "text", "text": "Where?"}]}


def test_a_model_call_inside_the_function_that_made_it(tmp_path: Path) -> None:
    outer = {"ai.operationId": "ai.generateText", "ai.model.id": "gpt-4o-mini", "ai.usage.inputTokens": 100}
    path = write(tmp_path / "a.json", request(span(0, outer), span(1, generated([USER]), parent=0)))
    assert FileImporter(path).notices[0] == "detected: spans of Vercel's AI SDK (OTLP)"
    [call] = replay_of(*runs(path)).seen
    assert call.usage == Usage(100, 20, 60, reasoning_tokens=5)
    assert (call.model, call.provider, call.max_tokens) == ("gpt-4o-mini-2024-07-18", "openai", 50)
    assert (call.session_id, call.user_id, call.finish_reason) == ("s1", "ada", "tool_calls")
    assert [(t.id, t.name) for t in call.tool_calls] == [("c1", "find")]
    assert call.toolset is not None
    assert call.toolset.names == ("find",)
    assert call.prompt is not None
    assert call.prompt.messages == 1


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"ai.usage.promptTokens": 100, "ai.usage.completionTokens": 20}, Usage(100, 20)),
        ({"ai.usage.inputTokens": 100, "ai.usage.inputTokenDetails.cacheReadTokens": 60,
          "ai.usage.inputTokenDetails.cacheWriteTokens": 10, "ai.usage.outputTokens": 20,
          "ai.usage.outputTokenDetails.reasoningTokens": 5}, Usage(100, 20, 60, 10, 5)),
        # what Anthropic says itself: older versions leave the caches out
        ({"ai.usage.inputTokens": 80, "ai.usage.cachedInputTokens": 60, "ai.usage.outputTokens": 20,
          "ai.response.providerMetadata": json.dumps({"anthropic": {"usage": {
              "input_tokens": 80, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10,
              "output_tokens": 20}}})}, Usage(150, 20, 60, 10)),
        # Gemini, as version 5 has it: what was thought is beside the output, and in the total
        ({"ai.usage.inputTokens": 100, "ai.usage.outputTokens": 20, "ai.usage.reasoningTokens": 5,
          "ai.usage.totalTokens": 125}, Usage(100, 25, reasoning_tokens=5)),
    ],
)  # fmt: skip
def test_usage(tmp_path: Path, counts: dict[str, Any], usage: Usage) -> None:
    about = {k: v for k, v in generated([USER]).items() if ".usage." not in k}
    [call] = replay_of(*runs(write(tmp_path / "a.json", request(span(0, {**about, **counts}))))).seen
    assert call.usage == usage


def test_a_loop_of_its_tools(tmp_path: Path) -> None:
    spans, messages = (
        [span(0, {"ai.operationId": "ai.generateText"}, endTimeUnixNano=str((BEGIN + 100) * 10**9))],
        [USER],
    )
    for n in range(7):
        asked = {"type": "tool-call", "toolCallId": f"c{n}", "toolName": "find", "input": {"what": "it"}}
        found = {"type": "tool-result", "toolCallId": f"c{n}", "toolName": "find",
                 "output": {"type": "text", "value": "nowhere"}}  # fmt: skip
        called = json.dumps([{k: v for k, v in asked.items() if k != "type"}])
        spans += [
            span(2 * n + 1, generated(messages, **{"ai.response.toolCalls": called}), parent=0),
            span(2 * n + 2, {"ai.operationId": "ai.toolCall", "ai.toolCall.name": "find", "ai.toolCall.id": f"c{n}",
                             "ai.toolCall.args": '{"what": "it"}', "ai.toolCall.result": '"nowhere"'}, parent=0),
        ]  # fmt: skip
        messages = [*messages, {"role": "assistant", "content": [asked]}, {"role": "tool", "content": [found]}]
    path = write(tmp_path / "a.json", request(*spans))
    tools = [r for r in runs(path) if r.run_type == "tool"]
    assert [(r.name, dict(r.inputs), r.tool_call_id) for r in tools[:2]] == [
        ("find", {"what": "it"}, "c0"),
        ("find", {"what": "it"}, "c1"),
    ]
    ledger = Ledger(tmp_path / "l.db")
    assert [i.rule for i in ledger.incidents(Import(FileImporter(path), ledger).run())] == ["tool_loop"]


def test_embeddings(tmp_path: Path) -> None:
    told = {"ai.operationId": "ai.embedMany.doEmbed", "ai.model.provider": "openai.embedding", "ai.usage.tokens": 10,
            "ai.model.id": "text-embedding-3-small", "ai.values": ['"one"', '"two"']}  # fmt: skip
    [call] = replay_of(*runs(write(tmp_path / "a.json", request(span(0, told))))).seen
    assert (call.kind, call.usage.input_tokens, call.model) == ("embedding", 10, "text-embedding-3-small")


def test_spans_as_the_javascript_sdk_holds_them(tmp_path: Path) -> None:
    def held(number: int, parent: int | None, attributes: dict[str, Any], **more: Any) -> dict[str, Any]:
        around = {} if parent is None else {"parentSpanContext": {"traceId": TRACE, "spanId": f"{parent + 1:016x}"}}
        return {
            "name": "span",
            "spanContext": {"traceId": TRACE, "spanId": f"{number + 1:016x}", "traceFlags": 1},
            **around,
            "startTime": [BEGIN + number, 250_000_000],
            "endTime": [BEGIN + number + 1, 750_000_000],
            "status": {"code": 0},
            "attributes": attributes,
            "events": [],
            **more,
        }

    failed = held(2, 0, generated([USER]), status={"code": 2, "message": "RateLimitError: slow down"})
    rows = [held(0, None, {"ai.operationId": "ai.generateText"}), held(1, 0, generated([USER])), failed]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2))
    good, bad = runs(tmp_path / "a.json")
    assert (good.started_at, good.ended_at, good.error) == (BEGIN + 1.25, BEGIN + 2.75, None)
    assert good.parent_id == f"{TRACE}-{1:016x}"
    assert bad.error == "RateLimitError: slow down"


FIELDS = [*generated([]), "ai.usage", "ai.response", "ai.prompt", "ai.toolCall", "ai", "ai.value", "ai.values"]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FIELDS),
    odd,
    st.sampled_from(["ai.generateText.doGenerate", "ai.toolCall", "ai.embed.doEmbed", "ai.generateText"]),
)
def test_one_attribute_of_any_type(field: str, value: Any, operation: str) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return
    said = [{"role": "assistant", "content": [value, {"type": "tool-call"}, {"type": "tool-result", "output": value}]}]
    form = OtlpSpans()
    for told in (
        {"ai.operationId": operation, field: value},
        {"ai.operationId": operation, "ai.prompt.messages": said},
    ):
        for row in form.rows(request(span(0, {**generated([USER]), **told}))):
            form.key(row)
            for run in form.runs(row, Setting("line 1", 0.0)):
                if isinstance(run, Run):
                    assert replayed(run).health().faults == {}
