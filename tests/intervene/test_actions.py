"""Every intervention on a real agent and on a plain graph, run in every way, on threads that go on afterwards."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from ts_langchain import (
    Sentinel,
    TokenSentinelHandler,
    TokenSentinelMiddleware,
    WasteBlocked,
    guard,
    guard_model,
)
from ts_langchain.decision import Decision
from ts_langchain.intervene import actions
from ts_langchain.intervene.actions import read_answer
from ts_langchain.intervene.core import Here, Interventions, Turn
from ts_langchain.policy import Trim
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("calm_collector")

PAGE = "the same page, as ever. " * 40
LOOP = call_tool("fetch_page", url="https://example.com/a")
ASK = {"messages": [HumanMessage("go")]}


class Bench:
    """A looping agent behind one of the doors, and what it did."""

    def __init__(
        self, door: str, way: str, tmp_path: Path, script: list[Any], policy: dict[str, Any], **extra: Any
    ) -> None:
        self.runs: list[str] = []
        self.door, self.way, self.database = door, way, tmp_path / "threads.sqlite"
        self.model = ScriptedChatModel(script=script)
        self.sentinel = Sentinel(policy=policy)
        self.extra = extra

    def tools(self) -> list[Any]:
        @tool
        def fetch_page(url: str) -> str:
            """Fetches a web page."""
            self.runs.append(url)
            return PAGE

        @tool
        def count_up(n: int) -> str:
            """Counts."""
            self.runs.append(str(n))
            return f"now {n}"

        return [fetch_page, count_up]

    def build(self, saver: Any) -> Any:
        tools = self.tools()
        if self.door == "agent":
            middleware = TokenSentinelMiddleware(self.sentinel, **self.extra)
            return create_agent(self.model, tools, middleware=[middleware], checkpointer=saver)
        guarded = "model" in self.door
        model: Any = guard_model(self.model, self.sentinel, **self.extra) if guarded else self.model
        bound = model.bind_tools(tools)

        def think(state: MessagesState) -> dict[str, Any]:
            return {"messages": [bound.invoke(state["messages"])]}

        async def athink(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await bound.ainvoke(state["messages"])]}

        def route(state: MessagesState) -> str:
            return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END

        builder = StateGraph(MessagesState)
        builder.add_node("think", athink if self.way.startswith("a") else think)
        builder.add_node("tools", ToolNode(tools))
        builder.add_edge(START, "think")
        builder.add_conditional_edges("think", route)
        builder.add_edge("tools", "think")
        if self.door == "model":
            return builder.compile(checkpointer=saver)
        if self.way == "stream":
            return guard(builder.compile(checkpointer=saver), self.sentinel)
        return guard(builder, self.sentinel).compile(checkpointer=saver)

    def run(self, given: Any = ASK, thread: str = "t", **config: Any) -> list[AnyMessage]:
        """One turn on a thread. Returns the thread's messages."""
        full: Any = {"configurable": {"thread_id": thread}, "recursion_limit": 60, **config}
        if self.way.startswith("a"):
            return asyncio.run(self._arun(given, full))
        with SqliteSaver.from_conn_string(str(self.database)) as saver:
            app = self.build(saver)
            if self.way == "invoke":
                app.invoke(given, full)
            else:
                for _ in app.stream(given, full, stream_mode=["updates", "messages"]):
                    pass
            self.state = app.get_state(full)
        return list(self.state.values["messages"])

    async def _arun(self, given: Any, full: Any) -> list[AnyMessage]:
        async with AsyncSqliteSaver.from_conn_string(str(self.database)) as saver:
            app = self.build(saver)
            if self.way == "ainvoke":
                await app.ainvoke(given, full)
            else:
                async for _ in app.astream(given, full, stream_mode=["updates", "messages"]):
                    pass
            self.state = await app.aget_state(full)
        return list(self.state.values["messages"])

    def outcomes(self) -> list[tuple[str, str]]:
        return [(d.action, d.outcome) for d in self.sentinel.decisions()]

    def fine(self) -> None:
        assert self.sentinel.health().faults == {}
        flight = TokenSentinelHandler(self.sentinel)
        assert flight.pending() == {}


def valid(messages: list[AnyMessage]) -> None:
    """What OpenAI and Anthropic demand: each tool call is answered right behind it, each answer has its call."""
    open_calls: set[str] = set()
    for message in messages:
        if isinstance(message, ToolMessage):
            assert message.tool_call_id in open_calls
            open_calls.discard(message.tool_call_id)
        else:
            assert not open_calls
            if isinstance(message, AIMessage):
                assert message.content or message.tool_calls
                open_calls = {str(c["id"]) for c in message.tool_calls}
    assert not open_calls


def policy(*steps: tuple[int, str], rule: str = "tool_loop", severity: str = "high", **more: Any) -> dict[str, Any]:
    return {"rules": {rule: {"min_severity": severity, "steps": [{"at": a, "do": d} for a, d in steps]}}, **more}


def obeys(messages: list[AnyMessage]) -> AIMessage:
    """A model that listens."""
    told = any(actions.MARK in m.additional_kwargs for m in messages)
    return AIMessage("done") if told or messages[-1].content == "go on" else LOOP


DOORS = ["agent", "graph"]
WAYS = ["invoke", "stream", "ainvoke", "astream"]
every = pytest.mark.parametrize(("door", "way"), [(d, w) for d in DOORS for w in WAYS])


@every
def test_steer(door: str, way: str, tmp_path: Path) -> None:
    bench = Bench(door, way, tmp_path, [obeys], policy((1, "steer")))
    messages = bench.run()
    assert (bench.model.calls, len(bench.runs)) == (4, 3)
    assert messages[-1].content == "done"
    assert not any(actions.MARK in m.additional_kwargs for m in messages)  # the thread stays as it was
    assert bench.outcomes() == [("steer", "done")]
    valid(messages)
    valid(bench.run({"messages": [HumanMessage("go on")]}))
    assert bench.model.calls == 5
    bench.fine()


def strict(messages: list[AnyMessage]) -> AIMessage:
    """Mistral's API: after a tool's result only the model may speak (its error 3230). It obeys what stands there."""
    roles = [m.type for m in messages]
    assert ("tool", "human") not in itertools.pairwise(roles), "Unexpected role 'user' after role 'tool'"
    return AIMessage("done") if "Do not repeat" in str(messages[-1].content) else LOOP


@every
@pytest.mark.parametrize("known", [{"provider": "mistral"}, {"model_name": "mistralai/devstral-medium"}])
def test_steer_tells_models_of_mistral_inside_the_last_result(
    door: str, way: str, known: dict[str, str], tmp_path: Path
) -> None:
    bench = Bench(door, way, tmp_path, [strict], policy((1, "steer")))
    bench.model = ScriptedChatModel(script=[strict], **known)
    messages = bench.run()
    assert (bench.model.calls, len(bench.runs)) == (4, 3)
    assert messages[-1].content == "done"
    assert [m.content for m in messages if isinstance(m, ToolMessage)] == [PAGE] * 3  # the thread stays as it was
    bench.fine()


@every
def test_stop(door: str, way: str, tmp_path: Path) -> None:
    bench = Bench(door, way, tmp_path, [LOOP, LOOP, LOOP, AIMessage("well")], policy((1, "stop")))
    messages = bench.run()
    assert bench.model.calls == 3
    assert "I stopped here" in str(messages[-1].content)
    assert bench.outcomes() == [("stop", "done")]
    assert not bench.state.next
    valid(messages)
    messages = bench.run({"messages": [HumanMessage("go on")]})
    assert messages[-1].content == "well"
    assert bench.model.calls == 4
    valid(messages)
    bench.fine()


@every
def test_block(door: str, way: str, tmp_path: Path) -> None:
    bench = Bench(door, way, tmp_path, [LOOP, LOOP, LOOP, AIMessage("well")], policy((1, "block")))
    with pytest.raises(WasteBlocked) as blocked:
        bench.run()
    assert blocked.value.incident.rule == "tool_loop"
    assert bench.model.calls == 3
    messages = bench.run({"messages": [HumanMessage("go on")]})
    assert messages[-1].content == "well"
    assert bench.model.calls == 4
    valid(messages)
    bench.fine()


@every
def test_reuse(door: str, way: str, tmp_path: Path) -> None:
    script = [LOOP] * 5 + [AIMessage("well")]
    bench = Bench(door, way, tmp_path, script, policy((1, "reuse"), safe_tools=["fetch_*"]))
    messages = bench.run()
    assert (bench.model.calls, len(bench.runs)) == (6, 3)
    results = [str(m.content) for m in messages if isinstance(m, ToolMessage)]
    assert results[:3] == [PAGE] * 3
    assert all("above in this conversation" in r and len(r) < 200 for r in results[3:])
    assert bench.outcomes() == [("reuse", "done")]
    [incident] = bench.sentinel.incidents()
    assert incident.calls == 4  # calls that were answered from memory are repeats all the same
    valid(messages)
    valid(bench.run({"messages": [HumanMessage("go on")]}))
    bench.fine()


@every
def test_reuse_leaves_unsafe_tools_alone(door: str, way: str, tmp_path: Path) -> None:
    bench = Bench(door, way, tmp_path, [LOOP] * 4 + [AIMessage("well")], policy((1, "reuse")))
    bench.run()
    assert len(bench.runs) == 4
    assert ("reuse", "skipped") in bench.outcomes()
    bench.fine()


@every
def test_trim(door: str, way: str, tmp_path: Path) -> None:
    seen: list[list[AnyMessage]] = []

    def look(messages: list[AnyMessage]) -> AIMessage:
        seen.append(list(messages))
        return LOOP if len(seen) < 6 else AIMessage("well")

    bench = Bench(door, way, tmp_path, [look], policy((1, "trim"), trim={"keep_results": 1}))
    messages = bench.run()
    valid(seen[-1])
    sent = [str(m.content) for m in seen[-1] if isinstance(m, ToolMessage)]
    assert [c == PAGE for c in sent] == [False] * 4 + [True]
    assert all(str(m.content) == PAGE for m in messages if isinstance(m, ToolMessage))  # the thread keeps all
    assert ("trim", "done") in bench.outcomes()
    valid(bench.run({"messages": [HumanMessage("go on")]}))
    bench.fine()


@pytest.mark.parametrize(
    ("asked", "keep", "left"),
    [
        ("ab", 3, "ab"),  # fewer than are kept
        ("abc", 3, "abc"),
        ("abcd", 3, "bcd"),
        ("abcde", 9, "abcde"),
        ("ab", 0, ""),
        ("cbaa", 3, "cba"),  # a superseded one takes nobody's place
        ("aab", 9, "ab"),
    ],
)
def test_the_newest_results_stay(asked: str, keep: int, left: str) -> None:
    messages: list[AnyMessage] = [HumanMessage("go")]
    for n, path in enumerate(asked):
        call = {"name": "read", "args": {"path": path}, "id": f"c{n}", "type": "tool_call"}
        messages += [AIMessage("", tool_calls=[call]), ToolMessage(path * 400, tool_call_id=f"c{n}", name="read")]
    after = actions.trimmed(messages, Trim(keep_results=keep))
    results = [str(m.content) for m in after if isinstance(m, ToolMessage)]
    assert "".join(text[0] for text in results if text[0] != "[") == left
    assert len(results) == len(asked)


SCREEN: Any = [{"type": "input_image", "image_url": "data:image/png;base64," + "A" * 900}]


@pytest.mark.parametrize(
    ("content", "more", "stays"),
    [
        (SCREEN, {"type": "computer_call_output"}, True),  # a text would stand there as the address of an image
        ("data:image/png;base64," + "A" * 900, {"type": "computer_call_output"}, True),
        ([{"type": "tool_reference", "tool_name": name * 99} for name in "abcdef"], {}, True),  # they would be unloaded
        (SCREEN, {}, False),
        ("a" * 900, {"type": "custom_tool_call_output"}, False),
    ],
)
def test_a_result_that_no_text_can_stand_in_for_stays(content: Any, more: dict[str, str], stays: bool) -> None:
    call = {"name": "read", "args": {}, "id": "c0", "type": "tool_call"}
    result = ToolMessage(content, tool_call_id="c0", name="read", additional_kwargs=more)
    after = actions.trimmed([AIMessage("", tool_calls=[call]), result], Trim(keep_results=0))
    assert (after[1] == result) == stays


def test_a_failure_does_not_supersede_a_result() -> None:
    call = {"name": "read", "args": {"path": "a"}, "type": "tool_call"}
    messages = [
        AIMessage("", tool_calls=[{**call, "id": "c0"}]),
        ToolMessage("a" * 900, tool_call_id="c0", name="read"),
        AIMessage("", tool_calls=[{**call, "id": "c1"}]),
        ToolMessage("timed out", tool_call_id="c1", name="read", status="error"),
    ]
    assert actions.trimmed(messages, Trim()) == messages


def test_a_result_that_reuse_refers_to_is_not_left_out() -> None:
    messages: list[AnyMessage] = [HumanMessage("go")]
    for n, path in enumerate("aabcd"):
        call = {"name": "read", "args": {"path": path}, "id": f"c{n}", "type": "tool_call"}
        first = ToolMessage("a" * 900, tool_call_id="c0", name="read")
        result = actions.reused(first, call) if n == 1 else ToolMessage(path * 900, tool_call_id=f"c{n}", name="read")
        messages += [AIMessage("", tool_calls=[call]), result]
    after = actions.trimmed(messages, Trim(keep_results=1))
    kept = [m.tool_call_id for old, m in zip(messages, after, strict=True) if isinstance(m, ToolMessage) and m == old]
    assert kept == ["c0", "c1", "c4"]


@every
def test_backoff(door: str, way: str, tmp_path: Path) -> None:
    script = [LOOP] * 4 + [AIMessage("well")]
    bench = Bench(
        door, way, tmp_path, script, policy((1, "backoff"), backoff={"base_seconds": 0.1, "max_seconds": 0.15})
    )
    begin = time.monotonic()
    messages = bench.run()
    assert time.monotonic() - begin >= 0.25
    assert bench.outcomes() == [("backoff", "done")] * 2
    assert messages[-1].content == "well"
    bench.fine()


def test_backoff_waits_no_longer_than_told_however_many_strikes() -> None:
    interventions = Interventions(Sentinel(policy={"backoff": {"max_seconds": 5}}))
    turn, here = Turn([]), Here("s", "r", None, (), None, False, False)
    interventions._do(Decision(0.0, "s", "r", "tool_loop", "i", 1, "backoff", 5_000, "Again."), here, turn)
    assert turn.wait == 5


@every
@pytest.mark.parametrize("answer", ["approve", "stop", {"advice": "use the cache"}])
def test_pause(door: str, way: str, answer: Any, tmp_path: Path) -> None:
    script: list[Any] = [LOOP] * 3 + [
        lambda m: AIMessage("as told" if "use the cache" in str(m[-1].content) else "well")
    ]
    bench = Bench(door, way, tmp_path, script, policy((1, "pause")))
    bench.run()
    assert bench.model.calls == 3
    [question] = bench.state.interrupts
    assert question.value["rule"] == "tool_loop"
    assert "example.com" not in str(question.value)
    messages = bench.run(Command(resume=answer))
    assert not bench.state.next
    valid(messages)
    if answer == "stop":
        assert bench.model.calls == 3
        assert "I stopped here" in str(messages[-1].content)
    else:
        assert bench.model.calls == 4
        assert messages[-1].content == ("well" if answer == "approve" else "as told")
    valid(bench.run({"messages": [HumanMessage("go on")]}))
    bench.fine()


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Approve", ("approve", "")),
        (True, ("approve", "")),
        (None, ("approve", "")),
        ({"approved": True}, ("approve", "")),
        ({"decisions": [{"type": "approve"}]}, ("approve", "")),
        ([{"type": "accept", "args": None}], ("approve", "")),
        ("Stop.", ("stop", "")),
        (False, ("stop", "")),
        ({"approve": False}, ("stop", "")),
        ({"answer": "stop"}, ("stop", "")),
        ({"type": "reject", "message": "no"}, ("stop", "")),
        ({"decisions": [{"type": "reject", "message": "no"}]}, ("stop", "")),
        ({"decisions": [{"type": "approve"}, {"type": "reject"}]}, ("stop", "")),
        ({"who": "ada"}, ("stop", "")),
        ({}, ("stop", "")),
        (7, ("stop", "")),
        ({"advice": "use the cache"}, ("advice", "use the cache")),
        ("Use the cache.", ("advice", "Use the cache.")),
    ],
)
def test_nobody_has_approved_who_did_not_say_so(answer: object, read: tuple[str, str]) -> None:
    assert read_answer(answer) == read


@pytest.mark.parametrize(
    ("door", "way"), [(d, w) for d in ("agent", "graph", "model", "graph and model") for w in WAYS]
)
@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("answer", ["approve", "stop", {"advice": "use the cache"}])
def test_an_answer_counts_in_a_process_that_did_not_ask(
    door: str, way: str, by_id: bool, answer: Any, tmp_path: Path
) -> None:
    """People answer hours later: another worker hears it, or the same one started anew. Only the thread is left."""
    told = [lambda m: AIMessage("as told" if "use the cache" in str(m[-1].content) else "well")]
    asked = Bench(door, way, tmp_path, [LOOP], policy((1, "pause")))
    asked.run()
    [question] = asked.state.interrupts
    bench = Bench(door, way, tmp_path, told, policy((1, "pause")))
    messages = bench.run(Command(resume={question.id: answer} if by_id else answer))
    assert not bench.state.next
    valid(messages)
    said = answer if isinstance(answer, str) else "advice"
    assert bench.model.calls == (0 if said == "stop" else 1)
    if said == "stop":
        assert "I stopped here" in str(messages[-1].content)
    else:
        assert messages[-1].content == ("well" if said == "approve" else "as told")
    [decision] = bench.sentinel.decisions()
    assert (decision.action, decision.outcome, decision.why) == ("pause", "done", said)
    assert (decision.rule, decision.summary) == (question.value["rule"], question.value["summary"])
    assert bench.run({"messages": [HumanMessage("go on")]})[-1].content == "well"
    bench.fine()


def test_an_answer_to_the_users_own_question_is_none_to_a_pause(tmp_path: Path) -> None:
    """In a process that knows of neither."""
    heard: list[Any] = []

    @wrap_model_call
    def confirm(request: Any, handler: Any) -> Any:
        heard.append(interrupt("Shall I?"))
        return handler(request)

    def agent(saver: Any) -> tuple[Any, ScriptedChatModel]:
        model = ScriptedChatModel(script=["well"])
        middleware = [TokenSentinelMiddleware(policy=policy((1, "pause"))), confirm]
        return create_agent(model, [], middleware=middleware, checkpointer=saver), model

    with SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        thread: Any = {"configurable": {"thread_id": "t"}}
        agent(saver)[0].invoke(ASK, thread)
        app, model = agent(saver)
        messages = app.invoke(Command(resume="stop"), thread)["messages"]
    assert (heard, messages[-1].content, model.calls) == (["stop"], "well", 1)


@every
def test_a_question_that_cannot_be_read_lets_the_agent_go_on(
    door: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bench(door, way, tmp_path, [LOOP], policy((1, "pause"))).run()
    monkeypatch.setattr("ts_langchain.intervene.core.question_in", lambda *_: 1 / 0)
    bench = Bench(door, way, tmp_path, ["well"], policy((1, "pause")))
    assert bench.run(Command(resume="stop"))[-1].content == "well"
    assert dict(bench.sentinel.health().faults) == {"intervene: recall: ZeroDivisionError": 1}


def test_pause_without_a_checkpointer_is_a_stop() -> None:
    model = ScriptedChatModel(script=[LOOP])
    middleware = TokenSentinelMiddleware(policy=policy((1, "pause")))

    @tool
    def fetch_page(url: str) -> str:
        """Fetches."""
        return "x"

    out = create_agent(model, [fetch_page], middleware=[middleware]).invoke(ASK)
    assert model.calls == 3
    assert "I stopped here" in out["messages"][-1].content
    assert middleware.sentinel.decisions()[0].why.startswith("stopped instead")


@pytest.mark.parametrize(("door", "way"), [(d, w) for d in ("agent", "graph and model") for w in WAYS])
def test_downgrade_and_prune_tools(door: str, way: str, tmp_path: Path) -> None:
    cheap = ScriptedChatModel(script=[AIMessage("cheap")], model_name="gpt-4o-mini")
    names: list[tuple[str, ...]] = []
    rules = {
        "tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": "prune_tools"}, {"at": 2, "do": "downgrade"}]}
    }
    bench = Bench(
        door, way, tmp_path, [LOOP], {"rules": rules, "downgrade": {"gpt-4o-20*": "cheap"}}, models={"cheap": cheap}
    )  # fmt: skip
    observe = bench.sentinel.observe

    def watch(call: Any) -> None:
        if call.kind == "model":
            names.append(call.toolset.names)
        observe(call)

    bench.sentinel.observe = watch  # type: ignore[method-assign]
    messages = bench.run()
    assert (bench.model.calls, cheap.calls) == (4, 1)
    assert messages[-1].content == "cheap"
    assert names == [("fetch_page", "count_up")] * 3 + [("fetch_page",)] + [("fetch_page", "count_up")]
    assert bench.outcomes() == [("prune_tools", "done"), ("downgrade", "done")]
    bench.fine()


@pytest.mark.parametrize("door", ["agent", "graph and model"])
def test_a_stand_in_that_cannot_be_made_is_named(door: str, tmp_path: Path) -> None:
    """And the model that was asked for answers."""
    given = {**policy((1, "downgrade")), "downgrade": {"gpt-4o-20*": "nobody:small"}}
    bench = Bench(door, "invoke", tmp_path, [*[LOOP] * 3, AIMessage("well")], given)
    assert bench.run()[-1].content == "well"
    [decision] = bench.sentinel.decisions()
    assert decision.outcome == "failed"
    assert decision.why == "the model 'nobody:small' of `downgrade` cannot be made (ValueError); give it in `models`"


def test_tools_of_the_provider_are_never_pruned() -> None:
    """Their calls are no tool calls of the model: whether they were used nobody sees."""
    search = {"type": "web_search_20250305", "name": "web_search"}
    unused, used = ({"name": name, "input_schema": {}} for name in ("unused", "used"))
    custom = {"type": "custom", "name": "odd"}
    asked = AIMessage("", tool_calls=[{"name": "used", "args": {}, "id": "1"}])
    assert actions.pruned([search, unused, used, custom], [asked], frozenset()) == [search, used]


THOUGHT = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "I look."}]


@pytest.mark.parametrize(
    ("provider", "content"),
    [("cohere", "I look."), ("amazon_bedrock", "I look."), ("anthropic", THOUGHT), ("anthropic-bedrock", THOUGHT)],
)
def test_a_stand_in_of_another_provider_gets_words_for_blocks(provider: str, content: Any, tmp_path: Path) -> None:
    """langchain-cohere raises on Anthropic's blocks, and Anthropic's API refuses Bedrock's; its own it has to have."""
    thinks = LOOP.model_copy(update={"content": THOUGHT, "response_metadata": {"model_provider": "anthropic"}})
    given: list[list[AnyMessage]] = []

    def answers(messages: list[AnyMessage]) -> AIMessage:
        given.append(messages)
        return AIMessage("cheap")

    cheap = ScriptedChatModel(script=[answers], model_name="cheaper", provider=provider)
    rule = {"downgrade": {"gpt-4o-20*": "cheap"}}
    bench = Bench("agent", "invoke", tmp_path, [thinks], policy((1, "downgrade"), **rule), models={"cheap": cheap})
    messages = bench.run()
    said = [m for m in given[0] if isinstance(m, AIMessage)]
    assert [m.content for m in said] == [content] * 3
    assert all(len(m.tool_calls) == 1 for m in said)
    assert [m.content for m in messages if isinstance(m, AIMessage)] == [THOUGHT] * 3 + ["cheap"]
    bench.fine()


@pytest.mark.parametrize("inside", [True, False])
def test_a_downgrade_that_a_router_undoes_is_not_told_as_done(inside: bool) -> None:
    """Routers (langchain 1.5 has one) belong in front: nearer to the model they have the last word."""
    routed, cheap = (ScriptedChatModel(script=[LOOP], model_name=name) for name in ("gpt-4.1", "gpt-4o-mini"))

    @tool
    def fetch_page(url: str) -> str:
        """Fetches a page."""
        return f"nothing new at {url}"

    @wrap_model_call
    def route(request: Any, handler: Any) -> Any:
        return handler(request.override(model=routed))

    sentinel = Sentinel(policy=policy((1, "downgrade"), (4, "stop"), downgrade={"gpt-4*": "gpt-4o-mini"}))
    ours = TokenSentinelMiddleware(sentinel, models={"gpt-4o-mini": cheap})
    both = [ours, route] if inside else [route, ours]
    agent = create_agent(ScriptedChatModel(script=[LOOP]), [fetch_page], middleware=both)
    agent.invoke({"messages": [("user", "hi")]})
    told = [(decision.action, decision.outcome) for decision in sentinel.decisions()]
    assert told[0] == ("downgrade", "skipped" if inside else "done")
    assert ("put it in front" in sentinel.decisions()[0].why) == inside
    assert (cheap.calls == 0) == inside


def test_a_downgrade_holds_though_a_middleware_inside_asks_a_model_of_its_own_first() -> None:
    asked = ScriptedChatModel(script=[AIMessage("the one there is")], model_name="gpt-4.1")
    cheap = ScriptedChatModel(script=[LOOP], model_name="gpt-4o-mini")

    @tool
    def fetch_page(url: str) -> str:
        """Fetches a page."""
        return f"nothing new at {url}"

    @wrap_model_call
    def ask(request: Any, handler: Any) -> Any:
        asked.invoke("Which model?")
        return handler(request)

    sentinel = Sentinel(policy=policy((1, "downgrade"), (4, "stop"), downgrade={"gpt-4*": "gpt-4o-mini"}))
    ours = TokenSentinelMiddleware(sentinel, models={"gpt-4o-mini": cheap})
    agent = create_agent(ScriptedChatModel(script=[LOOP]), [fetch_page], middleware=[ours, ask])
    agent.invoke({"messages": [("user", "hi")]})
    assert cheap.calls > 0
    told = [(decision.action, decision.outcome) for decision in sentinel.decisions()]
    assert told[0] == ("downgrade", "done")


@every
def test_escalation_ends_an_agent_that_does_not_listen(door: str, way: str, tmp_path: Path) -> None:
    bench = Bench(
        door, way, tmp_path, [LOOP], policy((1, "steer"), (2, "reuse"), (4, "stop"), safe_tools=["fetch_page"])
    )
    messages = bench.run()
    assert (bench.model.calls, len(bench.runs)) == (6, 4)
    assert bench.outcomes() == [("steer", "done"), ("reuse", "done"), ("stop", "done")]
    valid(messages)
    bench.fine()


@every
def test_a_dry_run_only_records(door: str, way: str, tmp_path: Path) -> None:
    script = [LOOP] * 5 + [AIMessage("well")]
    bench = Bench(door, way, tmp_path, script, policy((1, "steer"), (2, "stop"), mode="observe"))
    assert bench.run()[-1].content == "well"
    assert (bench.model.calls, len(bench.runs)) == (6, 5)
    assert bench.outcomes() == [("steer", "dry run"), ("stop", "dry run"), ("stop", "dry run")]
    bench.fine()


@every
@pytest.mark.parametrize("broken", ["steer_text", "trimmed", "final_message", "earlier_result", "pause_question"])
def test_a_bug_in_an_action_never_reaches_the_agent(
    door: str, way: str, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(actions, broken, boom)
    action = {"steer_text": "steer", "trimmed": "trim", "final_message": "stop", "earlier_result": "reuse"}
    steps = policy((1, action.get(broken, "pause")), safe_tools=["*"])
    bench = Bench(door, way, tmp_path, [LOOP] * 4 + [AIMessage("well")], steps)
    assert bench.run()[-1].content == "well"
    assert bench.model.calls == 5
    faults = bench.sentinel.health().faults
    assert any("ZeroDivisionError" in place for place in faults)


@pytest.mark.parametrize("door", DOORS)
def test_with_a_handler_each_call_is_recorded_once(door: str, tmp_path: Path) -> None:
    bench = Bench(door, "invoke", tmp_path, [LOOP, LOOP, AIMessage("well")], policy((1, "steer")))
    bench.run(callbacks=[TokenSentinelHandler(bench.sentinel)])
    assert bench.sentinel.health().calls == 5
    bench.run({"messages": [HumanMessage("go on")]}, callbacks=[TokenSentinelHandler(bench.sentinel)])
    assert bench.sentinel.health().calls == 6
    bench.fine()


@pytest.mark.parametrize("door", DOORS)
def test_exempt_tags_are_left_alone(door: str, tmp_path: Path) -> None:
    exempt = {"exempt": {"tags": ["careful-*"]}}
    bench = Bench(door, "invoke", tmp_path, [LOOP] * 4 + [AIMessage("well")], policy((1, "stop"), **exempt))
    assert bench.run(tags=["careful-now"])[-1].content == "well"
    assert bench.outcomes() == []
