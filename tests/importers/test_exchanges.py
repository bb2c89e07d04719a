"""Logs of requests and responses: the bodies of OpenAI's and Anthropic's APIs in what logs wrap around them.

Bodies are written by hand after the vendors' API references.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importers.test_rows import odd, replayed

from ts_importers.files import FileImporter
from ts_importers.formats.base import Setting
from ts_importers.formats.exchanges import Exchanges
from ts_langchain.call import Usage
from ts_langchain.errors import UnreadableSource
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.pricing import Prices
from ts_langchain.replay import Replay, Run
from ts_langchain.sentinel import Sentinel

if TYPE_CHECKING:
    from pathlib import Path

    from ts_langchain.call import Call

ASKED = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Where?"}], "temperature": 0.1, "max_tokens": 50}
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"what": "it"}'}}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_788_000_000,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}
RESPONSES_REQUEST = {
    "model": "gpt-4o",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Where?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "call_0", "name": "find", "arguments": '{"what": "that"}'},
        {"type": "function_call_output", "call_id": "call_0", "output": "nowhere"},
    ],
    "max_output_tokens": 50,
    "tools": [{"type": "function", "name": "find", "description": "d", "parameters": {}}],
    "conversation": {"id": "conv_1"},
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_788_000_000,
    "model": "gpt-4o-2024-08-06",
    "status": "completed",
    "output": [
        {"type": "reasoning", "id": "rs_2", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "find", "arguments": '{"what": "it"}'},
    ],
    "usage": {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 120,
    },
}
ANTHROPIC_REQUEST = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 50,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [{"role": "user", "content": "Where?"}],
    "metadata": {"user_id": "u1"},
}
ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "t1", "name": "find", "input": {"what": "it"}},
    ],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 30,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 10,
        "output_tokens": 20,
    },
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def calls(path: Path) -> list[Call]:
    """What reaches the rules."""
    seen: list[Call] = []
    sentinel = Sentinel()
    replay = Replay(sentinel)
    observe = sentinel.observe
    sentinel.observe = lambda call: (seen.append(call), observe(call))[1]  # type: ignore[method-assign, func-returns-value, assignment]
    for page in FileImporter(path).pages():
        assert page.skipped == []
        for run in page.runs:
            replay.feed(run)
    replay.finish()
    assert sentinel.health().faults == {}
    return [c for c in seen if c.kind != "tool"]


@pytest.mark.parametrize(
    ("request_", "response"),
    [(ASKED, COMPLETION), (RESPONSES_REQUEST, RESPONSE), (ANTHROPIC_REQUEST, ANTHROPIC)],
    ids=["chat completions", "responses", "messages"],
)
@pytest.mark.parametrize("wrapped", ["plain", "bodies", "text", "helicone"])
def test_each_api_in_each_wrapping(tmp_path: Path, request_: Any, response: Any, wrapped: str) -> None:
    about = {"timestamp": "2026-09-01T10:00:00Z", "duration_ms": 1500, "session_id": "s1"}
    row = {
        "plain": {"request": request_, "response": response},
        "bodies": {"request": {"url": "/v1", "body": request_}, "response": {"status_code": 200, "body": response}},
        "text": {"request": {"body": json.dumps(request_)}, "response": {"body": json.dumps(response)}},
        "helicone": {"request_body": request_, "response_body": response},
    }[wrapped]
    source = FileImporter(write(tmp_path / "a.jsonl", {**about, **row}))
    assert source.notices[0] == "detected: OpenAI, Anthropic, Gemini or Bedrock requests and responses"
    [call] = calls(tmp_path / "a.jsonl")
    assert (call.session_id, call.status) == ("s1", "ok")
    assert call.ended_at - call.started_at == 1.5
    assert (call.usage.input_tokens, call.usage.output_tokens, call.usage.cache_read_tokens) == (100, 20, 60)
    assert call.finish_reason in ("tool_calls", "tool_use")
    assert [(t.name, t.id) for t in call.tool_calls] in ([("find", "call_1")], [("find", "t1")])
    assert call.model is not None
    assert call.provider == ("anthropic" if response is ANTHROPIC else "openai")
    assert call.max_tokens == 50


def test_what_the_responses_api_says(tmp_path: Path) -> None:
    [page] = FileImporter(write(tmp_path / "a.jsonl", {"request": RESPONSES_REQUEST, "response": RESPONSE})).pages()
    [run] = page.runs
    assert [m["role"] for m in run.inputs["messages"]] == ["system", "user", "assistant", "tool"]  # type: ignore[attr-defined]
    assert run.metadata["session_id"] == "conv_1"
    assert run.started_at == 1_788_000_000
    assert calls(tmp_path / "a.jsonl")[0].usage == Usage(100, 20, 60, reasoning_tokens=5)
    cut = {**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    [call] = calls(write(tmp_path / "b.jsonl", {"request": RESPONSES_REQUEST, "response": cut}))
    assert call.finish_reason == "length"


def test_a_stream_of_an_answer_that_failed_is_a_failed_call(tmp_path: Path) -> None:
    """It was taken for an empty answer, whose prompt was billed by estimate."""
    failed = {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "no"}, "usage": None}
    events = [{"type": "response.created", "response": {}}, {"type": "response.failed", "response": failed}]
    [call] = calls(write(tmp_path / "a.jsonl", {"timestamp": 1, "request": RESPONSES_REQUEST, "response": events}))
    assert (call.status, call.error, call.usage) == ("error", "server_error", Usage())


def test_streams(tmp_path: Path) -> None:
    openai = [
        {"model": "gpt-4o", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]},
        {"model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}]},
        {"model": "gpt-4o", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}},
    ]
    anthropic = [
        {"type": "message_start", "message": {"model": "claude-sonnet-4-5", "usage": {"input_tokens": 5,
         "cache_read_input_tokens": 4, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    ]  # fmt: skip
    responses = [{"type": "response.created", "response": {}}, {"type": "response.completed", "response": RESPONSE}]
    sse = "".join(f"data: {json.dumps(e)}\n\n" for e in openai) + "data: [DONE]\n"
    first, second, third, fourth = calls(
        write(
            tmp_path / "a.jsonl",
            {"timestamp": 1, "request": ASKED, "response": sse},
            {"timestamp": 2, "request": ANTHROPIC_REQUEST, "response": {"streamed_data": anthropic}},
            {"timestamp": 3, "request": RESPONSES_REQUEST, "response": responses},
            {"timestamp": 4, "request": ASKED, "response": openai},
        )
    )
    assert (first.usage.input_tokens, first.usage.output_tokens, first.answer_chars) == (9, 2, 5)
    assert (second.usage.input_tokens, second.usage.output_tokens, second.answer_chars) == (9, 2, 5)
    assert third.usage.input_tokens == 100
    assert [c.provider for c in (first, second, third, fourth)] == ["openai", "anthropic", "openai", "openai"]
    assert fourth.answer == first.answer


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropic_counts_what_was_thought(tmp_path: Path, streamed: bool) -> None:
    usage = {
        "input_tokens": 6,
        "cache_creation_input_tokens": 574,
        "cache_read_input_tokens": 20_443,
        "cache_creation": {"ephemeral_5m_input_tokens": 574, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 489,
        "output_tokens_details": {"thinking_tokens": 77},
    }
    events = [
        {"type": "message_start", "message": {"model": "claude-sonnet-5", "usage": {**usage, "output_tokens": 1}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
    ]
    answer = events if streamed else {**ANTHROPIC, "usage": usage}
    [call] = calls(write(tmp_path / "a.jsonl", {"request": ANTHROPIC_REQUEST, "response": answer}))
    assert call.usage == Usage(21_023, 489, 20_443, 574, 77)


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.groq.com/openai/v1/chat/completions", "groq"),
        ("https://openrouter.ai/api/v1/chat/completions", "openrouter"),
        ("https://api.openai.com/v1/chat/completions", "openai"),
        ("/v1/chat/completions", "openai"),
    ],
)
def test_who_was_asked(tmp_path: Path, url: str, provider: str) -> None:
    rows = [{"url": url, "request": ASKED, "response": COMPLETION},
            {"request": {"url": url, "body": ASKED}, "response": {**COMPLETION, "id": "chatcmpl-2"}}]  # fmt: skip
    assert [call.provider for call in calls(write(tmp_path / "a.jsonl", *rows))] == [provider, provider]


def test_a_servers_own_idea_of_the_time_is_not_believed(tmp_path: Path) -> None:
    source = FileImporter(
        write(tmp_path / "a.jsonl", {"request": ASKED, "response": {**COMPLETION, "created": 444_647}})
    )
    [page] = source.pages()
    assert page.runs[0].started_at > COMPLETION["created"]


def test_a_log_may_call_its_time_ts(tmp_path: Path) -> None:
    row = {"ts": "2026-09-01T10:00:00Z", "request_body": ASKED, "response_body": COMPLETION}
    [call] = calls(write(tmp_path / "a.jsonl", row))
    assert call.started_at == 1_788_256_800


@pytest.mark.parametrize(
    "counted",
    [
        {"usage": {"billed_units": {"input_tokens": 7, "output_tokens": 88}, "tokens": {"input_tokens": 69}}},
        {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 88},
    ],
    ids=["Cohere", "Ollama"],
)
def test_what_others_count(tmp_path: Path, counted: dict[str, Any]) -> None:
    answer = {"message": {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}, **counted}
    [call] = calls(write(tmp_path / "a.jsonl", {"request": {**ASKED, "model": "command-r"}, "response": answer}))
    assert (call.usage, call.answer_chars) == (Usage(7, 88), 6)


def test_groq_counts_a_streams_tokens_beside(tmp_path: Path) -> None:
    stream = [
        {"model": "llama-3.1-8b-instant", "choices": [{"index": 0, "delta": {"content": "Hello"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
         "x_groq": {"id": "r", "usage": {"prompt_tokens": 18, "completion_tokens": 73, "total_tokens": 91}}},
    ]  # fmt: skip
    [call] = calls(write(tmp_path / "a.jsonl", {"request": ASKED, "response": stream}))
    assert call.usage == Usage(18, 73)


@pytest.mark.parametrize("hit", [True, "True", False, None])
def test_what_a_gateways_cache_answered_costs_nothing(tmp_path: Path, hit: object) -> None:
    """LiteLLM logs a hit of its cache of responses with the tokens of the first answer."""
    row = {"request": ASKED, "response": COMPLETION, "response_cost": 0.0 if hit else 0.01, "cache_hit": hit}
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(write(tmp_path / "a.jsonl", row)), ledger).run()
    [spend] = ledger.spend(history)
    billed = str(hit) != "True"
    assert (spend.calls, spend.nano, spend.unpriced_calls) == (1, 10_000_000 if billed else 0, 0)
    assert (spend.input_tokens > 0) is billed


@pytest.mark.parametrize("name", ["id", "request_id", "custom_id"])
def test_calls_that_share_a_name_are_several(tmp_path: Path, name: str) -> None:
    """The calls of one HTTP request; requests of two batches, which begin to count anew."""
    request = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    rows = [{name: "1", "request": request, "response": {**COMPLETION, "id": f"chatcmpl-{n}"}} for n in (1, 2, 3, 3)]
    [page] = FileImporter(write(tmp_path / "a.jsonl", *rows)).pages()
    assert [run.id for run in page.runs] == [f"1/chatcmpl-{n}" for n in (1, 2, 3, 3)]  # the last one is known


def test_batch_output(tmp_path: Path) -> None:
    done = {
        "id": "batch_req_1",
        "custom_id": "row-1",
        "error": None,
        "response": {"status_code": 200, "request_id": "r", "body": COMPLETION},
    }
    failed = {"id": "batch_req_2", "custom_id": "row-2", "response": {"status_code": 400, "body": {}}, "error": None}
    expired = {"id": "batch_req_3", "custom_id": "row-3", "response": None,
               "error": {"code": "batch_expired", "message": "late"}}  # fmt: skip
    [page] = FileImporter(write(tmp_path / "a.jsonl", done, failed, expired)).pages()
    assert [(r.metadata.get("session_id"), r.error) for r in page.runs] == [
        ("row-1", None), ("row-2", "HTTP 400"), ("row-3", "batch_expired: late"),
    ]  # fmt: skip


GEMINI = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "There."}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120},
    "modelVersion": "gemini-2.5-flash",
}


@pytest.mark.parametrize(
    ("done", "failed", "why"),
    [
        (
            {"custom_id": "1", "result": {"type": "succeeded", "message": ANTHROPIC}},
            {"custom_id": "2", "result": {"type": "expired"}},
            "expired: ",
        ),
        (
            {"custom_id": "1", "result": {"type": "succeeded", "message": ANTHROPIC}},
            {
                "custom_id": "2",
                "result": {"type": "errored", "error": {"type": "error", "error": {"type": "api_error"}}},
            },
            "api_error: ",
        ),
        (
            {"recordId": "1", "modelInput": ANTHROPIC_REQUEST, "modelOutput": ANTHROPIC},
            {"recordId": "2", "modelInput": ANTHROPIC_REQUEST, "error": {"errorCode": 400, "errorMessage": "no"}},
            "Error: no",
        ),
        (
            {
                "request": {"contents": [{"role": "user", "parts": [{"text": "Where?"}]}]},
                "response": GEMINI,
                "status": "",
                "processed_time": "2026-09-01T10:00:00+00:00",
            },
            {
                "request": {"contents": [{"role": "user", "parts": [{"text": "Where?"}]}]},
                "response": {},
                "status": "Bad Request: no",
                "processed_time": "2026-09-01T10:00:00+00:00",
            },
            "Bad Request: no",
        ),
        (
            {"key": "1", "response": GEMINI},
            {"key": "2", "error": {"code": 8, "message": "no"}},
            "Error: no",
        ),
    ],
)
def test_the_batches_of_others(tmp_path: Path, done: Any, failed: Any, why: str) -> None:
    """As Anthropic, Bedrock, Vertex AI and Gemini give them: none is asked for again by the same conversation."""
    read, lost = calls(write(tmp_path / "a.jsonl", done, failed))
    assert (read.usage.input_tokens, read.usage.output_tokens, read.tier) == (100, 20, "batch")
    assert read.model == ("gemini-2.5-flash" if "response" in done else "claude-sonnet-4-5")
    assert lost.status == "error"
    assert lost.session_id != read.session_id
    [page] = FileImporter(tmp_path / "a.jsonl").pages()
    assert [run.error for run in page.runs] == [None, why]


def test_an_answer_kept_beside_what_was_asked(tmp_path: Path) -> None:
    """The prompt is not left aside: without it no repeat would be found, and nothing would say so."""
    [flat] = calls(write(tmp_path / "a.jsonl", {**ASKED, "timestamp": 1_788_000_000, "response": COMPLETION}))
    [told] = calls(write(tmp_path / "b.jsonl", {"request": ASKED, "timestamp": 1_788_000_000, "response": COMPLETION}))
    assert flat == told


def test_a_conversation_that_ended_in_an_error_stays_one(tmp_path: Path) -> None:
    row = {"messages": [*ASKED["messages"], {"role": "assistant", "content": "There."}], "error": "timeout"}
    assert FileImporter(write(tmp_path / "a.jsonl", row)).format == "messages"


def test_stored_completions(tmp_path: Path) -> None:
    """`GET /chat/completions` lists answers without what was asked."""
    stored = [{**COMPLETION, "id": f"chatcmpl-{n}", "metadata": {"session_id": "s"}} for n in range(3)]
    seen = calls(write(tmp_path / "a.json", {"object": "list", "data": stored, "has_more": False}))
    assert [(c.id, c.session_id, c.usage.input_tokens, c.model) for c in seen] == [
        (f"chatcmpl-{n}", "s", 100, "gpt-4o-2024-08-06") for n in range(3)
    ]
    assert seen[0].started_at == COMPLETION["created"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "t", "timestamp": "2026-09-01T10:00:00Z", "sessionId": "s", "observations": ["o"]}, "observations"),
        ({"data": [{"id": "t", "timestamp": "2026-09-01T10:00:00Z", "htmlPath": "/t"}]}, "import langfuse"),
        ({"recordId": "1", "modelInput": ANTHROPIC_REQUEST}, "import its output"),
        # Opik's, of which only the tools would be read
        (
            {"id": "1", "trace_id": "t", "project_id": "p", "type": "tool", "start_time": "2026-09-01T10:00:00Z"},
            "holds nothing that is known",
        ),
    ],
)
def test_what_holds_no_calls_says_where_they_are(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(UnreadableSource, match=said):
        FileImporter(write(tmp_path / "a.jsonl", row))


@pytest.mark.parametrize(
    ("row", "tier"),
    [
        ({"response": COMPLETION}, None),
        ({"response": {**COMPLETION, "service_tier": "default"}}, None),
        ({"response": {**COMPLETION, "service_tier": "flex"}}, "flex"),
        ({"response": {**COMPLETION, "service_tier": ["flex"]}}, None),
        ({"response": {**RESPONSE, "service_tier": "priority"}}, "priority"),
        ({"response": {**ANTHROPIC, "usage": {**ANTHROPIC["usage"], "service_tier": "standard"}}}, None),
        ({"response": {**ANTHROPIC, "usage": {**ANTHROPIC["usage"], "service_tier": "batch"}}}, "batch"),
        ({"response": {**ANTHROPIC, "usage": {**ANTHROPIC["usage"], "speed": "fast"}}}, "fast"),
        ({"response": [{"service_tier": "flex", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}]}, "flex"),
        ({"custom_id": "row-1", "response": {"status_code": 200, "body": COMPLETION}, "error": None}, "batch"),
    ],
)
def test_how_a_request_was_processed(tmp_path: Path, row: dict[str, Any], tier: str | None) -> None:
    [call] = calls(write(tmp_path / "a.jsonl", {"request": ASKED, **row}))
    assert call.tier == tier


def test_a_batch_of_embeddings_has_a_batchs_price(tmp_path: Path) -> None:
    answer = {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    row = {"custom_id": "row-1", "response": {"status_code": 200, "body": answer}, "error": None}
    [call] = calls(write(tmp_path / "a.jsonl", {"request": {"model": "text-embedding-3-small", "input": ["a"]}, **row}))
    assert (call.kind, call.tier) == ("embedding", "batch")


def test_what_anthropic_keeps_cached_for_an_hour(tmp_path: Path) -> None:
    split = {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 6}
    response = {**ANTHROPIC, "usage": {**ANTHROPIC["usage"], "cache_creation": split}}
    [call] = calls(write(tmp_path / "a.jsonl", {"request": ANTHROPIC_REQUEST, "response": response}))
    assert call.usage == Usage(100, 20, 60, 10, cache_write_1h_tokens=6)


def test_embeddings(tmp_path: Path) -> None:
    asked = {"model": "text-embedding-3-small", "input": ["one", "two"]}
    answer = {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    [call] = calls(write(tmp_path / "a.jsonl", {"request": asked, "response": answer}))
    assert (call.kind, len(call.items), call.usage.input_tokens) == ("embedding", 2, 4)
    answer["usage"] = {"total_tokens": 7}  # Voyage
    [call] = calls(write(tmp_path / "b.jsonl", {"request": asked, "response": answer}))
    assert call.usage == Usage(7)


def test_an_answer_without_a_message_has_tokens_all_the_same(tmp_path: Path) -> None:
    """OpenAI's images: they were counted as no tokens and, of a model with a price, as a cost of nothing."""
    counts = {"total_tokens": 1100, "input_tokens": 100, "output_tokens": 1000,
              "input_tokens_details": {"text_tokens": 40, "image_tokens": 60},
              "output_tokens_details": {"text_tokens": 0, "image_tokens": 1000}}  # fmt: skip
    answer = {"created": 1_790_000_000, "data": [{"b64_json": "AAAA"}], "usage": counts}
    row = {"request": {"model": "gpt-image-1", "prompt": "A cat."}, "response": answer}
    [call] = calls(write(tmp_path / "a.jsonl", row))
    assert (call.kind, call.usage) == ("model", Usage(100, 1000, output_image_tokens=1000))


@pytest.mark.parametrize(("currency", "nano"), [(None, 10_000_000), ("usd", 10_000_000), ("EUR", 375_000)])
def test_a_cost_in_another_currency_is_none_in_dollars(tmp_path: Path, currency: str | None, nano: int) -> None:
    row = {"timestamp": 1_790_000_000, "request": ASKED, "response": COMPLETION, "cost": 0.01, "currency": currency}
    [call] = calls(write(tmp_path / "a.jsonl", row))
    cost = Prices().cost(call)
    assert cost is not None
    assert cost.nano == nano


def test_a_decision_of_openais(tmp_path: Path) -> None:
    """Its input alone is billed, whatever of it was cached."""
    asked = {"model": "gpt-6-luna", "input": "Is it?", "questions": [{"type": "predicate", "instructions": "Is it?"}]}
    usage = {"input_tokens": 1000, "input_tokens_details": {"cached_tokens": 500}, "output_tokens": 20}
    answer = {"model": "gpt-6-luna", "answers": [{"type": "predicate", "probability": 0.9}], "usage": usage}
    row = {"timestamp": 1_794_000_000, "url": "https://api.openai.com/v1/decisions", "request": asked}
    [call] = calls(write(tmp_path / "a.jsonl", {**row, "response": answer}))
    assert (call.usage, call.tier, call.provider) == (Usage(1000, 20, 500), "decision", "openai")
    assert Prices().cost(call) == (100_000, 0, "table")


def test_without_a_session_those_that_go_on_are_one_conversation(tmp_path: Path) -> None:
    def row(*said: str, first: str = "Where?") -> dict[str, Any]:
        messages = [{"role": "system", "content": "S"}, {"role": "user", "content": first}]
        messages += [{"role": "assistant", "content": s} for s in said]
        answer = {**COMPLETION, "id": f"{first}{len(said)}"}
        return {"request": {**ASKED, "messages": messages}, "response": answer}

    path = write(tmp_path / "a.jsonl", row(), row("a"), row("a", "b"), row(first="When?"))
    told = {call.id: call.session_id for call in calls(path)}
    assert told == {"Where?0": "Where?0", "Where?1": "Where?0", "Where?2": "Where?0", "When?0": "When?0"}
    assert "goes on from an earlier prompt" in FileImporter(path).notices[-1]


def test_a_request_that_names_its_previous_response_goes_on_from_that(tmp_path: Path) -> None:
    """The provider keeps what was said: `yes` is sent by two users and, in one conversation, twice."""

    def row(number: str, said: str, previous: str | None = None) -> dict[str, Any]:
        output = [{"type": "message", "content": [{"type": "output_text", "text": "Shall I?"}]}]
        answer = {
            "id": f"resp_{number}",
            "object": "response",
            "output": output,
            "created_at": 1_788_000_000 + int(number),
        }
        return {"request": {"model": "gpt-4o", "input": said, "previous_response_id": previous}, "response": answer}

    rows = [row("1", "one"), row("2", "two"), row("3", "yes", "resp_1"), row("4", "yes", "resp_2"),
            row("5", "yes", "resp_3"), row("6", "yes", "resp_5"), row("7", "yes", "resp_from_before")]  # fmt: skip
    found = calls(write(tmp_path / "a.jsonl", *rows))
    assert [c.session_id for c in found] == [f"resp_{n}" for n in (1, 2, 1, 2, 1, 1, 7)]
    assert len({c.request for c in found}) == len(found)  # none of them is another one sent again


def test_a_script_that_runs_every_hour_is_no_loop(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Look and report."}]
    message = COMPLETION["choices"][0]["message"]  # type: ignore[index]
    further = [*asked, message, {"role": "tool", "tool_call_id": "call_1", "content": "All is well."}]
    rows = [
        {
            "timestamp": 1_788_000_000 + n * 3600 + at,
            "duration": 1.0,
            "request": {**ASKED, "messages": messages},
            "response": {**COMPLETION, "id": f"r{n}-{at}"},
        }
        for n in range(6)
        for at, messages in ((0, asked), (3, further))
    ]
    path = write(tmp_path / "a.jsonl", *rows)
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(path), ledger).run()
    assert {i.rule for i in ledger.incidents(history)} <= {"duplicate_work"}
    models = [call.session_id for call in calls(path) if call.kind == "model"]
    assert models == [f"r{n}-0" for n in range(6) for _ in range(2)]


@pytest.mark.parametrize("gap", [0.1, 0.4, 5.0])
def test_a_request_without_an_end_ends_before_the_next_of_its_conversation(tmp_path: Path, gap: float) -> None:
    """Else its tool calls, which the next prompt holds, would not be known when that begins."""
    rows = []
    messages: list[Any] = [{"role": "user", "content": "Where?"}]
    for n in range(6):
        call = {**CALL, "id": f"c{n}"}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        answer = {**COMPLETION, "id": f"r{n}", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
        request = {**ASKED, "messages": messages}
        rows.append({"timestamp": 1_788_000_000 + n * gap, "request": request, "response": answer})
        messages = [*messages, message, {"role": "tool", "tool_call_id": f"c{n}", "content": "nowhere"}]
    path = write(tmp_path / "a.jsonl", *rows)
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(path), ledger).run()
    assert [i.rule for i in ledger.incidents(history)] == ["tool_loop"]


@pytest.mark.parametrize(
    ("time", "said"), [(1_788_000_000, False), ("1788000000.5", False), ("last Tuesday", True), (None, True)]
)
def test_a_time_that_is_made_up_is_told(tmp_path: Path, time: object, said: bool) -> None:
    row = {"timestamp": time, "request": ASKED, "response": {**COMPLETION, "created": None}}
    source = FileImporter(write(tmp_path / "a.jsonl", row))
    [page] = source.pages()
    assert len(page.runs) == 1
    assert any("do not say when they were" in notice for notice in source.notices) is said


@pytest.mark.parametrize("kept", [100, 4])
def test_a_prompt_whose_beginning_was_trimmed_away_is_read(tmp_path: Path, kept: int) -> None:
    """It opens with a message that only asks for tools: that is not nothing."""
    rows = []
    messages: list[Any] = list(ASKED["messages"])  # type: ignore[call-overload]
    for n in range(8):
        message = {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": f"c{n}"}]}
        answer = {**COMPLETION, "id": f"r{n}", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
        request = {**ASKED, "messages": messages[-kept:]}
        rows.append({"timestamp": 1_788_000_000 + n, "duration": 0.5, "request": request, "response": answer})
        messages += [message, {"role": "tool", "tool_call_id": f"c{n}", "content": f"not at {n}"}]
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(write(tmp_path / "a.jsonl", *rows)), ledger).run()
    found = list(ledger.calls(history))
    assert {call.session_id for call in found} == {"r0"}
    assert [call.tool_call_id for call in found if call.kind == "tool"] == [f"c{n}" for n in range(7)]


@pytest.mark.parametrize(
    "row",
    [
        {"trace_id": "t", "request": ASKED, "response": COMPLETION, "spans": []},
        {"trace_id": "t", "request": {"messages": [["user", "Where?"]]}, "response": {"messages": []}, "state": "OK"},
        {"request": {"path": "/health"}, "response": {"status": 200}},
        {"request": ASKED, "response": {"ok": True}},
    ],
)
def test_what_only_has_a_request_and_a_response_is_no_model_call(row: dict[str, Any]) -> None:
    """Traces, as MLflow's tables keep them, and access logs."""
    assert Exchanges().recognises(row) is None


@pytest.mark.parametrize(
    "row",
    [
        {"request": ASKED, "response": COMPLETION},
        {"request": {"body": ASKED}, "response": {"status_code": 429, "body": {}}},
        {"request": ASKED, "response": None, "error": "timed out"},
        {"request": RESPONSES_REQUEST, "response": RESPONSE},
        {"request": ASKED, "response": 'data: {"choices": [{"delta": {"content": "Hi"}}]}'},
        {"request": {"input": "a"}, "response": {"object": "list", "data": []}},
        {"custom_id": "r", "response": {"body": COMPLETION}},
    ],
)
def test_what_is_a_model_call(row: dict[str, Any]) -> None:
    assert Exchanges().recognises(row) is not None


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    rows = [
        {"request": ASKED, "response": COMPLETION},
        {"request": ASKED, "response": None},
        {"request": 5, "response": "what?"},
        {"request": ASKED, "response": None, "error": "timed out"},
        {"other": 1},
    ]
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(FileImporter(write(tmp_path / "a.jsonl", *rows)), ledger).run()
    assert history.runs == 2
    assert dict(ledger.skipped(history)) == {
        "line 2": "a request without its response",
        "line 3": "neither a request nor a response that can be read",
        "line 5": "neither a request nor a response that can be read",
    }


GOOD: dict[str, Any] = {
    "id": "x", "timestamp": 1, "end_time": 2, "session_id": "s", "provider": "openai", "cost": 0.1, "metadata": {},
    "status": 200, "error": None, "url": "/v1/chat", "request": ASKED, "response": COMPLETION, "duration": 1,
}  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["", "request", "response"]),
    st.sampled_from(sorted({*GOOD, *ASKED, *RESPONSES_REQUEST, *COMPLETION, *RESPONSE, *ANTHROPIC})),
    odd,
    st.sampled_from([(ASKED, COMPLETION), (RESPONSES_REQUEST, RESPONSE), (ANTHROPIC_REQUEST, ANTHROPIC)]),
)
def test_one_field_of_any_type(where: str, field: str, value: Any, bodies: Any) -> None:
    row = {**GOOD, "request": bodies[0], "response": bodies[1]}
    row = {**row, where: {**row[where], field: value}} if where else {**row, field: value}
    form = Exchanges()
    form.recognises(row)
    form.key(row)
    for run in form.runs(row, Setting("line 1", 0.0)):
        if isinstance(run, Run):
            assert replayed(run).health().faults == {}
