"""Servers that run for months: what ends in another order, elsewhere or not at all leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents import ASK
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from recorder import Recorder

from ts_langchain import (
    Sentinel,
    TokenSentinelHandler,
    TokenSentinelMiddleware,
    guard,
)
from ts_langchain.capture import in_flight
from ts_langchain.capture.doors import begun
from ts_langchain.testing import ScriptedChatModel, call_tool


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
