"""Rows of any shape: read, skipped with a reason, or ignored; never an exception, never a silent loss."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langsmith import traceable
from langsmith.run_helpers import tracing_context
from recorder import Recorder, Wire, replay_of

from ts_importers.base import Skipped
from ts_importers.langsmith_rows import run_from_row
from ts_importers.values import loads, timestamp
from ts_langchain import Sentinel
from ts_langchain.call import Usage
from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.replay import Replay, Run

GOOD: dict[str, Any] = {
    "id": "r1",
    "name": "ChatOpenAI",
    "run_type": "llm",
    "start_time": "2026-09-01T10:00:00",
    "end_time": "2026-09-01T10:00:02",
    "trace_id": "t1",
    "thread_id": "th",
    "parent_run_id": None,
    "inputs": {"messages": [[{"role": "user", "content": "hi"}]]},
    "outputs": {"generations": [[{"message": {"role": "ai", "content": "hello"}}]]},
    "error": None,
    "tags": ["a"],
    "extra": {"metadata": {"ls_provider": "openai", "ls_model_name": "gpt-4o"}, "invocation_params": {"tools": []}},
    "prompt_tokens": 10,
    "completion_tokens": 2,
    "prompt_token_details": {"cache_read": 4},
    "completion_token_details": {},
    "prompt_cost": "0.001",
    "completion_cost": 0.002,
    "total_cost": "0.003",
    "status": "success",
}

odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.just(10**400)
    | st.just("\ud800")
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def replayed(run: Run) -> Sentinel:
    sentinel = Sentinel()
    replay = Replay(sentinel)
    replay.feed(run)
    replay.finish()
    return sentinel


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(GOOD)), odd)
def test_one_field_of_any_type(field: str, value: Any) -> None:
    run = run_from_row({**GOOD, field: value})
    if isinstance(run, Run):
        health = replayed(run).health()
        assert health.faults == {}
        assert health.calls == 1
    elif isinstance(run, Skipped):
        assert field in ("id", "run_type", "start_time", "end_time", "outputs")
        assert run.why
    else:
        assert field == "run_type"


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(GOOD)), odd))
def test_many_fields_of_any_type(fields: dict[str, Any]) -> None:
    run = run_from_row({**GOOD, **fields})
    if isinstance(run, Run):
        assert replayed(run).health().faults == {}


nested = st.sampled_from(
    [
        "messages",
        "generations",
        "message",
        "content",
        "tool_calls",
        "kwargs",
        "usage_metadata",
        "response_metadata",
        "id",
        "name",
        "args",
        "type",
        "role",
        "lc",
        "text",
        "output",
        "input_token_details",
        "image_url",
        "source",
        "detail",
        "mime_type",
        "tools",
        "update",
    ]
)
shaped = st.recursive(
    odd, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(nested, inner, max_size=4), max_leaves=12
)


@settings(max_examples=400, deadline=None)
@given(shaped, shaped, st.sampled_from(["llm", "tool", "retriever", "embedding"]))
def test_inputs_and_outputs_of_any_shape(inputs: Any, outputs: Any, kind: str) -> None:
    run = run_from_row(
        {
            **GOOD,
            "run_type": kind,
            "inputs": {"messages": inputs},
            "outputs": {"generations": outputs, "output": outputs, "documents": inputs},
        }
    )
    assert isinstance(run, Run)
    health = replayed(run).health()
    assert health.faults == {}
    assert health.calls == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2026-09-01T00:00:00", 1788220800.0),
        ("2026-09-01T00:00:00Z", 1788220800.0),
        ("2026-09-01T02:00:00+02:00", 1788220800.0),
        (1788220800, 1788220800.0),
        (1788220800000, 1788220800.0),
        (1788220800000000, 1788220800.0),
        (1788220800000000000, 1788220800.0),
        ("1788220800", 1788220800.0),
        ("1788220800.5", 1788220800.5),
        ("1788120800000", 1788120800.0),  # not the 8th of December 1788
        ("1788220800000000000", 1788220800.0),
        ("20260901", 1788220800.0),
        ("yesterday", None),
        ("nan", None),
        ("0", None),
        ("", None),
        (None, None),
        (True, None),
        (float("inf"), None),
        (float("nan"), None),
        (-5, None),
        (10**400, None),
        ("0001-01-01T00:00:00+14:00", None),
        ([], None),
    ],
)
def test_timestamps(value: object, seconds: float | None) -> None:
    assert timestamp(value) == seconds


def test_numbers_that_cannot_be_are_left_out() -> None:
    run = run_from_row(
        {**GOOD, "prompt_cost": 10**400, "completion_cost": "1e300", "total_cost": -1, "prompt_tokens": 1e300}
    )
    assert isinstance(run, Run)
    assert run.cost is None
    assert run.usage is not None
    assert run.usage["input_tokens"] == 0


@pytest.mark.parametrize(
    "text", ['{"a": "so \\ud83d", "\\udc00": [1]}', b'{"a": "so \xed\xa0\xbd", "\xed\xb0\x80": [1]}']
)
def test_half_a_letter_in_json_is_one_that_can_be_written(text: str | bytes) -> None:
    assert loads(text) == {"a": "so ?", "?": [1]}


def test_json_that_orjson_does_not_read() -> None:
    assert loads('{"a": NaN, "b": "\\ud83d\\ude00"}') == {"a": None, "b": "\U0001f600"}
    for text in ("[" * 100_000 + "]" * 100_000, "[INST] hello", '{"half', b"\xff"):
        with pytest.raises(ValueError):
            loads(text)


def test_counts_by_category_may_be_text() -> None:
    """As whole numbers of the row may."""
    counts = {"prompt_tokens": "180", "completion_tokens": "5"}
    for details in ({"cache_read": "20"}, {"raw": {"cache_read": 20.0, "other": None}}, '{"cache_read": "20"}'):
        run = run_from_row({**GOOD, **counts, "prompt_token_details": details})
        assert isinstance(run, Run)
        assert run.usage is not None
        assert run.usage["input_token_details"] == {"cache_read": 20}


def test_a_clock_that_runs_backwards_is_not_believed() -> None:
    run = run_from_row({**GOOD, "end_time": "2026-08-01T10:00:00"})
    assert isinstance(run, Run)
    assert run.ended_at == run.started_at


@pytest.mark.parametrize(("times", "late"), [([1, 2, 3], 0), ([3, 2, 1], 1), ([2, 1, 3], 0), ([5, 4, 3, 2, 1], 3)])
def test_rows_that_come_too_late_are_counted(times: list[int], late: int) -> None:
    """From the first one on; one row may still be put before the row that waits."""
    recorder = Recorder()
    replay = Replay(recorder)
    for at in times:
        replay.feed(Run(f"r{at}", "llm", "m", at, at + 0.5, "t"))
    replay.finish()
    assert (replay.late, len(recorder.seen)) == (late, len(times))
    another = Replay(Recorder())
    another.restore(replay.snapshot(), from_the_beginning=True)
    assert another.late == late


def test_requests_of_one_second_are_in_the_order_of_their_prompts() -> None:
    """Logs that tell whole seconds: what took longer did not come first, and another try comes after the failure."""
    messages = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"m{n}"} for n in range(5)]
    took = [("c", 1, 0.9, None), ("a", 3, 0.0, "HTTP 500"), ("b", 3, 0.5, None), ("d", 5, 0.1, None)]
    runs = [
        Run(name, "llm", "m", 100.0, 100.0 + seconds, name, inputs={"messages": messages[:count]}, error=error)
        for name, count, seconds, error in took
    ]
    for order in (runs, runs[::-1]):
        assert {call.session_id for call in replay_of(*order).seen} == {"c"}


@pytest.mark.parametrize("ids", [("a", "b"), ("b", "a")])
def test_a_retriever_as_long_as_its_tool_is_part_of_it(ids: tuple[str, str]) -> None:
    """Sources that tell whole milliseconds: a retriever made into a tool begins and ends with it."""
    tool = Run(ids[0], "tool", "search", 100.0, 100.2, "t", "t", inputs={"query": "q"}, outputs={"output": "found"})
    retriever = Run(ids[1], "retriever", "docs", 100.0, 100.2, "t", ids[0], inputs={"query": "q"})
    for order in ((tool, retriever), (retriever, tool)):
        assert [call.kind for call in replay_of(*order).seen] == ["tool"]


COUNTED = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}


@pytest.mark.parametrize("ids", [("a", "b", "c"), ("c", "b", "a")])
@pytest.mark.parametrize("same_times", [True, False])
@pytest.mark.parametrize(
    ("outer", "inner", "told"),
    [
        ({"usage": COUNTED}, [{"usage": COUNTED}], ["inner 1"]),
        ({}, [{"usage": COUNTED}], ["inner 1"]),
        ({}, [{"usage": COUNTED}, {"usage": COUNTED}], ["inner 1", "inner 2"]),
        ({"usage": COUNTED}, [{}], ["outer"]),
        ({}, [{}], ["outer"]),
        ({"error": "Boom"}, [{"error": "RateLimitError"}], ["inner 1"]),
    ],
)
def test_a_model_call_inside_a_model_call_is_billed_once(
    outer: dict[str, Any], inner: list[dict[str, Any]], told: list[str], same_times: bool, ids: tuple[str, ...]
) -> None:
    """A function traced as a model call around a traced client; a framework's generation around its client's."""

    def run(number: int, name: str, parent: str | None, said: dict[str, Any]) -> Run:
        begin, end = (100.0, 101.0) if same_times else (100.0 + number / 10, 102.0 - number / 10)
        answer = None if "error" in said else {"choices": [{"message": {"role": "assistant", "content": "yes"}}]}
        messages = [{"role": "user", "content": "Well?"}]
        inputs: dict[str, Any] = {"messages": messages}
        return Run(ids[number], "llm", name, begin, end, "t", parent, inputs=inputs, outputs=answer, **said)

    runs = [run(0, "outer", None, outer)]
    runs += [run(n, f"inner {n}", ids[0], said) for n, said in enumerate(inner, 1)]
    for order in (runs, runs[::-1]) if same_times else (runs,):
        recorder = replay_of(*order)
        assert sorted(call.name for call in recorder.seen) == told
        assert recorder.totals("t").calls == len(told)


def test_a_hundred_megabyte_argument_costs_no_more_than_its_beginning(tmp_path: Any) -> None:
    import tracemalloc

    huge = "x" * 100_000_000
    runs = [
        Run(
            f"r{n}",
            "tool",
            "fetch_page",
            1.8e9 + n,
            1.8e9 + n + 0.5,
            "t",
            thread_id="th",
            inputs={"body": huge},
            outputs={"output": "same"},
        )
        for n in range(3)
    ]
    tracemalloc.start()
    sentinel = Sentinel()
    replay = Replay(sentinel)
    for run in runs:
        replay.feed(run)
    replay.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    assert sentinel.health().ok
    assert [i.rule for i in sentinel.incidents()] == ["tool_loop"]


def test_cyclic_and_deep_arguments_end() -> None:
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    for value in (cyclic, {"deep": deep}):
        run = Run("r", "tool", "fetch_page", 1.8e9, 1.8e9, "t", inputs=value, outputs={"output": value})
        assert replayed(run).health().faults == {}


class OnePage:
    source, scope, total, notices = "memory", "odd", None, []  # type: ignore[var-annotated]

    def __init__(self, page: Any) -> None:
        self.page = page

    def pages(self, position: Any = None) -> Any:
        yield self.page

    def describe(self) -> dict[str, str]:
        return {}


def test_a_time_that_cannot_be_read_is_not_said_to_be_missing() -> None:
    row = {"id": "a", "run_type": "llm", "start_time": "9/1/2026, 10:00:00 AM"}
    for told, why in ((row, "start_time is no time that can be read"), ({**row, "start_time": None}, "no start_time")):
        assert run_from_row(told) == Skipped("a", why)


def test_a_row_that_breaks_the_reader_is_named_and_the_rest_goes_on(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ts_importers.base import Page
    from ts_langchain.capture.hooks import models

    read = models.read_answer
    monkeypatch.setattr(
        models,
        "read_answer",
        lambda response, *a, **more: 1 / 0 if response == {"bad": 1} else read(response, *a, **more),
    )
    runs = [
        Run(f"r{n}", "llm", "m", 1.8e9 + n, 1.8e9 + n, "t", inputs={"messages": ["hi"]}, outputs={"bad": n})
        for n in range(3)
    ]
    ledger = Ledger(tmp_path / "l.sqlite")
    history = Import(OnePage(Page(runs, {})), ledger).run()
    assert history.runs == 3
    assert history.skipped == 1
    assert dict(ledger.skipped(history)) == {"r1": "could only be read in part"}


words = st.sampled_from(["image", "image_url", "input_image", "tool_use", "tool_result", "text", "media", "thinking"])
fields = st.sampled_from(
    ["type", "text", "image_url", "source", "content", "tool_use_id", "id", "name", "input", "args", "data", "url"]
)
blocks = st.lists(st.dictionaries(fields, odd | words, max_size=5), max_size=4)
calls = st.lists(st.dictionaries(st.sampled_from(["id", "name", "args", "function"]), odd, max_size=4), max_size=3)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "system"]) | odd, "content": blocks | odd},
        optional={"tool_calls": calls | odd, "tool_call_id": odd, "status": odd},
    ),
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(messages, messages, odd, st.sampled_from(["llm", "tool", "retriever", "embedding"]))
def test_messages_blocks_and_parameters_of_any_shape(given_: Any, made: Any, value: Any, kind: str) -> None:
    outputs = {"generations": [[{"message": made[0] if made else None}]], "output": made, "documents": made}
    params = {"tools": value, "max_tokens": value, "temperature": value}
    extra = {"invocation_params": params}
    run = run_from_row({**GOOD, "run_type": kind, "inputs": {"messages": given_}, "outputs": outputs, "extra": extra})
    assert isinstance(run, Run)
    assert replayed(run).health().faults == {}


# --- runs that LangChain did not make ---------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
SAID = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "weather?"}]
ASKED = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
ITEMS = [
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "message", "id": "m_1", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather",
     "arguments": '{"city": "Rome"}'},
]  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (
            {"messages": SAID, "model": "gpt-5", "max_completion_tokens": 99, "temperature": 0.3, "tools": [TOOL]},
            {"choices": [{"message": {"role": "assistant", "content": "I look.", "tool_calls": [ASKED]}}],
             "service_tier": "flex"},
        ),
        (
            {"input": SAID[1:], "instructions": "be brief", "model": "gpt-5", "max_output_tokens": 99,
             "temperature": 0.3, "tools": [{"type": "function", "name": "get_weather", "parameters": {}}]},
            {"object": "response", "output": ITEMS, "service_tier": "flex"},
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["metadata", "outputs"])
def test_a_client_that_langsmith_has_wrapped(inputs: dict[str, Any], outputs: dict[str, Any], place: str) -> None:
    """`wrap_openai` records the request and the response as they were, and usage in the metadata or the outputs."""
    used = {
        "input_tokens": 2000,
        "output_tokens": 120,
        "total_tokens": 2120,
        "input_token_details": {"flex_cache_read": 1024, "flex": 976},
        "output_token_details": {"flex_reasoning": 64, "flex": 56},
    }
    metadata: dict[str, Any] = {"thread_id": "t", "ls_provider": "openai", "ls_model_name": "gpt-5"}
    if place == "metadata":
        metadata["usage_metadata"] = used
    else:
        outputs = {**outputs, "usage_metadata": used}
    row = {k: v for k, v in GOOD.items() if not k.endswith(("_tokens", "_cost", "_details"))}
    run = run_from_row({**row, "inputs": inputs, "outputs": outputs, "extra": {"metadata": metadata}})
    assert isinstance(run, Run)
    recorder = replay_of(run)
    [call] = recorder.seen
    assert call.usage == Usage(2000, 120, 1024, reasoning_tokens=64)
    assert (call.tier, call.temperature, call.max_tokens) == ("flex", 0.3, 99)
    assert [(t.id, t.name) for t in call.tool_calls] == [("call_1", "get_weather")]
    assert call.toolset is not None
    assert call.toolset.names == ("get_weather",)
    assert call.prompt is not None
    assert (call.prompt.messages, call.prompt.chars, call.prompt.last_role) == (2, 16, "human")
    assert call.answer_chars == len("I look.") + len('{"city":"Rome"}')


def test_traceable_functions() -> None:
    """LangSmith's decorator, which names inputs after parameters and wraps what is no dict."""
    client = Wire()

    @traceable(run_type="retriever", client=client)
    def look_up(question: str, limit: int = 3) -> list[dict[str, Any]]:
        return [{"page_content": f"about {question}", "type": "Document", "metadata": {}}]

    @traceable(run_type="tool", client=client)
    def search(q: str) -> list[str]:
        return [q]

    with tracing_context(enabled=True):
        for question in ("one", "two", "one"):
            look_up(question)
            search(question)
    recorder = replay_of(*(run for row in client.sent() if isinstance(run := run_from_row(row), Run)))
    for kind in ("retriever", "tool"):
        asked = [c.arguments.fingerprint for c in recorder.seen if c.kind == kind and c.arguments is not None]
        assert asked[0] == asked[2] != asked[1]
    found = [c.items for c in recorder.seen if c.kind == "retriever"]
    assert found[0] == found[2] != found[1]
    assert all(len(items) == 1 for items in found)
