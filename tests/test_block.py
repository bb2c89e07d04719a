"""Mode `block` stops a looping agent before the next call is billed, whichever way it is run."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from agents import ASK, DONE, LOOP, agent, graph
from langchain.agents.middleware import ClearToolUsesEdit, ContextEditingMiddleware
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from recorder import Wire

from ts_langchain import (
    Policy,
    Sentinel,
    SentinelEmbeddings,
    TokenSentinelHandler,
    TokenSentinelMiddleware,
    WasteBlocked,
    guard,
    guard_model,
    guard_node,
    token_sentinel,
)
from ts_langchain.errors import CallRefused, ConfigurationError
from ts_langchain.testing import HashEmbeddings, ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Callable


async def drain(stream: Any) -> None:
    async for _ in stream:
        pass


WAYS: dict[str, Callable[[Any, Any], object]] = {
    "invoke": lambda app, config: app.invoke(ASK, config),
    "ainvoke": lambda app, config: asyncio.run(app.ainvoke(ASK, config)),
    "stream": lambda app, config: list(app.stream(ASK, config)),
    "stream messages": lambda app, config: list(app.stream(ASK, config, stream_mode="messages")),
    "astream": lambda app, config: asyncio.run(drain(app.astream(ASK, config))),
    "astream_events": lambda app, config: asyncio.run(drain(app.astream_events(ASK, config, version="v2"))),
    "batch": lambda app, config: app.batch([ASK], config),
}


pytestmark = pytest.mark.usefixtures("calm_collector")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("build", [agent, graph])
def test_a_loop_is_stopped_before_the_fourth_call(build: Any, way: str) -> None:
    app, model = build([LOOP])
    handler = TokenSentinelHandler(mode="block")
    with pytest.raises(WasteBlocked) as stopped:
        WAYS[way](app, {"callbacks": [handler]})
    assert model.calls == 3
    assert stopped.value.incident.rule == "tool_loop"
    assert "not sent" in str(stopped.value)
    assert "mode='observe'" in str(stopped.value)
    assert handler.sentinel.health().ok
    assert handler.pending() == {}


@pytest.mark.parametrize("way", WAYS)
def test_a_loop_is_stopped_while_langsmith_traces_middleware(way: str) -> None:
    """With its tracer in the callbacks, LangChain makes each middleware hook the parent of the model call inside."""
    edits = ContextEditingMiddleware(edits=[ClearToolUsesEdit(trigger=100_000)])
    app, model = agent([LOOP], middleware=[edits])
    handler = TokenSentinelHandler(mode="block")
    with pytest.raises(WasteBlocked):
        WAYS[way](app, {"callbacks": [handler, LangChainTracer(client=Wire())], "recursion_limit": 30})
    assert model.calls == 3
    assert handler.sentinel.health().ok
    assert handler.pending() == {}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("build", [agent, graph])
def test_observe_changes_nothing(build: Any, way: str) -> None:
    app, model = build([LOOP] * 6 + [DONE])
    handler = TokenSentinelHandler()
    WAYS[way](app, {"callbacks": [handler]})
    assert model.calls == 7
    found = handler.sentinel.incidents()
    assert [i.rule for i in found] == ["tool_loop"]
    assert found[0].calls == 5
    assert handler.sentinel.health().calls == 13
    assert handler.pending() == {}
    assert handler._roots == {}


@pytest.mark.parametrize("build", [agent, graph])
@pytest.mark.parametrize("first", ["observe", "block"])
def test_of_two_handlers_the_one_that_blocks_does_so(build: Any, first: Any) -> None:
    """One on the model's side, one for this run: whichever LangChain asks first."""
    app, model = build([LOOP])
    sentinel = Sentinel()
    modes: list[Any] = [first, "block" if first == "observe" else "observe"]
    with pytest.raises(WasteBlocked):
        app.invoke(ASK, {"callbacks": [TokenSentinelHandler(sentinel, mode=mode) for mode in modes]})
    assert model.calls == 3
    assert sentinel.health().ok
    assert sentinel.in_flight.started == {}


@pytest.mark.parametrize("first", ["observe", "block"])
def test_of_two_handlers_the_one_that_blocks_holds_budgets(first: Any) -> None:
    sentinel = Sentinel(policy={"budgets": [{"per": "session", "calls": 2}]})
    modes: list[Any] = [first, "block" if first == "observe" else "observe"]
    app, model = agent([LOOP])
    config: Any = {"callbacks": [TokenSentinelHandler(sentinel, mode=mode) for mode in modes]}
    with pytest.raises(CallRefused):
        app.invoke(ASK, {**config, "configurable": {"thread_id": "t"}})
    assert model.calls == 2
    assert sentinel.health().ok
    assert (sentinel.in_flight.started, sentinel.in_flight.reservations) == ({}, {})
    assert [(d.action, d.outcome) for d in sentinel.decisions() if d.rule == "budget"] == [
        ("warn", "done"),
        ("stop", "done"),
    ]


def test_progress_is_not_blocked() -> None:
    app, model = agent([*(call_tool("count_up", n=i) for i in range(8)), DONE])
    app.invoke(ASK, {"callbacks": [TokenSentinelHandler(mode="block")]})
    assert model.calls == 9


def test_the_next_run_of_the_same_thread_may_go_on() -> None:
    app, model = agent([LOOP, LOOP, LOOP, DONE])
    handler = TokenSentinelHandler(mode="block")
    config = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    with pytest.raises(WasteBlocked):
        app.invoke(ASK, config)
    app.invoke(ASK, config)
    assert model.calls == 4


def test_a_retry_storm_is_stopped_by_its_request() -> None:
    clock = iter(range(10_000))
    handler = TokenSentinelHandler(mode="block", clock=lambda: 1.8e9 + next(clock))
    model = ScriptedChatModel(script=[ConnectionError("flaky")])
    for _ in range(5):
        with pytest.raises(ConnectionError):
            model.invoke("hello", {"callbacks": [handler], "metadata": {"session_id": "s"}})
    with pytest.raises(WasteBlocked, match="ConnectionError 5 times"):
        model.invoke("hello", {"callbacks": [handler], "metadata": {"session_id": "s"}})
    with pytest.raises(ConnectionError):
        model.invoke("another question", {"callbacks": [handler], "metadata": {"session_id": "s"}})
    assert model.calls == 6


def test_rows_that_are_alike_are_answered_after_an_outage() -> None:
    at = 1.8e9

    def clock() -> float:
        nonlocal at
        at += 1
        return at

    handler = TokenSentinelHandler(mode="block", clock=clock)
    model = ScriptedChatModel(script=[ConnectionError("down")] * 5 + ["spam"])
    config: Any = {"callbacks": [handler], "metadata": {"session_id": "s"}}
    for _ in range(5):
        with pytest.raises(ConnectionError):
            model.invoke("hello", config)
    at += 60
    for _ in range(20):
        assert model.invoke("hello", config).content == "spam"
    assert [(i.rule, i.severity, i.findings) for i in handler.sentinel.incidents()] == [("retry_storm", "high", 13)]
    assert handler.sentinel.incidents()[0].last_seen_at == at


def test_a_user_who_asks_the_same_again_is_answered() -> None:
    handler = TokenSentinelHandler(mode="block")
    app, model = agent([LOOP, DONE] * 6, checkpointer=InMemorySaver())
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
    for _ in range(6):
        assert app.invoke(ASK, config)["messages"][-1].content == DONE.content
    assert model.calls == 12
    assert [(i.rule, i.severity) for i in handler.sentinel.incidents()] == [("tool_loop", "low")]


def test_200_threads_on_one_handler_do_not_mix() -> None:
    handler = TokenSentinelHandler(mode="block")

    def one(number: int) -> tuple[int, bool]:
        loops = number % 2 == 0
        app, model = agent([LOOP] if loops else [LOOP, LOOP, DONE])
        try:
            app.invoke(ASK, {"callbacks": [handler], "configurable": {"thread_id": f"t{number}"}})
        except WasteBlocked as stopped:
            assert stopped.incident.session_id == f"t{number}"
            return model.calls, True
        return model.calls, False

    with ThreadPoolExecutor(200) as pool:
        results = list(pool.map(one, range(200)))
    assert results == [(3, n % 2 == 0) for n in range(200)]
    for number in range(200):
        totals = handler.sentinel.totals(f"t{number}")
        assert totals is not None
        assert totals.calls == (6 if number % 2 == 0 else 5)
    assert handler.sentinel.health().ok


def test_200_tasks_on_one_handler_do_not_mix() -> None:
    handler = TokenSentinelHandler(mode="block")

    async def one(number: int) -> int:
        app, model = agent([LOOP] if number % 2 else [DONE])
        with contextlib.suppress(WasteBlocked):
            await app.ainvoke(ASK, {"callbacks": [handler]})
        return model.calls

    async def every() -> list[int]:
        return await asyncio.gather(*(one(n) for n in range(200)))

    assert asyncio.run(every()) == [3 if n % 2 else 1 for n in range(200)]


def test_a_veto_survives_pickling() -> None:
    app, _ = agent([LOOP])
    with pytest.raises(WasteBlocked) as stopped:
        app.invoke(ASK, {"callbacks": [TokenSentinelHandler(mode="block")]})
    again = pickle.loads(pickle.dumps(stopped.value))  # noqa: S301
    assert str(again) == str(stopped.value)


def test_wrong_configuration_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError, match="'observe' or 'block'"):
        TokenSentinelHandler(mode="kill")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no rule 'tool_lop'"):
        Sentinel(rules=["tool_lop"])
    with pytest.raises(ConfigurationError, match=r"tool_loop has .*tool_loop\.min_calls"):
        Sentinel(settings={"tool_loop.min_cals": 5})
    with pytest.raises(ConfigurationError, match=r"tool_loop\.min_calls: .* \(got 'many'\)"):
        Sentinel(settings={"tool_loop.min_calls": "many"})
    with pytest.raises(ConfigurationError, match="USD per million"):
        Sentinel(prices={"m": {"input": -1.0, "output": 1.0}})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rules": "tool_loop"}, "rules is 'tool_loop', expected a list"),
        ({"rules": [3]}, "expected names and classes of rules, got a int"),
        ({"rules": [Sentinel().rules[0]]}, "expected names and classes of rules, got a ToolLoop"),
        ({"prices": ["gpt-4o"]}, "prices: expected a mapping of model names to prices, got a list"),
        ({"max_sessions": "many"}, "max_sessions is 'many', expected a number"),
        ({"max_sessions": 0}, "max_sessions is 0, expected a number"),
    ],
)
def test_what_a_sentinel_cannot_be_made_of_is_said_at_once(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Sentinel(**given)
    assert says in str(refused.value)


@pytest.mark.parametrize("given", ["block", {"tool_loop.min_calls": 5}, Policy(), TokenSentinelHandler(), Sentinel])
@pytest.mark.parametrize(
    "door",
    [
        TokenSentinelHandler,
        TokenSentinelMiddleware,
        guard_node,
        lambda given: guard(agent([DONE])[0], given),
        lambda given: guard_model(ScriptedChatModel(script=[DONE]), given),
        lambda given: token_sentinel(given).__enter__(),
        lambda given: SentinelEmbeddings(HashEmbeddings(), given),
    ],
)
def test_what_is_no_sentinel_is_refused_at_once(door: Any, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"expected a Sentinel, .*, got a {type(given).__name__}"):
        door(given)


def test_a_callback_that_nobody_would_await_is_refused() -> None:
    class Notifier:
        async def __call__(self, found: object) -> None:
            """Never awaited."""

    sentinel = Sentinel()
    for listen in (sentinel.on_incident, sentinel.on_decision):
        for callback in (Notifier(), Notifier().__call__, functools.partial(Notifier.__call__, Notifier())):
            with pytest.raises(ConfigurationError, match="run_coroutine_threadsafe"):
                listen(callback)
        with pytest.raises(ConfigurationError, match="a function of one argument"):
            listen("slack")  # type: ignore[arg-type]
        listen([].append)


@pytest.mark.parametrize("rule", ["tool_loop", "retry_storm"])
def test_each_way_out_that_the_veto_names_lets_it_run(rule: str) -> None:
    """The narrowest comes first: this tool alone."""
    looping, model = agent([*[LOOP] * 6, DONE])
    if rule == "retry_storm":
        looping, model = ScriptedChatModel(script=["no"], temperature=0.0), None

    def run(handler: TokenSentinelHandler) -> None:
        if model is None:
            RunnableLambda(lambda _: [looping.invoke("Well?") for _ in range(6)]).invoke(0, {"callbacks": [handler]})
        else:
            looping.invoke(ASK, {"callbacks": [handler]})

    with pytest.raises(WasteBlocked) as blocked:
        run(TokenSentinelHandler(mode="block"))
    ways = re.findall(r"settings=(\{.*?\})", str(blocked.value))
    assert [key for way in ways for key in ast.literal_eval(way)] == (
        ["tool_loop.exempt_tools", "tool_loop.block"] if model is not None else ["retry_storm.block"]
    )
    for way in ways:
        looping = agent([*[LOOP] * 6, DONE])[0] if model is not None else looping
        run(TokenSentinelHandler(Sentinel(settings=ast.literal_eval(way)), mode="block"))


@pytest.mark.parametrize("action", ["stop", "block"])
def test_of_a_policys_veto_the_ways_out_are_the_policys(action: str) -> None:
    """`block` of a rule is about Sentinels without a policy."""
    steps = [{"at": 1, "do": action}]

    def run(settings: dict[str, object], **policy: Any) -> None:
        given = {"rules": {"tool_loop": {"steps": steps}}, **policy}
        sentinel = Sentinel(settings=settings, policy=given)
        if action == "block":
            build, handler = {"middleware": [TokenSentinelMiddleware(sentinel)]}, TokenSentinelHandler(sentinel)
        else:
            build, handler = {}, TokenSentinelHandler(sentinel, mode="block")
        agent([*[LOOP] * 6, DONE], **build)[0].invoke(ASK, {"callbacks": [handler]})

    with pytest.raises(WasteBlocked) as blocked:
        run({})
    assert blocked.value.by_policy
    assert str(pickle.loads(pickle.dumps(blocked.value))) == str(blocked.value)  # noqa: S301
    [way] = re.findall(r"settings=(\{.*?\})", str(blocked.value))
    assert str(blocked.value).endswith(
        f"use settings={way}, other steps for tool_loop in the policy or its mode: observe."
    )
    run(ast.literal_eval(way))
    run({}, rules={"tool_loop": {"steps": [{"at": 1, "do": "warn"}]}})
    run({}, mode="observe")
