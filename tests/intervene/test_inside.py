"""What runs behind a door without one of its own is held back there, once the run is to end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from agents import ASK, DONE, LOOP, agent, fetch_page, graph
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from ts_langchain import (
    CallRefused,
    Sentinel,
    TokenSentinelHandler,
    TokenSentinelMiddleware,
    WasteBlocked,
    guard,
    guard_model,
)
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("calm_collector")

LOOPS = [LOOP] * 9 + [AIMessage("I found nothing.")]
STOPPED = "I stopped here, before another model call. fetch_page was called 3 times"
THREAD: Any = {"configurable": {"thread_id": "t"}}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """LangChain logs each veto."""
    logging.getLogger("langchain_core.callbacks.manager").setLevel(logging.ERROR)
    yield
    logging.getLogger("langchain_core.callbacks.manager").setLevel(logging.NOTSET)


def loops(do: str, **more: Any) -> dict[str, Any]:
    return {"rules": {"tool_loop": {"min_severity": "high", "steps": [{"at": 1, "do": do}]}}, **more}


class Office:
    """An agent that asks another one, which loops."""

    def __init__(self, policy: dict[str, Any], asks: int = 1, **inner: Any) -> None:
        self.sentinel = Sentinel(policy=policy)
        self.researcher, self.asked = agent(LOOPS, **inner)
        asking = call_tool("research", topic="the moon")
        several = AIMessage("", tool_calls=asking.tool_calls * asks)
        self.model = ScriptedChatModel(script=[several, DONE])

        @tool
        async def research(topic: str) -> str:
            """Looks something up."""
            return str((await self.researcher.ainvoke({"messages": [HumanMessage(topic)]}))["messages"][-1].content)

        def _research(topic: str) -> str:
            return str(self.researcher.invoke({"messages": [HumanMessage(topic)]})["messages"][-1].content)

        research.func = _research
        self.tools = [research]

    def agent(self, *middleware: Any, **kwargs: Any) -> Any:
        all_of_it = [TokenSentinelMiddleware(self.sentinel), *middleware]
        return create_agent(self.model, self.tools, middleware=all_of_it, **kwargs)

    def graph(self) -> Any:
        bound = self.model.bind_tools(self.tools)
        builder = StateGraph(MessagesState)
        builder.add_node("think", lambda state: {"messages": [bound.invoke(state["messages"])]})
        builder.add_node("tools", ToolNode(self.tools))
        builder.add_edge(START, "think")
        builder.add_conditional_edges("think", lambda s: "tools" if s["messages"][-1].tool_calls else END)
        builder.add_edge("tools", "think")
        return guard(builder, self.sentinel).compile()

    def outcomes(self) -> list[tuple[str, str]]:
        return [(d.action, d.outcome) for d in self.sentinel.decisions()]


def run(app: Any, way: str, given: Any = ASK, config: Any = None) -> list[Any]:
    if way == "invoke":
        return list(app.invoke(given, config)["messages"])
    if way == "ainvoke":
        return list(asyncio.run(app.ainvoke(given, config))["messages"])
    return list(list(app.stream(given, config, stream_mode="values"))[-1]["messages"])


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream"])
@pytest.mark.parametrize("watched_twice", [False, True])
def test_an_agent_inside_a_tool_is_stopped_before_its_next_call(way: str, watched_twice: bool) -> None:
    office = Office(loops("stop"))
    own = TokenSentinelHandler(office.sentinel)
    messages = run(office.agent(), way, config={"callbacks": [own]} if watched_twice else None)
    assert (office.asked.calls, office.model.calls) == (3, 1)
    assert office.outcomes() == [("stop", "done")]
    *_, answered, last = messages
    assert isinstance(answered, ToolMessage)
    assert (answered.status, answered.tool_call_id) == ("error", messages[1].tool_calls[0]["id"])
    assert str(answered.content).startswith(STOPPED)
    assert str(last.content).startswith(STOPPED)
    assert dict(own.pending()) == {}
    assert office.sentinel.health().ok


def test_a_graph_answers_all_tool_calls_of_the_node_that_was_stopped() -> None:
    office = Office(loops("stop"), asks=2)
    messages = run(office.graph(), "invoke")
    assert office.model.calls == 1
    asked = {call["id"] for call in messages[1].tool_calls}
    assert {m.tool_call_id for m in messages if isinstance(m, ToolMessage)} == asked
    assert str(messages[-1].content).startswith("I stopped here")


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_graph_answers_tool_calls_that_were_sent_one_by_one(way: str) -> None:
    """`create_agent` sends each tool call to a task of its own: that is all the guarded node is given."""
    office = Office(loops("stop"))
    app = guard(create_agent(office.model, office.tools), office.sentinel)
    messages = run(app, way)
    assert office.asked.calls == 3
    assert [type(m) for m in messages[1:3]] == [AIMessage, ToolMessage]
    assert messages[2].tool_call_id == messages[1].tool_calls[0]["id"]
    assert str(messages[2].content).startswith(STOPPED)
    assert office.sentinel.health().ok


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_an_agent_inside_a_node_is_stopped_and_the_graph_goes_on_from_there(way: str) -> None:
    inner, model = graph(LOOPS)
    sentinel = Sentinel(policy=loops("stop"))

    def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": inner.invoke(state)["messages"][-1:]}

    async def awork(state: MessagesState) -> dict[str, Any]:
        return {"messages": (await inner.ainvoke(state))["messages"][-1:]}

    builder = StateGraph(MessagesState)
    builder.add_node("work", work if way == "invoke" else awork)
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    messages = run(guard(builder, sentinel).compile(), way)
    assert model.calls == 3
    assert str(messages[-1].content).startswith(STOPPED)
    assert [(d.action, d.outcome) for d in sentinel.decisions()] == [("stop", "done")]


@pytest.mark.parametrize("door", ["agent", "graph"])
def test_block_leaves_through_all_of_them(door: str) -> None:
    office = Office(loops("block"))
    with pytest.raises(WasteBlocked, match="fetch_page was called 3 times"):
        run(office.agent() if door == "agent" else office.graph(), "invoke")
    assert (office.asked.calls, office.model.calls) == (3, 1)
    assert office.outcomes() == [("block", "done")]


def test_a_human_is_asked_by_the_agent_that_can_wait_for_an_answer() -> None:
    office = Office(loops("pause"))
    app = office.agent(checkpointer=InMemorySaver())
    asked = app.invoke(ASK, THREAD)["__interrupt__"][0].value
    assert asked["rule"] == "tool_loop"
    assert (office.asked.calls, office.model.calls) == (3, 1)
    messages = app.invoke(Command(resume="approve"), THREAD)["messages"]
    assert (office.asked.calls, office.model.calls) == (3, 2)
    assert messages[-1].content == DONE.content
    assert office.outcomes() == [("pause", "done")]


def test_an_agent_with_a_conversation_of_its_own_is_stopped_alone() -> None:
    office = Office(loops("stop"))

    @tool
    def research(topic: str) -> str:
        """On a thread of its own."""
        given = {"messages": [HumanMessage(topic)]}
        return str(office.researcher.invoke(given, {"configurable": {"thread_id": "research"}})["messages"][-1])

    office.tools = [research]
    messages = office.agent().invoke(ASK)["messages"]
    assert (office.asked.calls, office.model.calls) == (3, 2)
    assert str(messages[-2].content).startswith(STOPPED)
    assert messages[-1].content == DONE.content
    assert [(d.session_id, d.outcome) for d in office.sentinel.decisions()] == [("research", "done")]


@pytest.mark.parametrize("watched_twice", [False, True])
def test_a_budget_holds_inside_too(watched_twice: bool) -> None:
    office = Office({"budgets": [{"per": "run", "calls": 4, "do": "stop"}]})
    own = TokenSentinelHandler(office.sentinel)
    messages = run(office.agent(), "invoke", config={"callbacks": [own]} if watched_twice else None)
    assert dict(own.pending()) == office.sentinel.in_flight.reservations == {}
    assert (office.asked.calls, office.model.calls) == (3, 1)
    assert str(messages[-1].content).startswith("I stopped here")


@pytest.mark.parametrize("watched_twice", [False, True])
def test_what_was_reserved_for_a_call_that_is_held_back_is_given_back(watched_twice: bool) -> None:
    office = Office(loops("stop", budgets=[{"per": "project", "calls": 5, "do": "stop"}]))
    own = TokenSentinelHandler(office.sentinel)
    run(office.agent(), "invoke", config={"callbacks": [own]} if watched_twice else None)
    assert (office.asked.calls, office.model.calls) == (3, 1)
    assert office.outcomes().count(("stop", "done")) == 1
    model = ScriptedChatModel(script=["five"])
    create_agent(model, [], middleware=[TokenSentinelMiddleware(office.sentinel)]).invoke(ASK)
    assert model.calls == 1  # four were billed, the fifth fits


def test_retries_inside_a_call_are_stopped() -> None:
    sentinel = Sentinel(policy={"rules": {"retry_storm": {"steps": [{"at": 1, "do": "stop"}]}}})
    model = ScriptedChatModel(script=[ConnectionError("reset")])
    retry = ModelRetryMiddleware(max_retries=20, initial_delay=0.001, max_delay=0.001, on_failure="error")
    app = create_agent(model, [], middleware=[TokenSentinelMiddleware(sentinel), retry])
    assert str(run(app, "invoke")[-1].content).startswith("I stopped here")
    assert model.calls < 6


def test_retries_inside_a_call_are_blocked() -> None:
    sentinel = Sentinel(policy={"rules": {"retry_storm": {"steps": [{"at": 1, "do": "block"}]}}})
    model = ScriptedChatModel(script=[ConnectionError("reset")])
    retry = ModelRetryMiddleware(max_retries=20, initial_delay=0.001, max_delay=0.001, on_failure="error")
    app = create_agent(model, [], middleware=[TokenSentinelMiddleware(sentinel), retry])
    with pytest.raises(WasteBlocked):
        run(app, "invoke")
    assert model.calls < 6
    assert [(d.action, d.outcome) for d in sentinel.decisions()] == [("block", "done")]


@pytest.mark.parametrize("door", ["middleware", "handler"])
@pytest.mark.parametrize("other", [ModelRetryMiddleware, ModelFallbackMiddleware])
def test_a_block_holds_for_retries_outside(door: str, other: type[Any]) -> None:
    sentinel = Sentinel(policy=loops("block"))
    model, instead = ScriptedChatModel(script=LOOPS), ScriptedChatModel(script=LOOPS)
    if other is ModelRetryMiddleware:
        outside = ModelRetryMiddleware(max_retries=3, initial_delay=0.001, max_delay=0.001, on_failure="error")
    else:
        outside = ModelFallbackMiddleware(instead)
    inside = [TokenSentinelMiddleware(sentinel)] if door == "middleware" else []
    app = create_agent(model, [fetch_page], middleware=[outside, *inside])
    with pytest.raises(WasteBlocked):
        app.invoke(ASK, {"callbacks": [TokenSentinelHandler(sentinel, mode="block")]} if not inside else {})
    assert (model.calls, instead.calls) == (3, 0)


def test_a_block_is_no_lockout_after_an_outage() -> None:
    """A guarded model in a session, which stands in for the run: once things are better it is answered."""
    sentinel = Sentinel(policy={"rules": {"retry_storm": {"steps": [{"at": 1, "do": "block"}]}}})
    model = ScriptedChatModel(script=[*[ConnectionError("down")] * 5, "up"])
    guarded = guard_model(model, sentinel)
    at = 1_790_000_000.0
    guarded.interventions.handler.clock = lambda: at
    config: Any = {"metadata": {"session_id": "s"}}
    for _ in range(5):
        with pytest.raises(ConnectionError):
            guarded.invoke("hi", config)
    for _ in range(3):
        at += 10
        with pytest.raises(WasteBlocked):
            guarded.invoke("hi", config)
    at += 1
    assert guarded.invoke("hi", config).content == "up"
    assert guarded.invoke("well?", config).content == "up"
    assert model.calls == 7


def test_an_agent_with_a_door_of_its_own_is_left_to_it() -> None:
    policy = loops("steer")
    policy["rules"]["tool_loop"]["steps"].append({"at": 2, "do": "stop"})
    office = Office(policy)
    office.researcher, office.asked = agent(LOOPS, middleware=[TokenSentinelMiddleware(office.sentinel)])
    messages = run(office.agent(), "invoke")
    assert office.outcomes() == [("steer", "done"), ("stop", "done")]
    assert office.asked.calls == 4
    assert messages[-1].content == DONE.content


@pytest.mark.parametrize("policy", [loops("stop", mode="observe"), loops("steer"), loops("warn"), {}])
def test_nothing_else_is_held_back(policy: dict[str, Any]) -> None:
    office = Office(policy)
    messages = run(office.agent(), "invoke")
    assert (office.asked.calls, office.model.calls) == (10, 2)
    assert messages[-1].content == DONE.content


def test_outside_of_the_door_nobody_is_held_back() -> None:
    """The next run of the thread may go on, and so may what shares nothing but the Sentinel."""
    office = Office(loops("stop"))
    app = office.agent(checkpointer=InMemorySaver())
    app.invoke(ASK, THREAD)
    office.researcher.invoke(ASK, {**THREAD, "callbacks": [TokenSentinelHandler(office.sentinel)]})
    assert office.asked.calls == 10
    assert app.invoke(ASK, THREAD)["messages"][-1].content == DONE.content


def test_it_fails_open(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(loops("stop"))
    monkeypatch.setattr(office.sentinel, "due", lambda *_, **__: 1 / 0)
    messages = run(office.agent(), "invoke")
    assert (office.asked.calls, office.model.calls) == (10, 2)
    assert messages[-1].content == DONE.content
    faults = office.sentinel.health().faults
    assert faults["intervene: inside: ZeroDivisionError"] == 10
    assert office.sentinel.health().calls == 10 + 2 + 10


def test_a_tool_that_swallows_the_veto_is_answered_for_by_the_next_call() -> None:
    office = Office(loops("stop"))

    @tool
    def research(topic: str) -> str:
        """Never fails."""
        try:
            return str(office.researcher.invoke({"messages": [HumanMessage(topic)]}))
        except CallRefused as refused:
            return f"no luck: {refused}"

    office.tools = [research]
    messages = run(office.agent(), "invoke")
    assert (office.asked.calls, office.model.calls) == (3, 1)
    assert str(messages[-2].content).startswith("no luck: fetch_page was called 3 times")
    assert str(messages[-1].content).startswith(STOPPED)
