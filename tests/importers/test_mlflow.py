"""MLflow's traces: spans with attributes as JSON strings, in a dict of the trace or in a row of a table."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importers.test_rows import odd, replayed

from ts_importers.files import FileImporter
from ts_importers.formats.base import Setting
from ts_importers.formats.mlflow import MlflowTraces
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = 1_788_000_000_000_000_000
USER = {"role": "user", "content": "Where is it?"}


def identified(number: int, length: int) -> str:
    return base64.b64encode(number.to_bytes(length, "big")).decode()


def span(number: int, kind: str, made: Any, **more: Any) -> dict[str, Any]:
    attributes = {"mlflow.spanType": kind, "mlflow.spanOutputs": made, **more}
    return {
        "trace_id": identified(77, 16), "span_id": identified(number + 1, 8),
        "parent_span_id": identified(1, 8) if number else None, "name": "find" if kind == "TOOL" else "ChatOpenAI",
        "start_time_unix_nano": BEGIN + number * 10**9, "end_time_unix_nano": BEGIN + number * 10**9 + 10**8,
        "events": [], "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {k.replace("__", "."): json.dumps(v) for k, v in attributes.items() if v is not None},
    }  # fmt: skip


def looping(rounds: int, responses_api: bool = False) -> list[dict[str, Any]]:
    """A model that asks for the same again and again; of the responses API, MLflow keeps calls in the content alone."""
    spans = [span(0, "CHAIN", None, metadata={"langgraph_node": "agent"})]
    messages: list[Any] = [USER]
    used = {"input_tokens": 1000, "output_tokens": 20, "total_tokens": 1020, "cache_read_input_tokens": 600}
    for n in range(rounds):
        function = {"name": "find", "arguments": '{"what": "it"}'}
        message = {"role": "assistant", "content": None, "tool_calls": [{"id": f"c{n}", "function": function}]}
        block = {"type": "function_call", "call_id": f"c{n}", **function}
        made: Any = {"choices": [{"message": message, "finish_reason": None}]}
        if responses_api:
            made = {"generations": [[{"text": "", "message": {"type": "ai", "content": [block]}}]]}
        about = {"mlflow__llm__model": "gpt-4o", "mlflow__llm__provider": "openai", "mlflow__chat__tokenUsage": used}
        asked = {"messages": messages}
        spans.append(span(2 * n + 1, "CHAT_MODEL", made, mlflow__spanInputs=asked, **about))
        result = {"type": "tool", "tool_call_id": f"c{n}", "content": "nowhere", "status": "success"}
        spans.append(span(2 * n + 2, "TOOL", result, mlflow__spanInputs={"what": "it"}, tool_call_id=f"c{n}"))
        messages = [*messages, message, {"role": "tool", "tool_call_id": f"c{n}", "content": "nowhere"}]
    return spans


def trace(spans: list[dict[str, Any]], **about: str) -> dict[str, Any]:
    return {"info": {"trace_id": "tr-1", "trace_metadata": about}, "data": {"spans": spans}}


@pytest.mark.parametrize("responses_api", [False, True], ids=["chat", "responses"])
@pytest.mark.parametrize("shape", ["dict", "row", "row of strings"])
def test_a_loop(tmp_path: Path, shape: str, responses_api: bool) -> None:
    whole = trace(looping(5, responses_api), **{"mlflow.trace.session": "s", "mlflow.trace.user": "ada"})
    table = {"trace_id": "tr-1", "request": {"messages": [USER]}, "response": None, "spans": [{"name": "find"}]}
    row = {
        "dict": whole,
        "row": {**table, "trace": whole},
        "row of strings": {**table, "trace": json.dumps(whole)},
    }[shape]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    source = FileImporter(path)
    assert source.notices == ["detected: MLflow traces"]
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(source, ledger).run()
    assert (history.runs, history.skipped) == (10, 0)
    [incident] = ledger.incidents(history)
    assert (incident.rule, incident.session_id, incident.estimated) == ("tool_loop", "s", False)
    assert incident.wasted_tokens > 0
    [spend] = [s for s in ledger.spend(history) if s.model]
    assert (spend.provider, spend.model, spend.input_tokens, spend.cache_read_tokens) == (
        "openai", "gpt-4o", 5000, 3000,
    )  # fmt: skip


def test_what_failed_was_searched_or_embedded(tmp_path: Path) -> None:
    failed = span(1, "CHAT_MODEL", None, mlflow__spanInputs={"model": "gpt-4o", "messages": [USER]})
    failed["status"] = {"code": "STATUS_CODE_ERROR", "message": "slow down"}
    failed["events"] = [{"name": "exception", "attributes": {"exception.type": "openai.RateLimitError",
                                                             "exception.message": "slow down"}}]  # fmt: skip
    open_ = {**span(4, "LLM", "Hi"), "end_time_unix_nano": None}
    spans = [
        failed,
        span(2, "RETRIEVER", [{"page_content": "it", "metadata": {}}], mlflow__spanInputs="where"),
        span(3, "EMBEDDING", None, mlflow__spanInputs={"input": ["a"]}),
        open_,
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([trace(spans)]))
    [page] = FileImporter(path).pages()
    assert [(r.run_type, r.error) for r in page.runs] == [
        ("llm", "RateLimitError: slow down"), ("retriever", None), ("embedding", None),
    ]  # fmt: skip
    assert [s.why for s in page.skipped] == ["not ended"]
    assert page.runs[1].inputs == {"query": "where"}


def test_spans_without_ids_are_named_and_not_taken_for_one(tmp_path: Path) -> None:
    spans = [{k: v for k, v in told.items() if k != "span_id"} for told in looping(3)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([trace(spans)]))
    [page] = FileImporter(path).pages()
    assert page.runs == []
    assert [s.why for s in page.skipped] == ["no span id or no trace id"] * 6


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 4), st.sampled_from(sorted(span(0, "LLM", "Hi"))), odd, st.booleans())
def test_one_field_of_any_type(number: int, field: str, value: Any, inside: bool) -> None:
    spans = looping(2)
    if inside:
        attributes = spans[number]["attributes"]
        attributes[sorted(attributes)[len(field) % len(attributes)]] = value
    else:
        spans[number][field] = value
    form = MlflowTraces()
    form.recognises(trace(spans))
    for row in form.rows(trace(spans)):
        form.key(row)
        for run in form.runs(row, Setting("line 1", 0.0)):
            if isinstance(run, Run):
                assert replayed(run).health().faults == {}
