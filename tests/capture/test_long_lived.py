"""Servers that run for months: what ends in another order, elsewhere or not at all leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import pytest
from agents import ASK, LOOP, agent
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from recorder import Recorder

from ts_langchain import (
    Sentinel,
    TokenSentinelHandler,
    TokenSentinelMiddleware,
    WasteBlocked,
    guard,
    token_sentinel,
)
from ts_langchain.capture import in_flight
from ts_langchain.capture.activate import MAX_BLOCKS, MAX_SEEN, innermost
from ts_langchain.capture.context import MAX_DEPTH, current_labels
from ts_langchain.capture.doors import begun
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractContextManager


class Panic(BaseException):
    """What is no `Exception`, as pyo3's panics and gevent's time-outs are."""


@tool
def panics(n: int) -> str:
    """Fails in a way that LangChain tells nobody of."""
    raise Panic


@tool
async def panics_later(n: int) -> str:
    """The same, on an event loop."""
    await asyncio.sleep(0)
    raise Panic


@pytest.mark.parametrize("door", ["handler", "middleware", "guard"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_tool_that_raises_what_is_no_exception_has_failed(door: str, asynchronous: bool) -> None:
    recorder = Recorder(policy={})
    gives_up = panics_later if asynchronous else panics
    model = ScriptedChatModel(script=[call_tool(gives_up.name, n=1)])
    app: Any = create_agent(
        model, [gives_up], middleware=[TokenSentinelMiddleware(recorder)] if door == "middleware" else []
    )
    app = guard(app, recorder) if door == "guard" else app
    config: Any = {"callbacks": [TokenSentinelHandler(recorder)]} if door == "handler" else {}
    with pytest.raises(Panic):
        asyncio.run(app.ainvoke(ASK, config)) if asynchronous else app.invoke(ASK, config)
    model_call, tool_call = recorder.seen
    assert (model_call.kind, model_call.status, tool_call.kind) == ("model", "ok", "tool")
    # the task of a tool may be over before anybody knows why
    assert tool_call.error in (("Panic", "CancelledError") if asynchronous else ("Panic",))
    assert (recorder.in_flight.started, recorder.in_flight.roots, recorder.health().faults) == ({}, {}, {})


def test_a_tool_inside_one_that_is_given_up_has_failed_too() -> None:
    @tool
    def outer(n: int) -> str:
        """Calls another."""
        return str(panics.invoke({"n": n}))

    recorder = Recorder()
    app = create_agent(ScriptedChatModel(script=[call_tool("outer", n=1)]), [outer])
    with pytest.raises(Panic):
        app.invoke(ASK, {"callbacks": [TokenSentinelHandler(recorder)]})
    assert [c.name for c in recorder.seen if c.status == "error"] == ["panics", "outer"]
    assert (recorder.in_flight.started, recorder.in_flight.roots) == ({}, {})


def test_tools_by_hand_that_never_end_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "MAX_PENDING", 10)
    sentinel = Sentinel()
    for n in range(30):
        with pytest.raises(Panic):
            panics.invoke({"n": n}, {"callbacks": [TokenSentinelHandler(sentinel)]})
    assert (len(sentinel.in_flight.started), len(sentinel.in_flight.roots)) == (10, 10)


def test_a_stream_of_events_that_is_left_leaves_no_runs_behind() -> None:
    """As web servers give them up whose client has hung up."""
    recorder = Recorder()

    async def main() -> None:
        for _ in range(3):
            app, _ = agent([LOOP, AIMessage("done")])
            async for _ in app.astream_events(ASK, {"callbacks": [TokenSentinelHandler(recorder)]}, version="v2"):
                break
        gc.collect()
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert (recorder.in_flight.started, recorder.in_flight.roots, recorder.health().faults) == ({}, {}, {})


def test_what_was_said_around_a_cancelled_run_is_forgotten_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "MAX_LEFT", 10)
    recorder = Recorder()

    async def main() -> None:
        for n in range(20):
            app, _ = agent([LOOP, AIMessage("done")])
            with recorder.session(f"s{n}"):
                task = asyncio.create_task(app.ainvoke(ASK, {"callbacks": [TokenSentinelHandler(recorder)]}))
                while not recorder.in_flight.roots:
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])

    asyncio.run(main())
    assert len(recorder.in_flight.left) == 10
    assert len(recorder.in_flight.labelled) <= 10


def test_a_worker_that_a_tool_has_started_keeps_no_calls() -> None:
    """It runs on in the context of the tool's call for as long as the process does."""
    recorder = Recorder(policy={})
    model = ScriptedChatModel(script=[lambda messages: AIMessage(f"about {messages[-1].content}")])
    workers: list[asyncio.Task[int]] = []

    async def work() -> int:
        for n in range(500):
            await model.ainvoke(f"job {n}")
        return len(begun.get() or ())

    @tool
    async def start() -> str:
        """Starts a worker."""
        workers.append(asyncio.create_task(work()))
        return "started"

    async def main() -> int:
        script = [call_tool("start"), "done"]
        await create_agent(
            ScriptedChatModel(script=script), [start], middleware=[TokenSentinelMiddleware(recorder)]
        ).ainvoke(ASK)
        return await workers[0]

    assert asyncio.run(main()) <= 128
    assert recorder.kinds().count("model") == 502


@pytest.mark.parametrize("kind", ["session", "block"])
def test_generators_that_end_in_any_order_leave_no_session_behind(kind: str) -> None:
    sentinel = Sentinel()

    def block(name: str) -> AbstractContextManager[object]:
        return sentinel.session(name) if kind == "session" else token_sentinel(sentinel, session_id=name)

    def stream(name: str, parts: int) -> Iterator[int]:
        with block(name):
            yield from range(parts)

    for _ in zip(stream("a", 2), stream("b", 3), strict=False):
        pass
    assert (current_labels(), innermost()) == (None, None)
    ScriptedChatModel(script=["yes"]).invoke("well?")
    assert sentinel.health().calls == 0


@pytest.mark.parametrize("kind", ["session", "block"])
def test_streams_that_are_left_open_pile_up_nothing(kind: str) -> None:
    """The loop closes an asynchronous generator that nobody holds in a context of its own."""

    def block(name: str) -> AbstractContextManager[object]:
        return Sentinel().session(name, tags=[name]) if kind == "session" else token_sentinel(session_id=name)

    async def stream(name: str) -> AsyncIterator[int]:
        with block(name):
            yield 1
            yield 2

    async def main() -> None:
        for n in range(3 * MAX_DEPTH):
            async for _ in stream(f"s{n}"):
                break
        gc.collect()
        await asyncio.sleep(0)
        labels, inner = current_labels(), innermost()
        assert labels is None or (labels.depth <= MAX_DEPTH and len(labels.tags) <= MAX_DEPTH + 1)
        assert inner is None or (inner.depth <= MAX_BLOCKS and len(inner.seen) <= MAX_SEEN)
        with Sentinel().session("t") as outer:
            await anext(aiter(stream("u")))
        assert outer is not None
        assert (current_labels(), innermost()) == (labels, inner) or kind == "block"

    asyncio.run(main())
    assert (current_labels(), innermost()) == (None, None)


@pytest.mark.parametrize("door", ["handler", "middleware"])
def test_streams_that_are_read_in_turn_stay_in_their_sessions(door: str) -> None:
    recorder = Recorder(policy={})

    def stream(name: str) -> Iterator[object]:
        middleware = [TokenSentinelMiddleware(recorder)] if door == "middleware" else []
        app, _ = agent([call_tool("count_up", n=1), AIMessage("done")], middleware=middleware)
        with recorder.session(name, user_id=f"user {name}"):
            yield from app.stream(ASK, {"callbacks": [TokenSentinelHandler(recorder)]} if door == "handler" else {})

    for _ in zip_longest(stream("a"), stream("b"), stream("c")):
        pass
    assert Counter((c.session_id, c.user_id) for c in recorder.seen) == {(s, f"user {s}"): 3 for s in "abc"}


def test_a_session_that_begins_inside_of_a_run_holds_there() -> None:
    recorder = Recorder()
    model = ScriptedChatModel(script=["yes"])

    def node(state: MessagesState) -> dict[str, Any]:
        with recorder.session("inner"):
            return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    with recorder.session("outer"):
        builder.compile().invoke(ASK, {"callbacks": [TokenSentinelHandler(recorder)]})
    assert [c.session_id for c in recorder.seen] == ["inner"]


def test_a_handler_beside_middleware_keeps_what_a_session_said_until_the_run_ends() -> None:
    recorder = Recorder(policy={})
    app, _ = agent([LOOP, AIMessage("done")], middleware=[TokenSentinelMiddleware(recorder)])
    with recorder.session("s"):
        app.invoke(ASK, {"callbacks": [TokenSentinelHandler(recorder)]})
    assert {c.session_id for c in recorder.seen} == {"s"}
    assert recorder.in_flight.labelled == {}


def test_one_session_context_serves_threads_side_by_side() -> None:
    context, left = Sentinel().session("s"), []
    entered, both, over = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with context:
            entered.set()
            both.wait(5)
        left.append(current_labels())
        over.set()

    def second() -> None:
        entered.wait(5)
        with context:
            both.set()
            over.wait(5)
        left.append(current_labels())

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert left == [None, None]


def test_blocks_of_many_sentinels_all_see_and_all_hold_back() -> None:
    app, _ = agent([LOOP, AIMessage("done")])
    with token_sentinel() as one, token_sentinel() as two, token_sentinel() as three, token_sentinel() as four:
        app.invoke(ASK)
    assert [h.sentinel.health().calls for h in (one, two, three, four)] == [3] * 4
    app, model = agent([LOOP])
    with token_sentinel(mode="block"), token_sentinel(), token_sentinel(), pytest.raises(WasteBlocked):
        app.invoke(ASK)
    assert model.calls == 3
    assert innermost() is None
