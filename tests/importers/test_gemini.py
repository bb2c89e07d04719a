"""Bodies of Gemini's API and of Bedrock's, in logs of requests; written by hand after the vendors' references."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importers.test_exchanges import calls, write
from importers.test_rows import odd, replayed

from ts_importers.files import FileImporter
from ts_importers.formats.base import Setting
from ts_importers.formats.bedrock import BedrockLogs
from ts_importers.formats.exchanges import Exchanges
from ts_langchain.call import Usage
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.pricing import Prices
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from pathlib import Path

GEMINI = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent"
CONVERSE = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"
ASKED: dict[str, Any] = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Where?"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "find", "args": {"what": "that"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "find", "response": {"at": "nowhere"}}}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "find", "description": "d", "parameters": {}}]}],
    "generationConfig": {"maxOutputTokens": 50, "temperature": 0.1},
}
SAID: dict[str, Any] = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "Hm.", "thought": True},
                    {"text": "I look."},
                    {"functionCall": {"name": "find", "args": {"what": "it"}}, "thoughtSignature": "c2ln"},
                ],
            },
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 95,
        "toolUsePromptTokenCount": 5,
        "cachedContentTokenCount": 60,
        "candidatesTokenCount": 15,
        "thoughtsTokenCount": 5,
        "totalTokenCount": 120,
    },
    "modelVersion": "gemini-2.5-flash",
    "responseId": "r1",
    "createTime": "2026-09-01T10:00:00Z",
}
USAGE = Usage(100, 20, 60, reasoning_tokens=5)


def test_gemini(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"url": GEMINI, "request": ASKED, "response": SAID})
    [page] = FileImporter(path).pages()
    [run] = page.runs
    assert [m["role"] for m in run.inputs["messages"]] == ["system", "user", "assistant", "tool"]  # type: ignore[attr-defined]
    [call] = calls(path)
    assert (call.provider, call.model, call.max_tokens, call.usage) == ("google_genai", "gemini-2.5-flash", 50, USAGE)
    assert [t.name for t in call.tool_calls] == ["find"]
    assert call.answer_chars > len("I look.")
    assert call.started_at == 1_788_256_800
    assert call.toolset is not None
    assert call.toolset.names == ("find",)


@pytest.mark.parametrize("kind", ["events", "list"])
def test_geminis_streams(tmp_path: Path, kind: str) -> None:
    begun = {"candidates": [{"content": {"parts": [{"text": "I "}]}}], "usageMetadata": {"promptTokenCount": 95}}
    [told] = SAID["candidates"]
    ended = {**SAID, "candidates": [{**told, "content": {"parts": [{"text": "look."}]}, "finishReason": "MAX_TOKENS"}]}
    stream = [begun, ended]
    answer = "".join(f"data: {json.dumps(p)}\r\n\r\n" for p in stream) if kind == "events" else stream
    [call] = calls(write(tmp_path / "a.jsonl", {"request": ASKED, "response": answer}))
    assert (call.usage, call.answer_chars, call.finish_reason) == (USAGE, 7, "length")


def test_a_tool_loop_of_gemini_without_ids(tmp_path: Path) -> None:
    """Gemini's calls have no ids in most logs: what answers them is told by name."""
    rows, contents = [], [ASKED["contents"][0]]
    turn = {"role": "model", "parts": [{"functionCall": {"name": "find", "args": {"what": "it"}}}]}
    found = {"role": "user", "parts": [{"functionResponse": {"name": "find", "response": {"at": "nowhere"}}}]}
    for n in range(7):
        said = {**SAID, "candidates": [{"content": turn, "finishReason": "STOP"}], "responseId": f"r{n}"}
        rows.append({"timestamp": 1_788_000_000 + 10 * n, "url": GEMINI, "request": {"contents": contents},
                     "response": said})  # fmt: skip
        contents = [*contents, turn, found]
    ledger = Ledger(tmp_path / "l.db")
    history = Import(FileImporter(write(tmp_path / "a.jsonl", *rows)), ledger).run()
    assert {i.rule for i in ledger.incidents(history)} == {"tool_loop"}


def test_geminis_images_and_cached_audio(tmp_path: Path) -> None:
    """An image costs twelve times the text of its length; what is read from the cache is not sent as audio, too."""
    asked = {"model": "gemini-2.5-flash-image", "contents": [{"role": "user", "parts": [{"text": "Draw."}]}]}
    drawn = {"promptTokenCount": 10, "candidatesTokenCount": 1300, "totalTokenCount": 1310,
             "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290},
                                         {"modality": "TEXT", "tokenCount": 10}]}  # fmt: skip
    heard = {"promptTokenCount": 12_000, "candidatesTokenCount": 5, "cachedContentTokenCount": 8000,
             "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 10_000}, "?"],
             "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 8000}]}  # fmt: skip
    said = {"candidates": [{"content": {"role": "model", "parts": [{"text": "There."}]}, "finishReason": "STOP"}]}
    rows = [{"timestamp": n, "request": asked, "response": {**said, "usageMetadata": u}}
            for n, u in ((1_790_000_000, drawn), (1_790_000_100, heard))]  # fmt: skip
    image, audio = calls(write(tmp_path / "a.jsonl", *rows))
    assert image.usage == Usage(10, 1300, output_image_tokens=1290)
    cost = Prices().cost(image)
    assert cost is not None
    assert cost.output_nano == (1290 * 30 + 10 * 2.5) * 1000
    assert audio.usage == Usage(12_000, 5, 8000, input_audio_tokens=2000)


@pytest.mark.parametrize(
    ("traffic", "tier"),
    [("ON_DEMAND", None), ("ON_DEMAND_FLEX", "flex"), ("ON_DEMAND_PRIORITY", "priority"), (["?"], None)],
)
def test_how_vertex_processed_a_request(tmp_path: Path, traffic: object, tier: str | None) -> None:
    asked = {"model": "gemini-2.5-flash", "contents": [{"role": "user", "parts": [{"text": "Hi."}]}]}
    said = {"candidates": [{"content": {"role": "model", "parts": [{"text": "There."}]}, "finishReason": "STOP"}]}
    counted = {"promptTokenCount": 10, "candidatesTokenCount": 5, "trafficType": traffic}
    row = {"timestamp": 1_794_000_000, "request": asked, "response": {**said, "usageMetadata": counted}}
    [call] = calls(write(tmp_path / "a.jsonl", row))
    assert (call.usage, call.tier) == (Usage(10, 5), tier)


def test_an_error_of_gemini(tmp_path: Path) -> None:
    failed = {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}
    [call] = calls(write(tmp_path / "a.jsonl", {"url": GEMINI, "status": 429, "request": ASKED, "response": failed}))
    assert call.status == "error"


def test_helicones_rows_hold_geminis_bodies(tmp_path: Path) -> None:
    about = {"request_id": "q1", "request_created_at": "2026-09-01T10:00:00Z", "provider": "GOOGLE"}
    [call] = calls(write(tmp_path / "a.jsonl", {**about, "request_body": ASKED, "response_body": SAID}))
    assert (call.usage, [t.name for t in call.tool_calls]) == (USAGE, ["find"])


# --- Bedrock ---------------------------------------------------------------------------------------

CONVERSED: dict[str, Any] = {
    "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}],
    "messages": [
        {"role": "user", "content": [{"text": "Where?"}]},
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t0", "name": "find", "input": {"what": "that"}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t0", "content": [{"text": "nowhere"}]}}]},
    ],
    "toolConfig": {"tools": [{"toolSpec": {"name": "find", "description": "d", "inputSchema": {"json": {}}}}]},
    "inferenceConfig": {"maxTokens": 50},
}
ANSWERED: dict[str, Any] = {
    "metrics": {"latencyMs": 1500},
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"text": "I look."},
                {"toolUse": {"toolUseId": "t1", "name": "find", "input": {"what": "it"}}},
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": {"inputTokens": 30, "cacheReadInputTokens": 60, "cacheWriteInputTokens": 10, "outputTokens": 20},
}


def logged(**row: Any) -> dict[str, Any]:
    """A row of Bedrock's log."""
    return {
        "schemaType": "ModelInvocationLog",
        "schemaVersion": "1.0",
        "timestamp": "2026-09-01T10:00:00Z",
        "accountId": "111122223333",
        "region": "us-east-1",
        "requestId": "q1",
        "operation": "Converse",
        "modelId": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "input": {"inputContentType": "application/json", "inputBodyJson": CONVERSED, "inputTokenCount": 30},
        "output": {"outputContentType": "application/json", "outputBodyJson": ANSWERED, "outputTokenCount": 20},
        **row,
    }


@pytest.mark.parametrize("kind", ["exchange", "log"])
def test_converse(tmp_path: Path, kind: str) -> None:
    row = {"path": CONVERSE, "body": CONVERSED, "request": CONVERSED, "response": ANSWERED}
    path = write(tmp_path / "a.jsonl", row if kind == "exchange" else logged())
    source = FileImporter(path)
    assert source.format == ("exchanges" if kind == "exchange" else "bedrock")
    [page] = source.pages()
    [run] = page.runs
    assert [m["role"] for m in run.inputs["messages"]] == ["system", "user", "assistant", "tool"]  # type: ignore[attr-defined]
    [call] = calls(path)
    assert call.usage == Usage(100, 20, 60, 10)
    assert [(t.name, t.id) for t in call.tool_calls] == [("find", "t1")]
    assert (call.provider, call.max_tokens, call.finish_reason) == ("amazon_bedrock", 50, "tool_use")
    assert call.model == "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    assert Prices().cost(call) is not None
    assert call.toolset is not None
    assert call.toolset.names == ("find",)


def test_a_model_invoked_in_its_own_language(tmp_path: Path) -> None:
    asked = {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "?"}],
    }
    events = [
        {"type": "message_start", "message": {"role": "assistant", "usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    ]
    row = logged(
        operation="InvokeModelWithResponseStream",
        modelId="arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        input={"inputBodyJson": asked},
        output={"outputBodyJson": events},
    )
    [call] = calls(write(tmp_path / "a.jsonl", row))
    assert (call.usage, call.answer_chars, call.provider) == (Usage(9, 2), 5, "amazon_bedrock")
    assert call.model == "us.anthropic.claude-sonnet-4-5-20250929-v1:0"


def test_a_log_without_bodies_counts_all_the_same(tmp_path: Path) -> None:
    counted = {"input": {"inputTokenCount": 30, "cacheReadInputTokenCount": 60, "cacheWriteInputTokenCount": 10},
               "output": {"outputTokenCount": 20}}  # fmt: skip
    [call] = calls(write(tmp_path / "a.jsonl", logged(**counted)))
    assert call.usage == Usage(100, 20, 60, 10)


def test_an_invocation_that_failed(tmp_path: Path) -> None:
    row = logged(errorCode="ThrottlingException", output={}, input={"inputBodyJson": CONVERSED})
    [call] = calls(write(tmp_path / "a.jsonl", row))
    assert (call.status, call.error) == ("error", "ThrottlingException")


FIELDS = sorted(
    {*ASKED, *SAID, *SAID["candidates"][0], *CONVERSED, *ANSWERED, *logged(), "parts", "content", "message"}
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=2), odd, st.sampled_from(["gemini", "log", "converse"]))
def test_one_field_of_any_type(fields: list[str], value: Any, kind: str) -> None:
    rows = {
        "gemini": {"url": GEMINI, "request": ASKED, "response": SAID},
        "converse": {"path": CONVERSE, "request": CONVERSED, "response": ANSWERED},
        "log": logged(),
    }
    row = with_fields(rows[kind], fields, value)
    form = BedrockLogs() if kind == "log" else Exchanges()
    form.recognises(row)
    form.key(row)
    for run in form.runs(row, Setting("line 1", 0.0)):
        if isinstance(run, Run):
            assert replayed(run).health().faults == {}


def with_fields(found: Any, fields: list[str], value: Any) -> Any:
    """The same with other values in fields of these names, however deep they lie."""
    if isinstance(found, list):
        return [with_fields(f, fields, value) for f in found]
    if not isinstance(found, dict):
        return found
    return {k: value if k in fields else with_fields(v, fields, value) for k, v in found.items()}
