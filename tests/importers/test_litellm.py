"""LiteLLM's logs: what LiteLLM itself wrote (`tests/data/litellm.jsonl`), read and priced."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importers.test_rows import odd, replayed
from recorder import Recorder, replay_of

from ts_importers.files import FileImporter
from ts_importers.formats.base import Setting
from ts_importers.formats.litellm import LiteLlmLogs
from ts_langchain.call import Usage
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from ts_langchain.call import Call

FILE = Path(__file__).parent.parent / "data" / "litellm.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text().splitlines()]


def imported(path: Path) -> tuple[list[Call], Recorder]:
    pages = list(FileImporter(path).pages())
    assert not any(page.skipped for page in pages)
    recorder = replay_of(*(run for page in pages for run in page.runs))
    return recorder.seen, recorder


def test_every_kind_of_call() -> None:
    assert "detected: LiteLLM's logs" in FileImporter(FILE).notices
    calls, _ = imported(FILE)
    assert [(c.kind, c.status, c.model, c.provider, c.tier) for c in calls] == [
        ("model", "ok", "gpt-5-2025-08-07", "openai", "flex"),
        ("model", "ok", "claude-sonnet-4-5-20250929", "anthropic", None),
        ("model", "ok", "gpt-5", "openai", "flex"),  # streamed
        ("model", "error", "gpt-5", "openai", None),
        ("embedding", "ok", "text-embedding-3-small", "openai", None),
        ("model", "ok", "gpt-5-2025-08-07", "openai", "flex"),
        ("model", "ok", "gpt-5-2025-08-07", "openai", "flex"),  # from its cache
    ]
    openai = Usage(2000, 120, 1024, reasoning_tokens=64)
    assert [c.usage for c in calls] == [
        openai, Usage(1000, 50, 600, 300, cache_write_1h_tokens=200), openai, Usage(), Usage(5), openai, Usage(),
    ]  # fmt: skip
    assert (calls[3].error, len(calls[4].items)) == ("InternalServerError", 2)
    assert (calls[0].user_id, [t.name for t in calls[0].tool_calls]) == ("ada", ["get_weather"])
    assert calls[0].toolset is not None
    assert calls[0].toolset.names == ("get_weather",)


def test_what_litellm_says_it_cost_is_what_we_say() -> None:
    """Flex processing, cached input, cache writes of both lifetimes: two price tables, kept by others, agree."""
    calls, recorder = imported(FILE)
    for row, call in zip(ROWS, calls, strict=True):
        told, ours = recorder.prices.cost(call), recorder.prices.cost(call._replace(source_cost=None))
        assert told is not None
        assert ours is not None
        assert told.nano == pytest.approx(row["response_cost"] * 1e9, abs=1)
        assert ours.nano == pytest.approx(told.nano, abs=1)


def test_conversations_are_those_that_were_named_or_go_on(tmp_path: Path) -> None:
    calls, _ = imported(FILE)
    assert calls[0].session_id == calls[1].session_id == "sess-1"
    assert calls[5].session_id == calls[2].session_id != calls[3].session_id
    again = {**ROWS[3], "litellm_call_id": "again", "trace_id": None, "startTime": ROWS[3]["endTime"] + 1}
    path = tmp_path / "b.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROWS[3], {**again, "endTime": again["startTime"] + 1})))
    assert len({call.session_id for call in imported(path)[0]}) == 1
    named = {**ROWS[2], "metadata": {**ROWS[2]["metadata"], "requester_metadata": {"session_id": "chat-7"}}}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(named) + "\n")
    assert imported(path)[0][0].session_id == "chat-7"


def test_redacted_requests_are_not_one_conversation(tmp_path: Path) -> None:
    """`turn_off_message_logging` writes one and the same prompt and answer for every request."""
    said = "redacted-by-litellm"
    message = {"role": "assistant", "content": said}
    rows = [
        {**ROWS[2], "id": f"r{n}", "litellm_call_id": f"c{n}", "trace_id": f"{n:08d}-0000-4000-8000-000000000000",
         "startTime": 1_788_000_000 + n, "endTime": 1_788_000_000.5 + n,
         "messages": [{"role": "user", "content": said}],
         "response": {**ROWS[2]["response"], "choices": [{"finish_reason": "stop", "message": message}]}}
        for n in range(12)
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    calls, recorder = imported(path)
    assert [c.session_id for c in calls] == [row["trace_id"] for row in rows]
    assert recorder.incidents() == []
    assert {c.usage.input_tokens for c in calls} == {2000}


def in_database(row: dict[str, Any], content: bool) -> dict[str, Any]:
    """What the proxy keeps of a payload, as `/spend/logs` gives it: no content unless `store_prompts_in_spend_logs`."""
    body = {**row["model_parameters"], "model": "my-alias"}
    body["input" if "embedding" in row["call_type"] else "messages"] = row["messages"]
    told = {name: row[name] for name in ("call_type", "model", "custom_llm_provider", "status", "end_user")}
    counts = {name: row[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    metadata = {
        "usage_object": row["metadata"]["usage_object"],
        "error_information": row["error_information"],
        "status": row["status"],
    }
    if not content:
        del told["status"]  # as of 2025
    return {
        **told,
        **counts,
        "request_id": row["litellm_call_id"],
        "startTime": datetime.fromtimestamp(row["startTime"], UTC).isoformat(),
        "endTime": datetime.fromtimestamp(row["endTime"], UTC).isoformat(),
        "spend": row["response_cost"],
        "cache_hit": str(row["cache_hit"]),
        "session_id": row["trace_id"],
        "metadata": json.dumps(metadata),
        "messages": {},
        "response": row["response"] if content else {},
        "proxy_server_request": json.dumps(body) if content else {},
    }


@pytest.mark.parametrize("call_type", ["call_mcp_tool", "list_mcp_tools"])
@pytest.mark.parametrize("kept", [lambda row: row, lambda row: in_database(row, content=True)])
def test_what_the_proxy_does_for_tools_is_no_model_call(tmp_path: Path, call_type: str, kept: Any) -> None:
    told = {"call_type": call_type, "model": "MCP: read_page", "response": {"content": [{"text": "a page"}]}}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(kept(row)) + "\n" for row in (ROWS[0], {**ROWS[0], "id": "tool", **told})))
    [page] = FileImporter(path).pages()
    assert ([run.run_type for run in page.runs], page.ignored, page.skipped) == (["llm"], 1, [])


@pytest.mark.parametrize("content", [True, False])
def test_what_the_proxy_keeps_in_its_database(tmp_path: Path, content: bool) -> None:
    path = tmp_path / "spend.json"
    path.write_text(json.dumps([in_database(row, content) for row in ROWS]))
    calls, recorder = imported(path)
    logged, _ = imported(FILE)
    assert [c.usage._replace(cache_write_1h_tokens=0) for c in calls] == [
        c.usage._replace(cache_write_1h_tokens=0) for c in logged
    ]
    for row, call in zip(ROWS, calls, strict=True):
        cost = recorder.prices.cost(call)
        assert cost is not None
        assert cost.nano == pytest.approx(row["response_cost"] * 1e9, abs=1)
    assert [(c.kind, c.status, c.error) for c in calls] == [(c.kind, c.status, c.error) for c in logged]
    assert calls[0].session_id == calls[1].session_id == "sess-1"
    if content:
        assert [(c.prompt, c.toolset) for c in calls] == [(c.prompt, c.toolset) for c in logged]
        assert len(calls[4].items) == 2
    else:
        assert recorder.incidents() == []


@given(st.sampled_from(ROWS), st.sampled_from(sorted(ROWS[0])), odd)
def test_one_field_of_any_type(row: dict[str, Any], field: str, value: Any) -> None:
    check({**row, field: value})


SPEND = [in_database(row, content=True) for row in ROWS]


@given(st.sampled_from(SPEND), st.sampled_from(sorted(SPEND[0])), odd)
def test_one_field_of_the_database_of_any_type(row: dict[str, Any], field: str, value: Any) -> None:
    check({**row, field: value})


def check(row: dict[str, Any]) -> None:
    for run in LiteLlmLogs().runs(row, Setting("line 1", 0.0)):
        if isinstance(run, Run):
            assert replayed(run).health().faults == {}
        else:
            assert run.why
