"""What single libraries write into spans: shapes that their real exporters gave, cut down to what matters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importers.test_rows import odd, replayed
from importers.test_spans import BEGIN, pairs, request, runs, span, write
from recorder import replay_of

from ts_importers.files import FileImporter
from ts_importers.formats.base import Setting
from ts_importers.formats.flat_spans import FlatSpans
from ts_langchain.replay import Run

if TYPE_CHECKING:
    from pathlib import Path


def event(name: str, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "timeUnixNano": "1", "attributes": pairs(attributes)}


# --- LangSmith's own OpenTelemetry export ----------------------------------------------------------


def _message(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", kind], "kwargs": kwargs}


def _langsmith(kind: str, inputs: Any, outputs: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "langsmith.span.kind": kind,
        "langsmith.trace.name": kind,
        "langsmith.trace.session_id": "the-project",
        "langsmith.trace.session_name": "p",
        **{f"langsmith.metadata.{k}": v for k, v in metadata.items()},
        "gen_ai.operation.name": {"llm": "chat", "tool": "execute_tool"}.get(kind, kind),
        "gen_ai.system": "langchain",
        "gen_ai.prompt": json.dumps(inputs),
        "gen_ai.completion": json.dumps(outputs),
    }


COUNTED = {"input_tokens": 1011, "output_tokens": 40, "total_tokens": 1051, "input_token_details": {"cache_read": 900}}


def _langsmith_loop() -> list[dict[str, Any]]:
    asked = {"name": "fetch_page", "args": {"url": "https://example.com"}, "id": "c1", "type": "tool_call"}
    said = [_message("SystemMessage", content="Be brief.", type="system"), _message("HumanMessage", content="Find it.")]
    about = {
        "thread_id": "t-1",
        "langgraph_node": "model",
        "ls_provider": "anthropic",
        "ls_model_name": "claude-sonnet-4-5",
    }
    spans = []
    for turn in range(5):
        call = {**asked, "id": f"c{turn}"}
        made = _message("AIMessage", content="", type="ai", tool_calls=[call], usage_metadata=COUNTED)
        answer = {"generations": [[{"text": "", "message": made}]], "llm_output": None}
        model = _langsmith("llm", {"messages": [said]}, answer, **about, usage_metadata=json.dumps(COUNTED))
        model |= {"gen_ai.usage.input_tokens": 1011, "gen_ai.usage.output_tokens": 40, "gen_ai.system": "anthropic"}
        model |= {"gen_ai.tool.definitions": json.dumps([{"name": "fetch_page", "input_schema": {}}])}
        model |= {"langsmith.span.tags": "seq:step:1, prod"}
        found = {"output": {"content": "nothing", "type": "tool", "tool_call_id": call["id"], "status": "success"}}
        tool = _langsmith("tool", asked["args"], found, thread_id="t-1", langgraph_node="tools")
        tool |= {"gen_ai.tool.name": "fetch_page", "gen_ai.tool.call.id": call["id"]}
        spans += [span(2 * turn, model, name="ChatAnthropic"), span(2 * turn + 1, tool, name="fetch_page")]
        said = [*said, made, _message("ToolMessage", content="nothing", type="tool", tool_call_id=call["id"])]
    return [span(20, _langsmith("chain", {}, {}, thread_id="t-1")), *spans]


def test_langsmiths_spans_are_read_as_its_rows_are(tmp_path: Path) -> None:
    source = FileImporter(write(tmp_path / "a.json", request(*_langsmith_loop())))
    [page] = source.pages()
    assert source.notices == ["detected: LangSmith's spans (OTLP)"]
    assert (len(page.runs), page.ignored) == (10, 1)
    model, tool = page.runs[:2]
    assert (model.thread_id, model.usage, model.tags) == ("t-1", COUNTED, ("seq:step:1", "prod"))
    assert (model.metadata["ls_provider"], model.metadata["langgraph_node"]) == ("anthropic", "model")
    assert (tool.name, tool.inputs, tool.tool_call_id) == ("fetch_page", {"url": "https://example.com"}, "c0")
    seen = replay_of(*page.runs)
    assert {i.rule for i in seen.incidents()} == {"tool_loop"}
    first = next(call for call in seen.seen if call.kind == "model")
    assert (first.session_id, first.model, first.usage.cache_read_tokens) == ("t-1", "claude-sonnet-4-5", 900)
    assert first.prompt is not None
    assert (first.prompt.messages, first.prompt.last_role) == (2, "human")
    assert [asked.name for asked in first.tool_calls] == ["fetch_page"]


def test_an_error_of_langsmiths_spans_is_the_one_that_was_raised(tmp_path: Path) -> None:
    raised = {
        "exception.type": "Exception",
        "exception.message": "RateLimitError('429')Traceback (most recent call last):\n\n\nopenai.RateLimitError: 429",
    }
    made = {"generations": [[{"text": "", "message": _message("AIMessage", content="", type="ai")}]]}
    failed = span(
        0, _langsmith("llm", {"messages": [[]]}, made), status={"code": 2}, events=[event("exception", **raised)]
    )
    [call] = replay_of(*runs(write(tmp_path / "a.json", request(failed)))).seen
    assert call.error == "RateLimitError"


def test_spans_that_others_mark_for_langsmith_keep_their_messages(tmp_path: Path) -> None:
    marked = {
        "langsmith.span.kind": "LLM",
        "langsmith.metadata.session_id": "s-1",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "Hello?",
        "gen_ai.completion.0.content": "Hello.",
    }
    [run] = runs(write(tmp_path / "a.json", request(span(0, marked))))
    assert (run.run_type, run.thread_id, run.inputs) == (
        "llm", "s-1", {"messages": [{"role": "user", "content": "Hello?"}]},
    )  # fmt: skip
    assert run.outputs is not None
    assert run.outputs["message"] == {"role": "assistant", "content": "Hello."}


# --- Logfire ---------------------------------------------------------------------------------------

ASKED = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}])
SAID = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "Hello."}], "finish_reason": "stop"}])
LOGFIRE = {
    "logfire.span_type": "span",
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-5",
    "gen_ai.provider.name": "openai",
    "gen_ai.input.messages": ASKED,
}


@pytest.mark.parametrize(
    "raw",
    [
        {"cache_creation_input_tokens": 20, "cache_read_input_tokens": 300, "input_tokens": 691, "output_tokens": 40},
        {"prompt_tokens_details": {"cached_tokens": 300}, "completion_tokens_details": {"reasoning_tokens": 25}},
        {"input_tokens_details": {"cached_tokens": 300}, "output_tokens_details": {"reasoning_tokens": 25}},
    ],
)
def test_what_only_the_providers_own_usage_counts(tmp_path: Path, raw: dict[str, Any]) -> None:
    counts = {"gen_ai.usage.input_tokens": 1011, "gen_ai.usage.output_tokens": 40, "gen_ai.usage.raw": json.dumps(raw)}
    [run] = runs(write(tmp_path / "a.json", request(span(0, {**LOGFIRE, **counts}))))
    assert run.usage is not None
    assert run.usage["input_tokens"] == 1011
    read, written = (run.usage["input_token_details"][f"cache_{n}"] for n in ("read", "creation"))  # type: ignore[index]
    reasoned = run.usage["output_token_details"]["reasoning"]  # type: ignore[index]
    assert (read, written, reasoned) == ((300, 20, 0) if "input_tokens" in raw else (300, 0, 25))


@pytest.mark.parametrize("counted", [True, False])
def test_a_stream_and_logfires_record_of_it_are_one_call(tmp_path: Path, *, counted: bool) -> None:
    """The request's span ends with the first piece; a record without length tells the rest when it has ended."""
    record = {**LOGFIRE, "logfire.span_type": "log", "duration": 2.5, "gen_ai.output.messages": SAID}
    if counted:
        record |= {"gen_ai.usage.input_tokens": 1011, "gen_ai.usage.output_tokens": 40}
    ended = {n: str(1_788_000_003_100_000_000) for n in ("startTimeUnixNano", "endTimeUnixNano")}
    told = [span(0, LOGFIRE), span(1, record, **ended), span(9, LOGFIRE)]
    for order in (told, told[::-1]):
        first, second = runs(write(tmp_path / "a.json", request(*order)))
        assert (first.started_at - BEGIN, first.ended_at - BEGIN) == pytest.approx((0.6, 3.1))
        assert first.outputs is not None
        assert (second.started_at - BEGIN, (first.usage is not None)) == (9, counted)


def test_a_span_that_logfire_announces_is_no_call(tmp_path: Path) -> None:
    announced = span(0, {**LOGFIRE, "logfire.span_type": "pending_span"})
    assert len(runs(write(tmp_path / "a.json", request(announced, span(1, LOGFIRE))))) == 1


# --- Pydantic AI, Strands, LlamaIndex --------------------------------------------------------------


def test_an_older_form_of_pydantic_ai_has_its_own_names_for_what_tools_do(tmp_path: Path) -> None:
    tool = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "fetch_page",
        "gen_ai.tool.call.id": "c1",
        "tool_arguments": '{"url":"https://example.com"}',
        "tool_response": "nothing here",
    }
    [run] = runs(write(tmp_path / "a.json", request(span(0, tool, name="running tool"))))
    assert (run.name, run.tool_call_id) == ("fetch_page", "c1")
    assert (run.inputs, run.outputs) == ({"url": "https://example.com"}, {"output": "nothing here"})


def test_strands_messages_are_those_of_bedrock(tmp_path: Path) -> None:
    """Messages are events with blocks of Bedrock's Converse; what a tool was given and made are messages, too."""
    use = [{"toolUse": {"toolUseId": "c1", "name": "fetch_page", "input": {"url": "https://example.com"}}}]
    result = [
        {"toolResult": {"toolUseId": "c1", "status": "success", "content": [{"text": "nothing "}, {"text": "here"}]}}
    ]
    chat = {"gen_ai.operation.name": "chat", "gen_ai.system": "strands-agents", "gen_ai.request.model": "gpt-4o"}
    model = span(
        0,
        chat,
        events=[
            event("gen_ai.system.message", content='[{"text": "Be brief."}]'),
            event("gen_ai.user.message", content='[{"text": "Find it."}]'),
            event("gen_ai.assistant.message", content=json.dumps([{"text": "Well."}, *use])),
            event("gen_ai.tool.message", content=json.dumps(result)),
            event("gen_ai.choice", finish_reason="tool_use", message=json.dumps(use)),
        ],
    )
    tool = span(
        1,
        {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "fetch_page", "gen_ai.tool.call.id": "c1"},
        events=[
            event("gen_ai.tool.message", role="tool", content='{"url": "https://example.com"}', id="c1"),
            event("gen_ai.choice", message='[{"text": "nothing here"}]', id="c1"),
        ],
    )
    said, made = runs(write(tmp_path / "a.json", request(model, tool)))
    asked = [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "fetch_page", "arguments": {"url": "https://example.com"}},
        }
    ]
    assert said.inputs["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Find it."},
        {"role": "assistant", "content": "Well.", "tool_calls": asked},
        {"role": "tool", "tool_call_id": "c1", "content": "nothing here"},
    ]
    assert said.outputs == {
        "message": {"role": "assistant", "content": "", "tool_calls": asked},
        "finish_reason": "tool_use",
    }
    assert "ls_provider" not in said.metadata  # a framework is no provider
    assert (made.inputs, made.outputs) == ({"url": "https://example.com"}, {"output": "nothing here"})
    [plain] = runs(write(tmp_path / "b.json", request(span(0, chat, events=[event("gen_ai.choice", message="No.")]))))
    assert plain.outputs is not None
    assert plain.outputs["message"] == {"role": "assistant", "content": "No."}


def test_llama_index_putting_a_request_together_is_no_call(tmp_path: Path) -> None:
    told = {"openinference.span.kind": "LLM", "llm.model_name": "gpt-4o", "input.value": "{}"}
    prepares = span(0, told, name="OpenAI._prepare_chat_with_tools")
    source = FileImporter(write(tmp_path / "a.json", request(prepares, span(1, told, name="OpenAI.achat"))))
    [page] = source.pages()
    assert (len(page.runs), page.ignored) == (1, 1)
    counted = span(0, {**told, "llm.token_count.prompt": 9}, name="My.prepare_chat_with_tools")
    assert len(runs(write(tmp_path / "a.json", request(counted)))) == 1


# --- Langfuse's SDK, through a collector -----------------------------------------------------------


def _langfuse(kind: str, **about: Any) -> dict[str, Any]:
    flat = {"langfuse.observation.type": kind, "langfuse.trace.metadata.thread_id": '"t-1"'}
    return flat | {f"langfuse.observation.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}


def _langfuse_model(**about: Any) -> dict[str, Any]:
    asked = {"name": "fetch_page", "args": {"url": "https://example.com"}, "id": "c1", "type": "tool_call"}
    definition = {"type": "function", "function": {"name": "fetch_page", "parameters": {}}}
    found = _langfuse(
        "generation",
        input=[{"role": "user", "content": "Find it."}, {"role": "tool", "content": definition}],
        output={"role": "assistant", "content": "", "tool_calls": [asked]},
        usage_details={"cache_read_input_tokens": 900, "input": 111, "output": 40},
        **about,
    )
    metadata = {"thread_id": "t-1", "langgraph_node": "model", "ls_provider": "anthropic"}
    found |= {f"langfuse.observation.metadata.{k}": json.dumps(v) for k, v in metadata.items()}
    return found | {"langfuse.observation.model.name": "claude-sonnet-4-5"}


def test_spans_of_langfuses_sdk_are_read_as_its_observations_are(tmp_path: Path) -> None:
    made = {"content": "nothing", "type": "tool", "tool_call_id": "c1", "status": "success"}
    tool = _langfuse("tool", input={"url": "https://example.com"}, output=made)
    told = [span(0, _langfuse("chain", input={})), span(1, _langfuse_model()), span(2, tool, name="fetch_page")]
    source = FileImporter(write(tmp_path / "a.json", request(*told)))
    [page] = source.pages()
    assert source.notices == ["detected: Langfuse's spans (OTLP)"]
    assert (len(page.runs), page.ignored) == (2, 1)
    model, found = replay_of(*page.runs).seen
    assert (model.session_id, model.node, model.model, model.provider) == (
        "t-1", "model", "claude-sonnet-4-5", "anthropic",
    )  # fmt: skip
    assert (model.usage.input_tokens, model.usage.cache_read_tokens) == (1011, 900)
    assert model.prompt is not None
    assert (model.prompt.messages, [asked.name for asked in model.tool_calls]) == (1, ["fetch_page"])
    assert model.toolset is not None
    assert model.toolset.names == ("fetch_page",)
    assert (found.name, found.tool_call_id, found.requested_by is not None) == ("fetch_page", "c1", True)


def test_what_langfuses_spans_say_went_wrong(tmp_path: Path) -> None:
    error = {"code": 2, "message": "429 - slow down"}
    failed = [
        span(0, _langfuse("generation", level="ERROR", status_message="429 - slow down"), status=error),
        span(1, _langfuse("generation"), status=error),
        span(2, _langfuse("tool", status_message="(Interrupt(value='ok?'),)")),
    ]
    found = runs(write(tmp_path / "a.json", request(*failed)))
    assert [run.error for run in found] == ["429 - slow down", "429 - slow down", "GraphInterrupt()"]


def test_langfuses_and_a_clients_span_are_one_call(tmp_path: Path) -> None:
    client = {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "claude-sonnet-4-5",
        "gen_ai.usage.input_tokens": 1011, "gen_ai.usage.output_tokens": 40,
    }  # fmt: skip
    [run] = runs(write(tmp_path / "a.json", request(span(1, client), span(1, _langfuse_model(), spanId="f" * 16))))
    assert run.thread_id == "t-1"


def test_spans_of_nothing_that_is_known_say_so(tmp_path: Path) -> None:
    strange = {"acme.llm.model": "m", "acme.llm.prompt": "p", "http.request.method": "POST", "plain": "x"}
    said = "no span is a call of a model or a tool in a convention that is known: "
    source = FileImporter(write(tmp_path / "a.json", request(span(0, strange))))
    assert source.notices[1:] == [f"{said}their attributes are acme.llm, http.request, plain"]
    assert FileImporter(write(tmp_path / "b.json", request(span(0, {})))).notices[1:] == [
        f"{said}they have no attributes"
    ]
    flat = {"context": {"span_id": "1", "trace_id": "2"}, "start_time": "2026-09-01T10:00:00Z"}
    many = {**flat, "attributes": {f"a.{n:02}.x": 1 for n in range(30)}}
    assert FileImporter(write(tmp_path / "c.json", many)).notices[1].endswith("a.18, a.19 and more")
    columns = {**flat, "attributes.b.c.d": 1}
    assert FileImporter(write(tmp_path / "d.json", columns)).notices[1].endswith("attributes are b.c")
    # one call is enough, in whatever file
    folder = tmp_path / "both"
    folder.mkdir()
    write(folder / "a.json", request(span(0, strange)))
    write(folder / "b.json", request(span(0, LOGFIRE)))
    assert all(said not in notice for notice in FileImporter(folder).notices)


# --- nothing crashes -------------------------------------------------------------------------------

SHAPES: list[dict[str, Any]] = [
    _langsmith_loop()[1],
    _langsmith_loop()[2],
    span(0, _langfuse_model(level="DEFAULT", status_message="")),
    span(0, {**LOGFIRE, "logfire.span_type": "log", "duration": 1.0, "gen_ai.usage.raw": "{}"}),
    span(0, {**LOGFIRE, "gen_ai.response.id": "r", "gen_ai.usage.input_tokens": 1}),
]
FLAT = [{p["key"]: next(iter(p["value"].values())) for p in shape["attributes"]} for shape in SHAPES]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([(shape, key) for shape in FLAT for key in shape]), odd)
def test_one_attribute_of_any_type(place: tuple[dict[str, Any], str], value: Any) -> None:
    shape, key = place
    row = {
        "name": "span",
        "context": {"trace_id": "1" * 32, "span_id": "2" * 16},
        "start_time": "2026-09-01T10:00:00Z",
        "end_time": "2026-09-01T10:00:01Z",
        "attributes": {**shape, key: value},
    }
    form = FlatSpans()
    told = form.key(row).telling
    assert told is None or all(isinstance(field, (str, int, float)) for field in told)
    for run in form.runs(row, Setting("line 1", 0.0)):
        if isinstance(run, Run):
            assert replayed(run).health().faults == {}


@settings(max_examples=100, deadline=None)
@given(odd, odd)
def test_blocks_of_any_type(content: Any, message: Any) -> None:
    chat = {"gen_ai.operation.name": "chat"}
    events = [
        {"name": "gen_ai.user.message", "attributes": {"content": content}},
        {"name": "gen_ai.tool.message", "attributes": {"content": [{"toolUse": content}, {"toolResult": message}]}},
        {"name": "gen_ai.choice", "attributes": {"message": message}},
    ]
    for kind in ({"gen_ai.operation.name": "execute_tool"}, chat):
        row = {
            "name": "span",
            "context": {"trace_id": "1" * 32, "span_id": "2" * 16},
            "start_time": 1_788_000_000,
            "end_time": 1_788_000_001,
            "attributes": kind,
            "events": events,
        }
        for run in FlatSpans().runs(row, Setting("line 1", 0.0)):
            if isinstance(run, Run):
                assert replayed(run).health().faults == {}
